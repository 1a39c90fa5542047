//! One partition while it is ours: receives, hands out, settles, checkpoints, drains.
//!
//! One loop, one owner of all state, no lock: inputs come in through one `select!`, and
//! between inputs the worker carries out what its state machines say. Handlers run in tasks of
//! their own and report back through a channel that dies with the worker, so a late report of
//! an earlier ownership has nowhere to go.
//!
//! In the order of an event's way: `run` (the loop and its inputs), `intake`, `waiting`, `lanes`, `holding`,
//! `line`, `hand_out`, `outcomes`, `next_step`, `halving`, `probing`,
//! `deferrals`, `letters`, `rows`, `checkpointer`, `progress`; beside it `trials`, what is in the failure store
//! (`parking`, `returning`, `lane_parking`, `letter_listing`); and at last `ending`.

mod checkpointer;
mod dead_lanes;
mod deferrals;
mod ending;
mod halves;
mod halving;
mod hand_out;
mod holding;
mod intake;
mod lane_parking;
mod lane_watch;
mod lanes;
mod letter_listing;
mod letters;
mod line;
mod next_step;
mod outcomes;
mod parking;
mod parking_store;
mod persist;
mod probes;
mod probing;
mod progress;
mod returning;
mod rows;
mod run;
mod tally;
mod trial_run;
mod trials;
mod waiting;

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use checkpointer::Checkpointer;
use dead_lanes::DeadLanes;
use deferrals::Deferrals;
use halves::Halves;
use holding::Holding;
use lanes::PartitionLanes;
use letter_listing::LetterListing;
use line::Line;
use parking::Parking;
use probes::Probes;
use rows::Rows;
use tally::Tally;
use trial_run::TrialRun;
use waiting::Waiting;

use super::exit::StopReason;
use super::handling::blocking::WatchedHandler;
use super::handling::call::StartCall;
use super::handling::renewals::Renewals;
use super::handling::running::Running;
use super::handling::scope::{Completion, Scope};
use super::handling::slots::Slot;
use super::handling::unit::{Failures, Tracked, Unit};
use super::lanes::Wake;
use super::shared::Shared;
use super::status::{Begun, Look, PartitionStatus};
use crate::checkpoint_store::{CheckpointKey, LeaseEpoch};
use crate::config::OwnerLevel;
use crate::event::{Event, Incarnation, Partition};
use crate::state::ages::Ages;
use crate::state::batch_buffer::BatchLimits;
use crate::state::byte_budget::Account;
use crate::state::delay_queue::DelayQueue;
use crate::state::fence::Fence;
use crate::state::resume::ResumePosition;
use crate::state::tenure::Tenure;
use crate::state::verdicts::Verdicts;
use crate::state::watermark::Watermark;
use crate::telemetry::metrics::PartitionGauges;
use crate::transport::partition_stream::{PartitionStream, StreamOptions};

/// A fenced partition.
pub(super) struct Claimed {
    pub(super) fence: Fence,
    pub(super) resume: ResumePosition,
    /// What the log said of itself.
    pub(super) look: Look,
}

impl Claimed {
    /// The hub that the checkpoint's numbers belong to.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.fence.stored().incarnation.unwrap_or(Incarnation(0))
    }

    /// What is said of the partition from now on.
    pub(super) fn begun(&self, gauges: PartitionGauges) -> Begun {
        let stored = self.fence.stored();
        Begun {
            gauges,
            start: self.resume.next_start(),
            settled_to: stored.watermark.as_ref().map(|position| position.sequence_number),
            settled_ahead: stored.settled_above.clone(),
            look: self.look.clone(),
        }
    }
}

pub(super) struct PartitionWorker {
    shared: Arc<Shared>,
    handler: Arc<dyn StartCall>,
    partition: Partition,
    key: CheckpointKey,
    status: Arc<PartitionStatus>,
    scope: Arc<Scope>,
    completions: UnboundedReceiver<Completion>,
    /// `None` once intake stopped; the link is then in `closing`.
    stream: Option<PartitionStream>,
    closing: Option<PartitionStream>,
    watermark: Watermark,
    ages: Ages,
    waiting: Waiting,
    halves: Halves,
    probes: Probes,
    verdicts: Verdicts,
    retries: DelayQueue<Tracked>,
    failures: Failures,
    running: Running,
    deferrals: Deferrals,
    letters: FuturesUnordered<BoxFuture<'static, Tracked>>,
    rows: Rows,
    parking: Option<Parking>,
    letters_before: Option<LetterListing>,
    dead_lanes: DeadLanes,
    checkpointer: Checkpointer,
    line: Line,
    /// What a step of the lanes gave out; empty between two turns.
    begun: Vec<(Unit, Slot)>,
    /// What tells that lanes have news for us.
    lane_news: Option<Arc<Wake>>,
    holding: Option<Holding>,
    trial: TrialRun,
    account: Account,
    /// What the account holds for events.
    event_bytes: usize,
    /// Settled since the budget was told.
    returned_bytes: usize,
    /// What settled since it was last counted.
    tally: Tally,
    links_seen: u64,
    lost_seen: u64,
    tenure: Tenure<StopReason>,
    cut_handlers: usize,
    /// How often somebody else's write was found in the place of our checkpoint, so far as we know.
    rechecks: u32,
    /// What came in and is not taken in yet; empty between two turns.
    received: Vec<Event>,
    completed: Vec<Completion>,
}

impl PartitionWorker {
    pub(super) fn new(
        shared: Arc<Shared>,
        handler: Arc<dyn StartCall>,
        partition: Partition,
        key: CheckpointKey,
        status: Arc<PartitionStatus>,
        claimed: Claimed,
    ) -> Self {
        let Claimed { fence, resume, look } = claimed;
        let checkpointer =
            Checkpointer::new(Arc::clone(&shared), key.clone(), Arc::clone(&status), fence);
        let lease_epoch = checkpointer.lease_epoch();
        let account = shared.budget.open();
        let now = Instant::now();
        let log = shared.log_of(&partition, checkpointer.incarnation());
        let first = resume.first_number(&look.log);
        let letters_before = LetterListing::new(&shared, log.clone(), first, now);
        let parking = Parking::new(&shared, log, now);
        let stream = stream(&shared, &partition, resume, lease_epoch);
        let (sender, completions) = unbounded_channel();
        let scope = scope(&shared, &*handler, &partition, lease_epoch, sender);
        let (waiting, lane_news, holding) = waiting(&shared, &*handler, &partition);
        Self {
            stream: Some(stream),
            closing: None,
            watermark: checkpointer.watermark(),
            ages: Ages::default(),
            waiting,
            halves: Halves::default(),
            probes: Probes::new(&shared.breakers),
            verdicts: Verdicts::default(),
            retries: DelayQueue::default(),
            failures: Failures::default(),
            running: Running::new(Arc::clone(&scope.renewals)),
            deferrals: Deferrals::default(),
            letters: FuturesUnordered::new(),
            rows: Rows::default(),
            parking,
            letters_before,
            dead_lanes: DeadLanes::new(now),
            line: Line::new(&shared.slots),
            begun: Vec::new(),
            lane_news,
            holding,
            trial: TrialRun::new(Arc::clone(&shared.trials), Arc::clone(&shared.slots)),
            account,
            event_bytes: 0,
            returned_bytes: 0,
            tally: Tally::default(),
            links_seen: 0,
            lost_seen: 0,
            tenure: Tenure::new(shared.options.store_timeout),
            cut_handlers: 0,
            rechecks: 0,
            received: Vec::new(),
            completed: Vec::new(),
            partition,
            key,
            status,
            scope,
            completions,
            checkpointer,
            handler,
            shared,
        }
    }
}

/// What waits for slots; and, where there are lanes, what tells of them, and what is told of them.
fn waiting(
    shared: &Shared,
    handler: &dyn StartCall,
    partition: &Partition,
) -> (Waiting, Option<Arc<Wake>>, Option<Holding>) {
    let options = &shared.options;
    let limits = BatchLimits {
        max_events: options.max_batch_size,
        max_bytes: options.max_batch_bytes,
        timeout: options.batch_timeout,
    };
    let batches = handler.takes_batches();
    let Some(lanes) = &shared.lanes else { return (Waiting::new(batches, limits), None, None) };
    let lanes = PartitionLanes::new(Arc::clone(lanes), partition, batches.then_some(limits));
    let news = lanes.wake();
    let holding = Holding::new(partition, shared.transport.consumer_group());
    (Waiting::by_lane(lanes, batches, limits), Some(news), Some(holding))
}

fn stream(
    shared: &Shared,
    partition: &Partition,
    resume: ResumePosition,
    lease_epoch: LeaseEpoch,
) -> PartitionStream {
    let options = &shared.options;
    let owner_level = match options.owner_level {
        OwnerLevel::LeaseEpoch => Some(i64::try_from(lease_epoch.0).unwrap_or(i64::MAX)),
        OwnerLevel::Fixed(level) => Some(level),
        OwnerLevel::None => None,
    };
    let stream = StreamOptions::new(options.prefetch_events, shared.seed())
        .with_owner_level(owner_level)
        .with_link_bytes(shared.budget.link_share())
        .with_backoff(options.reopen_backoff);
    PartitionStream::new(Arc::clone(&shared.transport), partition.clone(), resume, stream)
}

fn scope(
    shared: &Shared,
    handler: &dyn StartCall,
    partition: &Partition,
    lease_epoch: LeaseEpoch,
    completions: UnboundedSender<Completion>,
) -> Arc<Scope> {
    let consumer_group = shared.transport.consumer_group();
    Arc::new(Scope {
        partition: partition.clone(),
        consumer_group: consumer_group.clone(),
        lease_epoch,
        handing_off: CancellationToken::new(),
        cancelled: CancellationToken::new(),
        lost: CancellationToken::new(),
        completions,
        watched: Arc::new(WatchedHandler::new(
            handler.handler_name(),
            partition.clone(),
            consumer_group.clone(),
        )),
        renewals: Arc::new(Renewals::new(shared.options.handler_timeout)),
    })
}
