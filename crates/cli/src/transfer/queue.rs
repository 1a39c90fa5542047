//! The list as a log: its lines are the events of one partition, read as far as they are wanted.
//!
//! The list is the durable queue, and the results say what of it is done; so nothing is copied before it
//! begins, and the position in the list needs no checkpoint. A thread reads ahead by a bounded number of
//! lines. Lines that are done, repeated, or of a file that another line has are told apart there.
//!
//! Whether the file of a line that is done is still there is looked at behind all other lines, in a second
//! reading of the list: what is new is not to wait for a million looks.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::SystemTime;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{mpsc, watch};

use super::ledger::{Results, Seen, SeenLines};
use super::letters::Letters;
use super::line::{self, Key, Task};
use super::reader::{ListPlace, ListReader, RawLine};
use super::target::Target;
use longshore::error::{Error, ErrorClass};
use longshore::event::{
    ConsumerGroup, EntityName, Event, EventParts, Incarnation, MessageProperties, Partition,
    PartitionId, Position, SequenceNumber,
};
use longshore::transport::{HubProperties, Link, LinkStart, LogProperties, OpenLink, Transport};

/// The property that says where a task came from.
pub(super) const LINE: &str = "line";

/// The property that says which list it is: its path without links.
pub(super) const LIST: &str = "list";

/// The property that says why a line cannot become a task, for the worker's answer.
pub(super) const FAULT: &str = "fault";

/// Lines that travel to the consumer together: a thread is woken for each time.
const TOGETHER: usize = 64;

/// So many bytes of them travel at once, whatever their number.
const TOGETHER_BYTES: usize = 256 * 1024;

/// How many times that much is read ahead of the consumer.
const AHEAD: usize = 16;

/// Events that a link can give again.
const REPEATABLE: usize = 4;

/// How far the list is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    /// Lines whose files are to be fetched, faults included.
    pub(super) tasks: u64,
    /// Lines whose files were complete before.
    pub(super) complete: u64,
    /// The bytes of those that are to be fetched, where each line says its own.
    pub(super) bytes: Option<u64>,
    /// At the end: why it could not be read to its end, or that it was.
    pub(super) end: Option<Result<(), String>>,
}

/// A list that is being read.
#[derive(Clone, Debug)]
pub(super) struct ListQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    entity: EntityName,
    group: ConsumerGroup,
    incarnation: Incarnation,
    listed: watch::Receiver<Listed>,
    given: Mutex<Given>,
}

/// What the links share: there is one at a time.
#[derive(Debug)]
struct Given {
    lines: mpsc::Receiver<Vec<Event>>,
    /// Of those that came, the ones that are not given.
    next: VecDeque<Event>,
    /// The last ones that were given, for a link that begins with them once more.
    last: VecDeque<Event>,
}

impl ListQueue {
    /// Begins to read a list. What `results` and `target` say is complete is not given.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(
        reader: ListReader,
        place: ListPlace,
        results: Results,
        target: Target,
        letters: Letters,
    ) -> std::io::Result<Self> {
        let (sender, lines) = mpsc::channel(AHEAD);
        let (told, listed) = watch::channel(Listed { bytes: Some(0), ..Listed::default() });
        let entity = EntityName::from("list");
        let shared = Arc::new(Shared {
            entity: entity.clone(),
            group: "$Default".into(),
            incarnation: Incarnation(0),
            listed,
            given: Mutex::new(Given { lines, next: VecDeque::new(), last: VecDeque::new() }),
        });
        let reading = Reading {
            name: place.name(),
            list: place.identity().map(|list| list.display().to_string()),
            can_be_read_again: reader.stamp().can_be_read_again(),
            place,
            is_behind: false,
            again: HashSet::new(),
            partition: Arc::new(Partition::new(entity, "0")),
            results,
            target,
            letters,
            seen: SeenLines::new(),
            next: 0,
            listed: Listed { bytes: Some(0), ..Listed::default() },
            told,
        };
        thread::Builder::new()
            .name("list".to_owned())
            .spawn(move || reading.run(reader, &sender))?;
        Ok(Self(shared))
    }

    /// How far it is read.
    pub(super) fn listed(&self) -> Listed {
        self.0.listed.borrow().clone()
    }

    /// Waits for the end of the list.
    pub(super) async fn ended(&self) -> Result<(), String> {
        let mut listed = self.0.listed.clone();
        loop {
            if let Some(end) = &listed.borrow_and_update().end {
                return end.clone();
            }
            if listed.changed().await.is_err() {
                return Err("the list is read no more".to_owned());
            }
        }
    }

    /// The number of the last task, of those that are read.
    pub(super) fn last(&self) -> Option<SequenceNumber> {
        self.0.last()
    }
}

/// Says that a list cannot be read.
pub(super) fn cannot_be_read(name: &str, error: &std::io::Error) -> String {
    format!("the list {name} cannot be read: {error}")
}

/// What is wrong with a task whose file no task may replace.
pub(super) fn is_kept(path: &str) -> String {
    format!(
        "its file {path:?} is the list, or the file with the credentials; give it a path of its own, as a \
         JSON task"
    )
}

/// What is wrong with a task whose file another line has.
pub(super) fn clashes(path: &str, first: u64) -> String {
    format!(
        "its file {path:?} is that of line {first} already; give it a path of its own, as a JSON task"
    )
}

impl Shared {
    fn last(&self) -> Option<SequenceNumber> {
        let tasks = i64::try_from(self.listed.borrow().tasks).unwrap_or(i64::MAX);
        (tasks > 0).then(|| SequenceNumber(tasks - 1))
    }
}

/// Lines that travel to the consumer at once.
#[derive(Default)]
struct Together {
    events: Vec<Event>,
    bytes: usize,
}

impl Together {
    fn extend(&mut self, event: Option<Event>) {
        self.bytes += event.as_ref().map_or(0, |event| event.body().len());
        self.events.extend(event);
    }
}

/// The thread that reads.
struct Reading {
    name: String,
    /// What it is, whatever it is called; none where it is read once.
    list: Option<String>,
    place: ListPlace,
    can_be_read_again: bool,
    /// Whether files of lines that are done are left to the second reading.
    is_behind: bool,
    /// Lines that are done, and whose files are gone.
    again: HashSet<Key>,
    partition: Arc<Partition>,
    results: Results,
    target: Target,
    letters: Letters,
    seen: SeenLines,
    /// The number of the next event.
    next: i64,
    listed: Listed,
    told: watch::Sender<Listed>,
}

impl Reading {
    fn run(mut self, mut reader: ListReader, sender: &mpsc::Sender<Vec<Event>>) {
        let mut together = Together::default();
        let end = loop {
            // Who types a list is not to wait for more lines than there are.
            let waits = !reader.has_line() && !together.events.is_empty();
            if waits && self.send(sender, &mut together).is_err() {
                return;
            }
            match reader.next_line() {
                Ok(Some(line)) => together.extend(self.event(&line)),
                Ok(None) if self.is_behind => {
                    break self.look_behind(sender, &mut together);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(cannot_be_read(&self.name, &error)),
            }
            if self.give(sender, &mut together).is_err() {
                return;
            }
        };
        self.listed.end = Some(end);
        self.publish();
        if !together.events.is_empty() {
            let _nobody_listens = self.send(sender, &mut together);
        }
    }

    /// Gives what is read to the consumer, if it is enough.
    ///
    /// # Errors
    /// Nobody listens any more: the run ends.
    fn give(
        &self,
        sender: &mpsc::Sender<Vec<Event>>,
        together: &mut Together,
    ) -> Result<(), SendError<Vec<Event>>> {
        // Where nothing is under way, the consumer may be waiting for it.
        let is_awaited = sender.capacity() == AHEAD && !together.events.is_empty();
        let is_full = together.events.len() >= TOGETHER || together.bytes >= TOGETHER_BYTES;
        if is_awaited || is_full { self.send(sender, together) } else { Ok(()) }
    }

    fn send(
        &self,
        sender: &mpsc::Sender<Vec<Event>>,
        together: &mut Together,
    ) -> Result<(), SendError<Vec<Event>>> {
        self.publish();
        sender.blocking_send(std::mem::take(together).events)
    }

    /// Reads the list once more, and looks whether the files of lines that are done are there.
    fn look_behind(
        &mut self,
        sender: &mpsc::Sender<Vec<Event>>,
        together: &mut Together,
    ) -> Result<(), String> {
        let name = self.name.clone();
        let failed = |error| cannot_be_read(&name, &error);
        let mut reader = ListReader::open(&self.place).map_err(failed)?;
        while let Some(line) = reader.next_line().map_err(failed)? {
            self.give(sender, together).map_err(|_gone| "the run ended".to_owned())?;
            let Some(done) = self.results.of_line(&line.key).copied() else { continue };
            let Ok(task) = line::read(line.text, &line.key) else { continue };
            let is_gone = self.seen.is_of(&done, &line.key)
                && self.target.look(&task.path, Some(done.bytes)) != Some(done.bytes)
                && self.again.insert(line.key);
            if is_gone {
                self.listed.complete = self.listed.complete.saturating_sub(1);
                together.extend(Some(self.next_event(&line, Ok(task))));
            } else {
                self.target.forget(&task.path);
            }
        }
        Ok(())
    }

    fn publish(&self) {
        self.told.send_replace(self.listed.clone());
    }

    /// The event of a line, if there is something to do.
    fn event(&mut self, line: &RawLine<'_>) -> Option<Event> {
        self.letters.on_listed(&line.key);
        if self.can_be_read_again
            && let Some(done) = self.results.of_line(&line.key)
        {
            match self.seen.on_done(done, &line.key, line.number) {
                Seen::Repeated => return None,
                Seen::New => {
                    self.listed.complete += 1;
                    self.is_behind = true;
                    return None;
                }
                // Said below.
                Seen::Clashes(_) => {}
            }
        }
        let read = match line::read_raw(line.text, line.bytes, &line.key) {
            Ok(task) if self.target.is_kept(&task.path) => Err(is_kept(&task.path)),
            Ok(task) => match self.seen.on_task(&task.path, &line.key, line.number) {
                Seen::Repeated => return None,
                Seen::New if self.is_complete(&task.path, &line.key) => {
                    self.listed.complete += 1;
                    return None;
                }
                Seen::New => Ok(task),
                Seen::Clashes(first) => Err(clashes(&task.path, first)),
            },
            Err(fault) => Err(fault),
        };
        if read.is_err() && !self.seen.on_fault(&line.key) {
            return None;
        }
        Some(self.next_event(line, read))
    }

    /// The next event: a task, or a line with what is wrong with it.
    fn next_event(&mut self, line: &RawLine<'_>, read: Result<Task, String>) -> Event {
        let (body, fault, size) = match read {
            Ok(task) => (task.json, None, task.size),
            Err(fault) => (line::kept(line.text).to_vec(), Some(fault), None),
        };
        let mut parts = EventParts::new(Arc::clone(&self.partition), self.next, body);
        parts.enqueued_time = SystemTime::now();
        let mut message = MessageProperties::default();
        message.message_id = Some(line.key.text().into());
        parts.message = Some(Box::new(message));
        if let Some(list) = &self.list {
            parts.properties.insert(LIST.to_owned(), list.as_str().into());
        }
        parts.properties.insert(LINE.to_owned(), format!("{}:{}", self.name, line.number).into());
        if let Some(fault) = fault {
            parts.properties.insert(FAULT.to_owned(), fault.into());
        }
        self.next += 1;
        self.listed.tasks += 1;
        self.listed.bytes = self.listed.bytes.zip(size).map(|(sum, size)| sum.saturating_add(size));
        parts.into()
    }

    /// Whether its file is there, as an earlier run left it. What cannot be looked at is fetched, and
    /// says then what is wrong.
    fn is_complete(&self, path: &str, key: &Key) -> bool {
        let done = self.results.of_line(key);
        let length = self.target.look(path, done.map(|done| done.bytes));
        let is_complete = length.is_some() && length == done.map(|done| done.bytes);
        if is_complete {
            self.target.forget(path);
        }
        is_complete
    }
}

impl Transport for ListQueue {
    fn namespace(&self) -> &str {
        "local"
    }

    fn entity(&self) -> &EntityName {
        &self.0.entity
    }

    fn consumer_group(&self) -> &ConsumerGroup {
        &self.0.group
    }

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties, Error>> {
        async { Ok(HubProperties::new(self.0.incarnation, vec!["0".into()])) }.boxed()
    }

    fn log_properties<'a>(
        &'a self,
        _partition: &'a PartitionId,
    ) -> BoxFuture<'a, Result<LogProperties, Error>> {
        async { Ok(LogProperties::new(SequenceNumber(0), self.last(), Some(SystemTime::now()))) }
            .boxed()
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        let opened = ListLink::open(Arc::clone(&self.0), options.start);
        async move { opened.map(|link| Box::new(link) as Box<dyn Link>) }.boxed()
    }

    fn first_event<'a>(
        &'a self,
        _partition: &'a PartitionId,
        _from: LinkStart,
    ) -> BoxFuture<'a, Result<Position, Error>> {
        async { Err(Error::new(ErrorClass::Unknown, "look at a line", "a list is read once")) }
            .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

/// Gives the lines to the consumer.
struct ListLink {
    shared: Arc<Shared>,
    /// What was given before and comes again.
    again: VecDeque<Event>,
}

impl ListLink {
    fn open(shared: Arc<Shared>, start: LinkStart) -> Result<Self, Error> {
        let again = {
            let given = shared.given.lock().unwrap_or_else(PoisonError::into_inner);
            let first = match start {
                LinkStart::After(number) => number.0 + 1,
                LinkStart::FirstEvent | LinkStart::EnqueuedAt(_) => 0,
            };
            let last = &given.last;
            let is_gone = last.front().is_some_and(|oldest| oldest.sequence_number().0 > first);
            if is_gone {
                return Err(Error::new(
                    ErrorClass::Permanent,
                    "read the list again",
                    "it is read once; run the command again",
                ));
            }
            last.iter().filter(|event| event.sequence_number().0 >= first).cloned().collect()
        };
        Ok(Self { shared, again })
    }
}

impl Link for ListLink {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize, Error>> {
        let again = self.again.len().min(max_events);
        into.extend(self.again.drain(..again));
        if again > 0 {
            return Poll::Ready(Ok(again));
        }
        let mut given = self.shared.given.lock().unwrap_or_else(PoisonError::into_inner);
        let Given { lines, next, last } = &mut *given;
        if next.is_empty() {
            match lines.poll_recv(cx) {
                Poll::Ready(Some(together)) => next.extend(together),
                // A list that is at its end is a log to which nothing comes.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        let count = next.len().min(max_events);
        let before = into.len();
        into.extend(next.drain(..count));
        let from = into.len().saturating_sub(REPEATABLE).max(before);
        last.extend(into.get(from..).unwrap_or_default().iter().cloned());
        let surplus = last.len().saturating_sub(REPEATABLE);
        last.drain(..surplus);
        Poll::Ready(Ok(count))
    }

    fn restart(
        self: Box<Self>,
        options: OpenLink,
    ) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        let opened = Self::open(self.shared, options.start);
        async move { opened.map(|link| Box::new(link) as Box<dyn Link>) }.boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}
