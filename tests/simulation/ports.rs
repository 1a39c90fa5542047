//! The ports of one worker, with weather: latency, errors, hangs, answers that are lost, writes
//! that arrive late or twice, and cuts behind which nothing happens for a while.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken,
};
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::event::{ConsumerGroup, EntityName, PartitionId, Position};
use longshore::transport::memory::MemoryTransport;
use longshore::transport::{HubProperties, Link, LinkStart, LogProperties, OpenLink, Transport};
use longshore::{Error, ErrorClass, Event};
use tokio::time::sleep;

use super::oracle::Opened;
use super::plan::ClaimStep;
use super::worker::Worker;
use super::world::index;

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fate {
    Good,
    Refused,
    Hang,
    LostAnswer,
    Late,
    Repeated,
}

/// Where a call goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    Stores,
    Broker,
    /// On the side of the stores, and up when they are not.
    Sink,
}

impl Worker {
    /// Passes on a call: waits a little and says what its fate is. Waits behind a cut.
    pub async fn depart(&self, to: To) -> Fate {
        self.step();
        let rates = self.world.rates();
        let wait = self.random(0..=rates.latency_ms);
        sleep(Duration::from_millis(wait)).await;
        self.step();
        self.pass(to).await;
        if to == To::Stores {
            while let Some((until, hangs)) = self.world.stores_down() {
                if !hangs {
                    return Fate::Refused;
                }
                self.world.wait_out(until).await;
            }
        }
        let mut dice = self.dice();
        for (rate, fate) in [
            (rates.refused, Fate::Refused),
            (rates.hang, Fate::Hang),
            (rates.lost_answer, Fate::LostAnswer),
            (rates.late, Fate::Late),
            (rates.repeated, Fate::Repeated),
        ] {
            dice -= rate;
            if dice < 0.0 {
                self.world.trace(|| format!("{} call meets {fate:?}", self.name));
                return fate;
            }
        }
        Fate::Good
    }

    /// The answer comes back.
    pub async fn arrive(&self, from: To) {
        self.step();
        self.pass(from).await;
    }

    /// Carries out a read of a store; `answer` begins when it gets there.
    pub async fn read<T>(
        &self,
        request: &'static str,
        operation: &'static str,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.world.count_request(request);
        match self.depart(To::Stores).await {
            Fate::Refused => return Err(failed(operation)),
            Fate::Hang => return pending().await,
            _ => {}
        }
        let answer = answer.await;
        self.arrive(To::Stores).await;
        answer
    }

    /// Carries out a write; `apply` is what it does at the store.
    pub async fn write<T, E: From<Error>>(
        self: &Arc<Self>,
        request: &'static str,
        operation: &'static str,
        apply: impl Fn(&Worker) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.world.count_request(request);
        let answer = match self.depart(To::Stores).await {
            Fate::Good => apply(self),
            Fate::Refused => Err(failed(operation).into()),
            Fate::Hang => pending().await,
            Fate::LostAnswer => {
                let _lost = apply(self);
                Err(failed(operation).into())
            }
            Fate::Late => {
                let (worker, wait) = (Arc::clone(self), self.random(100..=60_000));
                // It is on its way, whatever becomes of the worker.
                tokio::spawn(async move {
                    sleep(Duration::from_millis(wait)).await;
                    let _nobody_waits = apply(&worker);
                });
                pending().await
            }
            Fate::Repeated => {
                let _first = apply(self);
                apply(self)
            }
        };
        self.arrive(To::Stores).await;
        answer
    }

    /// Waits until it is not cut off; for ever if it is dead.
    async fn pass(&self, to: To) {
        while !self.is_dead()
            && let Some(until) = self.cut_until(to != To::Broker)
        {
            self.world.wait_out(until).await;
        }
        if self.is_dead() {
            pending::<()>().await;
        }
    }
}

pub fn failed(operation: &'static str) -> Error {
    Error::new(ErrorClass::Transient, operation, "the simulated network failed")
}

#[derive(Debug)]
pub struct SimTransport {
    pub worker: Arc<Worker>,
    pub inner: MemoryTransport,
}

impl Transport for SimTransport {
    fn namespace(&self) -> &str {
        self.inner.namespace()
    }

    fn entity(&self) -> &EntityName {
        self.inner.entity()
    }

    fn consumer_group(&self) -> &ConsumerGroup {
        self.inner.consumer_group()
    }

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties, Error>> {
        async {
            self.worker.on_claim_step(ClaimStep::HubRead);
            let fate = self.worker.depart(To::Broker).await;
            let answer = self.inner.hub_properties().await;
            self.worker.arrive(To::Broker).await;
            if fate == Fate::Refused { Err(failed("read the hub's properties")) } else { answer }
        }
        .boxed()
    }

    fn log_properties<'a>(
        &'a self,
        partition: &'a PartitionId,
    ) -> BoxFuture<'a, Result<LogProperties, Error>> {
        async {
            self.worker.on_claim_step(ClaimStep::LogRead);
            let fate = self.worker.depart(To::Broker).await;
            let answer = self.inner.log_properties(partition).await;
            self.worker.arrive(To::Broker).await;
            if fate == Fate::Refused { Err(failed("read the partition")) } else { answer }
        }
        .boxed()
    }

    /// A link of its own, which is nobody's claim to the partition.
    fn first_event<'a>(
        &'a self,
        partition: &'a PartitionId,
        from: LinkStart,
    ) -> BoxFuture<'a, Result<Position, Error>> {
        async move {
            let fate = self.worker.depart(To::Broker).await;
            let answer = self.inner.first_event(partition, from).await;
            self.worker.arrive(To::Broker).await;
            if fate == Fate::Refused { Err(failed("look at an event")) } else { answer }
        }
        .boxed()
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        let (worker, inner) = (Arc::clone(&self.worker), self.inner.clone());
        async move {
            let fate = worker.depart(To::Broker).await;
            worker.world.trace(|| format!("{} opens {options:?}", worker.name));
            if fate == Fate::Refused {
                return Err(failed("open the link"));
            }
            let partition = index(&options.partition);
            let link = inner.open(options).await?;
            let opened = worker.world.oracle(|oracle| oracle.on_opened(&worker.name, partition));
            let link = SimLink { inner: Some(link), worker, opened };
            link.worker.arrive(To::Broker).await;
            let link: Box<dyn Link> = Box::new(link);
            Ok(link)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

struct SimLink {
    worker: Arc<Worker>,
    inner: Option<Box<dyn Link>>,
    opened: Opened,
}

impl Link for SimLink {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize, Error>> {
        self.worker.step();
        if self.worker.is_dead() {
            return Poll::Pending;
        }
        if self.worker.cut_until(false).is_some() {
            self.worker.world.wake_when_mended(cx.waker());
            return Poll::Pending;
        }
        let most = self.worker.random(1..=40).try_into().unwrap_or(1).min(max_events);
        match &mut self.inner {
            Some(link) => link.poll_receive(cx, most, into),
            None => Poll::Pending,
        }
    }

    /// It stays one link for the oracle: nobody else has the partition in between.
    fn restart(
        mut self: Box<Self>,
        options: OpenLink,
    ) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        async move {
            let fate = self.worker.depart(To::Broker).await;
            self.worker.world.trace(|| format!("{} restarts {options:?}", self.worker.name));
            if fate == Fate::Refused {
                return Err(failed("open the link"));
            }
            if let Some(link) = self.inner.take() {
                self.inner = Some(link.restart(options).await?);
            }
            self.worker.arrive(To::Broker).await;
            let link: Box<dyn Link> = self;
            Ok(link)
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

/// A process that died does not say goodbye: its link stays open at the broker.
impl Drop for SimLink {
    fn drop(&mut self) {
        if self.worker.is_dead()
            && let Some(link) = self.inner.take()
        {
            self.worker.world.bury(link);
        } else {
            self.worker.world.oracle(|oracle| oracle.on_link_closed(&self.opened));
        }
    }
}

#[derive(Debug)]
pub struct SimStore(pub Arc<Worker>);

impl CheckpointStore for SimStore {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        async {
            self.0.on_claim_step(ClaimStep::CheckpointRead);
            let answer = self.0.world.checkpoints.load(key);
            self.0.read("checkpoint read", "load the checkpoint", answer).await
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let (key, checkpoint, expected) = (key.clone(), checkpoint.clone(), expected.clone());
        let apply = move |worker: &Worker| {
            worker.world.write_checkpoint(&worker.name, &key, &checkpoint, &expected)
        };
        async {
            self.0.on_claim_step(ClaimStep::CheckpointWrite);
            self.0.write("checkpoint write", "write the checkpoint", apply).await
        }
        .boxed()
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        let answer = self.0.world.checkpoints.list(scope);
        self.0.read("checkpoint list", "list the checkpoints", answer).boxed()
    }
}

#[derive(Debug)]
pub struct SimSink(pub Arc<Worker>);

impl DeadLetterSink for SimSink {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        async {
            let worker = &self.0;
            match worker.depart(To::Sink).await {
                Fate::Hang | Fate::Late => return pending().await,
                Fate::Refused | Fate::LostAnswer => return Err(failed("write the dead letter")),
                Fate::Good | Fate::Repeated => {}
            }
            if worker.world.sink_is_down() {
                return Err(failed("write the dead letter"));
            }
            worker.arrive(To::Sink).await;
            worker.on_dead_letter(letter);
            if worker.world.plan.parks {
                worker.world.keep_letter(&worker.name, letter);
            }
            Ok(())
        }
        .boxed()
    }
}
