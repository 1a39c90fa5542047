//! Lanes: which waiting event may begin, in the order of its lane and under the lane's cap.
//!
//! ```text
//!  partition 0: queues ──┐   asks with a slot in hand    ┌── lane: in flight, cap, closed until,
//!  partition 1: queues ──┼──────────────> table ─────────┤         turns of partitions
//!  partition 2: queues ──┘ <── told that it is its turn  └── lane: …
//! ```
//!
//! - [`table`]: what partitions share: of each lane what is under way, until when it is closed, and
//!   which partitions wait for it.
//! - [`queues`]: what one partition has waiting, by lane, and the ring in which its lanes take turns.
//! - [`ring`]: whose turn is next among them.
//! - [`lists`]: how the events of many lanes are kept.
//! - [`since`]: since when batches of them wait.
//! - [`places`]: which lane each event of the window is of.
//!
//! Invariants, each held by a property:
//!
//! 1. No more of a lane is under way than its cap, and nothing begins while it is closed.
//! 2. Events of an ordered lane begin in their order, and the next one when the one before is settled.
//! 3. With a slot in hand, something begins if anything may: no lane is reserved for whoever has no slot.
//! 4. Limited lanes of a partition take turns, of ordered ones the oldest event comes first, and
//!    partitions that wait for a lane take turns.
//! 5. What comes in is given out once, or is there when everything is cleared.
//! 6. A lane without events that is open is forgotten.
//!
//! Nothing here knows a slot, a handler or a watermark: the worker of a partition does.

pub mod lists;
pub mod places;
pub mod queues;
pub mod ring;
pub mod since;
pub mod table;

use crate::lanes::Lane;

/// A lane, and what finds it again in a table of names: carried along, so that it is made once for an
/// event.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Named {
    /// The lane.
    pub lane: Lane,
    /// Its hash, of the caller's making.
    pub hash: u64,
}

/// Names the queue of a lane while the partition has events of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(u32);

impl QueueId {
    /// The queue of events without a lane.
    pub const NO_LANE: Self = Self(0);

    /// The queue with this key.
    fn new(key: usize) -> Self {
        // The window bounds how many there are.
        Self(u32::try_from(key).unwrap_or(u32::MAX >> 1))
    }

    fn key(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests;
