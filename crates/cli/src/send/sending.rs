//! Sends events many at once, in their order within a key, and within bounds of memory.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::{FutureExt as _, poll};

use super::lines::{Line, Lines};
use super::made::Made;
use super::tally::Tally;
use crate::signals::Signals;
use crate::terminal::{Bar, tell};
use crate::{CommandError, brief};
use longshore::error::{Error, ErrorClass};
use longshore::event::{OutgoingEvent, PartitionId};
use longshore::producer::EntityProducer;
use longshore::transport::event_hubs::EventHubsPublisher;
use longshore::transport::{SendReceipt, SendTarget};

/// Most events that wait for their answers.
const MOST_EVENTS: usize = 4_000;

/// Most bytes of their lines.
const MOST_BYTES: usize = 32 << 20;

/// Events without a key go to one partition, so many, and then to the next one: a batch is of one
/// partition.
const EVENTS_IN_A_ROW: usize = 100;

/// What came of an event.
struct Answer {
    line: u64,
    bytes: usize,
    sent: Result<SendReceipt, Error>,
}

/// Sends to one hub.
pub(super) struct Sending {
    producer: Arc<EntityProducer>,
    target: SendTarget,
    /// In whose turn events without a key go; the service chooses where there are none.
    partitions: Vec<PartitionId>,
    /// Events without a key so far, from a place by chance.
    turn: usize,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
    bytes: usize,
}

/// Why nothing more is read.
enum Stop {
    No,
    Yes,
}

impl Sending {
    pub(super) fn new(
        publisher: EventHubsPublisher,
        partition: Option<&str>,
        partitions: Vec<PartitionId>,
    ) -> Self {
        let first = rand::random_range(0..partitions.len().max(1));
        Self {
            producer: Arc::new(EntityProducer::new(Arc::new(publisher))),
            target: partition.map_or(SendTarget::Any, |id| SendTarget::Partition(id.into())),
            turn: first * EVENTS_IN_A_ROW,
            partitions,
            under_way: FuturesUnordered::new(),
            bytes: 0,
        }
    }

    /// Sends all lines; the exit code where a signal cut it.
    pub(super) async fn run(
        mut self,
        mut lines: Lines,
        made: &Made<'_>,
        tally: &mut Tally,
    ) -> Result<Option<u8>, CommandError> {
        let mut signals = Signals::listen()?;
        let bar = if io::stdin().is_terminal() { None } else { Bar::new() };
        let mut is_over = false;
        while !is_over || !self.under_way.is_empty() {
            let has_room = self.under_way.len() < MOST_EVENTS && self.bytes < MOST_BYTES;
            tokio::select! {
                biased;
                code = signals.next() => {
                    if tally.is_interrupted {
                        return Ok(Some(code));
                    }
                    tell("stopping: what was read is sent first; again to stop at once");
                    tally.is_interrupted = true;
                    is_over = true;
                }
                Some(answer) = self.under_way.next() => {
                    self.bytes -= answer.bytes;
                    is_over |= matches!(take(answer, tally), Stop::Yes);
                    if let Some(bar) = &bar {
                        bar.show(|columns| tally.standing().chars().take(columns).collect());
                    }
                }
                line = lines.next(), if !is_over && has_room => match line {
                    None => is_over = true,
                    Some(Err(error)) => {
                        tally.stop(format!("the lines cannot be read: {error}"));
                        is_over = true;
                    }
                    Some(Ok(line)) => is_over |= matches!(self.send(line, made, tally).await, Stop::Yes),
                },
            }
        }
        drop(bar);
        self.producer.close().await;
        Ok(None)
    }

    /// Hands the event of a line to the producer, which has it in the order of the calls.
    async fn send(&mut self, line: Line, made: &Made<'_>, tally: &mut Tally) -> Stop {
        let Some((number, bytes, event)) = made_of(line, made, tally) else { return Stop::No };
        let target = self.target_of(&event);
        let producer = Arc::clone(&self.producer);
        let sending = async move {
            let sent = producer.send(target, event).await;
            Answer { line: number, bytes, sent }
        };
        let mut sending = sending.boxed();
        match poll!(&mut sending) {
            std::task::Poll::Ready(answer) => take(answer, tally),
            std::task::Poll::Pending => {
                self.bytes += bytes;
                self.under_way.push(sending);
                Stop::No
            }
        }
    }

    fn target_of(&mut self, event: &OutgoingEvent) -> SendTarget {
        if self.target != SendTarget::Any || event.key.is_some() || self.partitions.is_empty() {
            return self.target.clone();
        }
        let index = self.turn / EVENTS_IN_A_ROW % self.partitions.len();
        self.turn += 1;
        self.partitions.get(index).cloned().map_or(SendTarget::Any, SendTarget::Partition)
    }
}

/// Checks all lines, and sends nothing.
pub(super) async fn check(mut lines: Lines, made: &Made<'_>, tally: &mut Tally) {
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => {
                if made_of(line, made, tally).is_some() {
                    tally.on_checked();
                }
            }
            Err(error) => {
                tally.stop(format!("the lines cannot be read: {error}"));
                return;
            }
        }
    }
}

/// The event of a line, with its number and its length; `None` where it is none, which the tally has.
fn made_of(line: Line, made: &Made<'_>, tally: &mut Tally) -> Option<(u64, usize, OutgoingEvent)> {
    let Line { number, text } = line;
    let event = text.and_then(|text| Ok((text.len(), made.event(text)?)));
    match event {
        Ok((bytes, event)) => Some((number, bytes, event)),
        Err(why) => {
            tally.on_failed(number, why);
            None
        }
    }
}

/// Takes an answer in. A failure that is not of the event ends the run: those behind it would fail too.
fn take(answer: Answer, tally: &mut Tally) -> Stop {
    let Answer { line, sent, .. } = answer;
    let error = match sent {
        Ok(receipt) => {
            tally.on_sent(receipt.partition);
            return Stop::No;
        }
        Err(error) => error,
    };
    let why = brief(&error);
    tally.on_failed(line, why.clone());
    match error.class() {
        ErrorClass::Permanent | ErrorClass::TooLarge | ErrorClass::BadData => Stop::No,
        _ => {
            tally.stop(why);
            Stop::Yes
        }
    }
}
