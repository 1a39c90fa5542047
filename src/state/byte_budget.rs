//! One memory budget for all partitions of a consumer, shared fairly.
//!
//! A partition asks before it takes events in and gives back as they settle. While the budget
//! is roomy anybody may take; when it is short (three quarters used) a partition above its
//! fair share waits; when it is used up, only a partition that holds nothing may take, so that
//! every partition always gets on, one intake at a time.
//!
//! The budget is overrun by at most one intake of each partition: the size of an event is
//! known only when it is here. An intake is bounded by what is left, by the size of the events before.

use std::collections::BTreeMap;

/// The part of the budget that links may hold ahead.
const LINKS_PART: usize = 8;

/// Names a partition within the budget.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Account(u64);

/// A budget in bytes and who holds how much of it.
#[derive(Debug)]
pub struct ByteBudget {
    capacity: usize,
    used: usize,
    held: BTreeMap<Account, Holding>,
    next_account: u64,
    /// The level below which those who wait are told that there is room.
    tell_below: Option<usize>,
}

#[derive(Debug, Default)]
struct Holding {
    events: usize,
    /// For what the link may hold ahead of the consumer; not counted as "holds something".
    prefetch: usize,
}

impl ByteBudget {
    /// A budget of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, used: 0, held: BTreeMap::new(), next_account: 0, tell_below: None }
    }

    /// Opens an account for a partition.
    pub fn open(&mut self) -> Account {
        let account = Account(self.next_account);
        self.next_account += 1;
        self.held.insert(account, Holding::default());
        account
    }

    /// Closes an account and returns all it held.
    pub fn close(&mut self, account: Account) {
        if let Some(holding) = self.held.remove(&account) {
            self.used -= holding.events + holding.prefetch;
        }
    }

    /// Whether the partition may take events in now.
    pub fn may_take(&self, account: Account) -> bool {
        let Some(holding) = self.held.get(&account) else {
            return false;
        };
        if holding.events == 0 {
            return true;
        }
        if self.used >= self.capacity {
            return false;
        }
        let short = self.used >= self.capacity - self.capacity / 4;
        !short || holding.events + holding.prefetch <= self.capacity / self.held.len()
    }

    /// Counts bytes the partition took in.
    pub fn on_taken(&mut self, account: Account, bytes: usize) {
        if let Some(holding) = self.held.get_mut(&account) {
            holding.events += bytes;
            self.used += bytes;
        }
        self.watch_level();
    }

    /// Counts bytes the partition gave back. Returns whether those who wait should look again.
    ///
    /// Not at every byte: a sixteenth of the capacity has to come free first, so that a
    /// thousand partitions do not wake for room that the first of them takes. Nobody waits
    /// for that for ever: once a partition holds nothing it may take whatever the others do.
    pub fn on_returned(&mut self, account: Account, bytes: usize) -> bool {
        if let Some(holding) = self.held.get_mut(&account) {
            let bytes = bytes.min(holding.events);
            holding.events -= bytes;
            self.used -= bytes;
        }
        let room = self.tell_below.is_some_and(|level| self.used <= level);
        if room {
            self.tell_below = None;
            self.watch_level();
        }
        room
    }

    /// How large the next intake of a partition should be: what is left of the budget, and never less
    /// than a partition's link may hold.
    pub fn intake_bytes(&self) -> usize {
        self.capacity.saturating_sub(self.used).max(self.link_share())
    }

    /// What the link of a partition may hold ahead: an eighth of the budget is for all of them.
    pub fn link_share(&self) -> usize {
        self.capacity / LINKS_PART / self.held.len().max(1)
    }

    /// Counts what the partition's link may hold ahead: credit times the size of its events.
    pub fn on_prefetch(&mut self, account: Account, bytes: usize) {
        if let Some(holding) = self.held.get_mut(&account) {
            self.used = self.used - holding.prefetch + bytes;
            holding.prefetch = bytes;
        }
        self.watch_level();
    }

    /// Whether three quarters or more are used.
    pub fn is_short(&self) -> bool {
        self.used >= self.capacity - self.capacity / 4
    }

    /// Where somebody may be waiting, notes the level that is news for them: that the budget
    /// is not short, or at least not used up.
    fn watch_level(&mut self) {
        let margin = self.capacity / 16;
        let short = self.capacity - self.capacity / 4;
        let level = if self.used >= self.capacity {
            self.capacity.saturating_sub(margin)
        } else if self.used >= short {
            short.saturating_sub(margin)
        } else {
            return;
        };
        self.tell_below = self.tell_below.max(Some(level));
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_greedy_partition_leaves_room_for_the_others() {
        let mut budget = ByteBudget::new(1_000);
        let (greedy, modest) = (budget.open(), budget.open());
        while budget.may_take(greedy) {
            budget.on_taken(greedy, 100);
        }
        assert_eq!(
            budget.used_bytes(),
            800,
            "stops once the budget is short and its share is used"
        );
        assert!(budget.may_take(modest));
        budget.on_taken(modest, 100);
        assert!(budget.may_take(modest), "below its share");
        assert!(!budget.may_take(greedy));
    }

    #[test]
    fn a_partition_that_holds_nothing_always_gets_on() {
        let mut budget = ByteBudget::new(100);
        let (first, second) = (budget.open(), budget.open());
        budget.on_taken(first, 500);
        assert!(!budget.may_take(first));
        assert!(budget.may_take(second));
    }

    #[test]
    fn those_who_wait_are_told_when_it_is_worth_their_while() {
        let mut budget = ByteBudget::new(1_600);
        let (first, second) = (budget.open(), budget.open());
        budget.on_taken(first, 1_500);
        budget.on_taken(second, 100);
        assert!(!budget.may_take(second), "all is used");
        assert!(!budget.on_returned(first, 50));
        assert!(budget.on_returned(first, 50), "a sixteenth is free");
        assert!(budget.may_take(second), "it is below its share");
        assert!(!budget.on_returned(first, 300), "short by a hair, or not: too little to tell");
        assert!(budget.on_returned(first, 100), "not short any more");
        assert!(!budget.on_returned(first, 100), "told once");
    }

    proptest! {
        #[test]
        fn used_is_the_sum_of_what_is_held(steps in prop::collection::vec((0u64..4, 0usize..300, 0u8..4), 0..200)) {
            let mut budget = ByteBudget::new(1_000);
            let accounts: Vec<Account> = (0..4).map(|_| budget.open()).collect();
            let mut held = [[0usize; 2]; 4];
            for (which, bytes, kind) in steps {
                let index = usize::try_from(which).expect("small");
                let account = accounts[index];
                match kind {
                    0 | 1 if budget.may_take(account) => {
                        budget.on_taken(account, bytes);
                        held[index][0] += bytes;
                    }
                    2 => {
                        budget.on_returned(account, bytes);
                        held[index][0] -= bytes.min(held[index][0]);
                    }
                    3 => {
                        budget.on_prefetch(account, bytes);
                        held[index][1] = bytes;
                    }
                    _ => {}
                }
                let sum: usize = held.iter().flatten().sum();
                prop_assert_eq!(budget.used_bytes(), sum);
            }
            for account in accounts {
                budget.close(account);
            }
            prop_assert_eq!(budget.used_bytes(), 0);
        }
    }
}
