//! Carries a job out: hands letters out at its pace, looks for those that came back, and writes it down.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::hand_out::{Handed, Handing, Way};
use super::job::{Job, Plan};
use super::journal::{End, Journal, Known, Line, Note};
use super::letters::{note, release};
use super::looking::{Seen, look, survey};
use crate::clock::Clock;
use crate::error::{Error, ErrorClass};
use crate::failure_store::FailureStore;
use crate::state::replay::{Counts, Fate, Next, Replay, Stop};

/// Letters that are being handed out at once.
const HAND_OUTS_AT_ONCE: usize = 32;

/// How long after a change the next look begins. It doubles while nothing changes, up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// So many looks in a row may fail.
const MAX_FAILED_LOOKS: u32 = 5;

/// Whether to wait for what is handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Until all letters have their fate.
    ForResults,
    /// Until all are handed out.
    No,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The job is over.
    Over(End),
    /// All is handed out, and was not waited for.
    HandedOut,
    /// It was told to stop. The job can be gone on with.
    Interrupted,
}

/// Runs a job until it is over, or until `stop` completes: then it waits only for the letters that are being
/// handed out. `progress` is told how far the job is. It blocks for moments while it writes its journal.
///
/// # Errors
/// As the store or the hub fails, repeatedly or for good; `Permanent` if the job is of another way, or if its
/// journal cannot be written. The job can be continued.
///
/// # Cancel safety
/// A dropped call is like a killed process: the job can be continued.
pub async fn run(
    job: &mut Job,
    store: &dyn FailureStore,
    way: &Way,
    wait: Wait,
    clock: &dyn Clock,
    progress: &watch::Sender<Counts>,
    stop: impl Future<Output = ()>,
) -> Result<Ended, Error> {
    if let Some(end) = job.end() {
        progress.send_replace(job.counts());
        return Ok(Ended::Over(end));
    }
    if way.entity() != job.plan.to.as_ref() {
        let message = format!("the job {job} was made to replay letters to another place");
        return Err(Error::new(ErrorClass::Permanent, "replay the letters", message));
    }
    let seen = if job.journal.known.is_empty() {
        Vec::new()
    } else {
        survey(store, job, matches!(way, Way::Entity(_))).await?
    };
    let Job { plan, journal, edits, .. } = job;
    let handing = Handing { store, plan, edits: edits.as_ref(), way, clock };
    let now = Instant::now().into_std();
    let mut run = Run {
        handing,
        journal,
        replay: Replay::new(plan.len(), plan.limits, now),
        parked: BTreeSet::new(),
        marked: Vec::new(),
        progress,
        failed: None,
    };
    run.restore(seen)?;
    run.until(wait, stop).await
}

/// What the loop waits for.
enum Pause {
    /// A time.
    Until(Instant),
    /// Something that is under way.
    Change,
    /// Nothing: all letters have their fate.
    Over,
}

struct Run<'a> {
    handing: Handing<'a>,
    journal: &'a mut Journal,
    replay: Replay,
    /// Letters that are below `parked/`, as far as we know.
    parked: BTreeSet<usize>,
    /// Letters that have their fate and may have the mark of the job yet. It is taken away behind the journal: a letter
    /// without a mark and without a fate would be handed out again.
    marked: Vec<usize>,
    progress: &'a watch::Sender<Counts>,
    /// Why nothing more is handed out.
    failed: Option<Error>,
}

type HandOuts<'a> =
    FuturesUnordered<Pin<Box<dyn Future<Output = (usize, Result<Handed, Error>)> + Send + 'a>>>;
type Look<'a> = Pin<Box<dyn Future<Output = Result<Vec<Seen>, Error>> + Send + 'a>>;

impl<'a> Run<'a> {
    fn restore(&mut self, seen: Vec<Seen>) -> Result<(), Error> {
        self.replay.restore(seen.iter().map(|(letter, fate, _)| (*letter, *fate)));
        let mut lines = Vec::new();
        for (letter, fate, note) in seen {
            match fate {
                Fate::Out => {
                    self.parked.insert(letter);
                }
                Fate::InDoubt | Fate::Dropped => self.marked.push(letter),
                _ => {}
            }
            if !matches!(self.journal.known.get(&letter), Some(Known::Has(_))) {
                lines.push(line(letter, fate, note));
            }
        }
        self.write(&lines)
    }

    async fn until(mut self, wait: Wait, stop: impl Future<Output = ()>) -> Result<Ended, Error> {
        tokio::pin!(stop);
        let mut is_stopped = false;
        let mut hand_outs = HandOuts::new();
        let mut looks = Looks::new();
        loop {
            self.release().await;
            let pause = self.begin(&mut hand_outs, is_stopped)?;
            self.progress.send_replace(self.replay.counts());
            if hand_outs.is_empty()
                && let Some(ended) = self.ended(&pause, wait, is_stopped)?
            {
                return Ok(ended);
            }
            let is_looking = wait == Wait::ForResults && !self.parked.is_empty();
            let until = match pause {
                Pause::Until(at) => Some(at),
                Pause::Change | Pause::Over => None,
            };
            tokio::select! {
                biased;
                () = &mut stop, if !is_stopped => is_stopped = true,
                Some((letter, handed)) = hand_outs.next(), if !hand_outs.is_empty() => {
                    self.on_handed(letter, handed)?;
                    looks.hurry();
                }
                seen = looks.next(self.handing.store, self.handing.plan, &self.parked), if is_looking => {
                    self.on_look(seen?, &mut looks)?;
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    async fn release(&mut self) {
        let Handing { store, plan, .. } = self.handing;
        while let Some(letter) = self.marked.pop() {
            let Some(event) = plan.event(letter) else { continue };
            // One that is damaged has no mark that anybody can read.
            if let Err(error) = release(store, &event, &plan.job).await
                && error.class() != ErrorClass::BadData
            {
                self.failed.get_or_insert(error);
            }
        }
    }

    /// Begins what may be handed out.
    fn begin(&mut self, hand_outs: &mut HandOuts<'a>, is_stopped: bool) -> Result<Pause, Error> {
        let mut letters = Vec::new();
        let pause = loop {
            if is_stopped || self.failed.is_some() {
                break Pause::Change;
            }
            if hand_outs.len() + letters.len() >= HAND_OUTS_AT_ONCE {
                break Pause::Change;
            }
            match self.replay.next(Instant::now().into_std()) {
                Next::HandOut(letter) => letters.push(letter),
                Next::At(at) => break Pause::Until(at.into()),
                Next::Results => break Pause::Change,
                Next::Over => break Pause::Over,
            }
        };
        let lines: Vec<_> = letters.iter().map(|letter| Line::HandingOut(*letter)).collect();
        self.write(&lines)?;
        if matches!(self.handing.way, Way::Entity(_)) && !letters.is_empty() {
            // The hub does not tell later what it was given.
            self.flush()?;
        }
        for letter in letters {
            let handing = self.handing;
            hand_outs.push(Box::pin(async move { (letter, handing.hand_out(letter).await) }));
        }
        Ok(pause)
    }

    /// How the run ended, if nothing is being handed out any more and nothing has to be waited for.
    fn ended(
        &mut self,
        pause: &Pause,
        wait: Wait,
        is_stopped: bool,
    ) -> Result<Option<Ended>, Error> {
        if let Some(error) = self.failed.take() {
            self.flush()?;
            return Err(error);
        }
        if matches!(pause, Pause::Over) {
            let end = match self.replay.stop() {
                None => End::Finished,
                Some(Stop::Canary) => End::Canary,
                Some(Stop::Share) => End::Share,
            };
            self.write(&[Line::Ended(end)])?;
            self.flush()?;
            return Ok(Some(Ended::Over(end)));
        }
        let Counts { waiting, .. } = self.replay.counts();
        let ended = match wait {
            _ if is_stopped => Some(Ended::Interrupted),
            Wait::No if waiting == 0 => Some(Ended::HandedOut),
            Wait::No | Wait::ForResults => None,
        };
        if ended.is_some() {
            self.flush()?;
        }
        Ok(ended)
    }

    fn on_handed(&mut self, letter: usize, handed: Result<Handed, Error>) -> Result<(), Error> {
        let (fate, note, failed) = match handed {
            Ok(Handed::Out) => (Fate::Out, None, None),
            Ok(Handed::Has(fate, note)) => (fate, note, None),
            Ok(Handed::Refused(error)) => (Fate::Waiting, None, Some(error)),
            Ok(Handed::InDoubt(error)) => (Fate::InDoubt, Some(note(&error)), Some(error)),
            Err(error) => {
                // It may be handed out or not: the next run looks.
                self.replay.on_fate(letter, Fate::Waiting);
                self.failed.get_or_insert(error);
                return Ok(());
            }
        };
        match fate {
            Fate::Out => {
                self.parked.insert(letter);
            }
            Fate::InDoubt => self.marked.push(letter),
            _ => {}
        }
        self.replay.on_fate(letter, fate);
        if let Some(error) = failed {
            self.failed.get_or_insert(error);
        }
        self.write(&[line(letter, fate, note)])
    }

    fn on_look(&mut self, seen: Vec<Seen>, looks: &mut Looks<'a>) -> Result<(), Error> {
        if !seen.is_empty() {
            looks.hurry();
        }
        let mut lines = Vec::with_capacity(seen.len());
        for (letter, fate, note) in seen {
            if self.parked.remove(&letter) {
                self.replay.on_fate(letter, fate);
                lines.push(line(letter, fate, note));
            }
        }
        self.write(&lines)
    }

    fn write(&mut self, lines: &[Line]) -> Result<(), Error> {
        if lines.is_empty() {
            return Ok(());
        }
        self.journal.write(lines).map_err(not_written)
    }

    fn flush(&self) -> Result<(), Error> {
        self.journal.flush().map_err(not_written)
    }
}

fn not_written(error: std::io::Error) -> Error {
    let message = "the journal of the job cannot be written: free space, or mend its folder, and go on with it";
    Error::new(ErrorClass::Permanent, "write the journal of the job", message).with_source(error)
}

/// What is written of a letter's fate.
fn line(letter: usize, fate: Fate, note: Option<Note>) -> Line {
    let noted = || note.clone().unwrap_or(Note { class: None, why: String::new() });
    match fate {
        Fate::Waiting => Line::Back(letter),
        Fate::Out => Line::Out(letter),
        Fate::Done => Line::Done(letter),
        Fate::FailedAgain => Line::FailedAgain(letter, noted()),
        Fate::Dropped => Line::Dropped(letter),
        Fate::Skipped => Line::Skipped(letter, noted()),
        Fate::InDoubt => Line::InDoubt(letter, noted()),
    }
}

/// Looks for letters that came back, now and then. One that has begun is gone on with.
struct Looks<'a> {
    delay: Duration,
    at: Instant,
    under_way: Option<Look<'a>>,
    failures: u32,
}

impl<'a> Looks<'a> {
    fn new() -> Self {
        let delay = FIRST_LOOK;
        Self { delay, at: Instant::now() + delay, under_way: None, failures: 0 }
    }

    /// Something changed: more may.
    fn hurry(&mut self) {
        self.delay = FIRST_LOOK;
        self.at = self.at.min(Instant::now() + FIRST_LOOK);
    }

    /// Waits for the end of the next look.
    ///
    /// # Errors
    /// As the store fails, again and again.
    ///
    /// # Cancel safety
    /// The look goes on in the next call.
    async fn next(
        &mut self,
        store: &'a dyn FailureStore,
        plan: &'a Plan,
        parked: &BTreeSet<usize>,
    ) -> Result<Vec<Seen>, Error> {
        loop {
            if self.under_way.is_none() {
                sleep_until(self.at).await;
            }
            let look = self.under_way.get_or_insert_with(|| {
                Box::pin(look(store, plan, parked.iter().copied().collect()))
            });
            let looked = look.await;
            self.under_way = None;
            match looked {
                Ok(seen) => {
                    self.failures = 0;
                    self.delay = (self.delay * 2).min(LONGEST_LOOK);
                    self.at = Instant::now() + self.delay;
                    return Ok(seen);
                }
                Err(error) if error.class().is_retryable() && self.failures < MAX_FAILED_LOOKS => {
                    self.failures += 1;
                    self.at = Instant::now() + FIRST_LOOK * 2_u32.saturating_pow(self.failures);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
