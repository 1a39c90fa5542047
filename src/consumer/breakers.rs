//! The breakers of the destinations that all partitions of a consumer, or of a set, share.
//!
//! A destination is the limited lane of an event, else what its failure names, else the handler. The
//! breaker of a lane closes the lane, and lets one event at a time try it. Any other closes the whole
//! consumer but for probes, and then gives back its slots, one after the other.
//!
//! Nothing is counted, and no lock is taken, as long as nothing has failed in a way that may pass.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::Gauge;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;
use tracing::{info, warn};

use super::handling::slots::Slots;
use super::lanes::SharedLanes;
use super::lock::lock;
use crate::error::OneLine;
use crate::lanes::Lane;
use crate::outcome::Failure;
use crate::state::breaker::{Breaker, Change, Gate, OPENS_AT, REMEMBERED_ATTEMPTS, REOPENS_AFTER};
use crate::telemetry::metrics::open_breakers;

/// Most destinations that are remembered: who publishes may name many hosts.
const MAX_DESTINATIONS: usize = 10_000;

/// What a failure blames.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Destination {
    /// The handler, if the failure names nothing else.
    Handler,
    /// The name that the failure gives: [`Failure::at`].
    Named(String),
    /// The limited lane of its event.
    Lane(Lane),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Handler => f.write_str("the handler"),
            Destination::Named(name) => write!(f, "{}", OneLine(name)),
            Destination::Lane(lane) => write!(f, "{lane}"),
        }
    }
}

/// A destination that gets probes only, or that is recovering.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BreakerSnapshot {
    /// Which.
    pub destination: Destination,
    /// How long it has got probes only. `None` while it recovers.
    pub open_for: Option<Duration>,
    /// How many events may run there at once while it recovers.
    pub limit: Option<usize>,
}

type Known = BTreeMap<Destination, Breaker>;

/// See the [module](self).
pub(crate) struct Breakers {
    slots: Arc<Slots>,
    /// Something failed: from now on attempts are counted.
    is_watching: AtomicBool,
    /// The breaker of a destination that is no lane is open.
    is_open: AtomicBool,
    known: Mutex<Known>,
    changed: Notify,
    gauges: Gauges,
}

/// How many are open.
struct Gauges {
    handler: Gauge,
    named: Gauge,
    lane: Gauge,
}

impl Gauges {
    fn of(&self, destination: &Destination) -> &Gauge {
        match destination {
            Destination::Handler => &self.handler,
            Destination::Named(_) => &self.named,
            Destination::Lane(_) => &self.lane,
        }
    }
}

impl Breakers {
    pub(crate) fn new(slots: Arc<Slots>) -> Self {
        Self {
            slots,
            is_watching: AtomicBool::new(false),
            is_open: AtomicBool::new(false),
            known: Mutex::default(),
            changed: Notify::new(),
            gauges: Gauges {
                handler: open_breakers("handler"),
                named: open_breakers("named"),
                lane: open_breakers("lane"),
            },
        }
    }

    /// Whether attempts are counted.
    #[inline]
    pub(crate) fn is_watching(&self) -> bool {
        self.is_watching.load(Ordering::Relaxed)
    }

    /// Whether nothing may begin but probes.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Ready when it may be otherwise than when this was called.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// An attempt succeeded at a lane.
    pub(crate) fn on_lane_success(&self, at: LaneOf<'_>, time: SystemTime, now: Instant) {
        let most = at.lanes.rule().cap();
        let destination = Destination::Lane(at.lane.clone());
        let mut known = lock(&self.known);
        if let Some(breaker) = known.get_mut(&destination) {
            let is_probe = breaker.take_probe(now.into_std());
            let change = breaker.on_success(is_probe, most, now.into_std(), time);
            self.say(&destination, change);
            hold(&at, breaker, change, now);
        }
    }

    /// An attempt succeeded, which says something of all destinations that are no lanes.
    pub(crate) fn on_success(&self, is_probe: bool, time: SystemTime, now: Instant) {
        let most = self.slots.full_limit();
        let mut known = lock(&self.known);
        let mut is_changed = false;
        for (destination, breaker) in not_of_lanes(&mut known) {
            let change = breaker.on_success(is_probe, most, now.into_std(), time);
            self.say(destination, change);
            is_changed |= is_probe || change != Change::None;
        }
        if is_changed {
            self.on_changed(&mut known);
        }
    }

    /// An attempt failed in a way that may pass. Returns whether the destination is left alone, so that
    /// the attempt does not count.
    pub(crate) fn on_failure(&self, failed: Failed<'_>, is_probe: bool, now: Instant) -> bool {
        self.is_watching.store(true, Ordering::Relaxed);
        let destination = failed.destination();
        let mut known = lock(&self.known);
        if known.len() >= MAX_DESTINATIONS && !known.contains_key(&destination) {
            known.retain(|_, breaker| breaker.gate() != Gate::Free);
        }
        let breaker = known.entry(destination.clone()).or_default();
        // Whatever begins in a lane whose breaker is open is a probe.
        let is_probe = match failed.lane {
            Some(_) => breaker.take_probe(now.into_std()),
            None => is_probe,
        };
        let was_open = breaker.gate() == Gate::Open;
        let change = breaker.on_failure(is_probe, failed.rest, now.into_std());
        if change == Change::Opened {
            self.gauges.of(&destination).increment(1.0);
            warn!(
                failure = %failed.failure,
                "{destination} fails: {OPENS_AT} of its last {REMEMBERED_ATTEMPTS} attempts, or \
                 {REOPENS_AFTER} in a row after it came back; it is only probed until it works, and no \
                 attempt is used up meanwhile"
            );
        }
        let is_open = was_open || change == Change::Opened;
        if let Some(at) = &failed.lane {
            hold(at, breaker, change, now);
            return is_open;
        }
        for (other, breaker) in not_of_lanes(&mut known) {
            if is_probe && *other != destination {
                breaker.on_probe_of_no_use(now.into_std());
            }
        }
        if is_probe || change != Change::None {
            self.on_changed(&mut known);
        }
        is_open
    }

    /// Probes were not begun after all.
    pub(crate) fn on_probes_not_begun(&self, count: usize, now: Instant) {
        let mut known = lock(&self.known);
        for (_, breaker) in not_of_lanes(&mut known) {
            (0..count).for_each(|_| breaker.on_probe_not_begun(now.into_std()));
        }
    }

    /// Probes ended, and say nothing.
    pub(crate) fn on_probes_of_no_use(&self, count: usize, now: Instant) {
        let mut known = lock(&self.known);
        for (_, breaker) in not_of_lanes(&mut known) {
            (0..count).for_each(|_| breaker.on_probe_of_no_use(now.into_std()));
        }
        self.changed.notify_waiters();
    }

    /// Whether a probe is due.
    pub(crate) fn is_probe_due(&self, now: Instant) -> bool {
        self.next_probe().is_some_and(|next| next <= now)
    }

    /// Takes the right to begin one event, if a probe is due.
    pub(crate) fn take_probe(&self, now: Instant) -> bool {
        let mut known = lock(&self.known);
        let probes = not_of_lanes(&mut known).map(|(_, one)| one.take_probe(now.into_std()));
        probes.fold(false, |any, takes| any | takes)
    }

    /// When the next probe is due.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        let mut known = lock(&self.known);
        let next = not_of_lanes(&mut known).filter_map(|(_, one)| one.next_probe()).min();
        next.map(Instant::from_std)
    }

    /// Whether the destination of a failure succeeded since then.
    pub(crate) fn succeeded_since(&self, failed: &Failed<'_>, since: SystemTime) -> bool {
        let known = lock(&self.known);
        let breaker = known.get(&failed.destination());
        breaker.and_then(Breaker::last_success).is_some_and(|last| last >= since)
    }

    /// The lanes whose breakers have been open for so long.
    pub(crate) fn lanes_open_for(&self, time: Duration, now: Instant) -> Vec<Lane> {
        let known = lock(&self.known);
        let open = known.iter().rev().map_while(|(destination, breaker)| match destination {
            Destination::Lane(lane) => Some((lane, breaker.open_since())),
            // They are the last in the order.
            Destination::Handler | Destination::Named(_) => None,
        });
        let is_old = |since: Option<std::time::Instant>| {
            since.is_some_and(|since| now.into_std().saturating_duration_since(since) >= time)
        };
        open.filter(|(_, since)| is_old(*since)).map(|(lane, _)| lane.clone()).collect()
    }

    pub(crate) fn snapshot(&self) -> Vec<BreakerSnapshot> {
        let now = Instant::now().into_std();
        let known = lock(&self.known);
        known
            .iter()
            .filter(|(_, breaker)| breaker.gate() != Gate::Free)
            .map(|(destination, breaker)| BreakerSnapshot {
                destination: destination.clone(),
                open_for: breaker.open_since().map(|since| now.saturating_duration_since(since)),
                limit: match breaker.gate() {
                    Gate::Limited(limit) => Some(limit),
                    Gate::Free | Gate::Open => None,
                },
            })
            .collect()
    }

    /// Says what is news of a destination that failed.
    fn say(&self, destination: &Destination, change: Change) {
        match change {
            Change::Closed => {
                self.gauges.of(destination).decrement(1.0);
                info!("{destination} works again: it is given more and more");
            }
            Change::Recovered => info!("nothing is held back from {destination} any more"),
            Change::None | Change::Opened | Change::ProbeFailed | Change::Grew => {}
        }
    }

    /// Has the consumer do what the breakers say that are not of lanes.
    fn on_changed(&self, known: &mut Known) {
        let (mut is_open, mut limit) = (false, None::<usize>);
        for (_, breaker) in not_of_lanes(known) {
            match breaker.gate() {
                Gate::Free => {}
                Gate::Open => is_open = true,
                Gate::Limited(most) => limit = Some(limit.map_or(most, |limit| limit.min(most))),
            }
        }
        self.slots.narrow(limit);
        self.is_open.store(is_open, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// A lane, and the table that has it.
pub(crate) struct LaneOf<'a> {
    pub(crate) lanes: &'a SharedLanes,
    pub(crate) lane: Lane,
}

/// What failed, and where.
pub(crate) struct Failed<'a> {
    /// The limited lane of the event.
    pub(crate) lane: Option<LaneOf<'a>>,
    pub(crate) failure: &'a Failure,
    /// How long its destination wants to be left alone, if it said so.
    pub(crate) rest: Option<Duration>,
}

impl Failed<'_> {
    fn destination(&self) -> Destination {
        match (&self.lane, &self.failure.destination) {
            (Some(at), _) => Destination::Lane(at.lane.clone()),
            (None, Some(name)) => Destination::Named(name.clone()),
            (None, None) => Destination::Handler,
        }
    }
}

fn not_of_lanes(known: &mut Known) -> impl Iterator<Item = (&Destination, &mut Breaker)> {
    // They are the last in the order.
    known.iter_mut().take_while(|(destination, _)| !matches!(destination, Destination::Lane(_)))
}

/// Has a lane do what its breaker says.
fn hold(at: &LaneOf<'_>, breaker: &Breaker, change: Change, now: Instant) {
    match (change, breaker.gate()) {
        (Change::None, _) => {}
        (_, Gate::Open) => {
            let until = breaker.next_probe().map_or(now, Instant::from_std);
            at.lanes.narrow(&at.lane, Some(1), Some(until));
        }
        (_, Gate::Limited(limit)) => at.lanes.narrow(&at.lane, Some(limit), None),
        (_, Gate::Free) => at.lanes.narrow(&at.lane, None, None),
    }
}

impl Drop for Breakers {
    fn drop(&mut self) {
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (destination, breaker) in known {
            if breaker.gate() == Gate::Open {
                self.gauges.of(destination).decrement(1.0);
            }
        }
    }
}
