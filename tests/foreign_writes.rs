//! What somebody else writes over the checkpoint of a worker that has nothing to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use longshore::ConsumerOptions;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointStore, Expected, StoredCheckpoint,
};
use longshore::consumer::CHECKPOINTS_INTERVAL;
use longshore::event::Position;
use support::{Harness, drained, until};
use tokio::time::{Instant, sleep};

async fn stored(harness: &Harness) -> StoredCheckpoint {
    harness.checkpoints.load(&key(harness)).await.unwrap().unwrap()
}

fn key(harness: &Harness) -> CheckpointKey {
    harness.key("0")
}

/// Writes something else over what is stored, as a program that knows nothing of us.
async fn overwrite(harness: &Harness, with: impl FnOnce(Checkpoint) -> Checkpoint) {
    let StoredCheckpoint { checkpoint, version } = stored(harness).await;
    let expected = Expected::Version(version);
    harness.checkpoints.store(&key(harness), &with(checkpoint), &expected).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_honoured_by_a_worker_that_has_nothing_to_do() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let handle = harness.start_recording(ConsumerOptions::default());
    until("all are settled", || harness.seen.len() == 10).await;
    sleep(2 * CHECKPOINTS_INTERVAL).await;

    let reset = Instant::now();
    overwrite(&harness, |before| Checkpoint {
        watermark: Some(Position::at(3)),
        reset_generation: before.reset_generation + 1,
        ..before
    })
    .await;
    until("what is after it is handled again", || harness.seen.len() == 16).await;
    assert!(reset.elapsed() < CHECKPOINTS_INTERVAL.mul_f64(1.3), "{:?}", reset.elapsed());
    let numbers = harness.seen.numbers();
    assert!(numbers[10..].iter().all(|number| (4..10).contains(number)), "{numbers:?}");
    drained(handle).await;
    let last = stored(&harness).await.checkpoint;
    assert_eq!(last.reset_generation, 1);
    assert_eq!(last.watermark.map(|position| position.sequence_number.0), Some(9));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_was_put_back_is_restored_by_a_worker_that_has_nothing_to_do() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let handle = harness.start_recording(ConsumerOptions::default());
    until("all are settled", || harness.seen.len() == 10).await;
    sleep(2 * CHECKPOINTS_INTERVAL).await;
    let before = stored(&harness).await;

    overwrite(&harness, |_| Checkpoint {
        watermark: Some(Position::at(3)),
        ..Checkpoint::default()
    })
    .await;
    sleep(CHECKPOINTS_INTERVAL.mul_f64(1.3)).await;
    let restored = stored(&harness).await;
    assert_eq!(restored.checkpoint.watermark, before.checkpoint.watermark);
    assert_eq!(restored.checkpoint.lease_epoch, before.checkpoint.lease_epoch);
    sleep(4 * CHECKPOINTS_INTERVAL).await;
    assert_eq!(stored(&harness).await.version, restored.version, "nothing else is written");
    drained(handle).await;
    assert_eq!(harness.seen.len(), 10, "nothing is repeated");
}
