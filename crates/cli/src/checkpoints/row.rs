//! What is known of one partition: the checkpoint, its owner, the log, and what does not fit.

use std::time::SystemTime;

use serde::Serialize;

use super::opened::Policy;
use crate::brief;
use longshore::checkpoint_store::{Checkpoint, StoredCheckpoint, Trial};
use longshore::config::PositionLost;
use longshore::error::Error;
use longshore::event::{Incarnation, PartitionId, SequenceNumber, StartPosition};
use longshore::hub::{LinkStart, LogProperties};
use longshore::state::lag::{Lag, Standing};
use longshore::state::owner::{Owner, OwnerKind};
use longshore::state::resume::first_start;

/// From this many takeovers without progress on, something may be wrong with an event.
const SUSPECT_TAKEOVERS: u32 = 3;

/// A partition as scripts get it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) partition: String,
    /// Whether the store holds a checkpoint of it, be it one that cannot be read.
    pub(super) has_checkpoint: bool,
    /// The last settled event; `null` where none is.
    pub(super) sequence_number: Option<i64>,
    pub(super) settled_runs_above: usize,
    /// Sequence numbers in these runs.
    pub(super) settled_events_above: u64,
    pub(super) lease_epoch: Option<u64>,
    pub(super) takeovers_without_progress: u32,
    /// Whether the hub was created anew since.
    pub(super) incarnation_mismatch: bool,
    /// Whether the log ends below it.
    pub(super) is_beyond_log: bool,
    /// Who has it; `null` where nobody has, and where there is no store of leases.
    pub(super) owner: Option<OwnerRow>,
    pub(super) log_begin: Option<i64>,
    pub(super) log_end: Option<i64>,
    /// Events that wait; `null` where it is not known.
    pub(super) lag_events: Option<u64>,
    /// The age of the oldest of them, where checkpoint and log tell it.
    pub(super) lag_seconds: Option<f64>,
    /// Else what they tell of it: `null` where even that is not known.
    pub(super) lag_seconds_at_least: Option<f64>,
    pub(super) lag_seconds_at_most: Option<f64>,
    /// Why the checkpoint, or else the log, cannot be read.
    pub(super) error: Option<String>,
    /// What an engineer should know.
    pub(super) notes: Vec<String>,
    #[serde(skip)]
    pub(super) found_owner: Option<Owner>,
}

/// An owner as scripts get it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct OwnerRow {
    id: String,
    kind: &'static str,
    /// Since the heartbeat, or since a foreign owner renewed; `null` where there is no heartbeat.
    silent_seconds: Option<f64>,
    alive: bool,
    hands_to: Option<String>,
}

impl From<&Owner> for OwnerRow {
    fn from(owner: &Owner) -> Self {
        Self {
            id: owner.id.to_string(),
            kind: match owner.kind {
                OwnerKind::Worker => "worker",
                OwnerKind::Foreign => "foreign",
            },
            silent_seconds: owner.silent_for.map(|silent| silent.as_secs_f64()),
            alive: owner.is_alive,
            hands_to: owner.hands_to.as_ref().map(ToString::to_string),
        }
    }
}

/// What was asked of the hub about a partition.
pub(super) enum Asked {
    /// Nothing.
    Nothing,
    Log {
        log: LogProperties,
        incarnation: Incarnation,
        /// By the lease store's clock, if there is one.
        now: SystemTime,
    },
    /// The hub has no such partition.
    NotThere,
    Failed(String),
}

impl Row {
    pub(super) fn new(
        policy: Policy,
        partition: &PartitionId,
        stored: Option<Result<StoredCheckpoint, Error>>,
        owner: Option<Owner>,
        asked: Asked,
    ) -> Self {
        let has_checkpoint = stored.is_some();
        let (checkpoint, error) = match stored {
            Some(Ok(stored)) => (Some(stored.checkpoint), None),
            Some(Err(error)) => (None, Some(brief(&error))),
            None => (None, None),
        };
        let mut row = Self {
            partition: partition.to_string(),
            has_checkpoint,
            sequence_number: None,
            settled_runs_above: 0,
            settled_events_above: 0,
            lease_epoch: None,
            takeovers_without_progress: 0,
            incarnation_mismatch: false,
            is_beyond_log: false,
            owner: owner.as_ref().map(OwnerRow::from),
            log_begin: None,
            log_end: None,
            lag_events: None,
            lag_seconds: None,
            lag_seconds_at_least: None,
            lag_seconds_at_most: None,
            error,
            notes: Vec::new(),
            found_owner: owner,
        };
        if let Some(checkpoint) = &checkpoint {
            row.take_checkpoint(checkpoint);
        }
        if let Some(log) = row.take_log(checkpoint.as_ref(), asked) {
            row.take_lag(policy, checkpoint.as_ref(), &log);
        }
        row.note_takeovers(checkpoint.as_ref().and_then(|checkpoint| checkpoint.trial));
        row
    }

    fn take_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let runs = &checkpoint.settled_above;
        self.sequence_number = checkpoint.watermark.as_ref().map(|at| at.sequence_number.0);
        self.settled_runs_above = runs.len();
        self.settled_events_above = runs.iter().fold(0, |events: u64, run| {
            events.saturating_add(run.last.0.abs_diff(run.first.0)).saturating_add(1)
        });
        self.lease_epoch = Some(checkpoint.lease_epoch.0);
        self.takeovers_without_progress = checkpoint.takeovers_without_progress;
    }

    /// An event may end the process that handles it, over and over. Where nothing waits, or the
    /// partition moved once or twice, it means nothing.
    fn note_takeovers(&mut self, trial: Option<Trial>) {
        let waits = self.lag_events.is_none_or(|events| events > 0);
        if waits && self.takeovers_without_progress >= SUSPECT_TAKEOVERS {
            let next = self.sequence_number.map_or(0, |number| number.saturating_add(1));
            let suspects = match trial {
                Some(Trial { event, deaths, .. }) => {
                    format!("the event {event}; {deaths} owners ended while nothing else ran")
                }
                None => format!("the event {next} and the next ones"),
            };
            self.notes.push(format!(
                "taken over {} times without progress: look at {suspects}",
                self.takeovers_without_progress
            ));
        }
    }

    /// Compares the checkpoint with the log; returns the log where the one is a place of the other.
    fn take_log(
        &mut self,
        checkpoint: Option<&Checkpoint>,
        asked: Asked,
    ) -> Option<(LogProperties, SystemTime)> {
        let (log, incarnation, now) = match asked {
            Asked::Log { log, incarnation, now } => (log, incarnation, now),
            Asked::Nothing => return None,
            Asked::NotThere => {
                self.notes.push("the hub has no such partition".to_owned());
                return None;
            }
            Asked::Failed(why) => {
                self.error.get_or_insert(why);
                return None;
            }
        };
        (self.log_begin, self.log_end) = (Some(log.begin.0), Some(log.end().0));
        let known = checkpoint.and_then(|checkpoint| checkpoint.incarnation);
        if known.is_some_and(|known| known != incarnation) {
            self.incarnation_mismatch = true;
            self.notes
                .push("THE HUB WAS CREATED ANEW since: this is a place of another log".to_owned());
            return None;
        }
        if self.error.is_some() {
            return None;
        }
        let settled = self.sequence_number.map(SequenceNumber);
        if settled.is_some_and(|settled| settled > log.end()) {
            self.notes.push(format!(
                "BEYOND THE END OF THE LOG, which is {}: this was never enqueued here",
                log.end()
            ));
            self.is_beyond_log = true;
            return None;
        }
        if let Some(settled) = settled.filter(|settled| settled.0.saturating_add(1) < log.begin.0) {
            self.notes.push(format!(
                "retention has removed events that were not settled: the log begins at {}, {} \
                 numbers above the checkpoint",
                log.begin,
                log.begin.0.abs_diff(settled.0) - 1
            ));
        }
        Some((log, now))
    }

    fn take_lag(
        &mut self,
        policy: Policy,
        checkpoint: Option<&Checkpoint>,
        (log, now): &(LogProperties, SystemTime),
    ) {
        let watermark = checkpoint.and_then(|checkpoint| checkpoint.watermark.as_ref());
        let from = match watermark {
            Some(position) => LinkStart::After(position.sequence_number),
            None => begin(policy.start_position, checkpoint, log),
        };
        let settled_ahead = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.settled_above);
        let standing = Standing {
            not_before: watermark.and_then(|position| position.enqueued_time),
            ..Standing::settled(from, settled_ahead)
        };
        if let Some(lag) = Lag::of(&standing, log, *now) {
            self.lag_events = Some(lag.events);
            self.lag_seconds = lag.time().map(|time| time.as_secs_f64());
            if self.lag_seconds.is_none() {
                self.lag_seconds_at_least = Some(lag.at_least.as_secs_f64());
                self.lag_seconds_at_most = lag.at_most.map(|most| most.as_secs_f64());
            }
        }
    }

    /// Whether a part of what was asked for is missing.
    pub(super) fn is_incomplete(&self) -> bool {
        self.error.is_some()
    }
}

/// Where a worker begins that finds no position.
fn begin(start: StartPosition, checkpoint: Option<&Checkpoint>, log: &LogProperties) -> LinkStart {
    // Of a partition that was begun, and has nothing settled, everything is to be done.
    let start = match (start, checkpoint.and_then(|checkpoint| checkpoint.incarnation)) {
        (StartPosition::Latest | StartPosition::SequenceNumber(_), Some(_)) => {
            StartPosition::Earliest
        }
        _ => start,
    };
    first_start(start, log)
}

/// Where a worker begins that finds no checkpoint.
pub(super) fn start_text(policy: Policy) -> String {
    let place = match policy.start_position {
        StartPosition::Earliest => "with the oldest event".to_owned(),
        StartPosition::Latest => "with the next event to come".to_owned(),
        StartPosition::SequenceNumber(number) => format!("with the event {number}"),
        StartPosition::EnqueuedAt(time) => {
            format!("with the first event since {}", longshore::timestamp::rfc3339(time))
        }
    };
    format!("{place} (LONGSHORE_START_POSITION)")
}

/// What a worker does that finds a place which is not in the log.
pub(super) fn lost_text(policy: Policy) -> String {
    let does = match policy.position_lost {
        PositionLost::Earliest => "goes on with the oldest event",
        PositionLost::Latest => "goes on with the next event to come",
        PositionLost::Stop => "stops this partition",
    };
    format!("{does} (LONGSHORE_POSITION_LOST)")
}
