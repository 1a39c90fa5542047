//! Writes one partition's checkpoints: one at a time, the newest state, behind the fence.
//!
//! When to write is [`CheckpointPace`]'s decision and what may be written [`Fence`]'s; this
//! carries their decisions out and keeps the write that is under way.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use tokio::time::Instant;
use tracing::warn;

use crate::checkpoint_store::{CheckpointKey, LeaseEpoch, Trial};
use crate::consumer::checkpoint_write::{Written, write_once};
use crate::consumer::shared::Shared;
use crate::consumer::status::PartitionStatus;
use crate::error::{Error, error_chain};
use crate::event::{Incarnation, SequenceNumber};
use crate::state::checkpoint_pace::{CheckpointPace, PaceLimits};
use crate::state::fence::{Fence, Superseded, Verdict};
use crate::state::watermark::Watermark;

/// Whether a write is made when it is due, or at once if there is anything to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Urgency {
    WhenDue,
    /// The last one of an ownership. After a failure it waits for its turn like any other.
    Last,
}

pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    key: CheckpointKey,
    status: Arc<PartitionStatus>,
    fence: Fence,
    pace: CheckpointPace,
    writing: Option<BoxFuture<'static, Written>>,
    /// Failed writes in a row.
    failures: u32,
    /// Events below the watermark at the write under way, and at the last acknowledged one.
    writing_passed: u64,
    written_passed: u64,
    /// The event that waits for the store to know of its trial.
    trial: Option<SequenceNumber>,
}

impl Checkpointer {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: CheckpointKey,
        status: Arc<PartitionStatus>,
        fence: Fence,
    ) -> Self {
        let pace = CheckpointPace::new(PaceLimits {
            batch_events: shared.options.max_batch_size,
            batch_timeout: shared.options.batch_timeout,
            min_interval: shared.options.checkpoint_min_interval,
        });
        let this = Self {
            shared,
            key,
            status,
            fence,
            pace,
            writing: None,
            failures: 0,
            writing_passed: 0,
            written_passed: 0,
            trial: None,
        };
        this.publish();
        this
    }

    pub(super) fn lease_epoch(&self) -> LeaseEpoch {
        self.fence.lease_epoch()
    }

    /// The hub that the numbers belong to.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.fence.stored().incarnation.unwrap_or(Incarnation(0))
    }

    /// The state the ownership began with.
    pub(super) fn watermark(&self) -> Watermark {
        let stored = self.fence.stored();
        Watermark::from_checkpoint(stored.watermark.clone(), &stored.settled_above)
    }

    /// Events of this ownership below the last acknowledged checkpoint.
    pub(super) fn written_passed(&self) -> u64 {
        self.written_passed
    }

    /// Whether something that settled is not stored.
    pub(super) fn is_behind(&self, watermark: &Watermark) -> bool {
        let stored = self.fence.stored();
        let is_stored =
            watermark.settled_to().is_none_or(|to| self.has_written(to.sequence_number))
                && watermark.settled_above() == stored.settled_above;
        !self.is_clean() && !is_stored
    }

    /// Whether nothing is to be written.
    pub(super) fn is_clean(&self) -> bool {
        self.writing.is_none() && self.pace.is_clean()
    }

    pub(super) fn on_settled(&mut self, events: usize, now: Instant) {
        self.pace.on_settled(events, now.into_std());
    }

    pub(super) fn on_batch_finished(&mut self, now: Instant) {
        self.pace.on_batch_finished(now.into_std());
    }

    /// Somebody else may have written: what is stored is compared by a write of what we have,
    /// even where nothing moved.
    pub(super) fn recheck(&mut self, now: Instant) {
        self.pace.on_settled(0, now.into_std());
        self.pace.on_batch_finished(now.into_std());
    }

    /// The ownership ends: the last write does not wait out the back-off of earlier failures.
    pub(super) fn on_last(&mut self) {
        self.failures = 0;
    }

    /// The ownership ends in order, and the next one need not think that its process died.
    pub(super) fn on_end(&mut self, now: Instant) {
        self.trial = None;
        if self.fence.on_end(&self.shared.takeover_rule()) {
            self.recheck(now);
        }
    }

    // Events that may end their process.

    fn takeovers(&self) -> u32 {
        let known = self.fence.known().map(|known| known.takeovers_without_progress);
        known.max().unwrap_or(0)
    }

    /// Most events in flight beyond the last acknowledged checkpoint, where one is suspected.
    pub(super) fn window(&self) -> Option<usize> {
        self.shared.takeover_rule().window(self.takeovers())
    }

    /// How long the next event is tried, if it is.
    pub(super) fn trial_time(&self) -> Option<Duration> {
        self.shared.takeover_rule().trial_time(self.takeovers())
    }

    /// The event that is not to be handled any more.
    pub(super) fn accused(&self) -> Option<Trial> {
        let rule = self.shared.takeover_rule();
        self.fence.known().find_map(|known| rule.accused(known))
    }

    /// An event is to be handled on trial: the store is told first.
    pub(super) fn on_trial(&mut self, event: SequenceNumber, now: Instant) {
        self.trial = Some(event);
        self.fence.on_trial(event, true);
        self.recheck(now);
    }

    /// It goes on as any other event.
    pub(super) fn on_trial_over(&mut self, event: SequenceNumber, now: Instant) {
        self.trial = None;
        self.fence.on_trial(event, false);
        self.recheck(now);
    }

    /// Whether an event waits for the store to know of its trial.
    pub(super) fn awaits_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Whether the store says, or may say, that this event is on trial.
    pub(super) fn is_known_on_trial(&self, event: SequenceNumber) -> bool {
        let trial = self.fence.stored().trial.filter(|trial| trial.is_on);
        self.writing.is_some() || trial.is_some_and(|trial| trial.event == event)
    }

    /// Whether this event is below the last acknowledged checkpoint.
    pub(super) fn has_written(&self, number: SequenceNumber) -> bool {
        let written = self.fence.stored().watermark.as_ref();
        written.is_some_and(|written| written.sequence_number >= number)
    }

    /// Whether the last acknowledged checkpoint has this event as settled.
    pub(super) fn has_settled(&self, number: SequenceNumber) -> bool {
        let runs = &self.fence.stored().settled_above;
        self.has_written(number) || runs.iter().any(|run| (run.first..=run.last).contains(&number))
    }

    /// When [`Checkpointer::start`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pace.next_deadline().map(Instant::from_std)
    }

    /// Begins a write of the watermark, unless one is under way or none is due.
    pub(super) fn start(&mut self, watermark: &Watermark, urgency: Urgency, now: Instant) {
        if self.writing.is_some() {
            return;
        }
        let begin = match urgency {
            Urgency::Last if self.failures == 0 => self.pace.take_any(now.into_std()),
            _ => self.pace.take_due(now.into_std()),
        };
        if begin {
            self.fence.on_progress(
                watermark.settled_to().cloned(),
                watermark.settled_above(),
                self.shared.write_id(),
            );
            self.writing_passed = watermark.passed_events();
            self.write_pending();
        }
    }

    /// The write under way.
    pub(super) fn writing(&mut self) -> OptionFuture<&mut BoxFuture<'static, Written>> {
        self.writing.as_mut().into()
    }

    /// Takes in how the write under way ended; `Some`: our right to write has ended.
    pub(super) fn on_written(&mut self, written: Written, now: Instant) -> Option<Superseded> {
        self.writing = None;
        match written {
            Written::Stored(version) => {
                self.fence.on_stored(version);
                self.on_acknowledged();
            }
            Written::Conflict(found) => match self.fence.on_conflict(found) {
                Verdict::Written => self.on_acknowledged(),
                Verdict::WriteAgain => self.write_pending(),
                Verdict::Superseded(by) => {
                    self.pace.on_failed(now.into_std(), Duration::ZERO);
                    return Some(by);
                }
            },
            Written::Failed(error) => self.on_failed(&error, now),
        }
        None
    }

    fn on_acknowledged(&mut self) {
        self.shared.counters.checkpoints.add(1);
        self.failures = 0;
        self.written_passed = self.writing_passed;
        self.pace.on_written();
        let on_trial = self.fence.stored().trial.filter(|trial| trial.is_on);
        self.trial.take_if(|event| on_trial.is_some_and(|trial| trial.event == *event));
        self.publish();
    }

    fn on_failed(&mut self, error: &Error, now: Instant) {
        self.shared.counters.checkpoint_failures.add(1);
        self.failures += 1;
        let random = self.shared.random();
        let delay = self.shared.options.reopen_backoff.delay(self.failures, random);
        self.pace.on_failed(now.into_std(), delay);
        warn!(
            message_topic = %self.key.scope.entity,
            message_partition = %self.key.partition,
            message_consumer_group = %self.key.scope.consumer_group,
            failures = self.failures,
            retry_in_ms = delay.as_millis(),
            causes = ?error_chain(error),
            "the checkpoint could not be written; a crash now would repeat events"
        );
    }

    fn write_pending(&mut self) {
        let Some((checkpoint, expected)) = self.fence.pending() else {
            return;
        };
        let (checkpoint, expected) = (checkpoint.clone(), expected.clone());
        let store = Arc::clone(&self.shared.checkpoints);
        let key = self.key.clone();
        let limit = self.shared.options.store_timeout;
        let write = async move { write_once(&*store, &key, &checkpoint, &expected, limit).await };
        self.writing = Some(write.boxed());
        self.status.set_checkpoint_version(None);
    }

    fn publish(&self) {
        let watermark = self.fence.stored().watermark.as_ref();
        self.status.on_checkpoint(watermark.map(|position| position.sequence_number));
        self.status.set_checkpoint_version(self.fence.stored_version().cloned());
    }
}
