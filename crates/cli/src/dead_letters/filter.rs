//! Which letters: what all the filters of a command line say.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::Args;

use longshore::error::ErrorClass;
use longshore::event::{ConsumerGroup, EntityName, PartitionId, SequenceNumber};
use longshore::failure_store::{
    EventIdentity, FailureKind, FailurePrefix, Fingerprint, ListedFailure,
};
use longshore::timestamp::rfc3339;

use crate::position::age;

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Which ones (all filters must match)")]
pub(crate) struct FilterArgs {
    /// An id, as `list --ids` shows it, or HUB/PARTITION#NUMBER; may be given several times
    #[arg(long, value_name = "ID")]
    id: Vec<LetterId>,
    /// The fingerprint, which similar failures share
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<Fingerprint>,
    /// A part of the reason that `list` shows
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The worker in which it failed
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
    /// The host, hub or container that failed, such as files.example.com
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// The class of the failure: permanent, transient, throttling, auth, too_large, bad_data, unreadable or
    /// unknown
    #[arg(long, value_name = "CLASS", value_parser = class)]
    class: Option<ErrorClass>,
    /// The hub of the event
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// The consumer group in which it failed
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// The partition of the event
    #[arg(long, value_name = "ID")]
    partition: Option<String>,
    /// The day of the last failure in UTC, such as 2026-01-31
    #[arg(long, value_name = "DAY", value_parser = day)]
    day: Option<String>,
    /// It last failed this long ago or longer, such as 30d or 12h
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// The job that replays it, or that replayed it last
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
}

impl FilterArgs {
    /// Whether nothing is asked for, so that every letter matches.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { id, fingerprint, reason, worker, destination, .. } = self;
        let Self { class, entity, group, partition, day, older_than, job, .. } = self;
        let texts = [reason, worker, destination, entity, group, partition, day, job];
        id.is_empty()
            && texts.into_iter().all(Option::is_none)
            && (fingerprint.is_none() && class.is_none() && older_than.is_none())
    }

    /// What is wrong where something is done to all that is meant: nobody means everything by saying nothing.
    pub(crate) fn fault(&self, all: bool) -> Option<&'static str> {
        match (all, self.is_empty()) {
            (false, true) => Some("say which ones with a filter, or --all for every one"),
            (true, false) => Some("--all is every one: leave the other filters out"),
            _ => None,
        }
    }

    /// What all that is meant is below.
    pub(crate) fn prefix(&self, kind: FailureKind) -> FailurePrefix {
        match self.id.as_slice() {
            [LetterId::Whole(event)] => FailurePrefix::of_log(kind, &event.log),
            _ => FailurePrefix::all(kind),
        }
    }

    /// Whether a letter is meant, at this time.
    pub(crate) fn matches(&self, letter: &ListedFailure, now: SystemTime) -> bool {
        let ListedFailure { key, meta, .. } = letter;
        let log = &key.event.log;
        let is = |asked: &Option<String>, found: Option<&str>| {
            asked.as_deref().is_none_or(|asked| found == Some(asked))
        };
        let is_like = |asked: &str| meta.reason.to_lowercase().contains(&asked.to_lowercase());
        let age = now.duration_since(meta.last_failure).unwrap_or_default();
        (self.id.is_empty() || self.id.iter().any(|id| id.is_of(&key.event)))
            && self.fingerprint.is_none_or(|asked| asked == meta.fingerprint)
            && self.reason.as_deref().is_none_or(is_like)
            && is(&self.worker, Some(&meta.worker))
            && is(&self.destination, meta.destination.as_deref())
            && self.class.is_none_or(|asked| asked == meta.class)
            && self.entity.as_deref().is_none_or(|asked| EntityName::from(asked) == log.entity)
            && self
                .group
                .as_deref()
                .is_none_or(|asked| ConsumerGroup::from(asked) == log.consumer_group)
            && is(&self.partition, Some(log.partition.as_str()))
            && self.day.as_deref().is_none_or(|asked| asked == day_of(meta.last_failure))
            && self.older_than.is_none_or(|asked| age >= asked)
            && is(&self.job, meta.job.as_deref())
    }
}

/// The day of a time, in UTC.
pub(crate) fn day_of(time: SystemTime) -> String {
    rfc3339(time).chars().take_while(|letter| *letter != 'T').collect()
}

/// A letter as people name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum LetterId {
    Whole(EventIdentity),
    /// Of any namespace, incarnation and group.
    Short {
        entity: EntityName,
        partition: PartitionId,
        number: SequenceNumber,
    },
}

impl LetterId {
    pub(crate) fn is_of(&self, event: &EventIdentity) -> bool {
        match self {
            Self::Whole(whole) => whole == event,
            Self::Short { entity, partition, number } => {
                let log = &event.log;
                *entity == log.entity
                    && *partition == log.partition
                    && *number == event.sequence_number
            }
        }
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let short = text.rsplit_once('#').and_then(|(place, number)| {
            let (entity, partition) = place.rsplit_once('/')?;
            let number = SequenceNumber(number.parse().ok()?);
            Some(Self::Short { entity: entity.into(), partition: partition.into(), number })
        });
        match short {
            Some(short) => Ok(short),
            None => text
                .strip_prefix("dead/")
                .or_else(|| text.strip_prefix("parked/"))
                .unwrap_or(text)
                .parse()
                .map(Self::Whole)
                .map_err(|form| format!("{form}; or HUB/PARTITION#NUMBER")),
        }
    }
}

fn class(text: &str) -> Result<ErrorClass, String> {
    ErrorClass::from_word(text).ok_or_else(|| {
        "it must be a class of failures: permanent, transient, throttling, auth, too_large, bad_data, \
         unreadable, unknown"
            .to_owned()
    })
}

fn day(text: &str) -> Result<String, String> {
    let parsed = longshore::timestamp::from_rfc3339(&format!("{text}T00:00:00Z"));
    parsed.map(|_| text.to_owned()).ok_or_else(|| "it must be a day such as 2026-01-31".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use longshore::event::Incarnation;
    use longshore::failure_store::{FailureMeta, LogIdentity, VersionToken};

    use super::*;

    const SECONDS_OF_A_DAY: u64 = 24 * 60 * 60;

    fn letter() -> ListedFailure {
        let log = LogIdentity {
            namespace: "ns.example".to_owned(),
            entity: "Orders".into(),
            incarnation: Incarnation(1_700_000_000_123),
            consumer_group: "$Default".into(),
            partition: "0".into(),
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS_OF_A_DAY);
        let fingerprint = Fingerprint::of(ErrorClass::Permanent, "404");
        let mut meta = FailureMeta::new(ErrorClass::Permanent, fingerprint, at);
        meta.reason = "The server answered …".to_owned();
        meta.worker = "w-1".to_owned();
        ListedFailure {
            key: log.event(SequenceNumber(17)).key(FailureKind::Dead),
            meta,
            version: VersionToken("1".to_owned()),
        }
    }

    #[test]
    fn all_that_is_asked_must_hold() {
        let letter = letter();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(3 * SECONDS_OF_A_DAY);
        let matches = |change: &dyn Fn(&mut FilterArgs)| {
            let mut filter = FilterArgs::default();
            change(&mut filter);
            assert!(!filter.is_empty());
            filter.matches(&letter, now)
        };
        let text = |text: &str| Some(text.to_owned());
        assert!(FilterArgs::default().is_empty() && FilterArgs::default().matches(&letter, now));
        assert!(matches(&|f| f.reason = text("server ANSWERED")));
        assert!(!matches(&|f| f.reason = text("client")));
        assert!(matches(&|f| f.worker = text("w-1")) && !matches(&|f| f.worker = text("w")));
        assert!(!matches(&|f| f.destination = text("h")));
        assert!(matches(&|f| f.entity = text("ORDERS")) && !matches(&|f| f.entity = text("o")));
        assert!(matches(&|f| f.group = text("$default")) && !matches(&|f| f.group = text("g")));
        assert!(
            matches(&|f| f.day = text("1970-01-02")) && !matches(&|f| f.day = text("1970-01-01"))
        );
        assert!(matches(&|f| f.older_than = Some(age("2d").unwrap())));
        assert!(!matches(&|f| f.older_than = Some(age("49h").unwrap())));
        assert!(!matches(&|f| f.class = Some(ErrorClass::Auth)));
        assert!(!matches(&|f| f.job = text("20260131t120000-1a2b3c")));
        let whole = letter.key.event.to_string();
        for (id, is_meant) in [
            (whole.as_str(), true),
            (&format!("dead/{whole}"), true),
            (&format!("parked/{whole}"), true),
            ("orders/0#17", true),
            ("orders/1#17", false),
            ("orders/0#18", false),
        ] {
            assert_eq!(matches(&|f| f.id = vec![id.parse().unwrap()]), is_meant, "{id}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for id in ["", "17", "orders/0", "orders#17", "a/b/c"] {
            assert!(id.parse::<LetterId>().is_err(), "{id}");
        }
        assert!(age("d").is_err() && age("999999d").is_err() && age("5").is_err());
        assert!(day("yesterday").is_err() && day("2026-02-30").is_err());
        assert!(class("odd").is_err());
    }
}
