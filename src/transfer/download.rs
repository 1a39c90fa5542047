//! The download worker: one task, one file from a URL, one result.
//!
//! It reads the task, asks the policy about its URL, and moves the file as described in [`transfer`](super).

use std::fmt;
use std::sync::Arc;

use super::along::Along;
use super::host::host_lane;
use super::http::Fetcher;
pub use super::moving::{ExistingFiles, FullDisk};
use super::moving::{Job, Mover, Named, Stored};
use super::progress::Progress;
use super::rates::Rates;
use super::source::Source;
use super::task::{DownloadTask, InvalidTask, Moved, bad_task};
use super::url_policy::UrlPolicy;
use crate::blob_store::BlobStore;
pub use crate::config::CopyBy;
use crate::config::{DownloadLimits, GoesAlong, HttpOptions, MAX_SLOTS};
use crate::consumer::{EventContext, EventHandler};
use crate::error::Error;
use crate::event::Event;
use crate::lanes::LaneRule;
use crate::outcome::Outcome;
use crate::producer::EntityProducer;

/// Decides whether there is nothing to do for a task: `Some` is the reason.
type SkipRule = Arc<dyn Fn(&Event, &DownloadTask) -> Option<String> + Send + Sync>;

/// Fetches files. It is an [`EventHandler`].
pub struct DownloadWorker {
    fetcher: Fetcher,
    mover: Mover,
    skip: Option<SkipRule>,
}

impl fmt::Debug for DownloadWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownloadWorker")
            .field("store", &self.mover.store)
            .field("limits", &self.mover.limits)
            .field("rates", &self.mover.rates)
            .finish_non_exhaustive()
    }
}

impl DownloadWorker {
    /// A worker that fetches the URLs that `policy` allows, puts the files into `store`, and publishes results to
    /// `results`.
    ///
    /// # Errors
    /// If the HTTP client cannot be set up.
    pub fn new(
        store: Arc<dyn BlobStore>,
        results: Arc<EntityProducer>,
        policy: UrlPolicy,
        limits: DownloadLimits,
    ) -> Result<Self, Error> {
        let fetcher = Fetcher::new(policy, &limits, HttpOptions::default());
        fetcher.prepare()?;
        Ok(Self { fetcher, mover: Mover::new(store, results, limits), skip: None })
    }

    /// Sets how it asks: redirects, proxy, credentials. Default: it follows redirects, without a proxy and without
    /// credentials.
    #[must_use]
    pub fn with_http(mut self, options: HttpOptions) -> Self {
        self.fetcher = self.fetcher.with_options(options);
        self
    }

    /// Sets what happens to a task whose file is already there. Default: [`ExistingFiles::Replace`].
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingFiles) -> Self {
        self.mover.existing = existing;
        self
    }

    /// Sets what happens where the disk of the files is full. Default: [`FullDisk::Stop`].
    #[must_use]
    pub fn with_full_disk(mut self, full: FullDisk) -> Self {
        self.mover.set_full_disk(full);
        self
    }

    /// Sets what goes along with each file, beside its content type. Default: nothing. If the service would refuse
    /// the metadata of a task, the task becomes a dead letter before its file is fetched.
    #[must_use]
    pub fn with_along(mut self, along: GoesAlong) -> Self {
        self.mover.along = along;
        self
    }

    /// Sets who copies large files into the store: the worker or the storage service. Default: [`CopyBy::Worker`].
    #[must_use]
    pub fn with_copy(mut self, copy: CopyBy) -> Self {
        self.mover.copy = copy;
        self
    }

    /// Sets how many tasks may be under way, or done and not acknowledged, and how many bytes their results may
    /// have. Defaults: 1,000 ([`MAX_RESULTS`](crate::producer::results::MAX_RESULTS)) and 8 MiB
    /// ([`MAX_RESULT_BYTES`](crate::producer::results::MAX_RESULT_BYTES)). No more slots than that are used.
    #[must_use]
    pub fn with_result_room(mut self, results: usize, bytes: usize) -> Self {
        self.mover.results = self.mover.results.resized(results, bytes);
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

    /// Sets the rates that it keeps to. Several workers may share them. Default: no limit.
    #[must_use]
    pub fn with_rates(mut self, rates: Arc<Rates>) -> Self {
        self.mover.rates = rates;
        self
    }

    /// Sets how many connections to one host fetch blocks of large files at once, including those for other files.
    /// Give the same number to [`lane_rule`](Self::lane_rule), which limits how many files of a host are fetched
    /// at once. Default: `None`, no limit.
    #[must_use]
    pub fn with_connections_per_host(mut self, most: Option<usize>) -> Self {
        self.mover.connections = self.mover.connections.with_most_per_host(most);
        self
    }

    /// How fast the worker asks and reads. [`Rates::set`] changes it while it runs.
    pub fn rates(&self) -> Arc<Rates> {
        Arc::clone(&self.mover.rates)
    }

    /// The lanes of a consumer of download tasks, for
    /// [`BatchConsumerBuilder::lanes`](crate::consumer::BatchConsumerBuilder::lanes): the lane of a task is the
    /// host of its URL. At most this many files of a host are fetched at once, over as many connections. `None`:
    /// as many as there are slots. If the rate of a host is used up, or if a host named a time to come back, its
    /// tasks hold no slot, and no other host waits.
    /// [`ConsumerHandle::set_lane_cap`](crate::consumer::ConsumerHandle::set_lane_cap) changes the number while
    /// the consumer runs. 0 is refused when the consumer is built.
    pub fn lane_rule(connections_per_host: Option<usize>) -> LaneRule {
        LaneRule::limited(connections_per_host.unwrap_or(MAX_SLOTS), host_lane)
    }

    /// What the worker has done, while it runs.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.mover.progress)
    }

    async fn run(&self, event: &Event, context: &EventContext) -> Result<Stored, Outcome> {
        let task = DownloadTask::from_json(event.body()).map_err(bad_task)?;
        if let Some(reason) = self.skip.as_ref().and_then(|skip| skip(event, &task)) {
            self.mover.progress.on_skipped();
            return Err(Outcome::skip(reason));
        }
        let along = Along::of(self.mover.along, &task.metadata)
            .map_err(|reason| bad_task(InvalidTask::Metadata { id: task.id.clone(), reason }))?;
        let moved = Moved { id: &task.id, path: &task.path, metadata: &task.metadata };
        self.mover.run(event, context, &self.job(&task, along), &moved).await
    }

    fn job<'a>(&'a self, task: &'a DownloadTask, along: Along) -> Job<'a> {
        Job {
            id: &task.id,
            source: Source::Http { fetcher: &self.fetcher, url: &task.url },
            path: &task.path,
            sha256: task.sha256,
            md5: task.md5,
            crc64: None,
            size: task.size,
            along,
            named: Named::Url(task.url.as_str()),
        }
    }
}

impl EventHandler for DownloadWorker {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        match self.run(&event, &context).await {
            Ok(stored) => self.mover.publish(stored, context),
            Err(outcome) => outcome,
        }
    }
}
