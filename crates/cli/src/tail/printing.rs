//! Prints what is read, until there is no more, until it is enough, or until nobody reads it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::interval;

use super::line::Lines;
use super::plan::Plan;
use super::reading::{self, Message};
use crate::signals::Signals;
use crate::table::counted;
use crate::terminal::{is_stdout_gone, tell};
use crate::{CommandError, Ending};
use longshore::event::{Event, Incarnation, PartitionId, SequenceNumber};
use longshore::transport::Transport;
use longshore::transport::event_hubs::EventHubsTransport;

/// How often to look whether somebody still reads what is printed.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What comes next.
enum Next {
    Message(Option<Message>),
    Signal(u8),
    /// Nobody reads it any more.
    Gone,
}

/// The last events of all partitions, by when they were enqueued.
type Last = BTreeMap<(SystemTime, PartitionId, SequenceNumber), Event>;

pub(super) async fn run(
    plan: Plan,
    transport: &Arc<EventHubsTransport>,
    incarnation: Incarnation,
    is_json: bool,
) -> Result<Ending, CommandError> {
    let mut signals = Signals::listen()?;
    let (hub, group) = (transport.entity(), transport.consumer_group());
    if plan.readings.is_empty() {
        tell(format_args!("hub {hub} has no event there"));
        return Ok(Ending::Done);
    }
    let (tasks, mut messages) = reading::start(&plan, transport, incarnation);
    if plan.is_followed {
        let partitions = counted(plan.readings.len() as u64, "partition");
        tell(format_args!(
            "following hub {hub}, {partitions}, consumer group {group}; Ctrl-C ends it"
        ));
    }
    let mut printing = Printing::new(&plan, is_json);
    let ended = loop {
        match next(&mut messages, &mut signals).await {
            Next::Message(Some(message)) => match printing.on_message(message) {
                Ok(true) => {}
                Ok(false) => break Ok(printing.ending()),
                Err(error) => break Err(error),
            },
            Next::Message(None) => break printing.on_end().map(|()| printing.ending()),
            // What is followed has no other end.
            Next::Signal(_) if plan.is_followed => break Ok(printing.ending()),
            Next::Signal(code) => break Ok(Ending::Stopped(code)),
            Next::Gone => break Ok(Ending::Done),
        }
    };
    drop(tasks);
    match ended {
        Ok(ending) => Ok(ending),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Ending::Done),
        Err(error) => Err(CommandError::caused("the events cannot be printed", &error)),
    }
}

async fn next(messages: &mut mpsc::Receiver<Message>, signals: &mut Signals) -> Next {
    let mut looks = interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            biased;
            code = signals.next() => return Next::Signal(code),
            message = messages.recv() => return Next::Message(message),
            _now = looks.tick() => {
                if is_stdout_gone() {
                    return Next::Gone;
                }
            }
        }
    }
}

/// What is printed, and how much of it was.
struct Printing {
    lines: Lines,
    /// How many more.
    left: usize,
    /// Kept until the end, where only the last ones are printed.
    last: Option<Last>,
    /// Partitions that are read.
    running: usize,
    is_incomplete: bool,
}

impl Printing {
    fn new(plan: &Plan, is_json: bool) -> Self {
        Self {
            lines: Lines::new(is_json, plan.place_columns),
            left: plan.most.unwrap_or(usize::MAX),
            last: plan.is_last.then(BTreeMap::new),
            running: plan.readings.len(),
            is_incomplete: false,
        }
    }

    /// Says whether there is more to come.
    fn on_message(&mut self, message: Message) -> io::Result<bool> {
        match message {
            Message::Events(events) => {
                self.is_incomplete |= events.iter().any(|event| event.unreadable().is_some());
                match &mut self.last {
                    Some(last) => keep(last, events, self.left),
                    None => {
                        let most = events.len().min(self.left);
                        self.lines.print(events.get(..most).unwrap_or_default())?;
                        self.left -= most;
                    }
                }
            }
            Message::Over => self.running -= 1,
            Message::Failed(partition, why) => {
                self.running -= 1;
                self.is_incomplete = true;
                tell(format_args!("partition {partition}: {why}"));
            }
        }
        if self.running == 0 {
            self.on_end()?;
        }
        Ok(self.running > 0 && self.left > 0)
    }

    /// Prints what was kept.
    fn on_end(&mut self) -> io::Result<()> {
        match self.last.take() {
            Some(last) => self.lines.print(&last.into_values().collect::<Vec<_>>()),
            None => Ok(()),
        }
    }

    fn ending(&self) -> Ending {
        if self.is_incomplete { Ending::SomeFailed } else { Ending::Done }
    }
}

/// Keeps so many, those that were enqueued last.
fn keep(last: &mut Last, events: Vec<Event>, most: usize) {
    for event in events {
        let partition = event.partition().id.clone();
        last.insert((event.enqueued_time(), partition, event.sequence_number()), event);
        while last.len() > most {
            last.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use longshore::event::{EventParts, Partition, Unreadable};

    fn event(partition: &str, number: i64, seconds: u64) -> EventParts {
        let partition = Arc::new(Partition::new("orders", partition));
        let mut parts = EventParts::new(partition, number, "x");
        parts.enqueued_time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        parts
    }

    #[test]
    fn those_that_were_enqueued_last_are_kept_whichever_partition_is_read_first() {
        let mut last = Last::new();
        let of = |partition: &str, seconds: [u64; 3]| {
            let events = (0..).zip(seconds);
            events.map(|(number, at)| event(partition, number, at).into()).collect::<Vec<_>>()
        };
        keep(&mut last, of("1", [1, 5, 9]), 4);
        keep(&mut last, of("0", [2, 5, 8]), 4);
        let kept: Vec<(String, i64)> = last
            .into_values()
            .map(|event| (event.partition().id.to_string(), event.sequence_number().0))
            .collect();
        let expected = [("0", 1), ("1", 1), ("0", 2), ("1", 2)];
        assert_eq!(kept, expected.map(|(id, number)| (id.to_owned(), number)));
    }

    #[test]
    fn an_event_that_cannot_be_decoded_is_a_part_that_is_missing() {
        let mut plan = Plan::new(false, Some(2));
        plan.is_last = false;
        for (is_unreadable, ending) in [(false, Ending::Done), (true, Ending::SomeFailed)] {
            let mut parts = event("0", 1, 1);
            if is_unreadable {
                let (first, last) = (SequenceNumber(1), SequenceNumber(1));
                let reason = "nesting".to_owned();
                parts.unreadable = Some(Box::new(Unreadable { reason, first, last }));
            }
            let mut printing = Printing::new(&plan, true);
            printing.running = 1;
            printing.left = 0;
            assert!(!printing.on_message(Message::Events(vec![parts.into()])).expect("printed"));
            assert_eq!(printing.ending(), ending);
        }
    }
}
