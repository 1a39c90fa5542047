//! How other tasks reach a connection: a list of notices and a wake-up.
//!
//! A connection's state belongs to its own task alone. Whoever wants something of it (a partition
//! with new events, a receiver that takes a partition over, the log writer with a result, a fault)
//! posts a notice and goes on; the connection takes them when it turns.
//!
//! The list stays bounded without a limit of its own: a link waits at one partition at a time, and
//! the appends a connection may have in flight are counted in bytes before they are sent.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::refusal::Refusal;

/// Names one link of a connection for as long as it is attached: the serial number keeps a late
/// notice from reaching the next link on the same handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LinkKey {
    pub(super) channel: u16,
    pub(super) handle: u32,
    pub(super) serial: u64,
}

/// Names a delivery whose events are on their way into the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct AppendTicket {
    pub(super) link: LinkKey,
    pub(super) delivery_id: u32,
    pub(super) settled: bool,
    pub(super) received_at: Instant,
    /// Counted against the appends this connection may have in flight.
    pub(super) bytes: usize,
}

/// Something a connection should act on.
#[derive(Debug)]
pub(super) enum Notice {
    /// The partition this link waited at has new events.
    Readable(LinkKey),
    /// Detach this link with an error.
    Detach(LinkKey, Refusal),
    /// The log took the events of a delivery, or could not.
    Appended(AppendTicket, Result<(), Refusal>),
}

/// The notices of one connection.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    notices: Mutex<Vec<Notice>>,
    wake: Notify,
}

impl Mailbox {
    pub(super) fn post(&self, notice: Notice) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
        self.wake.notify_one();
    }

    pub(super) fn take_notices(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resolves when a notice was posted since the last time it resolved.
    pub(super) async fn posted(&self) {
        self.wake.notified().await;
    }
}
