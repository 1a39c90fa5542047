//! The MD5 of a file is compared where its task or its source says one, in one piece and in blocks, into a
//! folder and into a container. Needs Azurite, which scripts/test installs.
#![allow(missing_docs)]

mod azurite;
mod support;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use azurite::{ALL, Container};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use longshore::blob_store::container::ContainerBlobStore;
use longshore::blob_store::folder::FolderBlobStore;
use longshore::blob_store::{
    AskedMd5, BlobError, BlobName, BlobSource, BlobStore, Commit, MadeOf, OpenBlocks, ReadBlob,
};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::ConsumerOptions;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::secret::Secret;
use longshore::state::backoff::Backoff;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::{UploadTask, hex};
use longshore::transfer::upload::UploadWorker;
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, OutgoingEvent};
use md5::{Digest as _, Md5};
use support::{drained, until, within};

const BLOCK: u64 = 64 << 10;
const PAUSE: Duration = Duration::from_millis(10);

/// One comes in one piece, the other in blocks.
const LENGTHS: [u64; 2] = [1_000, 9 * BLOCK + 77];

fn content(bytes: u64) -> Bytes {
    (0..bytes).map(|at| (at * 31 / 7) as u8 ^ (at >> 9) as u8).collect::<Vec<u8>>().into()
}

fn md5(bytes: u64) -> [u8; 16] {
    Md5::digest(content(bytes)).into()
}

/// Gives files of the length that they are called by, and says this MD5 of them.
#[derive(Debug)]
struct Source {
    md5: fn(u64) -> Option<[u8; 16]>,
}

impl BlobSource for Source {
    fn read<'a>(
        &'a self,
        name: &'a BlobName,
        part: Option<Range<u64>>,
    ) -> BoxFuture<'a, Result<Option<ReadBlob>, BlobError>> {
        let bytes = name.as_str().parse().expect("a length");
        let part = part.unwrap_or(0..bytes);
        let part = part.start.min(bytes)..part.end.min(bytes);
        let body = content(bytes).slice(part.start as usize..part.end as usize);
        let body = stream::iter([Ok(body)]).boxed();
        let mut blob = ReadBlob::new(bytes, "1".to_owned(), part, body);
        blob.md5 = (self.md5)(bytes);
        async move { Ok(Some(blob)) }.boxed()
    }

    fn shown(&self, name: &BlobName) -> String {
        name.to_string()
    }
}

/// Moves a file of each length; why those became dead letters that did.
async fn moved(
    store: Arc<dyn BlobStore>,
    source: fn(u64) -> Option<[u8; 16]>,
    task: fn(u64) -> Option<[u8; 16]>,
) -> Vec<String> {
    let (tasks, done) = (MemoryHub::new("tasks", 1), MemoryHub::new("done", 1));
    for bytes in LENGTHS {
        let name = BlobName::parse(&bytes.to_string()).expect("a name");
        let mut one = UploadTask::new("t", name);
        one.md5 = task(bytes);
        tasks.publish(0, OutgoingEvent::new(one.to_json()));
    }
    let mut limits = DownloadLimits::default();
    limits.block_bytes = BLOCK;
    limits.connections = 4;
    let mut options = ConsumerOptions::default();
    options.retry_backoff = Backoff::doubling(PAUSE, PAUSE);
    // Fewer than it takes for all of the source to be left alone.
    options.max_attempts = 3;
    let results = Arc::new(EntityProducer::new(Arc::new(done.publisher())));
    let worker = UploadWorker::new(Arc::new(Source { md5: source }), store, results, limits);
    let letters = Arc::new(MemoryDeadLetterSink::new());
    let transport = Arc::new(tasks.transport("$Default"));
    let consumer = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .options(options)
        .dead_letters(letters.clone())
        .event_handler(worker)
        .expect("valid")
        .start();
    let settled = || consumer.snapshot().partitions.first()?.settled_to;
    until("both are settled", || settled().is_some_and(|at| at.0 == 1)).await;
    within("the drain", drained(consumer)).await;
    letters.letters().iter().map(|letter| letter.failure.message.clone()).collect()
}

fn container_store(container: &Container) -> Arc<ContainerBlobStore> {
    let url = Secret::new(container.url(ALL));
    Arc::new(ContainerBlobStore::with_signature(&url).expect("valid").with_budget(2 << 20, 8))
}

/// What is stored, by their lengths.
async fn stored(store: &dyn BlobStore) -> Vec<u64> {
    let mut there = Vec::new();
    for bytes in LENGTHS {
        let name = BlobName::parse(&bytes.to_string()).expect("a name");
        there.extend(store.find(&name).await.expect("looked up").map(|found| found.bytes));
    }
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_md5_is_another_is_never_stored() {
    let container = Container::create().await;
    let dir = tempfile::tempdir().expect("a folder");
    let folder = Arc::new(FolderBlobStore::open(dir.path()).expect("a folder"));
    let stores: [Arc<dyn BlobStore>; 2] = [folder, container_store(&container)];
    for store in stores {
        let letters = moved(Arc::clone(&store), |_| None, |_| Some([7; 16])).await;
        assert_eq!(letters.len(), 2, "{letters:?}");
        for letter in &letters {
            let end = format!("not {}", hex(&[7; 16]));
            assert!(letter.starts_with("task t: ") && letter.ends_with(&end), "{letter}");
        }
        let letters = moved(Arc::clone(&store), |_| Some([7; 16]), |_| None).await;
        assert_eq!(letters.len(), 2, "{letters:?}");
        for letter in &letters {
            assert!(letter.contains("its source said 0707"), "{letter}");
        }
        assert_eq!(stored(&*store).await, Vec::<u64>::new());
        let right = |bytes| Some(md5(bytes));
        assert_eq!(moved(Arc::clone(&store), right, right).await, Vec::<String>::new());
        assert_eq!(stored(&*store).await, LENGTHS);
    }
}

/// A blob in blocks, of which the first ones are written.
async fn open(store: &ContainerBlobStore, md5: AskedMd5) -> OpenBlocks {
    let name = BlobName::parse("f").expect("a name");
    let made = MadeOf::new(&[7; 16], "v", LENGTHS[1], BLOCK).with_sha256(false).with_md5(md5);
    store.open_blocks(&name, &made).await.expect("opened").expect("blocks")
}

async fn write(opened: &OpenBlocks, range: Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min((at / BLOCK + 1) * BLOCK);
        opened.writer.reserve(at).await;
        let part = content(LENGTHS[1]).slice(at as usize..end as usize);
        opened.writer.write_at(at, vec![part]).await.expect("written");
        at = end;
    }
    opened.writer.on_written_to(range.end).await.expect("hashed");
}

#[tokio::test]
async fn staged_blocks_are_of_use_where_the_md5_is_not_asked_for_in_any_case() {
    let container = Container::create().await;
    let store = container_store(&container);
    let half = 4 * BLOCK;
    let opened = open(&store, AskedMd5::OfNewBlobs).await;
    write(&opened, 0..half).await;
    opened.writer.keep().await;
    // What is staged cannot be read back.
    let opened = open(&store, AskedMd5::OfNewBlobs).await;
    assert_eq!(opened.there.len(), 4);
    assert_eq!(opened.writer.sums().md5, None);
    drop(opened);
    let opened = open(&store, AskedMd5::Always).await;
    assert!(opened.there.is_empty());
    write(&opened, 0..LENGTHS[1]).await;
    assert_eq!(opened.writer.sums().md5, Some(md5(LENGTHS[1])));
}

#[tokio::test]
async fn blocks_that_were_found_to_be_wrong_are_of_no_use_to_anybody() {
    let container = Container::create().await;
    let store = container_store(&container);
    let opened = open(&store, AskedMd5::OfNewBlobs).await;
    write(&opened, 0..LENGTHS[1]).await;
    opened.writer.reject().await;
    for md5 in [AskedMd5::No, AskedMd5::OfNewBlobs] {
        assert!(open(&store, md5).await.there.is_empty());
    }
    // And they are no part of what is made of right ones.
    let opened = open(&store, AskedMd5::OfNewBlobs).await;
    write(&opened, 0..LENGTHS[1]).await;
    assert_eq!(opened.writer.sums().md5, Some(md5(LENGTHS[1])));
    opened.writer.commit(Commit::default()).await.expect("committed");
    assert!(container.content("f").await.as_deref() == Some(&content(LENGTHS[1])[..]));
    assert_eq!(container.staged("f").await, 0);
}
