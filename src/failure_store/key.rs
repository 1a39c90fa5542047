//! What a failure is kept under: the identity of its event, which no other event ever has.
//!
//! As a path: `dead/{namespace}/{hub}/{incarnation}/{group}/{partition}/{sequence number}`. Names are
//! escaped, in lower case where the service does not tell cases apart, and numbers have one length, so
//! that paths sort like numbers.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::checkpoint::host_of;
use crate::durable_folder::{escape, unescape};
use crate::event::{ConsumerGroup, EntityName, Incarnation, PartitionId, SequenceNumber};

/// Digits of a sequence number in a path: as many as the largest one has.
const NUMBER_DIGITS: usize = 19;

/// Digits of an incarnation in a path: milliseconds since 1970 have them until the year 2286.
const INCARNATION_DIGITS: usize = 13;

/// How many numbers [`FailurePrefix::of_block`] is of.
pub const BLOCK_NUMBERS: i64 = 10_000;

/// Digits of a number that are one in a block.
const BLOCK_DIGITS: usize = NUMBER_DIGITS - 4;

/// What becomes of an event that failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FailureKind {
    /// It was given up.
    Dead,
    /// It waits for another attempt.
    Parked,
}

impl FailureKind {
    /// As the first part of a path: `dead`, `parked`.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Dead => "dead",
            FailureKind::Parked => "parked",
        }
    }
}

/// The log of a partition, as a consumer group reads it. Names of namespaces, hubs and groups do not depend on
/// their case, as at the service. The port of a local broker is not part of it.
#[derive(Clone, Debug)]
pub struct LogIdentity {
    /// The fully qualified namespace, or the name of a local broker.
    pub namespace: String,
    /// The hub.
    pub entity: EntityName,
    /// When the hub was created. A hub that is created anew is another hub. Zero if it is not known.
    pub incarnation: Incarnation,
    /// The group.
    pub consumer_group: ConsumerGroup,
    /// The partition.
    pub partition: PartitionId,
}

impl LogIdentity {
    /// The event of this number.
    pub fn event(&self, sequence_number: SequenceNumber) -> EventIdentity {
        EventIdentity { log: self.clone(), sequence_number }
    }

    /// The path, without a slash at its end.
    fn path(&self) -> String {
        format!(
            "{}/{}/{}/{}",
            hub_path(&self.namespace, &self.entity),
            incarnation_text(self.incarnation),
            escape(&self.consumer_group.as_str().to_ascii_lowercase()),
            escape(self.partition.as_str()),
        )
    }
}

impl PartialEq for LogIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for LogIdentity {}

impl PartialOrd for LogIdentity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LogIdentity {
    fn cmp(&self, other: &Self) -> Ordering {
        let namespace = |log: &Self| host_of(&log.namespace).to_ascii_lowercase();
        namespace(self)
            .cmp(&namespace(other))
            .then_with(|| self.entity.cmp(&other.entity))
            .then_with(|| self.incarnation.cmp(&other.incarnation))
            .then_with(|| self.consumer_group.cmp(&other.consumer_group))
            .then_with(|| self.partition.cmp(&other.partition))
    }
}

impl Hash for LogIdentity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        host_of(&self.namespace).to_ascii_lowercase().hash(state);
        self.entity.hash(state);
        self.incarnation.hash(state);
        self.consumer_group.hash(state);
        self.partition.hash(state);
    }
}

/// Which event, for ever.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventIdentity {
    /// Where it was received.
    pub log: LogIdentity,
    /// Its number there.
    pub sequence_number: SequenceNumber,
}

impl EventIdentity {
    /// The key of its record.
    pub fn key(self, kind: FailureKind) -> FailureKey {
        FailureKey { kind, event: self }
    }
}

/// As a path, which [`EventIdentity::from_str`] reads: the id of a letter.
impl fmt::Display for EventIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.log.path(), self.sequence_number)
    }
}

/// Reads what `Display` writes; names that were too long for a path do not come back.
impl FromStr for EventIdentity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str =
            "an id reads NAMESPACE/HUB/INCARNATION/GROUP/PARTITION/NUMBER, as `list` shows it";
        let parts: Vec<&str> = text.split('/').collect();
        let [namespace, entity, incarnation, group, partition, number] = parts.as_slice() else {
            return Err(FORM.to_owned());
        };
        let name = |part: &str| unescape(part).ok_or_else(|| FORM.to_owned());
        let incarnation = incarnation.parse().map_err(|_| FORM.to_owned())?;
        let number = number_of(number).ok_or_else(|| FORM.to_owned())?;
        let log = LogIdentity {
            namespace: name(namespace)?,
            entity: name(entity)?.into(),
            incarnation: Incarnation(incarnation),
            consumer_group: name(group)?.into(),
            partition: name(partition)?.into(),
        };
        Ok(log.event(SequenceNumber(number)))
    }
}

/// Where a record is kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FailureKey {
    /// Parked or dead.
    pub kind: FailureKind,
    /// Whose record.
    pub event: EventIdentity,
}

impl FailureKey {
    /// The path below the root of a store. Equal keys have equal paths.
    pub fn path(&self) -> String {
        format!(
            "{}/{}/{}",
            self.kind.as_str(),
            self.event.log.path(),
            number_text(self.event.sequence_number)
        )
    }

    /// Reads a path. `None` if it is not the path of a key, or if a name was too long for a path.
    pub fn from_path(path: &str) -> Option<Self> {
        let (kind, event) = path.split_once('/')?;
        let kind = match kind {
            "dead" => FailureKind::Dead,
            "parked" => FailureKind::Parked,
            _ => return None,
        };
        let key = event.parse::<EventIdentity>().ok()?.key(kind);
        (key.path() == path).then_some(key)
    }
}

impl fmt::Display for FailureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.event)
    }
}

/// Which records to list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailurePrefix(String);

impl FailurePrefix {
    /// All of a kind.
    pub fn all(kind: FailureKind) -> Self {
        Self(format!("{}/", kind.as_str()))
    }

    /// Those of a namespace.
    pub fn of_namespace(kind: FailureKind, namespace: &str) -> Self {
        Self(format!("{}/{}/", kind.as_str(), namespace_path(namespace)))
    }

    /// Those of a hub, of all its incarnations and groups.
    pub fn of_entity(kind: FailureKind, namespace: &str, entity: &EntityName) -> Self {
        Self(format!("{}/{}/", kind.as_str(), hub_path(namespace, entity)))
    }

    /// Those of one partition, as one group reads it.
    pub fn of_log(kind: FailureKind, log: &LogIdentity) -> Self {
        Self(format!("{}/{}/", kind.as_str(), log.path()))
    }

    /// Those of one partition whose numbers are in the block of this one: the [`BLOCK_NUMBERS`] (10,000)
    /// from a multiple of that on. Of a number below zero: all of the partition.
    pub fn of_block(kind: FailureKind, log: &LogIdentity, number: SequenceNumber) -> Self {
        let Self(mut path) = Self::of_log(kind, log);
        if number.0 >= 0 {
            path.extend(number_text(number).chars().take(BLOCK_DIGITS));
        }
        Self(path)
    }

    /// What paths of such records begin with: whole names with a slash behind each, and, of a block, the
    /// first digits of a number.
    pub fn path(&self) -> &str {
        &self.0
    }
}

fn namespace_path(namespace: &str) -> String {
    escape(&host_of(namespace).to_ascii_lowercase())
}

fn hub_path(namespace: &str, entity: &EntityName) -> String {
    format!("{}/{}", namespace_path(namespace), escape(&entity.as_str().to_ascii_lowercase()))
}

fn incarnation_text(Incarnation(incarnation): Incarnation) -> String {
    format!("{incarnation:0INCARNATION_DIGITS$}")
}

/// A number that sorts as text like it does as a number.
pub(super) fn number_text(SequenceNumber(number): SequenceNumber) -> String {
    match number {
        0.. => format!("{number:0NUMBER_DIGITS$}"),
        // The service has none; what a transport of somebody's own has keeps its order.
        _ => format!("-{:0NUMBER_DIGITS$}", number - i64::MIN),
    }
}

/// The least and the greatest number that begin with these digits in a path; all numbers where there are
/// none. `None` where no number does.
pub(super) fn numbers_of_digits(digits: &str) -> Option<(SequenceNumber, SequenceNumber)> {
    if digits.is_empty() {
        return Some((SequenceNumber(i64::MIN), SequenceNumber(i64::MAX)));
    }
    let is_number = digits.len() <= NUMBER_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    let least = is_number
        .then(|| format!("{digits:0<NUMBER_DIGITS$}"))
        .and_then(|text| text.parse().ok())?;
    let greatest = format!("{digits:9<NUMBER_DIGITS$}").parse().unwrap_or(i64::MAX);
    Some((SequenceNumber(least), SequenceNumber(greatest)))
}

/// Reads a number as a path or as a person has it.
pub(super) fn number_of(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(digits) if digits.len() == NUMBER_DIGITS => {
            digits.parse::<i64>().ok()?.checked_add(i64::MIN)
        }
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log(namespace: &str, entity: &str, group: &str, partition: &str) -> LogIdentity {
        LogIdentity {
            namespace: namespace.to_owned(),
            entity: entity.into(),
            incarnation: Incarnation(1_700_000_000_123),
            consumer_group: group.into(),
            partition: partition.into(),
        }
    }

    #[test]
    fn a_key_is_a_path_that_can_be_read() {
        let log = log("NS.servicebus.windows.net", "Orders", "$Default", "3");
        let key = log.event(SequenceNumber(17)).key(FailureKind::Dead);
        let path = "dead/ns.servicebus.windows.net/orders/1700000000123/%24default/3/\
                    0000000000000000017";
        assert_eq!(key.path(), path);
        assert_eq!(FailureKey::from_path(path), Some(key.clone()));
        let id = "ns.servicebus.windows.net/orders/1700000000123/%24default/3/17";
        assert_eq!(key.event.to_string(), id);
        assert_eq!(id.parse(), Ok(key.event));
        assert_eq!(
            FailurePrefix::of_log(FailureKind::Parked, &log).path(),
            "parked/ns.servicebus.windows.net/orders/1700000000123/%24default/3/"
        );
        for foreign in [
            "dead/ns/orders/1/g/3/17",
            "dead/ns/orders/0000000000001/g/3",
            "other/ns/orders/0000000000001/g/3/0000000000000000017",
            "dead/NS/orders/0000000000001/g/3/0000000000000000017",
            "dead/ns/orders/0000000000001/g/3/x",
            "",
        ] {
            assert_eq!(FailureKey::from_path(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn names_that_are_one_to_the_service_are_one_key_and_others_are_not() {
        let one = log("NS.example", "Orders", "$Default", "a");
        assert_eq!(one, log("ns.example:5671", "orders", "$DEFAULT", "a"));
        for other in [
            log("ns2.example", "orders", "$default", "a"),
            log("ns.example", "orders2", "$default", "a"),
            log("ns.example", "orders", "audit", "a"),
            log("ns.example", "orders", "$default", "A"),
        ] {
            assert_ne!(one, other);
            assert_ne!(one.path(), other.path());
        }
    }

    proptest! {
        #[test]
        fn paths_are_equal_where_keys_are_and_sort_like_numbers(
            names in proptest::array::uniform4(".*"),
            others in proptest::array::uniform4(".*"),
            numbers in any::<[i64; 2]>(),
        ) {
            let of = |[namespace, entity, group, partition]: &[String; 4], number| {
                let log = log(namespace, entity, group, partition);
                log.event(SequenceNumber(number)).key(FailureKind::Parked)
            };
            let [one, two] = numbers;
            let key = of(&names, one);
            prop_assert_eq!(key.path().matches('/').count(), 6);
            prop_assert_eq!(of(&names, two).path().cmp(&key.path()), two.cmp(&one));
            let other = of(&others, one);
            prop_assert_eq!(other == key, other.path() == key.path());
            if let Some(read) = FailureKey::from_path(&key.path()) {
                prop_assert_eq!(read, key);
            }
        }
    }
}
