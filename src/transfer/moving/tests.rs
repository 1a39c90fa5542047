//! Bodies without a network, in virtual time.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::arriving::{Arriving, Hashes};
use super::receiving::Pace;
use super::*;
use crate::blob_store::{
    AskedMd5, BlobError, BlobName, BlobSource, BlobWriter, BlockWriter, FoundBlob, MadeOf,
    OpenBlocks, ReadBlob,
};
use crate::config::{Rate, RateLimits};
use crate::state::fetch_plan::{Answer, Version};
use crate::transfer::along::Along;
use crate::transfer::source::{Body, Source};
use crate::transport::memory::MemoryHub;

/// Takes everything and keeps nothing.
#[derive(Debug)]
struct Nowhere;

impl BlobStore for Nowhere {
    fn open<'a>(
        &'a self,
        _name: &'a BlobName,
        _size_hint_bytes: Option<u64>,
    ) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        async { Ok(Box::new(Nowhere) as Box<dyn BlobWriter>) }.boxed()
    }

    fn find<'a>(
        &'a self,
        _name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<FoundBlob>, BlobError>> {
        async { Ok(None) }.boxed()
    }
}

impl BlobSource for Nowhere {
    fn read<'a>(
        &'a self,
        _name: &'a BlobName,
        _part: Option<std::ops::Range<u64>>,
    ) -> BoxFuture<'a, Result<Option<ReadBlob>, BlobError>> {
        async { Ok(None) }.boxed()
    }

    fn shown(&self, name: &BlobName) -> String {
        name.to_string()
    }
}

impl BlobWriter for Nowhere {
    fn write(&mut self, _part: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn commit(self: Box<Self>, _commit: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

fn mover() -> Mover {
    let results = EntityProducer::new(Arc::new(MemoryHub::new("results", 1).publisher()));
    Mover::new(Arc::new(Nowhere), Arc::new(results), DownloadLimits::default())
}

/// A body of ten kilobytes in ten chunks, each after a time.
async fn fetched(mover: &Mover, pause: Duration) -> Result<u64, Outcome> {
    let path = BlobName::parse("a").unwrap();
    let job = Job {
        id: "a",
        source: Source::Blob { from: &Nowhere, name: &path },
        path: &path,
        sha256: None,
        md5: None,
        crc64: None,
        size: None,
        along: Along::default(),
        named: Named::Blob("a"),
    };
    let chunks = futures::stream::iter(0..10).then(move |_| async move {
        tokio::time::sleep(pause).await;
        Ok(Bytes::from(vec![7; 1_000]))
    });
    let body = Body::Blob { pieces: chunks.boxed(), shown: "a".to_owned() };
    let (version, resource) = (Version::default(), String::new());
    let answer = Answer { partial: None, length: None, version, resource, has_ranges: false };
    let mut arriving = Arriving::default();
    arriving.plan.on_answer(answer).unwrap();
    arriving
        .begin_anew(&Nowhere, &path, Hashes { sha256: true, md5: AskedMd5::No })
        .await
        .map_err(store_failed)?;
    let mut meter = mover.rates.meter("example.com".into());
    let stop = CancellationToken::new();
    let (net, host) = (mover.net(&stop), "example.com");
    let room = mover.room.begin();
    let receiving = Receiving {
        net,
        store: &Nowhere,
        job: &job,
        source: &[0; 16],
        host,
        service: None,
        room: &room,
    };
    match receiving.copy(body, &mut arriving, &mut meter, &Pace::default()).await {
        Ok(()) => Ok(arriving.plan.received()),
        Err(Stopped::Broke(outcome) | Stopped::Ends(outcome)) => Err(outcome),
    }
}

#[tokio::test(start_paused = true)]
async fn waits_for_our_own_limits_are_no_fault_of_the_server() {
    let mover = mover();
    let mut limits = RateLimits::default();
    // A chunk takes a hundred seconds: longer than silence may last, and slower than a body
    // may be.
    limits.bytes_per_second_per_host = Some(Rate::new(10.0).with_burst(0.0));
    mover.rates.set(limits).unwrap();
    let begun = Instant::now();
    let bytes = fetched(&mover, Duration::from_secs(1)).await.unwrap();
    let seconds = begun.elapsed().as_secs();
    assert!(bytes == 10_000 && (998..=1_011).contains(&seconds), "{bytes} in {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_slow_or_silent_is_told_so_with_a_limit_or_without() {
    for limited in [false, true] {
        let mover = mover();
        let mut limits = RateLimits::default();
        limits.bytes_per_second = limited.then(|| Rate::new(500.0));
        mover.rates.set(limits).unwrap();
        for (pause, why) in [(20, "in 60 s are fewer than 1024"), (31, "no more came in 30 s")] {
            match fetched(&mover, Duration::from_secs(pause)).await {
                Err(Outcome::Retry(retry)) => {
                    assert!(retry.failure.message.contains(why), "{}", retry.failure);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A store that has memory for one block at a time, and counts how often it is asked for more; and a source
/// whose bytes take their time.
#[derive(Clone, Debug, Default)]
struct Poor {
    asked: Arc<AtomicUsize>,
}

const BLOCK: u64 = 1_000;
const BLOCKS: u64 = 6;

impl BlobStore for Poor {
    fn open<'a>(
        &'a self,
        _name: &'a BlobName,
        _size_hint_bytes: Option<u64>,
    ) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        async { Ok(Box::new(Nowhere) as Box<dyn BlobWriter>) }.boxed()
    }

    fn block_bytes(&self, _bytes: u64, _wanted: u64) -> u64 {
        BLOCK
    }

    fn open_blocks<'a>(
        &'a self,
        _name: &'a BlobName,
        _made: &'a MadeOf<'a>,
    ) -> BoxFuture<'a, Result<Option<OpenBlocks>, BlobError>> {
        let writer = Box::new(self.clone());
        async { Ok(Some(OpenBlocks { writer, there: Vec::new() })) }.boxed()
    }

    fn find<'a>(
        &'a self,
        _name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<FoundBlob>, BlobError>> {
        async { Ok(None) }.boxed()
    }
}

impl BlockWriter for Poor {
    fn try_reserve(&self, _at: u64) -> bool {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        assert!(asked < 1_000, "it is asked again and again, and nothing has changed");
        false
    }

    fn write_at(&self, _at: u64, _parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn on_written_to(&self, _frontier: u64) -> BoxFuture<'_, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn sums(&self) -> Sums {
        Sums::default()
    }

    fn commit(self: Box<Self>, _commit: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

impl BlobSource for Poor {
    fn read<'a>(
        &'a self,
        _name: &'a BlobName,
        part: Option<std::ops::Range<u64>>,
    ) -> BoxFuture<'a, Result<Option<ReadBlob>, BlobError>> {
        let part = part.unwrap_or(0..BLOCK * BLOCKS);
        let pieces = futures::stream::iter(0..(part.end - part.start) / 100).then(|_| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(Bytes::from(vec![7; 100]))
        });
        let blob = ReadBlob::new(BLOCK * BLOCKS, "1".to_owned(), part, pieces.boxed());
        async { Ok(Some(blob)) }.boxed()
    }

    fn shown(&self, name: &BlobName) -> String {
        name.to_string()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_without_memory_for_more_blocks_is_not_asked_over_and_over() {
    let mut mover = mover();
    // A file is large for two blocks of what is wanted.
    mover.limits.block_bytes = BLOCK;
    let (poor, path) = (Poor::default(), BlobName::parse("a").unwrap());
    let job = Job {
        id: "a",
        source: Source::Blob { from: &poor, name: &path },
        path: &path,
        sha256: None,
        md5: None,
        crc64: None,
        size: None,
        along: Along::default(),
        named: Named::Blob("a"),
    };
    let stop = CancellationToken::new();
    let room = mover.room.begin();
    let receiving = Receiving {
        net: mover.net(&stop),
        store: &poor,
        job: &job,
        source: &[0; 16],
        host: "",
        service: None,
        room: &room,
    };
    let mut arriving = Arriving::default();
    let _connection = mover.connections.of_file("");
    match receiving.all_of(&mut arriving).await {
        Ok((bytes, _)) => assert_eq!(bytes, BLOCK * BLOCKS),
        Err(_) => panic!("it arrives, over its own connection"),
    }
    assert!(poor.asked.load(Ordering::Relaxed) > 0, "it was asked for more");
}
