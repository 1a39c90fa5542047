//! Hands one letter out: marks it with the job, then parks it for its group or publishes it.
//!
//! Every step can be made again. After a failure whose step may have been applied, the letter is read anew: it may be
//! handled already, and must not be handed out twice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::job::{Edits, Plan};
use super::journal::Note;
use super::letters::{failure_of, keeps_changing, marked, note, noted, put, release, replaying};
use crate::clock::Clock;
use crate::dead_letter::record::DeadLetterRecord;
use crate::error::{Error, ErrorClass};
use crate::event::{EntityName, OutgoingEvent};
use crate::failure_store::{
    EventIdentity, Expected, FailureKey, FailureKind, FailureStore, StoreError, VersionToken,
};
use crate::producer::EntityProducer;
use crate::state::replay::Fate;
use crate::timestamp::rfc3339;
use crate::transport::SendTarget;

const OPERATION: &str = "hand out the letter";

/// How often a step is tried that may pass.
const ATTEMPTS: u32 = 6;

/// The first delay between attempts, which doubles.
const FIRST_DELAY: Duration = Duration::from_millis(200);

/// Where letters go.
#[derive(Clone, Debug)]
pub enum Way {
    /// To the group that they failed in.
    Group,
    /// To another hub.
    Entity(Arc<EntityProducer>),
}

/// What became of the attempt.
#[derive(Debug)]
pub(super) enum Handed {
    /// It waits below `parked/`.
    Out,
    /// It has its fate.
    Has(Fate, Option<Note>),
    /// It was not handed out, and no other would be: the job ends here.
    Refused(Error),
    /// The hub may have it, and does not answer: the job ends here.
    InDoubt(Error),
}

impl Handed {
    fn skipped(note: Note) -> Self {
        Self::Has(Fate::Skipped, Some(note))
    }
}

/// What all letters of a job share.
#[derive(Clone, Copy)]
pub(super) struct Handing<'a> {
    pub(super) store: &'a dyn FailureStore,
    pub(super) plan: &'a Plan,
    pub(super) edits: Option<&'a Mutex<Edits>>,
    pub(super) way: &'a Way,
    pub(super) clock: &'a dyn Clock,
}

/// A letter that is marked.
struct Marked {
    event: EventIdentity,
    version: VersionToken,
    /// What is handed out.
    content: DeadLetterRecord,
    outgoing: OutgoingEvent,
}

/// Waits before a step is tried again.
///
/// # Errors
/// The error, where trying again is useless.
pub(super) async fn pause(failures: &mut u32, error: Error) -> Result<(), Error> {
    *failures += 1;
    if !error.class().is_retryable() || *failures >= ATTEMPTS {
        return Err(error);
    }
    sleep(FIRST_DELAY * 2_u32.saturating_pow(*failures - 1)).await;
    Ok(())
}

impl Handing<'_> {
    /// Hands a letter out.
    ///
    /// # Errors
    /// As the store fails, again and again.
    pub(super) async fn hand_out(&self, letter: usize) -> Result<Handed, Error> {
        let mut failures = 0;
        // Whether it may be parked by an attempt whose answer was lost.
        let mut is_tried = false;
        loop {
            let error = match self.attempt(letter, &mut is_tried).await {
                Ok(handed) => return Ok(handed),
                Err(StoreError::Failed(error)) => error,
                Err(StoreError::Conflict) => match self.plan.event(letter) {
                    Some(event) => keeps_changing(OPERATION, &event.key(FailureKind::Dead)),
                    None => return Ok(Handed::skipped(noted("the job has no such letter"))),
                },
            };
            pause(&mut failures, error).await?;
        }
    }

    async fn attempt(&self, letter: usize, is_tried: &mut bool) -> Result<Handed, StoreError> {
        let marked = match self.mark(letter, *is_tried).await? {
            Ok(marked) => marked,
            Err(handed) => return Ok(handed),
        };
        match self.way {
            Way::Group => {
                *is_tried = true;
                self.park(letter, marked).await
            }
            Way::Entity(producer) => Ok(self.publish(producer, marked).await),
        }
    }

    /// Reads a letter and marks it; or says what became of it.
    async fn mark(
        &self,
        letter: usize,
        is_tried: bool,
    ) -> Result<Result<Marked, Handed>, StoreError> {
        let Some(event) = self.plan.event(letter) else {
            return Ok(Err(Handed::skipped(noted("the job has no such letter"))));
        };
        let (job, generation) = (self.plan.job.as_str(), self.plan.generation(letter));
        let key = event.clone().key(FailureKind::Dead);
        let Some(stored) = self.store.read(&key).await? else {
            return Ok(Err(match is_tried {
                true => Handed::Has(Fate::Done, None),
                false => Handed::skipped(noted("the letter is gone")),
            }));
        };
        let found = match stored.record() {
            Ok(found) => found,
            Err(error) => return Ok(Err(Handed::skipped(note(&error)))),
        };
        if found.generation != generation {
            let is_ours = is_tried && found.job.as_deref() == Some(job);
            return Ok(Err(match is_ours {
                true => Handed::Has(Fate::FailedAgain, Some(failure_of(&found))),
                false => Handed::skipped(noted("it was replayed since the job was made")),
            }));
        }
        if let Some(other) = replaying(&found).filter(|other| *other != job) {
            return Ok(Err(Handed::skipped(noted(format!("the job {other} replays it")))));
        }
        let (content, outgoing) = match self.content(letter, &found) {
            Ok(content) => content,
            Err(error) => return Ok(Err(Handed::skipped(note(&error)))),
        };
        let is_marked = replaying(&found).is_some();
        let version = if is_marked {
            stored.version
        } else {
            self.keep(&found)?;
            let letter = marked(found, job, self.clock.now());
            put(self.store, &key, &letter, &Expected::Version(stored.version)).await?
        };
        Ok(Ok(Marked { event, version, content, outgoing }))
    }

    /// What is handed out of a letter, and whether that can be done.
    fn content(
        &self,
        letter: usize,
        found: &DeadLetterRecord,
    ) -> Result<(DeadLetterRecord, OutgoingEvent), Error> {
        let content = match self.edits {
            Some(edits) => {
                let mut edits = edits.lock().unwrap_or_else(PoisonError::into_inner);
                edits.edited(letter, found)?
            }
            None => found.clone(),
        };
        let outgoing = content.to_outgoing()?;
        Ok((content, outgoing))
    }

    /// Keeps a letter that something else is handed out for.
    fn keep(&self, found: &DeadLetterRecord) -> Result<(), Error> {
        match self.edits {
            Some(edits) => edits.lock().unwrap_or_else(PoisonError::into_inner).keep(found),
            None => Ok(()),
        }
    }

    async fn park(&self, letter: usize, marked: Marked) -> Result<Handed, StoreError> {
        let Marked { event, mut content, .. } = marked;
        let generation = self.plan.generation(letter).saturating_add(1);
        content.generation = generation;
        (content.parkings, content.takeovers) = (0, 0);
        content.job = Some(self.plan.job.clone());
        content.due = Some(rfc3339(self.clock.now()));
        let key = event.clone().key(FailureKind::Parked);
        match put(self.store, &key, &content, &Expected::Absent).await {
            Ok(_version) => Ok(Handed::Out),
            Err(StoreError::Conflict) => self.parked_already(&key, generation).await,
            Err(error) => Err(error),
        }
    }

    /// Something is parked under the letter's key.
    async fn parked_already(
        &self,
        key: &FailureKey,
        generation: u32,
    ) -> Result<Handed, StoreError> {
        let job = self.plan.job.as_str();
        let Some(stored) = self.store.read(key).await? else {
            // What is gone was handled: the next look tells how it went.
            return Ok(Handed::Out);
        };
        let other = stored.record().ok();
        let of = other.as_ref().and_then(|record| record.job.as_deref());
        if of == Some(job) && other.as_ref().is_some_and(|it| it.generation == generation) {
            return Ok(Handed::Out);
        }
        release(self.store, &key.event, job).await?;
        Ok(Handed::skipped(match of {
            Some(other) => noted(format!("the job {other} replays it")),
            None => noted("its event is parked, and is tried again without a replay"),
        }))
    }

    async fn publish(&self, producer: &EntityProducer, marked: Marked) -> Handed {
        let Marked { event, version, outgoing, .. } = marked;
        let Err(error) = producer.send(SendTarget::Any, outgoing).await else {
            return self.delete(event, &version).await;
        };
        match error.class() {
            // Of this letter alone.
            ErrorClass::TooLarge | ErrorClass::BadData => {
                let note = Note { class: Some(error.class()), ..note(&error) };
                match release(self.store, &event, &self.plan.job).await {
                    Ok(_) => Handed::Has(Fate::FailedAgain, Some(note)),
                    Err(error) => Handed::Refused(error),
                }
            }
            ErrorClass::Permanent | ErrorClass::Auth => {
                // A mark that stays is one of a job that can be gone on with.
                let _ = release(self.store, &event, &self.plan.job).await;
                Handed::Refused(error)
            }
            _ => Handed::InDoubt(error),
        }
    }

    /// Deletes a letter that was published.
    async fn delete(&self, event: EventIdentity, version: &VersionToken) -> Handed {
        let key = event.key(FailureKind::Dead);
        let mut failures = 0;
        loop {
            let error = match self.store.delete(&key, version).await {
                // One that was written anew meanwhile is another letter.
                Ok(()) | Err(StoreError::Conflict) => return Handed::Has(Fate::Done, None),
                Err(StoreError::Failed(error)) => error,
            };
            if let Err(error) = pause(&mut failures, error).await {
                let Note { why, .. } = note(&error);
                let why = format!("it was published, and its letter is not deleted: {why}");
                return Handed::Has(Fate::InDoubt, Some(noted(why)));
            }
        }
    }
}

impl Way {
    /// The hub that letters are published to.
    pub(super) fn entity(&self) -> Option<&EntityName> {
        match self {
            Self::Group => None,
            Self::Entity(producer) => Some(producer.entity()),
        }
    }
}
