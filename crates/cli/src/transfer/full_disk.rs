//! A state on a disk that a file fills: what is to be written down waits until the part of that file is gone.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::time::sleep;

use longshore::error::Error;

/// How often a call is made, and how long it waits between two times: what fills the disk is removed in that time,
/// or the disk stays full.
const CALLS: u32 = 20;
const WAIT: Duration = Duration::from_millis(100);

/// Makes a call, and makes it again while `is_full` says of its error that the disk is full.
pub(super) async fn patiently<T, E, C: Future<Output = Result<T, E>>>(
    mut call: impl FnMut() -> C,
    is_full: fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 1..CALLS {
        match call().await {
            Err(error) if is_full(&error) => sleep(WAIT).await,
            called => return called,
        }
    }
    call().await
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether a store failed by that.
pub(super) fn is_by_full_disk(error: &Error) -> bool {
    error.source().and_then(|source| source.downcast_ref()).is_some_and(is_full)
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_is_made_again_while_the_disk_is_full_and_not_for_ever() {
        for (full, calls, is_done) in [(0, 1, true), (3, 4, true), (99, CALLS, false)] {
            let mut made = 0;
            let call = || {
                made += 1;
                ready(if made <= full { Err(ErrorKind::StorageFull.into()) } else { Ok(()) })
            };
            let called: io::Result<()> = patiently(call, is_full).await;
            assert_eq!((called.is_ok(), made), (is_done, calls));
        }
        let mut made = 0;
        let call = || {
            made += 1;
            ready(Err(ErrorKind::PermissionDenied.into()))
        };
        let called: io::Result<()> = patiently(call, is_full).await;
        assert_eq!((called.is_ok(), made), (false, 1));
    }
}
