//! The requests of one blob of a container, tried again where that is of use, and its commit, which takes
//! effect once however often it is asked for.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::block_id::{BlockId, ID_BYTES};
use super::{NOTE_KEY, TIME_KEY};
use crate::blob_container::Container;
use crate::blob_container::content::{
    BlockList, Condition, Looked, Properties, ReadFrom, Reading, Staged,
};
use crate::blob_container::content_failure::ContentFailure;
use crate::blob_store::sums::crc64;
use crate::blob_store::{
    AccessTier, BlobError, BlobName, BlobNote, Commit, CopySource, ExpectedBlob, NotCopied,
};
use crate::checkpoint::VersionToken;
use crate::error::{Error, ErrorClass, error_chain};
use crate::timestamp::rfc3339_nanos;

/// How often a request is sent, the first time included.
const MOST_TRIES: u32 = 4;

/// The pause before the second try; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest time that a busy service is waited for with a slot held.
const MOST_WAIT: Duration = Duration::from_secs(10);

/// How long an answer is waited for where all that is asked is whether there is one.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// The ETag of no blob, in the form of theirs.
const NO_VERSION: &str = "0x8D0000000000000";

/// What all blobs of a store share.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) container: Container,
    /// The signature or the role lets us write and not look.
    pub(super) is_blind: AtomicBool,
    /// The last request that was tried again and again failed for now: everybody waits, and it was said.
    pub(super) is_away: AtomicBool,
}

impl Target {
    /// Says once that the service takes nothing, and once that it does again.
    fn on_tried(&self, failed: Option<&Error>) {
        if self.is_away.swap(failed.is_some(), Ordering::Relaxed) == failed.is_some() {
            return;
        }
        let container = self.container.url();
        match failed {
            Some(error) => warn!(
                causes = ?error_chain(error),
                "{container} takes nothing for now; files wait for it"
            ),
            None => info!("{container} takes files again"),
        }
    }
}

/// See the [module](self). Cloning shares it.
#[derive(Clone)]
pub(super) struct Upload {
    pub(super) target: Arc<Target>,
    pub(super) name: BlobName,
}

impl<'a> From<&'a CopySource> for ReadFrom<'a> {
    fn from(source: &'a CopySource) -> Self {
        Self { url: &source.url, etag: &source.etag }
    }
}

/// What becomes the blob.
pub(super) enum Content {
    Whole(Bytes, u64),
    Blocks(BlockList),
}

impl Content {
    /// So many staged blocks, in this order.
    pub(super) fn blocks(ids: impl Iterator<Item = BlockId>, count: usize) -> Self {
        Self::Blocks(BlockList::of(ids.map(BlockId::to_bytes), count, ID_BYTES))
    }
}

impl Upload {
    pub(super) async fn stage(&self, id: BlockId, block: Bytes) -> Result<(), BlobError> {
        self.stage_with(id, block, id.crc64).await
    }

    /// The same of a block whose sum is not in its id.
    pub(super) async fn stage_with(
        &self,
        id: BlockId,
        block: Bytes,
        crc64: u64,
    ) -> Result<(), BlobError> {
        let id_bytes = id.to_bytes();
        let container = &self.target.container;
        let stage = || container.stage(self.name.as_str(), &id_bytes, block.clone(), crc64);
        self.again("write", stage).await
    }

    /// Has the service copy a block; its CRC-64, if the service says it.
    pub(super) async fn stage_from(
        &self,
        id: BlockId,
        source: &CopySource,
        block: Range<u64>,
    ) -> Result<Option<u64>, NotCopied> {
        let (name, id) = (self.name.as_str(), id.to_bytes());
        let stage = || self.target.container.stage_from(name, &id, source.into(), &block);
        // What fails for now may be the source, so it is no news of the container.
        let reason = match self.tried_again("copy", stage).await {
            Ok(crc64) => return Ok(crc64),
            Err(ContentFailure::SourceChanged) => return Err(NotCopied::Changed),
            Err(failure @ ContentFailure::Busy(..)) => {
                return Err(NotCopied::Store(self.failed("copy", failure)));
            }
            Err(ContentFailure::Changed) => "the blob is written by somebody else".to_owned(),
            Err(
                ContentFailure::SourceRefused(error)
                | ContentFailure::Refused(error)
                | ContentFailure::Unusable(error)
                | ContentFailure::NotAllowed(error)
                | ContentFailure::BlocksGone(error)
                | ContentFailure::Again(error),
            ) => error.to_string(),
        };
        Err(NotCopied::Refused { reason })
    }

    /// The blocks that are staged of this blob, by whatever upload. Where they may not be looked at, it is
    /// as if there were none.
    pub(super) async fn staged(&self) -> Result<Vec<Staged>, BlobError> {
        Ok(self.staged_if_allowed().await?.unwrap_or_default())
    }

    /// The same; `None` if they may not be looked at.
    pub(super) async fn staged_if_allowed(&self) -> Result<Option<Vec<Staged>>, BlobError> {
        let name = self.name.as_str();
        match self.again("look up", || self.target.container.staged(name)).await {
            Err(BlobError::Unusable { reason, .. }) => {
                debug!(%reason, "blocks from before are not looked for");
                Ok(None)
            }
            staged => staged.map(Some),
        }
    }

    /// Makes the blob of its content.
    pub(super) async fn commit(&self, content: Content, commit: &Commit) -> Result<(), BlobError> {
        let name = self.name.as_str();
        let condition = self.condition(&commit.expected);
        let note = commit.note.as_ref().map(BlobNote::to_string);
        let properties = properties(commit, note.as_deref());
        let container = &self.target.container;
        let sent = match &content {
            Content::Whole(bytes, crc64) => {
                let put =
                    || container.put_whole(name, bytes.clone(), *crc64, &properties, &condition);
                self.tried("commit", put).await
            }
            Content::Blocks(list) => {
                let put = || container.commit(name, list, &properties, &condition);
                self.tried("commit", put).await
            }
        };
        match sent {
            Ok(_) => Ok(()),
            Err(failure @ (ContentFailure::Unusable(_) | ContentFailure::NotAllowed(_))) => {
                Err(self.failed("commit", failure))
            }
            // The answer to an earlier try may be what was lost. Whatever was answered then was said of the
            // blob that it made.
            Err(_) if self.is_committed(note.as_deref()).await => Ok(()),
            Err(failure) => Err(self.failed("commit", failure)),
        }
    }

    /// Whether the blob is there with our own note.
    async fn is_committed(&self, note: Option<&str>) -> bool {
        let looked = self.target.container.look(self.name.as_str()).await;
        let noted = looked.ok().flatten().and_then(|mut looked| looked.metadata.remove(NOTE_KEY));
        note.is_some() && noted.as_deref() == note
    }

    fn condition(&self, expected: &ExpectedBlob) -> Condition {
        match expected {
            // What was taken for nothing may be there.
            _ if self.target.is_blind.load(Ordering::Relaxed) => Condition::Anything,
            ExpectedBlob::Anything => Condition::Anything,
            ExpectedBlob::Absent => Condition::Absent,
            ExpectedBlob::Version(version) => Condition::Version(VersionToken(version.clone())),
        }
    }

    async fn again<T, F>(
        &self,
        operation: &'static str,
        call: impl FnMut() -> F,
    ) -> Result<T, BlobError>
    where
        F: Future<Output = Result<T, ContentFailure>>,
    {
        self.tried(operation, call).await.map_err(|failure| self.failed(operation, failure))
    }

    /// Sends a request, and again where it may succeed; and says where it does not for now.
    async fn tried<T, F>(
        &self,
        operation: &'static str,
        call: impl FnMut() -> F,
    ) -> Result<T, ContentFailure>
    where
        F: Future<Output = Result<T, ContentFailure>>,
    {
        let tried = self.tried_again(operation, call).await;
        match &tried {
            Err(ContentFailure::Again(error) | ContentFailure::Busy(error, _)) => {
                self.target.on_tried(Some(error));
            }
            _ => self.target.on_tried(None),
        }
        tried
    }

    async fn tried_again<T, F>(
        &self,
        operation: &'static str,
        mut call: impl FnMut() -> F,
    ) -> Result<T, ContentFailure>
    where
        F: Future<Output = Result<T, ContentFailure>>,
    {
        let mut pause = FIRST_PAUSE;
        for _ in 1..MOST_TRIES {
            let (error, wait) = match call().await {
                Err(ContentFailure::Again(error)) => (error, Duration::ZERO),
                Err(ContentFailure::Busy(error, wait)) => (error, wait.unwrap_or_default()),
                done => return done,
            };
            if wait > MOST_WAIT {
                return Err(ContentFailure::Busy(error, Some(wait)));
            }
            let name = &self.name;
            debug!(causes = ?error_chain(&error), "could not {operation} {name}; it is tried again");
            let jittered = SmallRng::from_os_rng().random_range(pause / 2..=pause);
            sleep(wait.max(jittered)).await;
            pause *= 2;
        }
        call().await
    }

    fn failed(&self, operation: &'static str, failure: ContentFailure) -> BlobError {
        failed(self.name.to_string(), operation, failure)
    }

    /// Asks to put a blob in place of one that cannot be there: it takes the right to put blobs, and is
    /// refused for that reason or for another one.
    pub(super) async fn check_writable(&self) -> Result<(), BlobError> {
        let (container, name) = (&self.target.container, self.name.as_str());
        let nothing = Properties::default();
        let never = Condition::Version(VersionToken(NO_VERSION.to_owned()));
        let put = || container.put_whole(name, Bytes::new(), crc64(&[]), &nothing, &never);
        self.checked(put).await
    }

    /// Asks for a byte of a blob that need not be there.
    pub(super) async fn check_readable(&self) -> Result<(), BlobError> {
        let (container, name) = (&self.target.container, self.name.as_str());
        self.checked(|| container.read_content(name, Some(&(0..1)))).await
    }

    /// Whether an answer says that the container can be used; one that is about a blob does.
    async fn checked<T, F>(&self, call: impl FnMut() -> F) -> Result<(), BlobError>
    where
        F: Future<Output = Result<T, ContentFailure>>,
    {
        const OPERATION: &str = "reach";
        let name = self.target.container.url().to_owned();
        let Ok(answered) = timeout(CHECK_TIMEOUT, self.tried_again(OPERATION, call)).await else {
            let source = io::Error::from(io::ErrorKind::TimedOut);
            return Err(BlobError::Busy { operation: OPERATION, name, wait: None, source });
        };
        match answered {
            Ok(_)
            | Err(
                ContentFailure::Changed
                | ContentFailure::Refused(_)
                | ContentFailure::SourceChanged
                | ContentFailure::SourceRefused(_)
                | ContentFailure::BlocksGone(_),
            ) => Ok(()),
            Err(ContentFailure::Busy(error, _)) if error.class() == ErrorClass::Throttling => {
                Ok(())
            }
            Err(failure) => Err(failed(name, OPERATION, failure)),
        }
    }

    /// Opens the blob, or a part of it, for reading.
    pub(super) async fn read(
        &self,
        part: Option<&Range<u64>>,
    ) -> Result<Option<Reading>, BlobError> {
        let name = self.name.as_str();
        self.again("read", || self.target.container.read_content(name, part)).await
    }

    /// What is known of the blob, as it is now.
    pub(super) async fn look(&self) -> Result<Option<Looked>, BlobError> {
        let name = self.name.as_str();
        match self.tried("look up", || self.target.container.look(name)).await {
            Err(ContentFailure::NotAllowed(error)) => {
                if !self.target.is_blind.swap(true, Ordering::Relaxed) {
                    debug!(
                        causes = ?error_chain(&error),
                        "blobs that are there are not looked at, and are written over"
                    );
                }
                Ok(None)
            }
            looked => looked.map_err(|failure| self.failed("look up", failure)),
        }
    }
}

/// Whose fault it is.
fn failed(name: String, operation: &'static str, failure: ContentFailure) -> BlobError {
    let cause = |error: Error| io::Error::other(error_chain(&error).join(": "));
    match failure {
        // Of a source, only a copy hears.
        ContentFailure::Changed | ContentFailure::SourceChanged => BlobError::Changed { name },
        ContentFailure::Refused(error) | ContentFailure::SourceRefused(error) => {
            BlobError::Refused { name, reason: error.to_string(), source: None }
        }
        ContentFailure::Unusable(error) | ContentFailure::NotAllowed(error) => {
            BlobError::Unusable { reason: error.to_string(), source: Some(cause(error)) }
        }
        ContentFailure::Busy(error, wait) => {
            BlobError::Busy { operation, name, wait, source: cause(error) }
        }
        ContentFailure::BlocksGone(error) | ContentFailure::Again(error) => {
            BlobError::Transient { operation, name, source: cause(error) }
        }
    }
}

/// All that a blob is beside its bytes, which goes with its commit.
fn properties(commit: &Commit, note: Option<&str>) -> Properties {
    let mut metadata = commit.metadata.clone();
    let time = commit.modified.and_then(rfc3339_nanos);
    let ours = [(NOTE_KEY, note.map(str::to_owned)), (TIME_KEY, time)];
    metadata.extend(ours.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    let tier = commit.tier.map(|tier| match tier {
        AccessTier::Hot => "Hot",
        AccessTier::Cool => "Cool",
        AccessTier::Cold => "Cold",
        AccessTier::Archive => "Archive",
    });
    Properties { content_type: commit.content_type.clone(), metadata, tier }
}
