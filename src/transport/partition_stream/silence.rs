//! The watch over an open link: it may hang, for the SDK waits without a limit for an answer that got
//! lost, and a half-open connection says nothing at all.
//!
//! A link that is silent for [`PROBE_AFTER`] is compared with the end of the log; where events wait
//! that it does not bring, twice in a row, or where the hub cannot be asked, it is given up. Within a
//! run of events that cannot be read the same question finds the run's end.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;

use super::watch::{PROBE_AFTER, PROBE_AGAIN, Silence};
use super::{PartitionStream, State};
use crate::error::{Error, ErrorClass};
use crate::hub::{LinkStart, LogProperties};

impl PartitionStream {
    /// Watches a link that has nothing to give; ready with what is to be done.
    pub(super) fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Silence> {
        let next = self.position.next_start();
        loop {
            let State::Open(watched) = &mut self.state else {
                return Poll::Pending;
            };
            if let Some(probe) = &mut watched.probe {
                let answer = ready!(probe.poll_unpin(cx));
                watched.probe = None;
                let behind = match answer {
                    Ok(log) if !self.unread.is_empty() => match self.on_silence_in_run(&log) {
                        Some(silence) => return Poll::Ready(silence),
                        None => continue,
                    },
                    Ok(log) => waits_beyond(next, &log),
                    // Whatever keeps the hub from answering may keep the link from speaking.
                    Err(error) if error.class() == ErrorClass::Transient => {
                        return Poll::Ready(Silence::Lost(error));
                    }
                    Err(_) => false,
                };
                if behind && watched.behind {
                    return Poll::Ready(Silence::Lost(self.silent_link()));
                }
                watched.behind = behind;
                watched.look_after(if behind { PROBE_AGAIN } else { PROBE_AFTER });
            }
            ready!(watched.look.as_mut().poll(cx));
            let silent = watched.heard.elapsed();
            // A link that began anew has an event to bring at once. One that does not is of another
            // log, which is shorter, or stalls.
            let is_unconfirmed = self.expected.is_some();
            if is_unconfirmed && silent >= PROBE_AGAIN {
                return Poll::Ready(Silence::OpenAgain);
            }
            let usual = if is_unconfirmed { PROBE_AGAIN } else { PROBE_AFTER };
            let limit = self.unread.probe_after(usual);
            if silent < limit {
                watched.look_after(limit - silent);
                continue;
            }
            let (transport, id) = (Arc::clone(&self.transport), self.partition.id.clone());
            watched.probe = Some(async move { transport.log_properties(&id).await }.boxed());
        }
    }

    pub(super) fn silent_link(&self) -> Error {
        let message = "it is silent although events wait";
        Error::new(ErrorClass::Transient, "receive from the link", message)
            .with_partition(&self.partition)
    }
}

/// Whether the log holds an event that a link at `next` has not brought.
fn waits_beyond(next: LinkStart, log: &LogProperties) -> bool {
    match (next, log.last_enqueued) {
        (_, None) => false,
        (LinkStart::After(number), Some(end)) => end > number,
        (LinkStart::FirstEvent, Some(end)) => end >= log.begin,
        (LinkStart::EnqueuedAt(time), Some(_)) => {
            log.last_enqueued_time.is_some_and(|enqueued| enqueued >= time)
        }
    }
}
