//! What a worker has told of: the results that its hub acknowledged, counted on their way.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::latencies::Latencies;
use longshore::error::Error;
use longshore::event::{EntityName, OutgoingEvent, PartitionId};
use longshore::transfer::task::TransferResult;
use longshore::transport::event_hubs::EventHubsPublisher;
use longshore::transport::{Publisher, SendReceipt, SendTarget};

/// Publishes results, and counts those that are acknowledged.
#[derive(Debug)]
pub(super) struct Tally {
    publisher: EventHubsPublisher,
    told: Mutex<Told>,
}

/// The figures of the results that were acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// From the event of a task to its file.
    pub(super) since_enqueued: Latencies,
    /// From the event of the first stage to the file, for those that have come through several.
    pub(super) since_first_stage: Latencies,
    /// When the work on the first began, and when the last was acknowledged.
    span: Option<(Instant, Instant)>,
}

impl Told {
    /// For how long there was something to tell of.
    pub(super) fn span(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(begun, last)| last - begun)
    }

    fn on_result(&mut self, result: &TransferResult, now: Instant) {
        self.files += 1;
        self.bytes += result.bytes;
        if let Some(time) = result.since_enqueued() {
            self.since_enqueued.add(time);
        }
        if let Some(time) = result.since_first_stage().filter(|_| !result.stages.is_empty()) {
            self.since_first_stage.add(time);
        }
        let worked = Duration::try_from_secs_f64(result.seconds).unwrap_or_default();
        let begun = now.checked_sub(worked).unwrap_or(now);
        let (first, _) = self.span.unwrap_or((begun, now));
        self.span = Some((first, now));
    }
}

impl Tally {
    pub(super) fn new(publisher: EventHubsPublisher) -> Self {
        Self { publisher, told: Mutex::default() }
    }

    /// What was told so far.
    pub(super) fn told(&self) -> Told {
        self.lock().clone()
    }

    /// How many files, and how many bytes.
    pub(super) fn moved(&self) -> (u64, u64) {
        let told = self.lock();
        (told.files, told.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_acknowledged(&self, results: &[TransferResult]) {
        let mut told = self.lock();
        let now = Instant::now();
        for result in results {
            told.on_result(result, now);
        }
    }
}

fn read(event: &OutgoingEvent) -> Option<TransferResult> {
    serde_json::from_slice(&event.body).ok()
}

impl Publisher for Tally {
    fn entity(&self) -> &EntityName {
        self.publisher.entity()
    }

    fn send(
        &self,
        target: SendTarget,
        event: OutgoingEvent,
    ) -> BoxFuture<'_, Result<SendReceipt, Error>> {
        async move {
            let result = read(&event);
            let receipt = self.publisher.send(target, event).await?;
            self.on_acknowledged(result.as_slice());
            Ok(receipt)
        }
        .boxed()
    }

    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>, Error>> {
        self.publisher.partitions()
    }

    fn send_batch(
        &self,
        target: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let results: Vec<_> = events.iter().filter_map(read).collect();
            self.publisher.send_batch(target, events).await?;
            self.on_acknowledged(&results);
            Ok(())
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.publisher.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_told_has_the_times_of_its_stages() {
        let result = |stages: &str| -> TransferResult {
            let json = format!(
                r#"{{"id":"7","path":"a","bytes":5,"sha256":"00","attempts":1,"seconds":1.5,
                    "enqueued_at":"2026-01-31T12:00:10.000Z","started_at":"2026-01-31T12:00:11.000Z",
                    "finished_at":"2026-01-31T12:00:12.000Z","stages":[{stages}]}}"#
            );
            serde_json::from_str(&json).expect("a result")
        };
        let mut told = Told::default();
        assert_eq!(told.span(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(60)).await;
        told.on_result(&result(""), Instant::now());
        assert_eq!(told.span(), Duration::from_millis(1_500));
        assert_eq!(told.since_first_stage.within(0.5), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        let earlier = r#"{"entity":"pending","enqueued_at":"2026-01-31T12:00:00.000Z","started_at":
            "2026-01-31T12:00:01.000Z","finished_at":"2026-01-31T12:00:09.000Z"}"#;
        told.on_result(&result(earlier), Instant::now());
        assert_eq!((told.files, told.bytes, told.span()), (2, 10, Duration::from_millis(11_500)));
        let seconds = |latencies: &Latencies| latencies.within(0.5).expect("some").as_secs_f64();
        assert!((2.0..2.1).contains(&seconds(&told.since_enqueued)));
        assert!((12.0..12.6).contains(&seconds(&told.since_first_stage)));
    }
}
