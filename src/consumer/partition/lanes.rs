//! The events of a partition that wait for a slot and their lane.
//!
//! What happens to events between two steps of the worker is noted, and carried out in the next step
//! under one lock of the table: what came in, failed, returned or was settled, then what the table has
//! to tell, then what may begin. Neither the rule's function nor a handler runs under the lock.
//!
//! An event is asked for its lane when it is received, once, and the answer is kept by its ticket. The
//! rule's function may panic: then the event waits for a retry as if its handler had, and is asked
//! again.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::consumer::handling::panics::panic_text;
use crate::consumer::handling::slots::Slot;
use crate::consumer::handling::unit::{Failures, Tracked, TrackedBatch, Unit};
use crate::consumer::lanes::{Lanes, Names, SharedLanes, Wake};
use crate::event::{Event, Partition};
use crate::lanes::{HoldingLane, Lane, LaneHold, LaneSource};
use crate::outcome::Failure;
use crate::state::batch_buffer::{BatchLimits, FlushReason, Taken};
use crate::state::lanes::places::Places;
use crate::state::lanes::queues::{Given, LaneQueues, Waits};
use crate::state::lanes::{Named, QueueId};
use crate::state::watermark::Ticket;

/// What may begin in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begins {
    /// What its lane allows. `pressed`: a batch need not fill.
    Ready { pressed: bool },
    /// Single events whose lane allows it, whoever handles them.
    One,
    /// The oldest event, whatever its lane says: it is on trial.
    Oldest,
    /// What was taken before, and nothing else.
    Flushed,
    /// Nothing.
    Nothing,
}

/// What waits in one partition, by lane.
#[derive(Debug)]
pub(super) struct PartitionLanes {
    shared: Arc<SharedLanes>,
    wake: Arc<Wake>,
    takes_batches: bool,
    queues: LaneQueues<Tracked>,
    names: Names<QueueId>,
    places: Places,
    /// The lane of the whole partition, where that is the rule.
    of_partition: Option<Named>,
    changes: Vec<Change>,
    /// Events among the changes.
    coming: usize,
    /// Their lane is not known, since the function panicked.
    unplaced: VecDeque<(Tracked, Failure)>,
    /// What a drain or a hand-off hands out last; its lanes are taken.
    last: Option<Taken<Tracked>>,
}

/// What happened since the last step.
#[derive(Debug)]
enum Change {
    /// An event came, of a lane that has others here, or of none.
    Came {
        queue: QueueId,
        tracked: Tracked,
        bytes: usize,
    },
    /// An event came of a lane that had none here.
    CameNew {
        lane: Named,
        tracked: Tracked,
        bytes: usize,
    },
    /// An event failed, or its retry is due: it waits at the front of its lane, which may close.
    Back {
        queue: QueueId,
        tracked: Tracked,
        is_held: bool,
        closes_until: Option<Instant>,
    },
    Returned(QueueId),
    Settled {
        queue: QueueId,
        is_held: bool,
    },
}

impl PartitionLanes {
    pub(super) fn new(
        shared: Arc<SharedLanes>,
        partition: &Partition,
        limits: Option<BatchLimits>,
    ) -> Self {
        let (member, wake) = shared.join();
        let rule = shared.rule();
        let of_partition = match rule.source() {
            LaneSource::Partition => Some(shared.named(Lane::of_partition(partition))),
            LaneSource::Key | LaneSource::Function(_) => None,
        };
        Self {
            wake,
            takes_batches: limits.is_some(),
            queues: LaneQueues::new(member, rule.is_ordered(), limits),
            shared,
            names: Names::default(),
            places: Places::default(),
            of_partition,
            changes: Vec::new(),
            coming: 0,
            unplaced: VecDeque::new(),
            last: None,
        }
    }

    /// What tells that the table has news.
    pub(super) fn wake(&self) -> Arc<Wake> {
        Arc::clone(&self.wake)
    }

    /// Events before this one are settled.
    pub(super) fn forget_before(&mut self, oldest: Ticket) {
        self.places.forget_before(oldest);
    }

    /// An event came.
    pub(super) fn on_event(&mut self, tracked: Tracked, bytes: usize) {
        let lane = match ask(&self.shared, self.of_partition.as_ref(), &tracked.event) {
            Ok(lane) => lane,
            Err(failure) => return self.unplaced.push_back((tracked, failure)),
        };
        let queue = match &lane {
            None => Some(QueueId::NO_LANE),
            Some(lane) => self.names.get(lane),
        };
        self.coming += 1;
        self.changes.push(match (queue, lane) {
            (Some(queue), _) => {
                self.queues.on_placed(queue);
                self.places.set(tracked.ticket, queue);
                Change::Came { queue, tracked, bytes }
            }
            (None, Some(lane)) => Change::CameNew { lane, tracked, bytes },
            (None, None) => Change::Came { queue: QueueId::NO_LANE, tracked, bytes },
        });
    }

    /// An event is due to be tried again.
    pub(super) fn on_retry(&mut self, tracked: Tracked, bytes: usize) {
        match self.places.get(tracked.ticket) {
            None => self.on_event(tracked, bytes),
            Some(place) => self.back(place.queue, tracked, false, None),
        }
    }

    fn back(
        &mut self,
        queue: QueueId,
        tracked: Tracked,
        is_held: bool,
        closes_until: Option<Instant>,
    ) {
        self.coming += 1;
        self.changes.push(Change::Back { queue, tracked, is_held, closes_until });
    }

    /// An event whose lane nobody knows, and why.
    pub(super) fn take_unplaced(&mut self) -> Option<(Tracked, Failure)> {
        self.unplaced.pop_front()
    }

    /// An event is to be tried again at `due`. Returned where it waits for that beside its lane.
    pub(super) fn on_failed(
        &mut self,
        tracked: Tracked,
        due: Instant,
        closes_lane: bool,
        now: Instant,
    ) -> Option<Tracked> {
        let place = self.places.get(tracked.ticket).filter(|at| at.queue != QueueId::NO_LANE);
        let Some(place) = place.filter(|_| closes_lane || self.shared.rule().is_ordered()) else {
            return Some(tracked);
        };
        self.places.set_held(tracked.ticket, false);
        self.back(place.queue, tracked, place.is_held, (due > now).then_some(due));
        None
    }

    /// Whether events of a lane are handled in order.
    pub(super) fn is_ordered(&self) -> bool {
        self.shared.rule().is_ordered()
    }

    /// The lane of an event, where events of a lane are handled in order.
    pub(super) fn ordered_lane(&self, ticket: Ticket) -> Option<QueueId> {
        let place = self.places.get(ticket).filter(|at| at.queue != QueueId::NO_LANE)?;
        self.shared.rule().is_ordered().then_some(place.queue)
    }

    /// The lane of an event, where so many events of a lane are handled at once.
    pub(super) fn limited_lane(&self, ticket: Ticket) -> Option<Lane> {
        if self.shared.rule().is_ordered() {
            return None;
        }
        self.queues.lane(self.places.get(ticket)?.queue).cloned()
    }

    /// The lane of an event, where it has one.
    pub(super) fn lane(&self, ticket: Ticket) -> Option<&Lane> {
        self.queues.lane(self.places.get(ticket)?.queue)
    }

    /// Asks for the lane of an event that did not come in yet; `None` also where the function panics,
    /// which is found when the event comes in.
    pub(super) fn lane_of(&self, event: &Event) -> Option<Lane> {
        let lane = ask(&self.shared, self.of_partition.as_ref(), event);
        lane.ok().flatten().map(|named| named.lane)
    }

    /// Takes what waits of a lane, behind the first `kept` events.
    pub(super) fn take_behind(&mut self, lane: &Lane, kept: usize, now: Instant) -> Vec<Tracked> {
        let shared = Arc::clone(&self.shared);
        let named = shared.named(lane.clone());
        shared.step(|lanes| {
            // What came last is not carried out yet.
            self.carry_out(lanes, now);
            let Some(queue) = self.names.get(&named) else { return Vec::new() };
            self.queues.take_behind(queue, kept, &mut lanes.table, now)
        })
    }

    /// Whether the lane of one of these events, which wait for another call, is closed meanwhile, or holds more than
    /// it may by now.
    pub(super) fn holds_back_any(
        &mut self,
        mut tickets: impl Iterator<Item = Ticket>,
        now: Instant,
    ) -> bool {
        let shared = Arc::clone(&self.shared);
        shared.step(|lanes| {
            // What closes one may not be carried out yet.
            self.carry_out(lanes, now);
            tickets.any(|ticket| {
                let place = self.places.get(ticket);
                let lane = place.and_then(|place| self.queues.lane_id(place.queue));
                lane.is_some_and(|lane| {
                    lanes.table.is_closed(lane, now) || lanes.table.is_over(lane)
                })
            })
        })
    }

    /// Whether the lane of an event is not known.
    pub(super) fn is_unplaced(&self, ticket: Ticket) -> bool {
        self.places.get(ticket).is_none()
    }

    /// Whether some event's lane allows it to begin, as far as known.
    pub(super) fn has_ready(&self) -> bool {
        self.queues.is_ready()
    }

    /// The call of an event ended.
    pub(super) fn on_returned(&mut self, ticket: Ticket) {
        if self.shared.rule().is_ordered() {
            return;
        }
        if let Some(place) = self.places.get(ticket).filter(|place| place.is_held) {
            self.places.set_held(ticket, false);
            self.changes.push(Change::Returned(place.queue));
        }
    }

    /// Events received in a row are settled.
    pub(super) fn on_settled(&mut self, first: Ticket, count: usize) {
        for index in 0..count {
            if let Some(place) = self.places.take(first.after(index)) {
                let (queue, is_held) = (place.queue, place.is_held);
                self.changes.push(Change::Settled { queue, is_held });
            }
        }
    }

    /// Whether a step would do nothing.
    fn is_at_rest(&self, now: Instant) -> bool {
        let has_news = self.wake.take_has_news();
        !has_news
            && self.changes.is_empty()
            && self.last.is_none()
            && !self.queues.is_ready()
            && self.queues.next_deadline().is_none_or(|next| next > now)
    }

    /// Carries out what happened, and takes what may begin as long as there are slots. Returns
    /// whether a slot is wanted that is not free.
    pub(super) fn step(
        &mut self,
        begins: Begins,
        failures: &Failures,
        mut take_slot: impl FnMut() -> Option<Slot>,
        mut begin: impl FnMut(Unit, Slot),
        now: Instant,
    ) -> bool {
        let is_away = !matches!(begins, Begins::Ready { .. } | Begins::One);
        if self.is_at_rest(now) && self.queues.is_away() == is_away && begins != Begins::Oldest {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        shared.step(|lanes| {
            self.carry_out(lanes, now);
            self.queues.on_step(&mut lanes.table, now);
            self.queues.set_away(is_away, &mut lanes.table, now);
            let mut wants_slot = false;
            while self.may_begin(begins, now) {
                let Some(slot) = take_slot() else {
                    wants_slot = true;
                    break;
                };
                match self.take(begins, failures, lanes, now) {
                    Some(unit) => begin(unit, slot),
                    None => drop(slot),
                }
            }
            self.queues.pass(&mut lanes.table);
            wants_slot
        })
    }

    fn may_begin(&self, begins: Begins, now: Instant) -> bool {
        match begins {
            Begins::Nothing => false,
            _ if self.last.is_some() => true,
            Begins::Flushed => false,
            Begins::Oldest => !self.queues.is_empty(),
            Begins::Ready { pressed } if self.takes_batches => {
                self.queues.ready_batch(pressed, now).is_some()
            }
            Begins::Ready { .. } | Begins::One => self.queues.is_ready(),
        }
    }

    fn take(
        &mut self,
        begins: Begins,
        failures: &Failures,
        lanes: &mut Lanes,
        now: Instant,
    ) -> Option<Unit> {
        if let Some(taken) = self.last.take() {
            return Some(batch(taken, failures));
        }
        match begins {
            Begins::Nothing | Begins::Flushed => None,
            Begins::Oldest => {
                let (queue, given) = self.queues.take_oldest(&mut lanes.table)?;
                self.places.set_held(given.ticket, queue != QueueId::NO_LANE);
                let item = given.item;
                if self.takes_batches {
                    let bytes = item.event.budget_bytes();
                    let reason = FlushReason::Pressure;
                    return Some(batch(Taken { items: vec![item], bytes, reason }, failures));
                }
                Some(event(item, failures))
            }
            Begins::Ready { pressed } if self.takes_batches => {
                let reason = self.queues.ready_batch(pressed, now)?;
                self.take_batch(reason, lanes, now).map(|taken| batch(taken, failures))
            }
            Begins::Ready { .. } | Begins::One => {
                let (queue, given) = self.queues.take(&mut lanes.table, now)?;
                self.places.set_held(given.ticket, queue != QueueId::NO_LANE);
                if !self.takes_batches {
                    return Some(event(given.item, failures));
                }
                let bytes = given.item.event.budget_bytes();
                let (items, reason) = (vec![given.item], FlushReason::Probe);
                Some(batch(Taken { items, bytes, reason }, failures))
            }
        }
    }

    fn take_batch(
        &mut self,
        reason: FlushReason,
        lanes: &mut Lanes,
        now: Instant,
    ) -> Option<Taken<Tracked>> {
        let Self { queues, places, .. } = self;
        let hold = |queue, ticket| places.set_held(ticket, queue != QueueId::NO_LANE);
        queues.take_batch(reason, hold, &mut lanes.table, now)
    }

    /// Carries out what happened since the last step.
    fn carry_out(&mut self, lanes: &mut Lanes, now: Instant) {
        let mut changes = std::mem::take(&mut self.changes);
        for change in changes.drain(..) {
            match change {
                Change::Came { queue, tracked, bytes } => {
                    self.push(queue, tracked, bytes, lanes, now);
                }
                Change::CameNew { lane, tracked, bytes } => {
                    let queue = self.queue_of(lane, lanes);
                    self.queues.on_placed(queue);
                    self.places.set(tracked.ticket, queue);
                    self.push(queue, tracked, bytes, lanes, now);
                }
                Change::Back { queue, tracked, is_held, closes_until } => {
                    let bytes = tracked.event.budget_bytes();
                    let given = Given { ticket: tracked.ticket, item: tracked };
                    self.queues.on_back(queue, given, bytes, &mut lanes.table, now);
                    self.queues.on_failed(queue, is_held, closes_until, &mut lanes.table);
                }
                Change::Returned(queue) => self.queues.on_returned(queue, &mut lanes.table),
                Change::Settled { queue, is_held } => {
                    let forgotten = self.queues.on_settled(queue, is_held, &mut lanes.table);
                    if let Some(lane) = forgotten {
                        self.names.remove(&lane);
                    }
                }
            }
        }
        self.changes = changes;
        self.coming = 0;
    }

    fn push(
        &mut self,
        queue: QueueId,
        tracked: Tracked,
        bytes: usize,
        lanes: &mut Lanes,
        now: Instant,
    ) {
        let given = Given { ticket: tracked.ticket, item: tracked };
        self.queues.on_event(queue, given, bytes, &mut lanes.table, now);
    }

    fn queue_of(&mut self, lane: Named, lanes: &mut Lanes) -> QueueId {
        if let Some(queue) = self.names.get(&lane) {
            return queue;
        }
        let id = lanes.id(&lane);
        let queue = self.queues.on_lane(id, lane.clone(), &mut lanes.table);
        self.names.insert(lane, queue);
        queue
    }

    /// When something becomes ready by time alone.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queues.next_deadline()
    }

    /// When a lane opens that has events here.
    pub(super) fn next_opening(&self) -> Option<Instant> {
        self.queues.next_opening()
    }

    /// Makes a batch of what may begin, ready at once. Its lanes are taken.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.takes_batches && self.last.is_none() {
            let shared = Arc::clone(&self.shared);
            self.last = shared.step(|lanes| {
                self.carry_out(lanes, now);
                self.queues.on_step(&mut lanes.table, now);
                let taken = self.take_batch(FlushReason::Drain, lanes, now);
                self.queues.pass(&mut lanes.table);
                taken
            });
        }
    }

    /// Whether the flushed batch is still here.
    pub(super) fn is_flushed(&self) -> bool {
        self.last.is_some()
    }

    /// Takes the flushed batch, which was never begun.
    pub(super) fn take_flushed(&mut self) -> impl Iterator<Item = Tracked> + use<> {
        self.last.take().into_iter().flat_map(|taken| taken.items)
    }

    /// Takes everything that waits, and leaves all turns.
    pub(super) fn clear(&mut self, now: Instant) -> Vec<Tracked> {
        let shared = Arc::clone(&self.shared);
        let waiting = shared.step(|lanes| {
            self.carry_out(lanes, now);
            self.queues.clear(&mut lanes.table, now)
        });
        let unplaced = self.unplaced.drain(..).map(|(tracked, _)| tracked);
        waiting.into_iter().map(|(_, tracked)| tracked).chain(unplaced).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
            && self.coming == 0
            && self.last.is_none()
            && self.unplaced.is_empty()
    }

    /// Events whose lane is full or closed.
    pub(super) fn blocked_events(&self) -> usize {
        self.queues.blocked_events()
    }

    /// The lane of an event that holds everything up, where all that waits waits for lanes.
    pub(super) fn holding(&self, oldest: Ticket, now: Instant) -> Option<HoldingLane> {
        // Where a partition is one lane, nothing could pass it.
        let is_whole = self.of_partition.is_some();
        if is_whole || self.queues.is_ready() || self.coming > 0 || self.blocked_events() == 0 {
            return None;
        }
        let queue = self.places.get(oldest)?.queue;
        let (waiting_events, waits) = self.queues.waiting(queue);
        let hold = match waits {
            Waits::Not => return None,
            Waits::Full => LaneHold::Full,
            Waits::ClosedUntil(until) => LaneHold::ClosedFor(until.saturating_duration_since(now)),
        };
        let lane = self.queues.lane(queue)?.clone();
        Some(HoldingLane { lane, waiting_events, hold })
    }
}

/// The ownership ends, be it by a crash: what it has in lanes is given back.
impl Drop for PartitionLanes {
    fn drop(&mut self) {
        let now = tokio::time::Instant::now().into_std();
        let shared = Arc::clone(&self.shared);
        shared.step(|lanes| {
            self.carry_out(lanes, now);
            self.queues.end(&mut lanes.table, now);
        });
    }
}

/// Asks for the lane of an event.
fn ask(
    shared: &SharedLanes,
    of_partition: Option<&Named>,
    event: &Event,
) -> Result<Option<Named>, Failure> {
    if let Some(lane) = of_partition {
        return Ok(Some(lane.clone()));
    }
    match catch_unwind(AssertUnwindSafe(|| shared.rule().lane_of(event))) {
        Ok(lane) => Ok(lane.map(|lane| shared.named(lane))),
        Err(panic) => {
            let text = format!("the lane function panicked: {}", panic_text(&*panic));
            Err(Failure::of_panic(text))
        }
    }
}

fn event(tracked: Tracked, failures: &Failures) -> Unit {
    let attempt = failures.attempt(tracked.ticket);
    Unit::Event(tracked, attempt)
}

fn batch(taken: Taken<Tracked>, failures: &Failures) -> Unit {
    Unit::Batch(TrackedBatch::new(taken.items, taken.bytes, failures), taken.reason)
}
