//! The lines of a list on their way: what is handed to the download worker, and what waits to be tried
//! again, and why.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::letters::{Letters, place};
use super::line::Key;
use super::queue::FAULT;
use longshore::consumer::{EventContext, EventHandler};
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::error::{Error, ErrorClass};
use longshore::event::{Event, SequenceNumber};
use longshore::outcome::{Failure, Outcome, RetryDelay};
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::task::DownloadTask;

/// Refuses the lines that are no tasks, and downloads the rest.
pub(super) struct Lines {
    download: DownloadWorker,
    letters: Letters,
    waiting: Arc<Waiting>,
}

impl Lines {
    pub(super) fn new(download: DownloadWorker, letters: Letters, waiting: Arc<Waiting>) -> Self {
        Self { download, letters, waiting }
    }
}

impl EventHandler for Lines {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        if let Some(fault) = event.properties().get(FAULT).and_then(|fault| fault.as_text()) {
            return Outcome::dead_letter(Failure::new(ErrorClass::BadData, fault));
        }
        let number = event.sequence_number();
        self.waiting.on_begun(number);
        let outcome = self.download.handle(event.clone(), context).await;
        match &outcome {
            // The next run's.
            Outcome::Retry(request) if request.delay == RetryDelay::PutBack => {}
            Outcome::Retry(request) => {
                self.waiting.on_put_off(number, request.delay, &request.failure);
            }
            Outcome::Deferred(_) | Outcome::Skip(_) => self.on_file(&event),
            _ => {}
        }
        match outcome {
            Outcome::Abort(_) => outcome.with_failure(|failure| {
                failure.message = format!("{}: {}", place(&event), failure.message);
            }),
            outcome => outcome,
        }
    }
}

impl Lines {
    /// Its file is where it belongs.
    fn on_file(&self, event: &Event) {
        if !self.letters.are_known() {
            return;
        }
        let key = event.message_id().and_then(|id| Key::parse(&id));
        if let (Some(key), Ok(task)) = (key, DownloadTask::from_json(event.body())) {
            self.letters.on_done(&key, task.path.as_str());
        }
    }
}

/// A sink of dead letters: whose task has one waits no more.
#[derive(Debug)]
pub(super) struct Ending<S> {
    pub(super) letters: S,
    pub(super) waiting: Arc<Waiting>,
}

impl<S: DeadLetterSink> DeadLetterSink for Ending<S> {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        self.waiting.on_begun(letter.event.sequence_number());
        self.letters.write(letter)
    }
}

/// Tasks that wait for another attempt.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<HashMap<SequenceNumber, PutOff>>);

#[derive(Debug)]
struct PutOff {
    /// When it is tried again, if that is known.
    until: Option<Instant>,
    why: String,
}

/// What is said of those that wait: how many, until the first of them is tried again, and why that one
/// waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WaitingTasks {
    pub(crate) count: usize,
    pub(crate) left: Option<Duration>,
    pub(crate) why: String,
}

impl fmt::Display for WaitingTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.count == 1 { "waits" } else { "wait" };
        write!(f, "{} {verb}", self.count)?;
        if let Some(left) = self.left {
            write!(f, " {} s", left.as_secs_f64().ceil())?;
        }
        write!(f, ": {}", self.why)
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<SequenceNumber, PutOff>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_begun(&self, number: SequenceNumber) {
        self.lock().remove(&number);
    }

    fn on_put_off(&self, number: SequenceNumber, delay: RetryDelay, failure: &Failure) {
        let until = match delay {
            RetryDelay::After(delay)
            | RetryDelay::LaneCloses(delay)
            | RetryDelay::Postponed(delay) => Some(Instant::now() + delay),
            _ => None,
        };
        self.lock().insert(number, PutOff { until, why: reason(&failure.message) });
    }

    /// What waits now. Who begins no more waits no more.
    pub(super) fn now(&self) -> Option<WaitingTasks> {
        let waiting = self.lock();
        // Of those whose time is known the first; without one, any.
        let first =
            waiting.values().min_by_key(|put_off| (put_off.until.is_none(), put_off.until))?;
        let left = first.until.map(|until| until.saturating_duration_since(Instant::now()));
        Some(WaitingTasks { count: waiting.len(), left, why: first.why.clone() })
    }
}

/// What is wrong, without the task and its URL: "503 Service Unavailable" of "task 7: https://h/x: the
/// server answered 503 Service Unavailable".
fn reason(message: &str) -> String {
    let what = message.rsplit(": ").next().unwrap_or(message);
    what.strip_prefix("the server answered ").unwrap_or(what).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_said_with_the_first_to_go_on() {
        let waiting = Waiting::default();
        assert_eq!(waiting.now(), None);
        let failure = |what: &str| Failure::transient(format!("task 7: https://h/x: {what}"));
        let after = |seconds| RetryDelay::After(Duration::from_secs(seconds));
        waiting.on_put_off(SequenceNumber(1), RetryDelay::Backoff, &failure("no answer"));
        let said = |waiting: &Waiting| waiting.now().map(|waiting| waiting.to_string());
        assert_eq!(said(&waiting).as_deref(), Some("1 waits: no answer"));
        let busy = failure("the server answered 503 Service Unavailable");
        waiting.on_put_off(SequenceNumber(2), after(38), &busy);
        waiting.on_put_off(SequenceNumber(3), after(60), &failure("no answer"));
        assert_eq!(said(&waiting).as_deref(), Some("3 wait 38 s: 503 Service Unavailable"));
        tokio::time::advance(Duration::from_secs(8)).await;
        waiting.on_begun(SequenceNumber(1));
        assert_eq!(said(&waiting).as_deref(), Some("2 wait 30 s: 503 Service Unavailable"));
        waiting.on_begun(SequenceNumber(2));
        assert_eq!(said(&waiting).as_deref(), Some("1 waits 52 s: no answer"));
    }
}
