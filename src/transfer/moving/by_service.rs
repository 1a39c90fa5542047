//! A large file that the service of its store copies from where it is: its bytes never pass this process.
//!
//! 1. The answer to a request for the file says what it is; its body is not read.
//! 2. The service copies a block, then the others side by side, each as long as the source is in that state.
//! 3. The store says how long each block is, and the source is asked once more for its state, for not
//!    every server keeps to the condition.
//!
//! Where the partition is about to leave, no further block is asked for; those that are under way are waited
//! for a little, and the next owner copies the others.
//!
//! Where the service does not read the source, the file is fetched as any other; so is one whose hash is to
//! be compared, for nobody here sees its bytes.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep};
use tracing::debug;
use url::Url;

use super::arriving::Arriving;
use super::job::Job;
use super::net::{First, Net, Stopped, put_back};
use crate::blob_store::{BlobCopier, BlobStore, CopySource, NotCopied, OpenCopy};
use crate::outcome::{Failure, Outcome};
use crate::state::fetch_plan::{Ask, FileVersion, Validator};
use crate::transfer::connections::Connection;
use crate::transfer::http::NotFetched;
use crate::transfer::source::Opened;
use crate::transfer::store_failure::store_failed;

/// How long nothing is copied from a host that the service did not read from: a file that is fetched all
/// the same costs one more request, and the time that the service takes to give up.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// How long blocks under way are waited for where the partition is about to leave: shorter than a hand-off
/// should take. One that comes later is there for the next owner, but its sum is not.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The hosts that the service did not read from lately.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<Arc<str>, Instant>>);

impl Refusals {
    fn has(&self, host: &str) -> bool {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).is_some_and(|at| at.elapsed() < REFUSED_FOR)
    }

    fn on_refused(&self, host: Arc<str>) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, at| at.elapsed() < REFUSED_FOR);
        hosts.insert(host, Instant::now());
    }
}

/// What became of a file that the service was to copy.
pub(super) enum Copied<'a> {
    /// All of it is there.
    All,
    /// It is to be fetched; its first body is there still, or the file is to be asked for anew.
    Not(Option<First<'a>>),
}

/// A file that the service may copy.
#[derive(Clone, Copy)]
pub(super) struct ByService<'a> {
    pub(super) net: Net<'a>,
    pub(super) store: &'a dyn BlobStore,
    pub(super) job: &'a Job<'a>,
    /// What names the file and all that it must be.
    pub(super) source: &'a [u8; 16],
    /// Whose connections it takes.
    pub(super) host: &'a str,
    pub(super) refusals: &'a Refusals,
}

impl ByService<'_> {
    /// Has the service copy the file, if it is one for that. `at` is where redirects led.
    pub(super) async fn run<'b>(
        &self,
        arriving: &mut Arriving,
        at: Option<Url>,
        first: First<'b>,
    ) -> Result<Copied<'b>, Stopped> {
        let Some((version, etag)) = self.version_to_copy(arriving, &first.host) else {
            return Ok(Copied::Not(Some(first)));
        };
        let Some(url) = self.job.source.readable(at.as_ref()) else {
            return Ok(Copied::Not(Some(first)));
        };
        let source = CopySource::new(url, etag).with_crc64(self.job.crc64.is_some());
        let block_bytes = self.net.limits.block_bytes;
        let opened = arriving.open_copy(
            self.store,
            self.job.path,
            self.source,
            &version,
            block_bytes,
            source,
        );
        let Some(OpenCopy { copier, missing }) = opened.await.map_err(store_failed)? else {
            return Ok(Copied::Not(Some(first)));
        };
        let copying =
            Copying { of: *self, copier: &*copier, host: Arc::clone(&first.host), version };
        let copied = copying.all(missing, first).await;
        let total = copying.version.total;
        match copied {
            Ok(Copied::All) => {
                arriving.on_copied(copier, total);
                Ok(Copied::All)
            }
            Ok(not) => Ok(not),
            Err(failed) => {
                // Of another version nothing is of use, and a store that fails takes nothing.
                let is_of_use =
                    !matches!(failed, Failed::NotCopied(NotCopied::Changed | NotCopied::Store(_)));
                let stopped = copying.stopped(failed);
                if is_of_use {
                    copier.keep().await;
                }
                Err(stopped)
            }
        }
    }

    /// The version of a file that the service can be trusted with, and its ETag.
    fn version_to_copy(&self, arriving: &Arriving, host: &str) -> Option<(FileVersion, String)> {
        let Self { net, job, store, .. } = self;
        let is_hashed = job.sha256.is_some() || job.md5.is_some() || store.wants_sha256();
        if is_hashed || arriving.is_fetched || self.refusals.has(host) {
            return None;
        }
        let version = arriving.plan.version_in_parts()?;
        // A shorter one takes fewer requests where it is fetched.
        let Validator::ETag(etag) = &version.validator else { return None };
        let etag = etag.clone();
        (version.total >= net.limits.block_bytes).then_some((version, etag))
    }
}

/// A file that is copied.
struct Copying<'a> {
    of: ByService<'a>,
    copier: &'a dyn BlobCopier,
    host: Arc<str>,
    version: FileVersion,
}

/// Why a block is not copied.
enum Failed {
    NotCopied(NotCopied),
    Outcome(Outcome),
}

impl Copying<'_> {
    async fn all<'b>(
        &self,
        missing: Vec<Range<u64>>,
        first: First<'b>,
    ) -> Result<Copied<'b>, Failed> {
        let mut missing = VecDeque::from(missing);
        let left: u64 = missing.iter().map(|block| block.end - block.start).sum();
        let mut copied = self.version.total - left;
        if let Some(block) = missing.pop_front() {
            match self.block(&block).await {
                Ok(()) => copied += block.end - block.start,
                Err(Failed::NotCopied(NotCopied::Refused { reason })) => {
                    debug!(task = %self.of.job.id, %reason, "the file is fetched");
                    self.of.refusals.on_refused(Arc::clone(&self.host));
                    return Ok(Copied::Not(Some(first)));
                }
                Err(failed) => return Err(failed),
            }
        }
        // It would hold a connection for as long as the copy takes.
        drop(first);
        self.side_by_side(missing, copied).await?;
        let is_whole = self.copier.is_whole().await.map_err(NotCopied::Store);
        if !is_whole.map_err(Failed::NotCopied)? {
            debug!(task = %self.of.job.id, "its blocks are not as long as they must be; it is fetched");
            return Ok(Copied::Not(None));
        }
        if self.of.job.crc64.is_some() && self.copier.crc64().is_none() {
            debug!(task = %self.of.job.id, "the service says no sum to compare; the file is fetched");
            return Ok(Copied::Not(None));
        }
        self.check_version().await?;
        Ok(Copied::All)
    }

    /// Copies these blocks over as many connections of the service as this worker would have.
    async fn side_by_side(
        &self,
        mut missing: VecDeque<Range<u64>>,
        mut copied: u64,
    ) -> Result<(), Failed> {
        let ByService { net, job, host, .. } = self.of;
        let large = net.progress.on_body(job.path.as_str(), copied, Some(self.version.total));
        let (mut streams, mut has_own) = (FuturesUnordered::new(), false);
        loop {
            let given_back = net.connections.given_back();
            let is_leaving = net.stop.is_cancelled() && !missing.is_empty();
            while !is_leaving && !missing.is_empty() && (!has_own || net.connections.has_left(host))
            {
                let connection = if has_own { net.connections.of_block(host) } else { None };
                let is_own = connection.is_none();
                if has_own && is_own {
                    break;
                }
                let Some(block) = missing.pop_front() else { break };
                has_own |= is_own;
                streams.push(self.stream(block, connection).boxed());
            }
            if streams.is_empty() {
                return match is_leaving {
                    true => Err(Failed::Outcome(put_back())),
                    false => Ok(()),
                };
            }
            tokio::select! {
                biased;
                Some((block, is_own, ended)) = streams.next() => {
                    has_own &= !is_own;
                    match ended {
                        Ok(()) => {
                            copied += block.end - block.start;
                            if let Some(large) = &large {
                                large.on_bytes(copied);
                            }
                        }
                        // The others have their time yet.
                        Err(_) if net.stop.is_cancelled() => missing.push_front(block),
                        Err(failed) => return Err(failed),
                    }
                }
                () = given_back, if !missing.is_empty() => {}
            }
        }
    }

    async fn stream(
        &self,
        block: Range<u64>,
        connection: Option<Connection<'_>>,
    ) -> (Range<u64>, bool, Result<(), Failed>) {
        let ended = self.block(&block).await;
        (block, connection.is_none(), ended)
    }

    /// Has a block copied, when the rates let it. It is asked for no more when the partition is about to
    /// leave; what the service has under way by then and does not end soon may be there for the next owner.
    async fn block(&self, block: &Range<u64>) -> Result<(), Failed> {
        let net = &self.of.net;
        // Places that are no hosts have no rate of requests.
        let begin = async {
            match self.host.is_empty() {
                true => Ok(()),
                false => net.rates.begin(&self.host).await.map_err(Failed::Outcome),
            }
        };
        tokio::select! {
            biased;
            () = net.stop.cancelled() => return Err(Failed::Outcome(put_back())),
            begun = begin => begun?,
        }
        let given_up = async {
            net.stop.cancelled().await;
            sleep(STOP_GRACE).await;
        };
        tokio::select! {
            biased;
            copied = self.copier.copy(block.start) => copied.map_err(Failed::NotCopied)?,
            () = given_up => return Err(Failed::Outcome(put_back())),
        }
        net.progress.on_copied(block.end - block.start);
        Ok(())
    }

    /// Asks the source whether it is in the same state as before.
    async fn check_version(&self) -> Result<(), Failed> {
        let ByService { net, job, .. } = self.of;
        let ask = Ask::Part { from: 0, to: 1, validator: &self.version.validator };
        match job.source.get(ask, net.rates).await {
            Ok(Opened { answer, .. }) if self.version.part(&answer, &(0..1)).is_some() => Ok(()),
            Ok(_) | Err(NotFetched::NoSuchPart) => Err(Failed::NotCopied(NotCopied::Changed)),
            Err(NotFetched::Ends(outcome)) => Err(Failed::Outcome(outcome)),
        }
    }

    /// What becomes of the task. What is copied stays, for the next attempt.
    fn stopped(&self, failed: Failed) -> Stopped {
        match failed {
            Failed::Outcome(outcome) => Stopped::Broke(outcome),
            Failed::NotCopied(NotCopied::Store(error)) => Stopped::Ends(store_failed(error)),
            Failed::NotCopied(error) => {
                let message = format!("{}: {error}", self.of.job.source);
                Stopped::Broke(Outcome::retry(Failure::transient(message)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_was_refused_is_tried_again_after_a_while() {
        let refusals = Refusals::default();
        refusals.on_refused("a".into());
        assert!(refusals.has("a") && !refusals.has("b"));
        tokio::time::advance(REFUSED_FOR).await;
        assert!(!refusals.has("a"));
        refusals.on_refused("b".into());
        assert_eq!(refusals.0.lock().unwrap_or_else(PoisonError::into_inner).len(), 1);
    }
}
