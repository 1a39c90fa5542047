//! Workers that publish what their events came to, behind the work: the events wait for the hub of the
//! results, which fails, hangs, loses answers and is away.
//!
//! The oracle is told by that hub. An event is settled when its result is there and the answer is on its
//! way, and not before. While one ownership lasts, its work is done once, whatever becomes of the result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use longshore::event::EntityName;
use longshore::producer::EntityProducer;
use longshore::producer::results::{ResultPublisher, Room};
use longshore::transport::{Publisher, SendReceipt, SendTarget};
use longshore::{Error, ErrorClass, Event, EventContext, Outcome, OutgoingEvent};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use super::deferral::Ownership;
use super::plan::Plan;
use super::ports::{Fate, To, failed};
use super::worker::{Worker, identity};

/// After this long an adapter gives up on a send.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// What the hub of the results is like.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ResultPlan {
    /// Most results of a worker that are begun and not answered.
    pub room: usize,
    /// Of the events: how many have a result.
    pub share: f64,
    /// Of these: how many have one that is too large.
    pub too_large: f64,
}

impl ResultPlan {
    pub fn random(random: &mut SmallRng) -> Option<Self> {
        random.random_bool(0.25).then(|| Self {
            room: *[1, 3, 1_000].choose(random).unwrap_or(&3),
            share: *[0.3, 1.0].choose(random).unwrap_or(&1.0),
            too_large: *[0.0, 0.05].choose(random).unwrap_or(&0.0),
        })
    }

    /// By the event alone: in every call of it alike.
    fn share_of(seed: u64, id: usize, salt: u64) -> f64 {
        let mixed = (seed ^ salt).wrapping_add(id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29) as f64 / u64::MAX as f64
    }

    pub fn has_result(&self, plan: &Plan, id: usize) -> bool {
        !plan.batches && Self::share_of(plan.seed, id, 0x7e5) < self.share
    }

    fn is_too_large(&self, plan: &Plan, id: usize) -> bool {
        Self::share_of(plan.seed, id, 0xb16) < self.too_large
    }
}

/// The results of one process.
pub struct Results {
    publisher: ResultPublisher,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    worker: Arc<Worker>,
    entity: EntityName,
    plan: ResultPlan,
    /// By event: whose it is, from the moment there is room for it.
    begun: Mutex<BTreeMap<usize, Begun>>,
}

#[derive(Debug)]
struct Begun {
    ownership: Ownership,
    /// Whether its work is done.
    is_done: bool,
}

impl Shared {
    fn begun(&self) -> MutexGuard<'_, BTreeMap<usize, Begun>> {
        self.begun.lock().expect("no panic under the lock")
    }
}

/// Work that has room for its result. Dropped, it has not.
pub struct Work<'a> {
    results: &'a Results,
    room: Option<Room>,
    id: usize,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if self.room.is_some() {
            self.results.shared.begun().remove(&self.id);
        }
    }
}

impl Results {
    pub fn new(worker: &Arc<Worker>, plan: ResultPlan) -> Self {
        let worker = Arc::clone(worker);
        let begun = Mutex::default();
        let shared = Arc::new(Shared { worker, entity: "results".into(), plan, begun });
        // Its back-off is not the simulator's to seed; the publisher's own patience is.
        let producer = EntityProducer::new(Arc::new(SimResults(Arc::clone(&shared))));
        let producer = Arc::new(producer.with_attempts(1));
        let publisher = ResultPublisher::with_room(producer, plan.room, 1 << 20);
        Self { publisher, shared }
    }

    /// Takes room before the work.
    pub async fn begin(&self, event: &Event, ownership: &Ownership) -> Option<Work<'_>> {
        let (worker, id) = (&self.shared.worker, identity(event));
        if !self.shared.plan.has_result(&worker.world.plan, id) {
            return None;
        }
        let room = Some(self.publisher.room(100).await);
        let mut begun = self.shared.begun();
        begun.insert(id, Begun { ownership: ownership.clone(), is_done: false });
        // What an ownership left behind has no room any more, or will have none at once.
        let alive = begun.values().filter(|begun| !begun.ownership.is_ending()).count();
        if alive > self.shared.plan.room {
            let (name, room) = (&worker.name, self.shared.plan.room);
            worker.world.violation(format!("{name} begins {alive} results with room for {room}"));
        }
        Some(Work { results: self, room, id })
    }
}

impl Work<'_> {
    /// The work is done: its result is on its way, and the slot is free.
    pub fn publish(mut self, context: EventContext, epoch: u64) -> Outcome {
        let Results { publisher, shared } = self.results;
        if let Some(begun) = shared.begun().get_mut(&self.id) {
            begun.is_done = true;
        }
        shared.worker.world.oracle(|oracle| oracle.on_worked(self.id, epoch));
        let room = self.room.take().expect("it took room before");
        let result = OutgoingEvent::new(self.id.to_string());
        let what = format!("event {} is handled", self.id);
        if self.id.is_multiple_of(2) {
            return publisher.publish_for(context, room, result, what);
        }
        let (settler, deferred) = context.defer();
        publisher.publish(room, settler, result, what);
        deferred
    }
}

/// The hub of the results, as one worker reaches it.
#[derive(Debug)]
struct SimResults(Arc<Shared>);

impl SimResults {
    async fn take(&self, events: Vec<OutgoingEvent>) -> Result<(), Error> {
        const SEND: &str = "publish a result";
        let Shared { worker, plan, .. } = &*self.0;
        let ids = events.iter().map(|event| {
            std::str::from_utf8(&event.body).ok().and_then(|id| id.parse::<usize>().ok())
        });
        let ids: BTreeSet<usize> = ids.map(|id| id.expect("an identity")).collect();
        match worker.depart(To::Sink).await {
            Fate::Good | Fate::Repeated => {}
            Fate::Refused => return Err(failed(SEND)),
            Fate::Hang | Fate::Late | Fate::LostAnswer => {
                sleep(SEND_TIMEOUT).await;
                worker.world.oracle(|oracle| oracle.count("answer to a result lost"));
                return Err(failed(SEND));
            }
        }
        if worker.world.sink_is_down() {
            return Err(failed(SEND));
        }
        if ids.iter().any(|id| plan.is_too_large(&worker.world.plan, *id)) {
            worker.world.oracle(|oracle| oracle.count("result too large"));
            if ids.len() == 1 {
                // Alone, it ends as a dead letter; beside others it is sent again alone.
                self.0.begun().retain(|id, _| !ids.contains(id));
            }
            return Err(Error::new(ErrorClass::TooLarge, SEND, "simulated"));
        }
        worker.arrive(To::Sink).await;
        if worker.is_dead() {
            return pending().await;
        }
        for id in ids {
            // A send that nobody waits for any more may arrive all the same.
            let Some(Begun { ownership, is_done: true }) = self.0.begun().remove(&id) else {
                continue;
            };
            worker.world.oracle(|oracle| oracle.count("result acknowledged"));
            if ownership.is_ending() {
                worker.on_settled_late(id, ownership.epoch);
            } else {
                ownership.on_said(worker, id, &Outcome::Done);
            }
        }
        Ok(())
    }
}

impl Publisher for SimResults {
    fn entity(&self) -> &EntityName {
        &self.0.entity
    }

    fn send(
        &self,
        _: SendTarget,
        event: OutgoingEvent,
    ) -> BoxFuture<'_, Result<SendReceipt, Error>> {
        async move { self.take(vec![event]).await.map(|()| SendReceipt::new(None, None)) }.boxed()
    }

    fn send_batch(
        &self,
        _: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        self.take(events).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}
