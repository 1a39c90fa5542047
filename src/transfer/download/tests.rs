//! Bodies without a network, in virtual time.
#![allow(clippy::unwrap_used, clippy::panic)]

use axum::http;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::arriving::Arriving;
use super::receiving::Pace;
use super::*;
use crate::blob_store::{BlobError, BlobName, BlobNote, BlobWriter, FoundBlob};
use crate::config::{Rate, RateLimits};
use crate::state::fetch_plan::{Answer, Version};
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

impl BlobWriter for Nowhere {
    fn write(&mut self, _part: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn commit(
        self: Box<Self>,
        _note: Option<BlobNote>,
    ) -> BoxFuture<'static, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

fn worker() -> DownloadWorker {
    let results = EntityProducer::new(Arc::new(MemoryHub::new("results", 1).publisher()));
    let limits = DownloadLimits::default();
    DownloadWorker::new(Arc::new(Nowhere), Arc::new(results), UrlPolicy::new(), limits).unwrap()
}

/// A body of ten kilobytes in ten chunks, each after a time.
async fn fetched(worker: &DownloadWorker, pause: Duration) -> Result<u64, Outcome> {
    let url = "https://example.com/a".parse().unwrap();
    let task = DownloadTask::new("a", url, BlobName::parse("a").unwrap());
    let chunks = futures::stream::iter(0..10).then(move |_| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, std::io::Error>(Bytes::from(vec![7; 1_000]))
    });
    let body = reqwest::Body::wrap_stream(chunks);
    let response = reqwest::Response::from(http::Response::new(body));
    let (version, resource) = (Version::default(), String::new());
    let answer = Answer { partial: None, length: None, version, resource, has_ranges: false };
    let mut arriving = Arriving::default();
    arriving.plan.on_answer(answer).unwrap();
    arriving.begin_anew(&*worker.store, &task.path).await.map_err(store_failed)?;
    let mut meter = worker.rates.meter("example.com".into());
    let stop = CancellationToken::new();
    let (net, store, host) = (worker.net(&stop), &*worker.store, "example.com");
    let receiving = Receiving { net, store, task: &task, source: &[0; 16], host };
    match receiving.copy(response, &mut arriving, &mut meter, &Pace::default()).await {
        Ok(()) => Ok(arriving.plan.received()),
        Err(Stopped::Broke(outcome) | Stopped::Ends(outcome)) => Err(outcome),
    }
}

#[tokio::test(start_paused = true)]
async fn waits_for_our_own_limits_are_no_fault_of_the_server() {
    let worker = worker();
    let mut limits = RateLimits::default();
    // A chunk takes a hundred seconds: longer than silence may last, and slower than a body
    // may be.
    limits.bytes_per_second_per_host = Some(Rate::new(10.0).with_burst(0.0));
    worker.rates().set(limits).unwrap();
    let begun = Instant::now();
    let bytes = fetched(&worker, Duration::from_secs(1)).await.unwrap();
    let seconds = begun.elapsed().as_secs();
    assert!(bytes == 10_000 && (998..=1_011).contains(&seconds), "{bytes} in {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_slow_or_silent_is_told_so_with_a_limit_or_without() {
    for limited in [false, true] {
        let worker = worker();
        let mut limits = RateLimits::default();
        limits.bytes_per_second = limited.then(|| Rate::new(500.0));
        worker.rates().set(limits).unwrap();
        for (pause, why) in [(20, "in 60 s are fewer than 1024"), (31, "no more came in 30 s")] {
            match fetched(&worker, Duration::from_secs(pause)).await {
                Err(Outcome::Retry(retry)) => {
                    assert!(retry.failure.message.contains(why), "{}", retry.failure);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
