//! What a body is refused for: its length, its hash, how slowly it comes.

use std::time::Duration;

use super::arriving::Arriving;
use super::job::Job;
use crate::blob_store::Sums;
use crate::config::{DownloadLimits, SLOW_START};
use crate::hex::hex;
use crate::outcome::{Failure, Outcome};
use crate::transfer::source::Said;

/// Refuses a body that cannot be right before its first byte.
pub(super) fn check_length(
    job: &Job<'_>,
    announced: Option<u64>,
    limits: &DownloadLimits,
) -> Result<(), Outcome> {
    let Some(announced) = announced else {
        return Ok(());
    };
    let fault = if announced > limits.max_bytes {
        format!("at most {} may be (max-bytes)", limits.max_bytes)
    } else if job.size.is_some_and(|size| size != announced) {
        format!("the task said {}", job.size.unwrap_or_default())
    } else {
        return Ok(());
    };
    Err(Outcome::dead_letter(Failure::permanent(format!(
        "{}: the server announced {announced} bytes where {fault}",
        job.source
    ))))
}

/// Refuses a file of which something is to go along that the store would not take.
pub(super) fn check_along(job: &Job<'_>, said: &Said) -> Result<(), Outcome> {
    job.along.check(said).map_err(|reason| {
        let message = format!("{}: its metadata cannot go along: {reason}", job.source);
        Outcome::dead_letter(Failure::permanent(message))
    })
}

/// Refuses a body that comes too slowly.
pub(super) fn check_rate(
    job: &Job<'_>,
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
        job.source,
        spent.as_secs(),
        limits.min_bytes_per_second
    ))))
}

/// It came whole and is not right: that says nothing of its host.
fn of_the_file(message: String) -> Failure {
    Failure::transient(message).of_event()
}

/// Length and sums of what arrived, if they are what the task says.
pub(super) fn verified(job: &Job<'_>, arriving: &Arriving) -> Result<(u64, Sums), Outcome> {
    let (bytes, sums) = (arriving.received(), arriving.sums());
    if let Some(expected) = job.size.filter(|expected| *expected != bytes) {
        let message = wrong_length(job, bytes, expected, "the task");
        return Err(Outcome::dead_letter(Failure::permanent(message)));
    }
    if let Some((expected, is)) = job.crc64.zip(sums.crc64)
        && expected != is
    {
        let message = format!("{}: the CRC-64 is {is:016x}, not {expected:016x}", job.source);
        return Err(Outcome::dead_letter(Failure::permanent(message)));
    }
    if job.md5.is_some() && sums.md5.is_none() {
        let message = format!("{}: what came in blocks has no MD5 to compare", job.source);
        return Err(Outcome::retry(of_the_file(message)));
    }
    let is_wrong = |(is, must): &([u8; 16], [u8; 16])| is != must;
    if let Some((is, must)) = sums.md5.zip(job.md5).filter(is_wrong) {
        let message = format!("{}: the MD5 is {}, not {}", job.source, hex(&is), hex(&must));
        return Err(match arriving.is_joined() {
            true => Outcome::retry(of_the_file(message)),
            false => Outcome::dead_letter(Failure::permanent(message)),
        });
    }
    if let Some((is, must)) = sums.md5.zip(arriving.said_md5()).filter(is_wrong) {
        // Bytes changed on the way, or the source is mistaken.
        return Err(Outcome::retry(of_the_file(format!(
            "{}: the MD5 is {}, and its source said {} (Content-MD5)",
            job.source,
            hex(&is),
            hex(&must)
        ))));
    }
    match job.sha256.zip(sums.sha256) {
        // Somebody joined what does not belong together. The next attempt begins anew.
        Some((expected, sha256)) if expected != sha256 && arriving.is_joined() => {
            Err(Outcome::retry(of_the_file(format!(
                "{}: the SHA-256 of what came over several connections is not that of the task",
                job.source
            ))))
        }
        Some((expected, sha256)) if expected != sha256 => {
            Err(Outcome::dead_letter(Failure::permanent(format!(
                "{}: the SHA-256 is {}, not {}",
                job.source,
                hex(&sha256),
                hex(&expected)
            ))))
        }
        _ => Ok((bytes, sums)),
    }
}

pub(super) fn wrong_length(job: &Job<'_>, bytes: u64, expected: u64, who: &str) -> String {
    format!("{}: {bytes} bytes came where {who} said {expected}", job.source)
}
