//! Moving one file: from its source into the store, verified, committed and told of.
//!
//! 1. Take room for the result.
//! 2. Look whether the file is there already ([`ExistingFiles`]).
//! 3. Stream the bytes into the store under a temporary name, summing and counting. A connection that
//!    breaks is gone on from where it broke, if the source lets us; a large file comes over several.
//! 4. Verify length and hash.
//! 5. Commit. The slot of the task is free.
//! 6. Publish the result, beside those of other tasks, and only then is the task settled.
//!
//! Where the partition is about to leave, a task that has not begun is put back, and so is a file that
//! comes in blocks, once what came of it is written; what comes in its order goes on to its end.
//!
//! A file that is wrong becomes a dead letter; a network that fails is retried; a store that cannot be
//! used stops the consumer, because every other task would fail alike; unless the disk is full, and it is
//! chosen ([`FullDisk`]) that a file that does not fit is passed over. A body is never held whole, but
//! for small ones: memory per file is a chunk of the network and a chunk of the store.

mod arriving;
mod by_service;
mod checks;
mod existing;
mod job;
mod kept;
mod net;
mod receiving;
mod room;
mod side_by_side;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::by_service::Refusals;
pub use self::existing::ExistingFiles;
use self::existing::{Existing, Names, There};
pub(super) use self::job::{Job, Named};
use self::kept::{Kept, TaskId};
use self::net::{Net, Stopped, put_back};
use self::receiving::Receiving;
pub use self::room::FullDisk;
use self::room::{Files, is_full};
use super::connections::Connections;
use super::progress::Progress;
use super::rates::Rates;
use super::source::Said;
use super::stages::{MAX_STAGES_BYTES, STAGES};
use super::store_failure::store_failed;
use super::task::{Finished, Moved};
use crate::blob_store::{BlobStore, Commit, ExpectedBlob, Sums};
use crate::clock::{Clock, SystemClock};
use crate::config::{CopyBy, DownloadLimits, GoesAlong};
use crate::consumer::EventContext;
use crate::error::ErrorClass;
use crate::event::{Event, OutgoingEvent};
use crate::outcome::{Failure, Outcome};
use crate::producer::EntityProducer;
use crate::producer::results::{ResultPublisher, Room};

/// What a result has beside what its task brings along, in bytes, at most: the times of all stages are
/// in its body and in a property.
const RESULT_BYTES: usize = 640 + 2 * MAX_STAGES_BYTES;

/// About what the body of a result has.
const USUAL_BODY_BYTES: usize = 512;

/// How long a task waits for room with its slot, and then without.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// What workers of each kind move files with.
pub(super) struct Mover {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) limits: DownloadLimits,
    pub(super) results: ResultPublisher,
    pub(super) progress: Arc<Progress>,
    pub(super) rates: Arc<Rates>,
    pub(super) existing: ExistingFiles,
    pub(super) along: GoesAlong,
    pub(super) copy: CopyBy,
    refusals: Refusals,
    pub(super) connections: Connections,
    kept: Kept,
    room: Files,
    clock: Arc<dyn Clock>,
}

/// A file that is stored, and what is to be told of it.
pub(super) struct Stored {
    result: OutgoingEvent,
    /// What is done.
    what: String,
    room: Room,
}

impl Mover {
    pub(super) fn new(
        store: Arc<dyn BlobStore>,
        results: Arc<EntityProducer>,
        limits: DownloadLimits,
    ) -> Self {
        Self {
            store,
            limits,
            results: ResultPublisher::new(results),
            progress: Arc::default(),
            rates: Arc::default(),
            existing: ExistingFiles::default(),
            along: GoesAlong::default(),
            copy: CopyBy::default(),
            refusals: Refusals::default(),
            connections: Connections::new(limits.connections, None),
            kept: Kept::default(),
            room: Files::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Moves the file of a task.
    ///
    /// # Errors
    /// What becomes of the task instead.
    pub(super) async fn run(
        &self,
        event: &Event,
        context: &EventContext,
        job: &Job<'_>,
        moved: &Moved<'_>,
    ) -> Result<Stored, Outcome> {
        // Before the work: what is moved can be told of.
        let stop = context.handing_off();
        let room = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(put_back()),
            room = timeout(ROOM_WAIT, self.results.room(event.budget_bytes() + RESULT_BYTES)) => room,
        };
        let Ok(room) = room else {
            // The slot is somebody else's, and the task is not at fault.
            let message = "results wait for their hub, and there is no room for more";
            let failure = Failure::new(ErrorClass::Throttling, message);
            return Err(Outcome::postpone(ROOM_WAIT, failure));
        };
        let started = Instant::now();
        let names = Names::of(event, job);
        let existing = Existing {
            choice: self.existing,
            store: &*self.store,
            rates: &self.rates,
            progress: &self.progress,
        };
        let existing = tokio::select! {
            biased;
            () = stop.cancelled() => Err(put_back()),
            existing = existing.of(job, &names) => existing,
        };
        let stored = match existing {
            Ok(There::Replaced(expected)) => {
                self.fetch(job, &names, expected, TaskId::of(event), context).await
            }
            Ok(There::Done(bytes, sums)) => Ok((bytes, sums)),
            Err(outcome) => Err(outcome),
        };
        let (bytes, sums) = stored.map_err(|outcome| named(job, outcome))?;
        debug!(task = %job.id, path = %job.path, bytes, "the file is stored");
        let finished = Finished {
            bytes,
            sums,
            elapsed: started.elapsed(),
            attempts: context.attempt(),
            at: self.clock.now(),
        };
        let what = format!("task {}: the file is stored", job.id);
        Ok(Stored { result: result(event, moved, &finished)?, what, room })
    }

    /// Publishes the result of a file, which settles its task.
    pub(super) fn publish(&self, stored: Stored, context: EventContext) -> Outcome {
        let Stored { result, what, room } = stored;
        self.results.publish_for(context, room, result, what)
    }

    pub(super) fn set_full_disk(&mut self, choice: FullDisk) {
        self.room.choice = choice;
    }

    fn net<'a>(&'a self, stop: &'a CancellationToken) -> Net<'a> {
        Net {
            rates: &self.rates,
            progress: &self.progress,
            limits: &self.limits,
            connections: &self.connections,
            stop,
        }
    }

    /// What is to be known of a file that an earlier attempt asked for.
    async fn said(&self, job: &Job<'_>) -> Result<Said, Outcome> {
        let modified = match job.along.has_time() {
            true => job.source.modified(&self.rates).await?,
            false => None,
        };
        Ok(Said { modified, ..Said::default() })
    }

    /// Fetches the file, or what an earlier attempt left of it to be fetched, and commits it.
    async fn fetch(
        &self,
        job: &Job<'_>,
        names: &Names,
        expected: ExpectedBlob,
        id: TaskId<'_>,
        context: &EventContext,
    ) -> Result<(u64, Sums), Outcome> {
        let host = job.source.host();
        let _connection = self.connections.of_file(&host);
        let mut arriving = self.kept.take(&id).unwrap_or_default();
        let (net, store, source) = (self.net(context.handing_off()), &*self.store, names.source());
        let service = (self.copy == CopyBy::Service).then_some(&self.refusals);
        let room = self.room.begin();
        let receiving = Receiving { net, store, job, source, host: &host, service, room: &room };
        match receiving.all_of(&mut arriving).await {
            Ok((bytes, sums)) => {
                let said = match arriving.said.take() {
                    Some(said) => said,
                    None => self.said(job).await?,
                };
                let note = names.note(bytes, sums.with_md5(None));
                let commit = Commit::new(note).with_expected(expected);
                let commit = job.along.added_to(commit, said);
                if let Err(error) = arriving.commit(commit).await {
                    let (found_full, outcome) = (is_full(&error), store_failed(error));
                    return Err(if found_full { room.without_room(outcome) } else { outcome });
                }
                room.on_stored();
                self.progress.on_file(bytes);
                Ok((bytes, sums))
            }
            Err(Stopped::Broke(outcome))
                if matches!(outcome, Outcome::Retry(_)) && arriving.plan.can_go_on() =>
            {
                self.kept.put(&id, arriving, context);
                Err(outcome)
            }
            // The store keeps what is there, for whoever comes.
            Err(Stopped::Broke(outcome @ Outcome::Retry(_))) if arriving.in_blocks().is_some() => {
                arriving.keep().await;
                Err(outcome)
            }
            Err(Stopped::Broke(outcome) | Stopped::Ends(outcome)) => {
                let found_full = arriving.found_full();
                arriving.abort().await;
                Err(if found_full { room.without_room(outcome) } else { outcome })
            }
        }
    }
}

/// The event that tells of a file.
fn result(event: &Event, moved: &Moved<'_>, finished: &Finished) -> Result<OutgoingEvent, Outcome> {
    let result = moved.result(event, finished);
    let mut body = Vec::with_capacity(USUAL_BODY_BYTES);
    serde_json::to_writer(&mut body, &result)
        .map_err(|error| Outcome::dead_letter(Failure::from_error(ErrorClass::BadData, &error)))?;
    let mut outgoing = OutgoingEvent::new(body);
    outgoing.properties = event.properties().clone();
    outgoing.properties.insert(STAGES.to_owned(), result.handed_on(event));
    outgoing.message.message_id =
        event.message_properties().and_then(|message| message.message_id.clone());
    outgoing.message.content_type = Some("application/json".to_owned());
    Ok(outgoing)
}

/// Puts the task's name before the reason.
fn named(job: &Job<'_>, outcome: Outcome) -> Outcome {
    outcome
        .with_failure(|failure| failure.message = format!("task {}: {}", job.id, failure.message))
}

#[cfg(test)]
mod tests;
