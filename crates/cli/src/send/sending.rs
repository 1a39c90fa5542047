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
use longshore::transport::{Publisher, SendReceipt, SendTarget};

/// Most events that wait for their answers.
const MOST_EVENTS: usize = 4_000;

/// Most bytes of their lines.
const MOST_BYTES: usize = 32 << 20;

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
        publisher: Arc<dyn Publisher>,
        partition: Option<&str>,
        partitions: Vec<PartitionId>,
    ) -> Self {
        let first = rand::random_range(0..partitions.len().max(1));
        Self {
            producer: Arc::new(EntityProducer::new(publisher)),
            target: partition.map_or(SendTarget::Any, |id| SendTarget::Partition(id.into())),
            turn: first,
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
        let index = self.turn % self.partitions.len();
        self.turn = self.turn.wrapping_add(1);
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tokio::sync::mpsc;

    use super::*;
    use crate::send::SendArgs;
    use longshore::transport::memory::MemoryHub;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SendArgs,
    }

    /// What came of two lines, though more may come, where so many sends fail.
    async fn sent(hub: &MemoryHub, failures: usize, class: ErrorClass) -> Tally {
        hub.fail_sends(failures, class);
        let args = Cli::try_parse_from(["send"]).expect("no arguments").args;
        let (to, lines) = mpsc::channel(16);
        let mut tally = Tally::new("orders".into(), ["line", "lines"], false);
        let sending = Sending::new(Arc::new(hub.publisher()), None, vec!["0".into()]);
        let write = async {
            for number in [1, 2] {
                let line = Line { number, text: Ok(b"x".to_vec()) };
                // The first one is answered before the second one is there.
                let _read = to.send(Ok(line)).await;
                tokio::time::sleep(std::time::Duration::from_secs(600)).await;
            }
            drop(to);
        };
        let made = Made::new(&args);
        let sending = sending.run(Lines::Read(lines), &made, &mut tally);
        let (ended, ()) = tokio::join!(sending, write);
        assert_eq!(ended.expect("no error"), None);
        tally
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_takes_nothing_any_more_ends_the_run_and_a_refused_event_does_not() {
        let hub = MemoryHub::new("orders", 1);
        let tally = sent(&hub, usize::MAX, ErrorClass::Transient).await;
        assert_eq!(tally.standing(), "0 events sent, 1 not sent");
        assert!(tally.give(None).is_err(), "nothing was sent");

        let hub = MemoryHub::new("orders", 1);
        let tally = sent(&hub, 1, ErrorClass::Permanent).await;
        assert_eq!(tally.standing(), "1 event sent, 1 not sent");
        assert_eq!(tally.give(None).expect("a part"), crate::Ending::SomeFailed);

        let hub = MemoryHub::new("orders", 1);
        let tally = sent(&hub, 7, ErrorClass::Transient).await;
        assert_eq!(tally.standing(), "2 events sent");
    }
}
