//! Where one partition stands: written by its worker, read by snapshots and metrics.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use metrics::Gauge;

use super::lock::lock;
use crate::checkpoint::SettledRun;
use crate::checkpoint_store::VersionToken;
use crate::event::{PartitionId, SequenceNumber};
use crate::hub::{LinkStart, LogProperties};
use crate::lanes::HoldingLane;
use crate::state::lag::{Lag, Standing};
use crate::telemetry::metrics::PartitionGauges;

/// The state of one partition, written by its worker and read by snapshots.
#[derive(Debug)]
pub(crate) struct PartitionStatus {
    /// Taken once in each turn of the worker's loop, so that numbers that belong together are read
    /// together.
    live: Mutex<Live>,
    checkpointed_to: AtomicI64,
    /// The version of the stored checkpoint, while it is known.
    checkpoint_version: Mutex<Option<VersionToken>>,
    phase: AtomicUsize,
}

/// What changes with every turn, and what is told of it.
#[derive(Debug)]
struct Live {
    progress: Progress,
    ours: Option<Ours>,
    /// Whether a worker of it is here: one that is being dropped has nothing more to say.
    is_here: bool,
    /// The handler calls of all partitions, of which ours are counted in it.
    in_flight: Gauge,
    in_flight_shown: usize,
    holding_lane: Option<HoldingLane>,
}

/// What is known while the partition is ours.
#[derive(Debug)]
struct Ours {
    gauges: PartitionGauges,
    /// Where this ownership began to read.
    start: LinkStart,
    /// What earlier ones settled above that.
    settled_ahead: Vec<SettledRun>,
    /// What the log said of itself, unless it could not be read for long.
    log: Option<LogProperties>,
    failed_looks: u32,
    /// When a look was begun that found nothing beyond what was received.
    caught_up_at: Option<SystemTime>,
    letters: Letters,
}

/// The dead letters that lie in the failure store, as they were last counted.
#[derive(Debug, Default)]
struct Letters {
    count: Option<u64>,
    failed_counts: u32,
}

/// What a partition begins with.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) gauges: PartitionGauges,
    pub(crate) start: LinkStart,
    pub(crate) settled_to: Option<SequenceNumber>,
    pub(crate) settled_ahead: Vec<SettledRun>,
    pub(crate) look: Look,
}

/// A look at a log.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// When it was begun: what is enqueued later is not in it.
    pub(crate) begun: SystemTime,
    pub(crate) log: LogProperties,
}

/// After so many looks in a row that failed, what the last good one said is not said any more.
const LOOKS_TO_FORGET: u32 = 3;

/// No position: below every sequence number.
const NONE: i64 = i64::MIN;

/// What a partition's worker is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PartitionPhase {
    /// Fencing the checkpoint and comparing it with the hub.
    Claiming,
    /// Receiving and handling.
    Running,
    /// Ending what runs.
    Draining,
    /// Not owned any more.
    Stopped,
}

/// Where one partition stands.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PartitionSnapshot {
    /// The partition.
    pub partition: PartitionId,
    /// What its worker is doing.
    pub phase: PartitionPhase,
    /// The watermark.
    pub settled_to: Option<SequenceNumber>,
    /// The last acknowledged checkpoint.
    pub checkpointed_to: Option<SequenceNumber>,
    /// The newest event received.
    pub last_received: Option<SequenceNumber>,
    /// Events received and not settled. 0 once the partition has stopped.
    pub unsettled_events: usize,
    /// Handler calls running.
    pub in_flight: usize,
    /// Events settled above the watermark.
    pub settled_above_events: usize,
    /// Events of the log that wait: not settled, and not removed by retention. The end of the log is read every
    /// 30 s ([`LAG_PROBE_INTERVAL`](crate::consumer::LAG_PROBE_INTERVAL)). `None` if the number is not known, or
    /// if the partition is not ours.
    pub lag_events: Option<u64>,
    /// How long the oldest of them waits. Zero if none waits. If that event is not received yet, this is an upper
    /// bound. `None` if it is not known, or if the partition is not ours.
    pub lag_time: Option<Duration>,
    /// Events that are parked, including those that are being tried again now.
    pub parked_events: usize,
    /// Dead letters of the partition that lie in the failure store, not replayed or being replayed: as they were last
    /// counted, every [`LETTERS_INTERVAL`](crate::consumer::LETTERS_INTERVAL);
    /// [`MAX_COUNTED_LETTERS`](crate::consumer::MAX_COUNTED_LETTERS) are so many or more. `None` where that is not known,
    /// there is no failure store, or the partition is not ours.
    pub dead_letters: Option<u64>,
    /// Events received whose lane is full or closed.
    pub lane_waiting_events: usize,
    /// The lane that holds the watermark back, if events that wait for lanes fill the window W or the memory
    /// budget, so that the partition takes in no more.
    pub holding_lane: Option<HoldingLane>,
}

/// What a turn of the worker's loop came to.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) settled_to: Option<SequenceNumber>,
    pub(crate) last_received: Option<SequenceNumber>,
    /// When the event received last in this ownership was enqueued.
    pub(crate) received_time: Option<SystemTime>,
    pub(crate) unsettled: usize,
    /// When the oldest of them was enqueued.
    pub(crate) oldest_unsettled: Option<SystemTime>,
    pub(crate) in_flight: usize,
    pub(crate) settled_above: usize,
    /// What of the budget its unsettled events hold.
    pub(crate) event_bytes: usize,
    /// What its link may hold ahead.
    pub(crate) link_bytes: usize,
    /// Events that wait for their lanes.
    pub(crate) lane_waiting: usize,
    /// Events that are parked, and those of them that are due.
    pub(crate) parked: usize,
    pub(crate) parked_due: usize,
}

impl Live {
    fn standing<'a>(progress: &Progress, ours: &'a Ours) -> Standing<'a> {
        Standing {
            from: progress.last_received.map_or(ours.start, LinkStart::After),
            unsettled_events: progress.unsettled as u64,
            oldest_unsettled: progress.oldest_unsettled,
            settled_ahead: &ours.settled_ahead,
            not_before: progress.received_time.max(ours.caught_up_at),
        }
    }

    fn waiting_events(&self) -> Option<u64> {
        let ours = self.ours.as_ref()?;
        Self::standing(&self.progress, ours).waiting_events(ours.log.as_ref()?)
    }

    fn lag_time(&self, now: SystemTime) -> Option<Duration> {
        let ours = self.ours.as_ref()?;
        let standing = Self::standing(&self.progress, ours);
        match &ours.log {
            Some(log) => Lag::of(&standing, log, now)?.at_most,
            None => standing.oldest_here(now),
        }
    }

    fn show_in_flight(&mut self) {
        let (shown, running) = (self.in_flight_shown, self.progress.in_flight);
        if shown != running {
            self.in_flight.increment(running as f64 - shown as f64);
            self.in_flight_shown = running;
        }
    }

    fn show_progress(&self) {
        if let Some(ours) = &self.ours {
            let Progress { settled_to, unsettled, settled_above, .. } = self.progress;
            ours.gauges.show_progress(settled_to, unsettled, settled_above);
            ours.gauges.show_memory(self.progress.event_bytes, self.progress.link_bytes);
            ours.gauges.show_lag_events(self.waiting_events());
            ours.gauges.show_parked(self.progress.parked, self.progress.parked_due);
            ours.gauges.show_letters(ours.letters.count);
        }
    }

    fn show_all(&self, now: SystemTime) {
        self.show_progress();
        if let Some(ours) = &self.ours {
            ours.gauges.show_owned();
            ours.gauges.show_lag_time(self.lag_time(now));
        }
    }

    fn on_look(&mut self, look: Look) {
        let Self { progress, ours: Some(ours), .. } = self else {
            return;
        };
        let waiting = Self::standing(progress, ours).waiting_events(&look.log);
        if waiting == Some(progress.unsettled as u64) {
            ours.caught_up_at = Some(look.begun);
        }
        ours.log = Some(look.log);
        ours.failed_looks = 0;
    }
}

impl PartitionStatus {
    pub(crate) fn new(in_flight: Gauge) -> Self {
        let live = Live {
            progress: Progress::default(),
            ours: None,
            is_here: false,
            in_flight,
            in_flight_shown: 0,
            holding_lane: None,
        };
        Self {
            live: Mutex::new(live),
            checkpointed_to: AtomicI64::new(NONE),
            checkpoint_version: Mutex::new(None),
            phase: AtomicUsize::new(0),
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }

    /// The partition is ours, and its worker begins.
    pub(crate) fn on_owned(&self, begun: Begun, now: SystemTime) {
        let Begun { gauges, start, settled_to, settled_ahead, look } = begun;
        let mut live = self.live();
        live.progress = Progress { settled_to, ..Progress::default() };
        live.is_here = true;
        live.ours = Some(Ours {
            gauges,
            start,
            settled_ahead,
            log: None,
            failed_looks: 0,
            caught_up_at: None,
            letters: Letters::default(),
        });
        live.on_look(look);
        live.show_all(now);
        self.set_phase(PartitionPhase::Running);
    }

    /// The partition is another's, and some of it may run here yet: nothing is said of it any more.
    pub(crate) fn on_lost(&self) {
        self.live().ours = None;
    }

    /// Nothing of the partition is here any more.
    pub(crate) fn on_gone(&self, phase: PartitionPhase) {
        let mut live = self.live();
        live.ours = None;
        live.is_here = false;
        live.holding_lane = None;
        let Progress { settled_to, last_received, settled_above, .. } = live.progress;
        live.progress =
            Progress { settled_to, last_received, settled_above, ..Progress::default() };
        live.show_in_flight();
        self.set_phase(phase);
    }

    /// The log was looked at.
    pub(crate) fn on_look(&self, look: Option<Look>, now: SystemTime) {
        let mut live = self.live();
        match look {
            Some(look) => live.on_look(look),
            None => {
                let Some(ours) = &mut live.ours else { return };
                ours.failed_looks += 1;
                if ours.failed_looks >= LOOKS_TO_FORGET {
                    ours.log = None;
                }
            }
        }
        live.show_all(now);
    }

    /// The dead letters in the failure store were counted, or could not be.
    pub(crate) fn on_letters(&self, count: Option<u64>) {
        let mut live = self.live();
        let Some(Ours { letters, .. }) = &mut live.ours else { return };
        match count {
            Some(_) => *letters = Letters { count, failed_counts: 0 },
            None => {
                letters.failed_counts += 1;
                if letters.failed_counts >= LOOKS_TO_FORGET {
                    letters.count = None;
                }
            }
        }
        live.show_progress();
    }

    pub(crate) fn on_progress(&self, progress: Progress) {
        let mut live = self.live();
        if !live.is_here {
            return;
        }
        live.progress = progress;
        live.show_in_flight();
        live.show_progress();
    }

    /// A lane holds the watermark back, or none does.
    pub(crate) fn set_holding_lane(&self, holding: Option<HoldingLane>) {
        let mut live = self.live();
        if live.is_here {
            live.holding_lane = holding;
        }
    }

    /// Tells all gauges again: time has passed.
    pub(crate) fn show(&self, now: SystemTime) {
        self.live().show_all(now);
    }

    pub(crate) fn on_checkpoint(&self, watermark: Option<SequenceNumber>) {
        let number = watermark.map_or(NONE, |number| number.0);
        self.checkpointed_to.store(number, Ordering::Relaxed);
    }

    /// The watermark, as it was last written.
    pub(crate) fn settled_to(&self) -> Option<SequenceNumber> {
        self.live().progress.settled_to
    }

    /// `None`: a write is under way, or whether one was applied is not known.
    pub(crate) fn set_checkpoint_version(&self, version: Option<VersionToken>) {
        *lock(&self.checkpoint_version) = version;
    }

    pub(crate) fn checkpoint_version(&self) -> Option<VersionToken> {
        lock(&self.checkpoint_version).clone()
    }

    pub(crate) fn set_phase(&self, phase: PartitionPhase) {
        let number = match phase {
            PartitionPhase::Claiming => 0,
            PartitionPhase::Running => 1,
            PartitionPhase::Draining => 2,
            PartitionPhase::Stopped => 3,
        };
        self.phase.store(number, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> PartitionPhase {
        match self.phase.load(Ordering::Relaxed) {
            0 => PartitionPhase::Claiming,
            1 => PartitionPhase::Running,
            2 => PartitionPhase::Draining,
            _ => PartitionPhase::Stopped,
        }
    }

    pub(crate) fn snapshot(&self, partition: &PartitionId, now: SystemTime) -> PartitionSnapshot {
        let live = self.live();
        let checkpointed_to = self.checkpointed_to.load(Ordering::Relaxed);
        let Progress { settled_to, last_received, unsettled, in_flight, settled_above, .. } =
            live.progress;
        PartitionSnapshot {
            partition: partition.clone(),
            phase: self.phase(),
            settled_to,
            checkpointed_to: (checkpointed_to != NONE).then_some(SequenceNumber(checkpointed_to)),
            last_received,
            unsettled_events: unsettled,
            in_flight,
            settled_above_events: settled_above,
            lag_events: live.waiting_events(),
            lag_time: live.lag_time(now),
            parked_events: live.progress.parked,
            dead_letters: live.ours.as_ref().and_then(|ours| ours.letters.count),
            lane_waiting_events: live.progress.lane_waiting,
            holding_lane: live.holding_lane.clone(),
        }
    }
}
