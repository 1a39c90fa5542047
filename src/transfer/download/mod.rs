//! The download worker: one task, one file, one result.
//!
//! 1. Read the task.
//! 2. Ask the policy about its URL.
//! 3. Take room for the result.
//! 4. Look whether the file is there already ([`ExistingFiles`]).
//! 5. Stream the body into the store under a temporary name, hashing and counting. A connection that
//!    breaks is gone on from where it broke, where the server lets us.
//! 6. Verify length and hash.
//! 7. Commit. The slot of the task is free.
//! 8. Publish the result, beside those of other tasks, and only then is the task settled.
//!
//! Where the partition is about to leave, a task that has not begun is put back, and so is a file that
//! comes in blocks, once what came of it is written; what comes in its order goes on to its end.
//!
//! A task that is wrong becomes a dead letter; a network that fails is retried; a store that
//! cannot be used stops the consumer, because every other task would fail alike. A body is
//! never held whole, but for small ones: memory per download is a chunk of the network and a chunk of
//! the store.

mod arriving;
mod checks;
mod existing;
mod kept;
mod net;
mod receiving;
mod side_by_side;
mod store_failure;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::existing::Existing;
pub use self::existing::ExistingFiles;
use self::existing::Names;
use self::kept::{Kept, TaskId};
use self::net::{Net, Stopped, put_back};
use self::receiving::Receiving;
use self::store_failure::store_failed;
use super::connections::Connections;
use super::host::{host_lane, host_name};
use super::http::Fetcher;
use super::progress::Progress;
use super::rates::Rates;
use super::task::{DownloadTask, Finished, TransferResult};
use super::url_policy::UrlPolicy;
use crate::blob_store::BlobStore;
use crate::clock::{Clock, SystemClock};
use crate::config::{DownloadLimits, HttpOptions, MAX_SLOTS};
use crate::consumer::{EventContext, EventHandler};
use crate::error::{Error, ErrorClass};
use crate::event::{Event, OutgoingEvent};
use crate::lanes::LaneRule;
use crate::outcome::{Failure, Outcome};
use crate::producer::EntityProducer;
use crate::producer::results::{ResultPublisher, Room};

/// What a result has beside what its task brings along, in bytes, at most.
const RESULT_BYTES: usize = 512;

/// How long a task waits for room with its slot, and then without.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// Decides whether there is nothing to do for a task: `Some` is the reason.
type SkipRule = Arc<dyn Fn(&Event, &DownloadTask) -> Option<String> + Send + Sync>;

/// Fetches files; an [`EventHandler`].
pub struct DownloadWorker {
    fetcher: Fetcher,
    limits: DownloadLimits,
    store: Arc<dyn BlobStore>,
    results: ResultPublisher,
    skip: Option<SkipRule>,
    progress: Arc<Progress>,
    rates: Arc<Rates>,
    existing: ExistingFiles,
    kept: Kept,
    connections: Connections,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for DownloadWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownloadWorker")
            .field("store", &self.store)
            .field("limits", &self.limits)
            .field("rates", &self.rates)
            .finish_non_exhaustive()
    }
}

/// A file that is stored, and what is to be told of it.
struct Stored {
    result: OutgoingEvent,
    task: String,
    room: Room,
}

impl DownloadWorker {
    /// A worker that puts what `policy` allows into `store` and says so to `results`.
    ///
    /// # Errors
    /// Where the HTTP client cannot be set up.
    pub fn new(
        store: Arc<dyn BlobStore>,
        results: Arc<EntityProducer>,
        policy: UrlPolicy,
        limits: DownloadLimits,
    ) -> Result<Self, Error> {
        let fetcher = Fetcher::new(policy, &limits, HttpOptions::default());
        fetcher.prepare()?;
        Ok(Self {
            fetcher,
            limits,
            store,
            results: ResultPublisher::new(results),
            skip: None,
            progress: Arc::default(),
            rates: Arc::default(),
            existing: ExistingFiles::default(),
            kept: Kept::default(),
            connections: Connections::new(limits.connections, None),
            clock: Arc::new(SystemClock),
        })
    }

    /// Asks in this way: redirects, proxy, credentials.
    #[must_use]
    pub fn with_http(mut self, options: HttpOptions) -> Self {
        self.fetcher = self.fetcher.with_options(options);
        self
    }

    /// Sets what becomes of tasks whose file is there; [`ExistingFiles::Replace`] unless set.
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingFiles) -> Self {
        self.existing = existing;
        self
    }

    /// Sets how many tasks may be under way, or done with their results not acknowledged, and how many
    /// bytes their results may have; [`MAX_RESULTS`](crate::producer::results::MAX_RESULTS) and
    /// [`MAX_RESULT_BYTES`](crate::producer::results::MAX_RESULT_BYTES) unless set. No more slots than
    /// that are used.
    #[must_use]
    pub fn with_result_room(mut self, results: usize, bytes: usize) -> Self {
        self.results = self.results.resized(results, bytes);
        self
    }

    /// Skips the tasks for which `rule` gives a reason.
    #[must_use]
    pub fn skip_if(
        mut self,
        rule: impl Fn(&Event, &DownloadTask) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.skip = Some(Arc::new(rule));
        self
    }

    /// Keeps to these rates, which may be those of other workers as well.
    #[must_use]
    pub fn with_rates(mut self, rates: Arc<Rates>) -> Self {
        self.rates = rates;
        self
    }

    /// Fetches blocks of large files over no more connections than this to one host, those of other
    /// files included. Give the same number to [`lane_rule`](Self::lane_rule), which limits how many
    /// files of a host are fetched at once. `None`, no limit, unless set.
    #[must_use]
    pub fn with_connections_per_host(mut self, most: Option<usize>) -> Self {
        self.connections = self.connections.with_most_per_host(most);
        self
    }

    /// How fast the worker asks and reads. [`Rates::set`] changes it while it runs.
    pub fn rates(&self) -> Arc<Rates> {
        Arc::clone(&self.rates)
    }

    /// The lanes of a consumer of download tasks, for
    /// [`BatchConsumerBuilder::lanes`](crate::consumer::BatchConsumerBuilder::lanes): the lane of a
    /// task is the host of its URL, and at most so many of a host are fetched at once, over as many
    /// connections. `None`: as many as there are slots. A host whose rate is used up, or that said
    /// when to come back, then holds no slot and no other host up.
    /// [`ConsumerHandle::set_lane_cap`](crate::ConsumerHandle::set_lane_cap) changes the number while
    /// it runs; 0 is refused when the consumer is built.
    pub fn lane_rule(connections_per_host: Option<usize>) -> LaneRule {
        LaneRule::limited(connections_per_host.unwrap_or(MAX_SLOTS), host_lane)
    }

    /// What the worker has done, while it runs.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    async fn run(&self, event: &Event, context: &EventContext) -> Result<Stored, Outcome> {
        let task = DownloadTask::from_json(event.body())
            .map_err(|invalid| Failure::from_error(ErrorClass::BadData, &invalid))
            .map_err(Outcome::DeadLetter)?;
        if let Some(reason) = self.skip.as_ref().and_then(|skip| skip(event, &task)) {
            self.progress.on_skipped();
            return Err(Outcome::skip(reason));
        }
        // Before the work: what is fetched can be told of.
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
        let names = Names::of(event, &task);
        let existing = Existing {
            choice: self.existing,
            fetcher: &self.fetcher,
            store: &*self.store,
            rates: &self.rates,
            progress: &self.progress,
        };
        let existing = tokio::select! {
            biased;
            () = stop.cancelled() => Err(put_back()),
            existing = existing.of(&task, &names) => existing,
        };
        let stored = match existing {
            Ok(None) => self.fetch(&task, &names, TaskId::of(event), context).await,
            Ok(Some(existing)) => Ok(existing),
            Err(outcome) => Err(outcome),
        };
        let (bytes, sha256) = stored.map_err(|outcome| named(&task, outcome))?;
        debug!(task = %task.id, path = %task.path, bytes, "the file is stored");
        let finished = Finished {
            bytes,
            sha256,
            elapsed: started.elapsed(),
            attempts: context.attempt(),
            at: self.clock.now(),
        };
        let id = task.id.clone();
        Ok(Stored { result: result(event, task, &finished)?, task: id, room })
    }

    fn net<'a>(&'a self, stop: &'a CancellationToken) -> Net<'a> {
        Net {
            fetcher: &self.fetcher,
            rates: &self.rates,
            progress: &self.progress,
            limits: &self.limits,
            connections: &self.connections,
            stop,
        }
    }

    /// Fetches the file, or what an earlier attempt left of it to be fetched, and commits it.
    async fn fetch(
        &self,
        task: &DownloadTask,
        names: &Names,
        id: TaskId<'_>,
        context: &EventContext,
    ) -> Result<(u64, [u8; 32]), Outcome> {
        let host = host_name(&task.url).unwrap_or_default();
        let _connection = self.connections.of_file(&host);
        let mut arriving = self.kept.take(&id).unwrap_or_default();
        let (net, store, source) = (self.net(context.handing_off()), &*self.store, names.source());
        let receiving = Receiving { net, store, task, source, host: &host };
        match receiving.all_of(&mut arriving).await {
            Ok((bytes, sha256)) => {
                arriving.commit(names.note(bytes, sha256)).await.map_err(store_failed)?;
                self.progress.on_file(bytes);
                Ok((bytes, sha256))
            }
            Err(Stopped::Broke(outcome))
                if matches!(outcome, Outcome::Retry(_)) && arriving.plan.can_go_on() =>
            {
                self.kept.put(&id, arriving, context);
                Err(outcome)
            }
            // The store keeps what is there, for whoever comes.
            Err(Stopped::Broke(outcome @ Outcome::Retry(_))) if arriving.in_blocks().is_some() => {
                Err(outcome)
            }
            Err(Stopped::Broke(outcome) | Stopped::Ends(outcome)) => {
                arriving.abort().await;
                Err(outcome)
            }
        }
    }
}

impl EventHandler for DownloadWorker {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        match self.run(&event, &context).await {
            Ok(Stored { result, task, room }) => {
                let (settler, deferred) = context.defer();
                let what = format!("task {task}: the file is stored");
                self.results.publish(room, settler, result, what);
                deferred
            }
            Err(outcome) => outcome,
        }
    }
}

/// The event that tells of a file.
fn result(
    event: &Event,
    task: DownloadTask,
    finished: &Finished,
) -> Result<OutgoingEvent, Outcome> {
    let result = TransferResult::new(event, task, finished);
    let body = serde_json::to_vec(&result)
        .map_err(|error| Outcome::dead_letter(Failure::from_error(ErrorClass::BadData, &error)))?;
    let mut outgoing = OutgoingEvent::new(body);
    outgoing.properties = event.properties().clone();
    outgoing.message.message_id =
        event.message_properties().and_then(|message| message.message_id.clone());
    outgoing.message.content_type = Some("application/json".to_owned());
    Ok(outgoing)
}

/// Puts the task's name before the reason.
fn named(task: &DownloadTask, outcome: Outcome) -> Outcome {
    outcome
        .with_failure(|failure| failure.message = format!("task {}: {}", task.id, failure.message))
}

#[cfg(test)]
mod tests;
