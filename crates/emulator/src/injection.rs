//! Errors that the broker is told to answer with.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::refusal::Refusal;

/// Where an error can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultPoint {
    /// A sending or receiving link is refused.
    Attach,
    /// A receiving link is detached in place of its next event.
    Receive,
    /// A delivery is rejected; nothing of it is stored.
    Send,
    /// A request for the properties of a hub or a partition fails.
    Management,
}

#[derive(Debug)]
struct Injection {
    at: FaultPoint,
    refusal: Refusal,
    left: usize,
}

/// The errors that wait for their occasion, oldest first.
#[derive(Debug, Default)]
pub(super) struct Injections {
    /// How many are in the list, for whoever only passes by.
    waiting: AtomicUsize,
    list: Mutex<Vec<Injection>>,
}

impl Injections {
    fn lock(&self) -> MutexGuard<'_, Vec<Injection>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers with `refusal` at the next `times` occasions.
    pub(super) fn arm(&self, at: FaultPoint, refusal: Refusal, times: usize) {
        if times > 0 {
            let mut list = self.lock();
            list.push(Injection { at, refusal, left: times });
            self.waiting.store(list.len(), Ordering::Release);
        }
    }

    /// What to answer with at this occasion, if anything.
    pub(super) fn take(&self, at: FaultPoint) -> Option<Refusal> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut list = self.lock();
        let found = list.iter().position(|injection| injection.at == at)?;
        let injection = list.get_mut(found)?;
        let refusal = injection.refusal.clone();
        injection.left -= 1;
        if injection.left == 0 {
            list.remove(found);
            self.waiting.store(list.len(), Ordering::Release);
        }
        Some(refusal)
    }

    /// How many are left for a point.
    pub(super) fn left(&self, at: FaultPoint) -> usize {
        self.lock().iter().filter(|injection| injection.at == at).map(|next| next.left).sum()
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
        self.waiting.store(0, Ordering::Release);
    }
}
