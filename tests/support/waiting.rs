//! Waiting for what a test needs, in paused time and in real time.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Bounds what would hang for ever, on a machine with ten times more work than cores. It promises
/// nothing: a test of a promise says its time itself.
pub const LIMIT: Duration = Duration::from_secs(180);

/// The same for a paused clock, which goes as fast as the machine can.
const VIRTUAL_LIMIT: Duration = Duration::from_secs(3_600);

const STEP: Duration = Duration::from_millis(5);

/// What the future gives, or a panic that says what did not come.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} took longer than {LIMIT:?}"))
}

/// Waits until the condition holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    found(what, STEP, VIRTUAL_LIMIT, || if condition() { Ok(()) } else { Err(()) }).await;
}

/// Looks at every step until there is something, and returns it. What a look finds instead is told
/// where the time is over: this one of the runtime, or [`LIMIT`] of the machine.
pub async fn found<T, E: Debug>(
    what: &str,
    step: Duration,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let (begun, here) = (Instant::now(), std::time::Instant::now());
    loop {
        let instead = match look() {
            Ok(found) => return found,
            Err(instead) => instead,
        };
        let is_over = begun.elapsed() >= limit || here.elapsed() >= LIMIT;
        assert!(!is_over, "never came: {what}: {instead:?}");
        sleep(step).await;
    }
}
