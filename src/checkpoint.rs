//! How far a consumer group has come in a partition: the values of checkpoints, fences and
//! compare-and-swap.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::event::{
    ConsumerGroup, EntityName, Incarnation, PartitionId, Position, SequenceNumber,
    compare_caseless, hash_caseless,
};

/// Whose checkpoints: a consumer group of an entity of a namespace. Its names are one whatever
/// their case, as they are to the service: every store finds a checkpoint under any spelling.
#[derive(Clone, Debug)]
pub struct CheckpointScope {
    /// The fully qualified namespace, or the name of a local broker, with its port where it has one
    /// of its own: `localhost:5673`.
    pub namespace: String,
    /// The entity.
    pub entity: EntityName,
    /// The consumer group.
    pub consumer_group: ConsumerGroup,
}

impl CheckpointScope {
    /// The namespace without the port of a local broker.
    pub fn host(&self) -> &str {
        host_of(&self.namespace)
    }
}

/// A namespace without its port, and an address without its brackets.
pub fn host_of(namespace: &str) -> &str {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let host = match namespace.rsplit_once(':') {
        Some((host, port))
            if is_port(port)
                && !host.is_empty()
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => namespace,
    };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

impl PartialEq for CheckpointScope {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for CheckpointScope {}

impl PartialOrd for CheckpointScope {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CheckpointScope {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_caseless(&self.namespace, &other.namespace)
            .then_with(|| self.entity.cmp(&other.entity))
            .then_with(|| self.consumer_group.cmp(&other.consumer_group))
    }
}

impl Hash for CheckpointScope {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_caseless(&self.namespace, state);
        self.entity.hash(state);
        self.consumer_group.hash(state);
    }
}

/// Which checkpoint: a partition within a scope.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CheckpointKey {
    /// Whose.
    pub scope: CheckpointScope,
    /// Of which partition.
    pub partition: PartitionId,
}

impl fmt::Display for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = &self.scope;
        write!(
            f,
            "{}/{}/{}/{}",
            scope.namespace, scope.entity, scope.consumer_group, self.partition
        )
    }
}

/// The fencing counter of an ownership: the greater one is the rightful owner.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LeaseEpoch(pub u64);

/// Names one write, so that a writer whose answer was lost recognises its own work.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteId(pub u64);

/// A run of sequence numbers above the watermark, both ends included: every event the log holds
/// in it is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SettledRun {
    /// Its lowest number.
    pub first: SequenceNumber,
    /// Its highest number.
    pub last: SequenceNumber,
}

/// How far a consumer group has come in a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The watermark: the highest position up to which every event is settled. `None` if nothing is settled
    /// yet.
    pub watermark: Option<Position>,
    /// The events that are settled above the watermark, as ascending runs that do not touch.
    pub settled_above: Vec<SettledRun>,
    /// The log that the numbers belong to.
    pub incarnation: Option<Incarnation>,
    /// The number of explicit resets. The greater number wins over any position.
    pub reset_generation: u64,
    /// The owner that wrote it.
    pub lease_epoch: LeaseEpoch,
    /// The write that stored it.
    pub write_id: WriteId,
    /// How many owners in a row ended without progress while events waited; see
    /// [`ConsumerOptions::max_takeovers`](crate::ConsumerOptions::max_takeovers).
    pub takeovers_without_progress: u32,
    /// One event up to this number may end its process. `None`: no event is suspected.
    #[serde(default)]
    pub suspects_to: Option<SequenceNumber>,
    /// The suspected event that was tried last.
    #[serde(default)]
    pub trial: Option<Trial>,
}

/// A trial: an event that may end its process is handled while nothing else of its consumer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// The event.
    pub event: SequenceNumber,
    /// Whether the event was being handled when this was written.
    pub is_on: bool,
    /// How many owners ended while it was handled.
    pub deaths: u32,
}

/// Names the state of a stored value, for compare-and-swap. Opaque.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct VersionToken(pub String);

/// A checkpoint as the store holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredCheckpoint {
    /// The value.
    pub checkpoint: Checkpoint,
    /// Its version.
    pub version: VersionToken,
}

/// What a write expects to replace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// The value of this version.
    Version(VersionToken),
}

impl Expected {
    /// Whether a store that holds this version, or nothing, holds what is expected.
    pub fn is_met_by(&self, stored: Option<&VersionToken>) -> bool {
        match self {
            Expected::Absent => stored.is_none(),
            Expected::Version(version) => stored == Some(version),
        }
    }
}

/// Why a write was not made.
#[derive(Debug)]
pub enum StoreError {
    /// The store holds something else than was expected: load and decide anew.
    Conflict,
    /// The store failed; whether the write was applied is unknown.
    Failed(Error),
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        StoreError::Failed(error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Conflict => f.write_str("the record was changed by another writer"),
            StoreError::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Conflict => None,
            StoreError::Failed(error) => error.source(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(namespace: &str, entity: &str, group: &str) -> CheckpointScope {
        let (entity, consumer_group) = (entity.into(), group.into());
        CheckpointScope { namespace: namespace.to_owned(), entity, consumer_group }
    }

    #[test]
    fn a_scope_is_one_whatever_the_case_of_its_names() {
        let one = scope("NS.example", "Orders", "$Default");
        assert_eq!(one, scope("ns.example", "orders", "$default"));
        for other in [
            scope("ns2.example", "orders", "$default"),
            scope("ns.example", "orders2", "$default"),
            scope("ns.example", "orders", "audit"),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_host_is_the_namespace_without_a_port() {
        for (namespace, host) in [
            ("localhost", "localhost"),
            ("localhost:5673", "localhost"),
            ("127.0.0.1:5673", "127.0.0.1"),
            ("[::1]:5673", "::1"),
            ("::1", "::1"),
            ("orders.example", "orders.example"),
            ("memory", "memory"),
            ("a:b", "a:b"),
            (":1", ":1"),
            ("a:", "a:"),
        ] {
            assert_eq!(host_of(namespace), host);
        }
    }
}
