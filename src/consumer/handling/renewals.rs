//! What calls say of their progress, so that their time limit begins anew.
//!
//! Nobody is told. A call notes its new deadline here, and [`Running`](super::running::Running) looks when
//! the old one has come. Where no call says anything, that is one look at an atomic number per call.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::consumer::lock::lock;

/// Notes are looked through for old ones when there are as many as this, or twice what was left.
const FEW: usize = 64;

/// The new deadlines of calls of one partition, by their serial numbers.
#[derive(Debug)]
pub(crate) struct Renewals {
    /// How long a call may take from its last word on; `None`: as long as it likes.
    timeout: Option<Duration>,
    /// How many notes there are.
    count: AtomicUsize,
    notes: Mutex<Notes>,
}

#[derive(Debug)]
struct Notes {
    deadlines: HashMap<u64, Instant>,
    look_through_at: usize,
}

impl Renewals {
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        let notes = Notes { deadlines: HashMap::new(), look_through_at: FEW };
        Self { timeout, count: AtomicUsize::new(0), notes: Mutex::new(notes) }
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The time limit of this call begins anew.
    pub(super) fn renew(&self, serial: u64, now: Instant) {
        let Some(timeout) = self.timeout else { return };
        let mut notes = lock(&self.notes);
        notes.deadlines.insert(serial, now + timeout);
        if notes.deadlines.len() >= notes.look_through_at {
            // Calls that ended, and said something after that.
            notes.deadlines.retain(|_, deadline| *deadline > now);
            notes.look_through_at = (2 * notes.deadlines.len()).max(FEW);
        }
        self.count.store(notes.deadlines.len(), Ordering::Release);
    }

    /// The new deadline of this call, if it said something.
    pub(super) fn deadline(&self, serial: u64) -> Option<Instant> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        lock(&self.notes).deadlines.get(&serial).copied()
    }

    /// The call ended.
    pub(super) fn forget(&self, serial: u64) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut notes = lock(&self.notes);
        notes.deadlines.remove(&serial);
        self.count.store(notes.deadlines.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_calls_say_after_their_end_does_not_pile_up() {
        let renewals = Renewals::new(Some(Duration::from_secs(1)));
        let begun = Instant::now();
        for serial in 0..10_000_u32 {
            let now = begun + Duration::from_millis(10) * serial;
            renewals.renew(u64::from(serial), now);
            assert_eq!(renewals.deadline(u64::from(serial)), Some(now + Duration::from_secs(1)));
        }
        // A hundred a second, and each counts for a second.
        assert!(renewals.count.load(Ordering::Relaxed) <= 4 * 100);
        renewals.forget(9_999);
        assert_eq!(renewals.deadline(9_999), None);
        assert!(renewals.deadline(9_998).is_some());
    }

    #[test]
    fn without_a_time_limit_nothing_is_noted() {
        let renewals = Renewals::new(None);
        renewals.renew(7, Instant::now());
        assert_eq!((renewals.deadline(7), renewals.count.load(Ordering::Relaxed)), (None, 0));
    }
}
