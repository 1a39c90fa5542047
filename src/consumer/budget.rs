//! The byte budget that all partitions of a consumer share.

use std::sync::Mutex;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::lock::lock;
use crate::state::byte_budget::{Account, ByteBudget};

/// The byte budget behind a lock, with a wake-up for partitions that wait for room.
pub(crate) struct SharedBudget {
    budget: Mutex<ByteBudget>,
    room: Notify,
}

impl SharedBudget {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { budget: Mutex::new(ByteBudget::new(capacity)), room: Notify::new() }
    }

    pub(crate) fn open(&self) -> Account {
        lock(&self.budget).open()
    }

    pub(crate) fn close(&self, account: Account) {
        lock(&self.budget).close(account);
        self.room.notify_waiters();
    }

    /// Ready when there is room that there was not when this was called. Wakes in order: a run
    /// is a function of its seed.
    pub(crate) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    pub(crate) fn may_take(&self, account: Account) -> bool {
        lock(&self.budget).may_take(account)
    }

    /// How large the next intake should be.
    pub(crate) fn intake_bytes(&self) -> usize {
        lock(&self.budget).intake_bytes()
    }

    /// Returns what the link of a partition may hold ahead.
    pub(crate) fn on_taken(&self, account: Account, bytes: usize, link_bytes: usize) -> usize {
        let mut budget = lock(&self.budget);
        budget.on_taken(account, bytes);
        budget.on_prefetch(account, link_bytes);
        budget.link_share()
    }

    /// What the link of a partition may hold ahead.
    pub(crate) fn link_share(&self) -> usize {
        lock(&self.budget).link_share()
    }

    pub(crate) fn on_returned(&self, account: Account, bytes: usize) {
        let wake = lock(&self.budget).on_returned(account, bytes);
        if wake {
            self.room.notify_waiters();
        }
    }

    pub(crate) fn used_bytes(&self) -> usize {
        lock(&self.budget).used_bytes()
    }
}
