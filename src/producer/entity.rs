//! Publishing to one entity, with retries and in batches: sends that wait for an answer at the same time travel in one
//! transfer.
//!
//! A link answers one transfer after the other, so single sends of many tasks would each wait for a round trip. Here the
//! first send goes out at once. The sends that arrive while its answer is awaited go out after it, as one batch. Nothing
//! waits for a timer.
//!
//! Each partition has a link and a queue of its own. An event with a key goes into the queue of the partition that the
//! service would choose for it ([`KeyPlacement`]), together with events of other keys. (A batch that leaves the choice to
//! the service can hold one key only.) Events without a key are left to the service, which passes over a partition that
//! is not available. If the partitions of the hub are not known, events with a key are left to the service as well, one
//! transfer for each key.
//!
//! Every send has the timeout of its adapter. A send that failed in a way that may pass is tried again with back-off,
//! before any later send of its queue. If only the answer was lost, a retry publishes an event twice; consumers can
//! recognise it by its message id. A retry never brings the events of a key out of order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{oneshot, watch};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::error::{Error, ErrorClass, Result, error_chain};
use crate::event::{EntityName, OutgoingEvent};
use crate::state::backoff::Backoff;
use crate::state::key_placement::KeyPlacement;
use crate::state::send_lanes::{Lane, Queued, SendLanes};
use crate::telemetry::metrics::PublishMetrics;
use crate::transport::{Publisher, SendReceipt, SendTarget};

/// Default of [`EntityProducer::with_attempts`]: 8.
pub const DEFAULT_SEND_ATTEMPTS: u32 = 8;

/// Default of [`EntityProducer::with_backoff`]: 200 ms, doubled up to 10 s.
pub const DEFAULT_SEND_BACKOFF: Backoff =
    Backoff::doubling(Duration::from_millis(200), Duration::from_secs(10));

/// The most events that travel together: 1,000. A link that takes 25 ms to answer carries 40,000 events a second this
/// way. More would not help: building a batch takes about 20 us of CPU for each event without a pause, and a batch that
/// fails is repeated whole.
pub const MAX_TOGETHER: usize = 1_000;

/// The most bytes of events that travel together: 900 KiB. A larger event travels alone. This is what a link of the
/// service takes without what the encoding adds, so nearly every batch is one transfer. If a link takes less, the
/// publisher makes several transfers.
pub const MAX_TOGETHER_BYTES: usize = 900 * 1_024;

/// About what the encoding of an event adds to its content.
const ENCODING_BYTES: usize = 100;

/// How often a producer of keyed events asks for the partitions of the entity, because their number may grow: every
/// 60 s.
pub const PARTITIONS_LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The same after an answer that trying again may better.
const FAILED_LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The same where the right to ask is missing: each attempt may cost the service a connection.
const REFUSED_LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// Publishes to one entity. `Ok` means that the service accepted it.
#[derive(Debug)]
pub struct EntityProducer {
    shared: Shared,
    under_way: UnderWay,
}

/// Where a lane begins that was at rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Starts {
    /// In a task of its own: sends that are made together travel together.
    InATask,
    /// In the task of the sender, as far as nothing is waited for: what is taken at once needs no task.
    Here,
}

/// How many sends are under way, and whether more may begin.
#[derive(Clone, Debug)]
struct UnderWay(watch::Sender<Sends>);

#[derive(Clone, Copy, Debug, Default)]
struct Sends {
    count: usize,
    closed: bool,
}

impl UnderWay {
    fn begin(&self, operation: &'static str) -> Result<Arc<Send>> {
        let mut closed = false;
        self.0.send_if_modified(|sends| {
            closed = sends.closed;
            sends.count += usize::from(!closed);
            // Nobody waits for more of them.
            false
        });
        if closed {
            return Err(Error::new(ErrorClass::Permanent, operation, "the producer is closed"));
        }
        Ok(Arc::new(Send(self.clone())))
    }

    async fn none(&self) {
        let mut sends = self.0.subscribe();
        // The sender is here, so the channel is open.
        let _none = sends.wait_for(|sends| sends.count == 0).await;
    }
}

/// A send under way, of one event or of many. Dropped, it is not.
#[derive(Debug)]
struct Send(UnderWay);

impl Drop for Send {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|sends| {
            sends.count -= 1;
            sends.count == 0
        });
    }
}

/// An event that waits to travel.
#[derive(Debug)]
struct Waiting {
    event: OutgoingEvent,
    answer: oneshot::Sender<Result<SendReceipt, Unsent>>,
    /// Until it is answered.
    _under_way: Arc<Send>,
}

/// Where the answer to a send comes.
type Answered = oneshot::Receiver<Result<SendReceipt, Unsent>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EntityProducer {
    /// A producer that tries each send 8 times ([`DEFAULT_SEND_ATTEMPTS`]), with delays from 200 ms to 10 s
    /// ([`DEFAULT_SEND_BACKOFF`]), and gives keys to partitions as the service does
    /// ([`KeyPlacement::Service`]).
    pub fn new(publisher: Arc<dyn Publisher>) -> Self {
        let sender = Sender {
            metrics: PublishMetrics::new(publisher.entity()),
            publisher,
            attempts: DEFAULT_SEND_ATTEMPTS,
            backoff: DEFAULT_SEND_BACKOFF,
            random: Arc::new(Mutex::new(SmallRng::from_os_rng())),
            looks: Arc::default(),
        };
        let lanes = Arc::new(Mutex::new(SendLanes::new(KeyPlacement::default())));
        let shared = Shared { sender: Arc::new(sender), lanes };
        Self { shared, under_way: UnderWay(watch::Sender::default()) }
    }

    /// Sets how many times a send is tried, at least once. Default: 8 ([`DEFAULT_SEND_ATTEMPTS`]).
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        Arc::make_mut(&mut self.shared.sender).attempts = attempts.max(1);
        self
    }

    /// Sets the delays between attempts. Default: 200 ms, doubled up to 10 s ([`DEFAULT_SEND_BACKOFF`]).
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        Arc::make_mut(&mut self.shared.sender).backoff = backoff;
        self
    }

    /// Sets the rule that gives keys to partitions. All producers of a key must have the same rule. Default:
    /// [`KeyPlacement::Service`], which most other clients have.
    #[must_use]
    pub fn with_key_placement(mut self, placement: KeyPlacement) -> Self {
        self.shared.lanes = Arc::new(Mutex::new(SendLanes::new(placement)));
        self
    }

    /// The entity it publishes to.
    pub fn entity(&self) -> &EntityName {
        self.shared.sender.publisher.entity()
    }

    /// Publishes one event. Calls from many tasks at once travel as batches. Events of one key keep the order of
    /// their calls. If one fails, the events behind it still go out.
    ///
    /// # Errors
    /// The last error, if another attempt is useless or no attempt helped; `Permanent` after
    /// [`EntityProducer::close`].
    ///
    /// # Cancel safety
    /// A dropped call may have published the event, or may still publish it.
    pub async fn send(&self, target: SendTarget, event: OutgoingEvent) -> Result<SendReceipt> {
        self.send_or_return(target, event, Starts::InATask).await.map_err(|unsent| unsent.error)
    }

    /// As [`Self::send`], and gives back what was not published, so that nobody has to keep a copy of it.
    pub(super) async fn send_or_return(
        &self,
        target: SendTarget,
        event: OutgoingEvent,
        starts: Starts,
    ) -> Result<SendReceipt, Unsent> {
        let answered = {
            let under_way = match self.under_way.begin("publish an event") {
                Ok(under_way) => under_way,
                Err(error) => return Err(Unsent { error, event: Some(event.into()) }),
            };
            let (answered, begun, looks) = {
                let mut lanes = self.shared.lanes();
                let keyed = is_placed(&target, &event);
                let (answered, begun) = placed(&mut lanes, &target, event, &under_way);
                (answered, begun, keyed && lanes.take_look(Instant::now().into_std()))
            };
            self.shared.look_if(looks, &under_way);
            match (begun, starts) {
                (Some(lane), Starts::Here) => self.shared.start_here(lane),
                (begun, _) => self.shared.start(begun),
            }
            answered
        };
        answered.await.unwrap_or_else(|_closed| Err(Unsent::shut_down()))
    }

    /// Publishes events in as few transfers as the link allows: those for one partition, and those
    /// of one key, in order.
    ///
    /// # Errors
    /// As [`EntityProducer::send`], of the first event that failed; others may have been published.
    ///
    /// # Cancel safety
    /// As [`EntityProducer::send`].
    pub async fn send_batch(&self, target: SendTarget, events: Vec<OutgoingEvent>) -> Result<()> {
        let answered = {
            let under_way = self.under_way.begin("publish a batch")?;
            self.enqueue(&target, events, &under_way)
        };
        let mut sent = Ok(());
        for answer in answered {
            let answer = answer.await.unwrap_or_else(|_closed| Err(Unsent::shut_down()));
            // All are waited for: a caller that goes on finds none under way.
            sent = sent.and(answer.map(drop).map_err(|unsent| unsent.error));
        }
        sent
    }

    /// Waits until no send is under way: each was answered, those of dropped calls too.
    ///
    /// # Cancel safety
    /// A dropped call changes nothing.
    pub async fn flush(&self) {
        self.under_way.none().await;
    }

    /// Refuses further sends, waits for those under way, and lets go of the connection.
    ///
    /// # Cancel safety
    /// A dropped call leaves the producer closed for sends; call it again.
    pub async fn close(&self) {
        self.under_way.0.send_modify(|sends| sends.closed = true);
        self.flush().await;
        self.shared.sender.publisher.close().await;
    }

    /// Puts events into their lanes, and starts those that were at rest, each in a task of its own:
    /// the others' sends must not end with a dropped call of ours.
    fn enqueue(
        &self,
        target: &SendTarget,
        events: Vec<OutgoingEvent>,
        under_way: &Arc<Send>,
    ) -> Vec<Answered> {
        let mut answers = Vec::with_capacity(events.len());
        let mut started = Vec::new();
        let looks = {
            let mut lanes = self.shared.lanes();
            let mut keyed = false;
            for event in events {
                keyed |= is_placed(target, &event);
                let (answered, begun) = placed(&mut lanes, target, event, under_way);
                answers.push(answered);
                started.extend(begun);
            }
            keyed && lanes.take_look(Instant::now().into_std())
        };
        self.shared.look_if(looks, under_way);
        self.shared.start(started);
        answers
    }
}

/// Whether the key of an event says where it goes.
fn is_placed(target: &SendTarget, event: &OutgoingEvent) -> bool {
    *target == SendTarget::Any && event.key.is_some()
}

/// Puts an event into its lane. Returns where its answer comes, and the lane if it was at rest.
fn placed(
    lanes: &mut SendLanes<Waiting>,
    target: &SendTarget,
    event: OutgoingEvent,
    under_way: &Arc<Send>,
) -> (Answered, Option<Lane>) {
    let bytes = event.content_bytes() + ENCODING_BYTES;
    let key = event.key.clone();
    let (answer, answered) = oneshot::channel();
    let waiting = Waiting { event, answer, _under_way: Arc::clone(under_way) };
    let begun = match (target, key) {
        (SendTarget::Partition(id), _) => {
            lanes.on_addressed(Lane::Partition(id.clone()), waiting, bytes)
        }
        (SendTarget::Any, None) => lanes.on_addressed(Lane::Service, waiting, bytes),
        (SendTarget::Any, Some(key)) => lanes.on_keyed(&key, waiting, bytes),
    };
    (answered, begun)
}

/// An event that was not published, and why.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) error: Error,
    /// `None` if it went with the runtime.
    pub(super) event: Option<Box<OutgoingEvent>>,
}

impl Unsent {
    fn shut_down() -> Self {
        let error = Error::new(ErrorClass::Transient, "publish an event", "the runtime shuts down");
        Self { error, event: None }
    }
}

/// What the tasks of the lanes share.
#[derive(Clone, Debug)]
struct Shared {
    sender: Arc<Sender>,
    lanes: Arc<Mutex<SendLanes<Waiting>>>,
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, SendLanes<Waiting>> {
        lock(&self.lanes)
    }

    /// Starts a task for each of these lanes.
    fn start(&self, lanes: impl IntoIterator<Item = Lane>) {
        for lane in lanes {
            tokio::spawn(self.clone().run(lane).boxed());
        }
    }

    /// Starts a lane in the task of its first sender; where it has to wait, the rest is a task's.
    fn start_here(&self, lane: Lane) {
        let mut run = self.clone().run(lane).boxed();
        if (&mut run).now_or_never().is_none() {
            tokio::spawn(run);
        }
    }

    /// Looks at the partitions, in a task of its own.
    fn look_if(&self, looks: bool, under_way: &Arc<Send>) {
        if looks {
            let (shared, under_way) = (self.clone(), Arc::clone(under_way));
            tokio::spawn(async move {
                shared.look().await;
                drop(under_way);
            });
        }
    }

    /// Sends what waits in a lane until nothing does.
    async fn run(self, lane: Lane) {
        loop {
            let batch = self.lanes().take_batch(&lane, MAX_TOGETHER, MAX_TOGETHER_BYTES);
            if batch.is_empty() {
                return;
            }
            self.send_together(&lane, batch).await;
            // A publisher that never waits is not to hold up the thread.
            consume_budget().await;
        }
    }

    /// Sends a batch, in halves where it is refused for good: one of its events may be at fault,
    /// for example by its size, and the others are not to fail with it.
    async fn send_together(&self, lane: &Lane, batch: Vec<Queued<Waiting>>) {
        let since = Instant::now();
        let mut pieces = vec![batch];
        while let Some(mut piece) = pieces.pop() {
            let error = match self.send_piece(lane, &piece).await {
                Ok(receipt) => {
                    self.answer(piece, Ok(receipt));
                    continue;
                }
                Err(error) => error,
            };
            let by_key = piece.iter().any(|send| send.key.is_some());
            if by_key && error.class() == ErrorClass::Permanent && self.is_gone(lane, since).await {
                // The pieces behind it lie on top of each other, the next one uppermost.
                piece.extend(pieces.drain(..).rev().flatten());
                let (addressed, started) = self.lanes().on_gone(lane, piece);
                self.start(started);
                self.answer(addressed, Err(error));
                return;
            }
            let refused = matches!(
                error.class(),
                ErrorClass::Permanent | ErrorClass::TooLarge | ErrorClass::BadData
            );
            if refused && piece.len() > 1 {
                pieces.push(piece.split_off(piece.len() / 2));
                pieces.push(piece);
            } else {
                self.answer(piece, Err(error));
            }
        }
    }

    fn answer(&self, mut sends: Vec<Queued<Waiting>>, sent: Result<SendReceipt>) {
        self.sender.metrics.on_answered(sends.len(), sent.is_ok());
        // One of them gets the error itself, with its sources.
        let last = sends.pop();
        for send in sends {
            let sent = sent.as_ref().map(SendReceipt::clone).map_err(Error::repeated);
            self.answer_one(send, sent);
        }
        if let Some(last) = last {
            self.answer_one(last, sent);
        }
    }

    fn answer_one(&self, send: Queued<Waiting>, sent: Result<SendReceipt>) {
        let Waiting { event, answer, .. } = send.item;
        // Nobody may be left to hear it.
        let _heard = answer.send(sent.map_err(|error| Unsent { error, event: Some(event.into()) }));
        let started = send.key.and_then(|key| self.lanes().on_answered(&key));
        self.start(started);
    }

    /// One transfer, or more where the link takes less.
    async fn send_piece(&self, lane: &Lane, piece: &[Queued<Waiting>]) -> Result<SendReceipt> {
        let partition = match lane {
            Lane::Service => None,
            Lane::Partition(id) => Some(id.clone()),
        };
        let target = || partition.clone().map_or(SendTarget::Any, SendTarget::Partition);
        let Sender { publisher, metrics, .. } = &*self.sender;
        let begun = Instant::now();
        let mut failures = 0;
        loop {
            let sent = if let [one] = piece {
                publisher.send(target(), one.item.event.clone()).await
            } else {
                let events = piece.iter().map(|send| send.item.event.clone()).collect();
                let sent = publisher.send_batch(target(), events).await;
                sent.map(|()| SendReceipt::new(partition.clone(), None))
            };
            match sent {
                Ok(receipt) => {
                    metrics.on_acknowledged(begun.elapsed());
                    return Ok(receipt);
                }
                Err(error) => self.on_failure(&mut failures, error).await?,
            }
        }
    }

    /// Waits for the next attempt.
    ///
    /// # Errors
    /// The error, if there is none.
    async fn on_failure(&self, failures: &mut u32, error: Error) -> Result<()> {
        // It may be the way in which the service says that the hub has more partitions.
        self.lanes().on_failed(Instant::now().into_std());
        *failures += 1;
        if !error.class().is_retryable() || *failures >= self.sender.attempts {
            return Err(error);
        }
        self.sender.metrics.on_retry();
        let random = lock(&self.sender.random).random();
        let delay = self.sender.backoff.delay(*failures, random);
        warn!(
            message_topic = %self.sender.publisher.entity(),
            class = %error.class(),
            failures = *failures,
            retry_in_ms = delay.as_millis(),
            causes = ?error_chain(&error),
            "an event could not be published; trying again"
        );
        sleep(delay).await;
        Ok(())
    }

    /// Whether the hub has no such partition, by a look that was begun after this time.
    async fn is_gone(&self, lane: &Lane, since: Instant) -> bool {
        let looking = self.sender.looks.lock().await;
        let asks = {
            let mut lanes = self.lanes();
            let asks = !lanes.looked_since(since.into_std());
            if asks {
                lanes.on_look(Instant::now().into_std());
            }
            asks
        };
        if asks {
            self.ask().await;
        }
        drop(looking);
        self.lanes().is_gone(lane)
    }

    /// Looks at the partitions; one look at a time.
    async fn look(&self) {
        let _looking = self.sender.looks.lock().await;
        self.ask().await;
    }

    async fn ask(&self) {
        let asked = self.sender.publisher.partitions().await;
        let now = Instant::now().into_std();
        let (partitions, interval) = match asked {
            Ok(partitions) => (partitions, PARTITIONS_LOOK_INTERVAL),
            Err(error) => {
                if self.lanes().is_new() {
                    warn!(
                        message_topic = %self.sender.publisher.entity(),
                        class = %error.class(),
                        causes = ?error_chain(&error),
                        "the partitions cannot be read, so the service places the events with a \
                         key, a transfer for each key"
                    );
                }
                let may_pass = matches!(
                    error.class(),
                    ErrorClass::Transient | ErrorClass::Throttling | ErrorClass::Unknown
                );
                (Vec::new(), if may_pass { FAILED_LOOK_INTERVAL } else { REFUSED_LOOK_INTERVAL })
            }
        };
        let started = self.lanes().on_partitions(partitions, now, interval);
        self.start(started);
    }
}

/// Makes the attempts.
#[derive(Clone, Debug)]
struct Sender {
    publisher: Arc<dyn Publisher>,
    metrics: PublishMetrics,
    attempts: u32,
    backoff: Backoff,
    random: Arc<Mutex<SmallRng>>,
    /// Held while the partitions are looked at.
    looks: Arc<tokio::sync::Mutex<()>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Transport;
    use crate::transport::memory::MemoryHub;
    use futures::future::join_all;

    #[tokio::test(start_paused = true)]
    async fn a_send_that_may_pass_is_tried_again_and_one_that_may_not_is_not() {
        let hub = MemoryHub::new("results", 1);
        let producer = EntityProducer::new(Arc::new(hub.publisher()));
        hub.fail_sends(7, ErrorClass::Transient);
        let receipt = producer.send(SendTarget::Any, OutgoingEvent::new("a")).await.expect("sent");
        assert_eq!(receipt.sequence_number.map(|number| number.0), Some(0));
        hub.fail_sends(8, ErrorClass::Throttling);
        let error = producer.send(SendTarget::Any, OutgoingEvent::new("b")).await.expect_err("8");
        assert_eq!(error.class(), ErrorClass::Throttling);
        hub.fail_sends(1, ErrorClass::Permanent);
        let error = producer.send(SendTarget::Any, OutgoingEvent::new("c")).await.expect_err("1");
        assert_eq!(error.class(), ErrorClass::Permanent);
    }

    #[tokio::test(start_paused = true)]
    async fn sends_at_the_same_time_travel_together_and_each_is_answered() {
        let hub = MemoryHub::new("results", 1);
        let producer = EntityProducer::new(Arc::new(hub.publisher()));
        hub.fail_sends(3, ErrorClass::Transient);
        let sends = (0..50)
            .map(|number| producer.send(SendTarget::Any, OutgoingEvent::new(format!("{number}"))));
        let answers = join_all(sends).await;
        assert!(answers.iter().all(Result::is_ok));
        let log = hub.transport("g").log_properties(&"0".into()).await.expect("log");
        assert_eq!(log.last_enqueued.map(|number| number.0), Some(49));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_refused_for_good_is_sent_one_by_one() {
        let hub = MemoryHub::new("results", 1);
        let producer = EntityProducer::new(Arc::new(hub.publisher()));
        hub.fail_sends(1, ErrorClass::Permanent);
        let first = producer.send(SendTarget::Any, OutgoingEvent::new("refused"));
        let others = (0..5).map(|_| producer.send(SendTarget::Any, OutgoingEvent::new("fine")));
        let (first, others) = tokio::join!(first, join_all(others));
        assert_eq!(
            others.iter().filter(|answer| answer.is_ok()).count() + usize::from(first.is_ok()),
            6
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_send_is_flushed_and_a_closed_producer_takes_no_more() {
        let hub = MemoryHub::new("results", 1);
        let producer = EntityProducer::new(Arc::new(hub.publisher()));
        producer.flush().await;
        hub.fail_sends(5, ErrorClass::Transient);
        let mut dropped = Box::pin(producer.send(SendTarget::Any, OutgoingEvent::new("a")));
        assert!(futures::poll!(&mut dropped).is_pending());
        drop(dropped);
        let end = async || {
            let log = hub.transport("g").log_properties(&"0".into()).await.expect("log");
            log.last_enqueued.map(|number| number.0)
        };
        assert_eq!(end().await, None);
        producer.close().await;
        assert_eq!(end().await, Some(0));
        let error = producer.send(SendTarget::Any, OutgoingEvent::new("b")).await.expect_err("b");
        assert_eq!(error.class(), ErrorClass::Permanent);
        let batch = producer.send_batch(SendTarget::Any, vec![OutgoingEvent::new("c")]).await;
        assert_eq!(batch.expect_err("c").class(), ErrorClass::Permanent);
    }
}
