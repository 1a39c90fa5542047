//! How many handler calls may run at once, over all partitions of a consumer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::consumer::lock::lock;

/// The slots all partitions of a consumer share. A waiting partition keeps its place in line,
/// so slots go round the partitions that have work.
#[derive(Debug)]
pub(crate) struct Slots {
    semaphore: Arc<Semaphore>,
    limit: Mutex<Limit>,
    /// Permits to withhold as they come back, after the limit was lowered.
    surplus: AtomicUsize,
    number_changed: Notify,
}

/// How many slots there are.
#[derive(Debug)]
struct Limit {
    /// As many as are wanted.
    full: usize,
    /// Fewer for now, while a destination recovers.
    narrowed_to: Option<usize>,
    current: usize,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit: Mutex::new(Limit { full: limit, narrowed_to: None, current: limit }),
            surplus: AtomicUsize::new(0),
            number_changed: Notify::new(),
        }
    }

    /// For whoever waits in line; a permit obtained there becomes a [`Slot`].
    pub(crate) fn semaphore(&self) -> &Arc<Semaphore> {
        &self.semaphore
    }

    /// Takes a slot, if one is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Slot> {
        self.semaphore.try_acquire().ok()?.forget();
        Some(Slot::one_of(self))
    }

    /// Takes all slots, once all are free; whoever asks later waits behind. Begins anew when
    /// their number changes.
    pub(crate) async fn take_all(self: Arc<Self>) -> Vec<Slot> {
        loop {
            let changed = self.number_changed.notified();
            let number = self.limit() + self.surplus.load(Ordering::Acquire);
            let all = u32::try_from(number).unwrap_or(u32::MAX);
            tokio::select! {
                biased;
                () = changed => {}
                // It is never closed.
                permits = self.semaphore.acquire_many(all) => {
                    permits.into_iter().for_each(SemaphorePermit::forget);
                    return (0..number).map(|_| Slot::one_of(&self)).collect();
                }
            }
        }
    }

    pub(crate) fn limit(&self) -> usize {
        lock(&self.limit).current
    }

    /// How many there are when none is held back.
    pub(crate) fn full_limit(&self) -> usize {
        lock(&self.limit).full
    }

    /// Slots that are taken, those beyond a lowered limit included.
    pub(crate) fn in_use(&self) -> usize {
        let limit = self.limit() + self.surplus.load(Ordering::Acquire);
        limit.saturating_sub(self.semaphore.available_permits())
    }

    /// Changes the number of slots; running handlers are not cut.
    pub(crate) fn set_limit(&self, full: usize) {
        self.change(|limit| limit.full = full);
    }

    /// Holds slots back for now, or none any more.
    pub(crate) fn narrow(&self, narrowed_to: Option<usize>) {
        self.change(|limit| limit.narrowed_to = narrowed_to);
    }

    fn change(&self, change: impl FnOnce(&mut Limit)) {
        let mut number = lock(&self.limit);
        change(&mut number);
        let limit = number.narrowed_to.map_or(number.full, |most| most.min(number.full));
        let current = &mut number.current;
        if limit == *current {
            return;
        }
        if limit > *current {
            let more = limit - *current;
            let mut withheld = 0;
            // What is still owed from a lowering is forgiven first.
            let _previous =
                self.surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| {
                    withheld = surplus.min(more);
                    Some(surplus - withheld)
                });
            self.semaphore.add_permits(more - withheld);
        } else {
            let fewer = *current - limit;
            let forgotten = self.semaphore.forget_permits(fewer);
            self.surplus.fetch_add(fewer - forgotten, Ordering::AcqRel);
        }
        *current = limit;
        drop(number);
        self.number_changed.notify_waiters();
    }

    /// Gives a slot back.
    fn release(&self) {
        let owed = self
            .surplus
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| surplus.checked_sub(1));
        match owed {
            Ok(_paid) => self.number_changed.notify_waiters(),
            Err(_) => self.semaphore.add_permits(1),
        }
    }
}

/// A slot that is taken. Dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Slot(Option<Arc<Slots>>);

impl Slot {
    /// The slot of a permit that was waited for.
    pub(crate) fn of(permit: OwnedSemaphorePermit, slots: &Arc<Slots>) -> Self {
        permit.forget();
        Self::one_of(slots)
    }

    fn one_of(slots: &Arc<Slots>) -> Self {
        Self(Some(Arc::clone(slots)))
    }

    /// A slot whose owner lends it, and keeps it.
    pub(crate) fn lent() -> Self {
        Self(None)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = &self.0 {
            slots.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowering_the_limit_withholds_slots_as_they_come_back() {
        let slots = Arc::new(Slots::new(3));
        let (first, second) = (slots.try_take().expect("free"), slots.try_take().expect("free"));
        slots.set_limit(1);
        assert!(slots.try_take().is_none(), "the free one is gone, and one more is owed");
        drop(first);
        assert!(slots.try_take().is_none());
        drop(second);
        let third = slots.try_take().expect("one slot is left");
        slots.set_limit(2);
        assert!(slots.try_take().is_some());
        drop(third);
    }

    #[tokio::test]
    async fn whoever_takes_all_slots_has_as_many_as_there_are_by_then() {
        let slots = Arc::new(Slots::new(3));
        let held = slots.try_take().expect("free");
        let mut all = Box::pin(Arc::clone(&slots).take_all());
        assert!(futures::poll!(all.as_mut()).is_pending());
        assert!(slots.try_take().is_none(), "who asks later waits behind");
        slots.set_limit(2);
        assert!(futures::poll!(all.as_mut()).is_pending());
        drop(held);
        let all = all.await;
        assert_eq!((all.len(), slots.in_use()), (2, 2));
        drop(Slot::lent());
        assert_eq!(slots.in_use(), 2);
        drop(all);
        assert_eq!(slots.in_use(), 0);
        assert_eq!(Arc::clone(&slots).take_all().await.len(), 2);
    }
}
