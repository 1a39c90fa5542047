//! The download worker: one task, one file, one result.
//!
//! 1. Read the task.
//! 2. Ask the policy about its URL.
//! 3. Stream the body into the store under a temporary name, hashing and counting.
//! 4. Verify length and hash.
//! 5. Commit.
//! 6. Publish the result, and only then is the task settled.
//!
//! A task that is wrong becomes a dead letter; a network that fails is retried; a store that
//! cannot be used stops the consumer, because every other task would fail alike. A body is
//! never held whole: memory per download is a chunk of the network and a chunk of the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::fetch::{Fetcher, failed, silent};
use super::host::{host_lane, host_name};
use super::limits::{DownloadLimits, SLOW_START};
use super::progress::Progress;
use super::rates::{Meter, Rates};
use super::task::{DownloadTask, Finished, TransferResult, hex};
use super::url_policy::{UrlPolicy, redacted};
use crate::blob_store::{BlobError, BlobStore, BlobWriter};
use crate::clock::{Clock, SystemClock};
use crate::config::MAX_SLOTS;
use crate::consumer::{EventContext, EventHandler};
use crate::error::{Error, ErrorClass};
use crate::event::{Event, OutgoingEvent};
use crate::lanes::LaneRule;
use crate::outcome::{Failure, Outcome};
use crate::producer::EntityProducer;
use crate::transport::SendTarget;

/// How long a result waits before the producer is asked anew, after its own patience ended.
pub const RESULT_WAIT: Duration = Duration::from_secs(1);

/// Decides whether there is nothing to do for a task: `Some` is the reason.
type SkipRule = Arc<dyn Fn(&Event, &DownloadTask) -> Option<String> + Send + Sync>;

/// Fetches files; an [`EventHandler`].
pub struct DownloadWorker {
    fetcher: Fetcher,
    limits: DownloadLimits,
    store: Arc<dyn BlobStore>,
    results: Arc<EntityProducer>,
    skip: Option<SkipRule>,
    progress: Arc<Progress>,
    rates: Arc<Rates>,
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
        Ok(Self {
            fetcher: Fetcher::new(policy, &limits)?,
            limits,
            store,
            results,
            skip: None,
            progress: Arc::default(),
            rates: Arc::default(),
            clock: Arc::new(SystemClock),
        })
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

    async fn run(&self, event: &Event, attempt: u32) -> Result<(), Outcome> {
        let task = DownloadTask::from_json(event.body())
            .map_err(|invalid| Failure::from_error(ErrorClass::BadData, &invalid))
            .map_err(Outcome::DeadLetter)?;
        if let Some(reason) = self.skip.as_ref().and_then(|skip| skip(event, &task)) {
            self.progress.on_skipped();
            return Err(Outcome::skip(reason));
        }
        let started = Instant::now();
        let (bytes, sha256) = self.fetch(&task).await.map_err(|outcome| named(&task, outcome))?;
        self.progress.on_file(bytes);
        debug!(task = %task.id, path = %task.path, bytes, "the file is stored");
        let finished = Finished {
            bytes,
            sha256,
            elapsed: started.elapsed(),
            attempts: attempt,
            at: self.clock.now(),
        };
        self.publish(event, task, &finished).await
    }

    async fn fetch(&self, task: &DownloadTask) -> Result<(u64, [u8; 32]), Outcome> {
        // Without a host it is refused before it can matter.
        let host = host_name(&task.url).unwrap_or_default().into();
        let response = self.fetcher.get(&task.url, &host, &self.rates).await?;
        self.store_body(task, response, self.rates.meter(host)).await
    }

    /// Streams the body into the store, verifies it, and commits it.
    async fn store_body(
        &self,
        task: &DownloadTask,
        mut response: Response,
        mut meter: Meter<'_>,
    ) -> Result<(u64, [u8; 32]), Outcome> {
        let announced = response.content_length();
        self.check_length(task, announced)?;
        let mut writer = self.store.open(&task.path, announced).await.map_err(store_failed)?;
        match self.copy(task, &mut response, &mut meter, &mut *writer).await {
            Ok(copied) => {
                writer.commit().await.map_err(store_failed)?;
                Ok(copied)
            }
            Err(outcome) => {
                writer.abort().await;
                Err(outcome)
            }
        }
    }

    async fn copy(
        &self,
        task: &DownloadTask,
        response: &mut Response,
        meter: &mut Meter<'_>,
        writer: &mut dyn BlobWriter,
    ) -> Result<(u64, [u8; 32]), Outcome> {
        let announced = response.content_length();
        let most = task.size.unwrap_or(self.limits.max_bytes).min(self.limits.max_bytes);
        let started = Instant::now();
        let mut hasher = Sha256::new();
        let mut bytes = 0_u64;
        loop {
            // Not the client's own timeout, which counts what we wait before we read as silence.
            let silence = self.limits.read_timeout;
            let chunk = timeout(silence, response.chunk())
                .await
                .map_err(|_elapsed| {
                    silent(&task.url, &format!("after {bytes} bytes no more came"), silence)
                })?
                .map_err(|error| {
                    failed(&task.url, &format!("the body broke off after {bytes} bytes"), error)
                })?;
            let Some(mut chunk) = chunk else {
                break;
            };
            bytes += chunk.len() as u64;
            meter.on_arrived(chunk.len());
            if bytes > most {
                return Err(Outcome::dead_letter(Failure::permanent(format!(
                    "{}: the body is longer than the {most} bytes it may have",
                    redacted(&task.url)
                ))));
            }
            self.progress.on_received(chunk.len() as u64);
            self.check_rate(task, bytes, started.elapsed().saturating_sub(meter.waited()))?;
            while !chunk.is_empty() {
                let part = meter.next_part(&mut chunk).await;
                hasher.update(&part);
                writer.write(part).await.map_err(store_failed)?;
            }
        }
        meter.on_end().await;
        let wrong_length = |expected: u64, who: &str| {
            format!("{}: {bytes} bytes came where {who} said {expected}", redacted(&task.url))
        };
        if let Some(expected) = announced.filter(|expected| *expected != bytes) {
            let message = wrong_length(expected, "the server");
            return Err(Outcome::retry(Failure::transient(message)));
        }
        if let Some(expected) = task.size.filter(|expected| *expected != bytes) {
            let message = wrong_length(expected, "the task");
            return Err(Outcome::dead_letter(Failure::permanent(message)));
        }
        let sha256: [u8; 32] = hasher.finalize().into();
        match task.sha256 {
            Some(expected) if expected != sha256 => {
                Err(Outcome::dead_letter(Failure::permanent(format!(
                    "{}: the SHA-256 is {}, not {}",
                    redacted(&task.url),
                    hex(&sha256),
                    hex(&expected)
                ))))
            }
            _ => Ok((bytes, sha256)),
        }
    }

    /// Refuses a body that cannot be right before its first byte.
    fn check_length(&self, task: &DownloadTask, announced: Option<u64>) -> Result<(), Outcome> {
        let Some(announced) = announced else {
            return Ok(());
        };
        let fault = if announced > self.limits.max_bytes {
            format!("at most {} may be", self.limits.max_bytes)
        } else if task.size.is_some_and(|size| size != announced) {
            format!("the task said {}", task.size.unwrap_or_default())
        } else {
            return Ok(());
        };
        Err(Outcome::dead_letter(Failure::permanent(format!(
            "{}: the server announced {announced} bytes where {fault}",
            redacted(&task.url)
        ))))
    }

    fn check_rate(
        &self,
        task: &DownloadTask,
        bytes: u64,
        elapsed: Duration,
    ) -> Result<(), Outcome> {
        let least = self.limits.min_bytes_per_second.saturating_mul(elapsed.as_secs());
        if elapsed < SLOW_START || bytes >= least {
            return Ok(());
        }
        Err(Outcome::retry(Failure::transient(format!(
            "{}: {bytes} bytes in {} s are fewer than {} a second",
            redacted(&task.url),
            elapsed.as_secs(),
            self.limits.min_bytes_per_second
        ))))
    }

    async fn publish(
        &self,
        event: &Event,
        task: DownloadTask,
        finished: &Finished,
    ) -> Result<(), Outcome> {
        let id = task.id.clone();
        let result = TransferResult::new(event, task, finished);
        let body = serde_json::to_vec(&result).map_err(|error| {
            Outcome::dead_letter(Failure::from_error(ErrorClass::BadData, &error))
        })?;
        let mut outgoing = OutgoingEvent::new(body);
        outgoing.properties = event.properties().clone();
        outgoing.message.message_id =
            event.message_properties().and_then(|message| message.message_id.clone());
        outgoing.message.content_type = Some("application/json".to_owned());
        let failure = |error: &Error| {
            let message = format!("task {id}: the file is stored, but not its result");
            Failure::new(error.class(), message).caused_by(error)
        };
        // Fetching the file again would not help, so while the hub of the results is away the
        // task waits here, in its slot, until it is told to stop.
        loop {
            match self.results.send(SendTarget::Any, outgoing.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.class().is_retryable() => {
                    warn!(failure = %failure(&error), "a result waits to be published");
                    sleep(RESULT_WAIT).await;
                }
                // The task's own metadata made it so.
                Err(error) if error.class() == ErrorClass::TooLarge => {
                    return Err(Outcome::DeadLetter(failure(&error)));
                }
                Err(error) => return Err(Outcome::abort(failure(&error))),
            }
        }
    }
}

impl EventHandler for DownloadWorker {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        match self.run(&event, context.attempt()).await {
            Ok(()) => Outcome::Done,
            Err(outcome) => outcome,
        }
    }
}

/// Whose fault it is that the store did not take the file.
fn store_failed(error: BlobError) -> Outcome {
    match &error {
        BlobError::Refused { .. } => {
            Outcome::dead_letter(Failure::from_error(ErrorClass::Permanent, &error))
        }
        BlobError::Unusable { .. } => {
            Outcome::abort(Failure::from_error(ErrorClass::Permanent, &error))
        }
        BlobError::Transient { .. } => {
            Outcome::retry(Failure::from_error(ErrorClass::Transient, &error))
        }
    }
}

/// Puts the task's name before the reason.
fn named(task: &DownloadTask, outcome: Outcome) -> Outcome {
    let name = |mut failure: Failure| {
        failure.message = format!("task {}: {}", task.id, failure.message);
        failure
    };
    match outcome {
        Outcome::DeadLetter(failure) => Outcome::DeadLetter(name(failure)),
        Outcome::Abort(failure) => Outcome::Abort(name(failure)),
        Outcome::Retry(mut request) => {
            request.failure = name(request.failure);
            Outcome::Retry(request)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
