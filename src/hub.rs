//! What a hub and its logs tell about themselves, and where a link begins to read.

use std::fmt;
use std::time::SystemTime;

use crate::event::{Incarnation, Offset, PartitionId, SequenceNumber};
use crate::timestamp::rfc3339;

/// What a hub says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HubProperties {
    /// When the hub was created.
    pub incarnation: Incarnation,
    /// Its partitions, in the service's order.
    pub partitions: Vec<PartitionId>,
}

impl HubProperties {
    /// What an adapter read.
    pub fn new(incarnation: Incarnation, partitions: Vec<PartitionId>) -> Self {
        Self { incarnation, partitions }
    }
}

/// What a partition says of its log.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LogProperties {
    /// The oldest sequence number that may still be read.
    pub begin: SequenceNumber,
    /// The sequence number of the newest event. `None` if nothing was ever enqueued.
    pub last_enqueued: Option<SequenceNumber>,
    /// When the newest event was enqueued.
    pub last_enqueued_time: Option<SystemTime>,
    /// The newest event's offset, if the transport gives one.
    pub last_enqueued_offset: Option<Offset>,
}

impl LogProperties {
    /// What an adapter read.
    pub fn new(
        begin: SequenceNumber,
        last_enqueued: Option<SequenceNumber>,
        last_enqueued_time: Option<SystemTime>,
    ) -> Self {
        Self { begin, last_enqueued, last_enqueued_time, last_enqueued_offset: None }
    }

    /// Sets the newest event's offset.
    pub fn with_last_enqueued_offset(mut self, offset: Option<Offset>) -> Self {
        self.last_enqueued_offset = offset;
        self
    }

    /// The number of the newest event, or, if there never was one, the number before the
    /// first.
    pub fn end(&self) -> SequenceNumber {
        self.last_enqueued.unwrap_or(SequenceNumber(self.begin.0.saturating_sub(1)))
    }

    /// Whether the log holds no event: nothing was ever enqueued, or retention took everything.
    pub fn is_empty(&self) -> bool {
        self.begin > self.end()
    }
}

/// Where a link begins. There is no "latest" here: a re-opened link would skip what came
/// meanwhile, so it is turned into a sequence number first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkStart {
    /// The oldest event of the log.
    FirstEvent,
    /// The first event after this one.
    After(SequenceNumber),
    /// The first event enqueued at this time or later.
    EnqueuedAt(SystemTime),
}

impl fmt::Display for LinkStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkStart::FirstEvent => f.write_str("the oldest event"),
            LinkStart::After(number) => write!(f, "after {number}"),
            LinkStart::EnqueuedAt(time) => write!(f, "at {}", rfc3339(*time)),
        }
    }
}
