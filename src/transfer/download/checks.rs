//! What a body is refused for: its length, its hash, how slowly it comes.

use std::time::Duration;

use super::arriving::Arriving;
use crate::config::{DownloadLimits, SLOW_START};
use crate::outcome::{Failure, Outcome};
use crate::transfer::task::{DownloadTask, hex};
use crate::transfer::url_policy::redacted;

/// Refuses a body that cannot be right before its first byte.
pub(super) fn check_length(
    task: &DownloadTask,
    announced: Option<u64>,
    limits: &DownloadLimits,
) -> Result<(), Outcome> {
    let Some(announced) = announced else {
        return Ok(());
    };
    let fault = if announced > limits.max_bytes {
        format!("at most {} may be (max-bytes)", limits.max_bytes)
    } else if task.size.is_some_and(|size| size != announced) {
        format!("the task said {}", task.size.unwrap_or_default())
    } else {
        return Ok(());
    };
    Err(Outcome::dead_letter(Failure::permanent(format!(
        "{}: the server announced {announced} bytes where {fault}",
        redacted(&task.url)
    ))))
}

/// Refuses a body that comes too slowly.
pub(super) fn check_rate(
    task: &DownloadTask,
    bytes: u64,
    spent: Duration,
    limits: &DownloadLimits,
) -> Result<(), Outcome> {
    let least = limits.min_bytes_per_second.saturating_mul(spent.as_secs());
    if spent < SLOW_START || bytes >= least {
        return Ok(());
    }
    Err(Outcome::retry(Failure::transient(format!(
        "{}: {bytes} bytes in {} s are fewer than {} a second (min-bytes-per-second)",
        redacted(&task.url),
        spent.as_secs(),
        limits.min_bytes_per_second
    ))))
}

/// Length and hash of what arrived, where they are what the task says.
pub(super) fn verified(
    task: &DownloadTask,
    arriving: &Arriving,
) -> Result<(u64, [u8; 32]), Outcome> {
    let (bytes, sha256) = (arriving.received(), arriving.sha256());
    if let Some(expected) = task.size.filter(|expected| *expected != bytes) {
        let message = wrong_length(task, bytes, expected, "the task");
        return Err(Outcome::dead_letter(Failure::permanent(message)));
    }
    match task.sha256 {
        // Somebody joined what does not belong together. The next attempt begins anew.
        Some(expected) if expected != sha256 && arriving.is_joined() => {
            Err(Outcome::retry(Failure::transient(format!(
                "{}: the SHA-256 of what came over several connections is not that of the task",
                redacted(&task.url)
            ))))
        }
        Some(expected) if expected != sha256 => {
            Err(Outcome::dead_letter(Failure::permanent(format!(
                "{}: the SHA-256 is {}, not {}",
                redacted(&task.url),
                hex(&sha256),
                hex(&expected)
            ))))
        }
        _ => Ok((bytes, sha256)),
    }
}

pub(super) fn wrong_length(task: &DownloadTask, bytes: u64, expected: u64, who: &str) -> String {
    format!("{}: {bytes} bytes came where {who} said {expected}", redacted(&task.url))
}
