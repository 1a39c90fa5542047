//! Publishing to one entity with patience, and together: sends that wait for an answer at the
//! same time travel in one transfer.
//!
//! A link answers one transfer after the other, so single sends of many tasks at once would
//! wait in line for a round trip each. Here the first of them goes out at once; what comes in
//! while its answer is awaited goes out as one batch after it. Nothing waits for a timer.
//!
//! Every send has a timeout of its adapter's, and one that failed in a way that may pass is
//! tried again with back-off. An answer that was lost is a send that was made: a retry may
//! publish an event twice, and whoever consumes it recognises it by its message id.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;
use tracing::warn;

use crate::error::{Error, ErrorClass, Result, error_chain};
use crate::event::{EntityName, OutgoingEvent};
use crate::state::backoff::Backoff;
use crate::transport::{Publisher, SendReceipt, SendTarget};

/// Default of [`EntityProducer::with_attempts`].
pub const DEFAULT_SEND_ATTEMPTS: u32 = 8;

/// Default of [`EntityProducer::with_backoff`].
pub const DEFAULT_SEND_BACKOFF: Backoff =
    Backoff::doubling(Duration::from_millis(200), Duration::from_secs(10));

/// Most events that travel together.
const MAX_TOGETHER: usize = 1_000;

/// Publishes to one entity. `Ok` means that the service accepted it.
#[derive(Debug)]
pub struct EntityProducer {
    sender: Sender,
    queue: Arc<Mutex<Queue>>,
    under_way: UnderWay,
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
    fn begin(&self, operation: &'static str) -> Result<Send> {
        let mut closed = false;
        self.0.send_modify(|sends| {
            closed = sends.closed;
            sends.count += usize::from(!closed);
        });
        if closed {
            return Err(Error::new(ErrorClass::Permanent, operation, "the producer is closed"));
        }
        Ok(Send(self.clone()))
    }

    async fn none(&self) {
        let mut sends = self.0.subscribe();
        // The sender is here, so the channel is open.
        let _none = sends.wait_for(|sends| sends.count == 0).await;
    }
}

/// A send under way. Dropped, it is not.
#[derive(Debug)]
struct Send(UnderWay);

impl Drop for Send {
    fn drop(&mut self) {
        self.0.0.send_modify(|sends| sends.count -= 1);
    }
}

/// Makes the attempts.
#[derive(Clone, Debug)]
struct Sender {
    publisher: Arc<dyn Publisher>,
    attempts: u32,
    backoff: Backoff,
    random: Arc<Mutex<SmallRng>>,
}

/// Sends that wait to travel.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Whether a task is sending and will take what waits.
    sending: bool,
}

#[derive(Debug)]
struct Waiting {
    target: SendTarget,
    event: OutgoingEvent,
    answer: oneshot::Sender<Result<SendReceipt>>,
    /// Until it is answered.
    _under_way: Send,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EntityProducer {
    /// A producer with [`DEFAULT_SEND_ATTEMPTS`] and [`DEFAULT_SEND_BACKOFF`].
    pub fn new(publisher: Arc<dyn Publisher>) -> Self {
        Self {
            sender: Sender {
                publisher,
                attempts: DEFAULT_SEND_ATTEMPTS,
                backoff: DEFAULT_SEND_BACKOFF,
                random: Arc::new(Mutex::new(SmallRng::from_os_rng())),
            },
            queue: Arc::default(),
            under_way: UnderWay(watch::Sender::default()),
        }
    }

    /// Sets how often a send is tried; at least once.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.sender.attempts = attempts.max(1);
        self
    }

    /// Sets the delays between attempts.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.sender.backoff = backoff;
        self
    }

    /// The entity it publishes to.
    pub fn entity(&self) -> &EntityName {
        self.sender.publisher.entity()
    }

    /// Publishes one event. Called from many tasks at once, it sends batches.
    ///
    /// # Errors
    /// The last error, where trying again is useless or did not help; `Permanent` after
    /// [`EntityProducer::close`].
    ///
    /// # Cancel safety
    /// A dropped call may have published, or may still.
    pub async fn send(&self, target: SendTarget, event: OutgoingEvent) -> Result<SendReceipt> {
        let _under_way = self.under_way.begin("publish an event")?;
        let (answer, answered) = oneshot::channel();
        let first = {
            let mut queue = lock(&self.queue);
            queue.waiting.push(Waiting { target, event, answer, _under_way });
            !std::mem::replace(&mut queue.sending, true)
        };
        if first {
            // In a task of its own: the others' sends must not end with a dropped call of ours.
            tokio::spawn(send_waiting(self.sender.clone(), Arc::clone(&self.queue)));
        }
        answered.await.unwrap_or_else(|_closed| {
            Err(Error::new(ErrorClass::Transient, "publish an event", "the runtime shuts down"))
        })
    }

    /// Publishes events in as few transfers as the link allows, in order.
    ///
    /// # Errors
    /// As [`EntityProducer::send`]; some of the events may have been published.
    ///
    /// # Cancel safety
    /// As [`EntityProducer::send`].
    pub async fn send_batch(&self, target: SendTarget, events: Vec<OutgoingEvent>) -> Result<()> {
        let _under_way = self.under_way.begin("publish a batch")?;
        self.sender.send_batch(target, events).await
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
        self.sender.publisher.close().await;
    }
}

/// Sends what waits until nothing does.
async fn send_waiting(sender: Sender, queue: Arc<Mutex<Queue>>) {
    loop {
        let together = {
            let mut queue = lock(&queue);
            if queue.waiting.is_empty() {
                queue.sending = false;
                return;
            }
            take_together(&mut queue.waiting)
        };
        send_together(&sender, together).await;
    }
}

/// Takes the oldest, and with it others for the same target.
fn take_together(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    let Some(target) = waiting.first().map(|first| first.target.clone()) else {
        return Vec::new();
    };
    let mut room = MAX_TOGETHER;
    waiting
        .extract_if(.., |one| {
            let take = one.target == target && room > 0;
            room -= usize::from(take);
            take
        })
        .collect()
}

async fn send_together(sender: &Sender, together: Vec<Waiting>) {
    if together.len() > 1
        && let Some(target) = together.first().map(|first| first.target.clone())
    {
        let events = together.iter().map(|one| one.event.clone()).collect();
        let sent = sender.send_batch(target, events).await;
        match &sent {
            // One of them may be at fault, for example by its size: let each speak for itself.
            Err(error) if matches!(error.class(), ErrorClass::Permanent | ErrorClass::TooLarge) => {
            }
            _ => {
                for one in together {
                    let partition = match one.target {
                        SendTarget::Partition(id) => Some(id),
                        SendTarget::Any => None,
                    };
                    let answer = sent.as_ref().map(|()| SendReceipt::new(partition, None));
                    // Nobody may be left to hear it.
                    let _heard = one.answer.send(answer.map_err(Error::repeated));
                }
                return;
            }
        }
    }
    for one in together {
        let _heard = one.answer.send(sender.send(one.target, one.event).await);
    }
}

impl Sender {
    async fn send(&self, target: SendTarget, event: OutgoingEvent) -> Result<SendReceipt> {
        let mut failures = 0;
        loop {
            match self.publisher.send(target.clone(), event.clone()).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => self.on_failure(&mut failures, error).await?,
            }
        }
    }

    async fn send_batch(&self, target: SendTarget, events: Vec<OutgoingEvent>) -> Result<()> {
        let mut failures = 0;
        loop {
            match self.publisher.send_batch(target.clone(), events.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => self.on_failure(&mut failures, error).await?,
            }
        }
    }

    async fn on_failure(&self, failures: &mut u32, error: Error) -> Result<()> {
        *failures += 1;
        if !error.class().is_retryable() || *failures >= self.attempts {
            return Err(error);
        }
        let random = lock(&self.random).random();
        let delay = self.backoff.delay(*failures, random);
        warn!(
            message_topic = %self.publisher.entity(),
            class = %error.class(),
            failures = *failures,
            retry_in_ms = delay.as_millis(),
            causes = ?error_chain(&error),
            "an event could not be published; trying again"
        );
        sleep(delay).await;
        Ok(())
    }
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
