//! What a hub is like: its partitions, its consumer groups and what it keeps.

use std::time::Duration;

use super::log::Retention;

/// A hub to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "options do nothing until a builder has them"]
pub struct HubOptions {
    pub(super) name: String,
    pub(super) partitions: u32,
    pub(super) consumer_groups: Option<Vec<String>>,
    pub(super) retention: Retention,
}

impl HubOptions {
    /// The name of the hub.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// A hub that has any consumer group a client names, and keeps every event for ever.
    ///
    /// Names are case-insensitive; partitions are 1 to 1,024.
    pub fn new(name: impl Into<String>, partitions: u32) -> Self {
        Self {
            name: name.into(),
            partitions,
            consumer_groups: None,
            retention: Retention::default(),
        }
    }

    /// Has these consumer groups and `$Default` only; others are answered with `amqp:not-found`.
    pub fn consumer_groups(mut self, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.consumer_groups = Some(groups.into_iter().map(Into::into).collect());
        self
    }

    /// Forgets events that are older than this. In a data folder whole files of 64 MiB go, once
    /// everything in them is older.
    pub fn retention_age(mut self, age: Duration) -> Self {
        self.retention.age = Some(age);
        self
    }

    /// Forgets the oldest events of a partition that holds more than this. In a data folder whole
    /// files of 64 MiB go, never the newest.
    pub fn retention_bytes(mut self, bytes: u64) -> Self {
        self.retention.bytes = Some(bytes);
        self
    }
}
