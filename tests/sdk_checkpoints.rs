//! What a store of the SDK's own trait gives beyond the contract, and what it costs to have no
//! fence in it. The contract itself is in tests/store_contract.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod sdk_store;
mod support;

use std::sync::Arc;

use longshore::checkpoint_store::sdk::SdkCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, LeaseEpoch, SettledRun,
    StoreError, WriteId,
};
use longshore::error::{ErrorClass, error_chain};
use longshore::event::{Incarnation, Position, SequenceNumber};
use longshore::state::fence::{Fence, Superseded, Verdict};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, Event, EventContext, Failure, OutgoingEvent};
use sdk_store::SdkMemory;
use support::{Seen, drained, until};

fn key(partition: &str) -> CheckpointKey {
    CheckpointKey {
        scope: CheckpointScope {
            namespace: "hubs.example".to_owned(),
            entity: "orders".into(),
            consumer_group: "$Default".into(),
        },
        partition: partition.into(),
    }
}

fn at(sequence_number: i64) -> Checkpoint {
    Checkpoint { watermark: Some(Position::at(sequence_number)), ..Checkpoint::default() }
}

fn with_holes() -> Checkpoint {
    let run = |first, last| SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) };
    Checkpoint {
        watermark: Some(Position { offset: Some("4096".into()), ..Position::at(42) }),
        settled_above: vec![run(44, 50)],
        incarnation: Some(Incarnation(7)),
        reset_generation: 3,
        lease_epoch: LeaseEpoch(9),
        write_id: WriteId(5),
        takeovers_without_progress: 1,
        suspects_to: None,
        trial: None,
    }
}

#[tokio::test]
async fn processors_of_the_sdk_read_the_position() {
    let inner = Arc::new(SdkMemory::default());
    let store = SdkCheckpointStore::new(inner.clone());
    let text = |offset: &str| Some(offset.to_owned());
    for (checkpoint, raw) in [
        (Checkpoint::default(), (text("-1"), Some(-1))),
        (with_holes(), (text("4096"), Some(42))),
        (at(50), (None, Some(50))),
    ] {
        let stored = store.load(&key("0")).await.unwrap();
        let expected = stored.map_or(Expected::Absent, |stored| Expected::Version(stored.version));
        store.store(&key("0"), &checkpoint, &expected).await.unwrap();
        assert_eq!(inner.get("0"), Some(raw));
        assert_eq!(store.load(&key("0")).await.unwrap().unwrap().checkpoint, checkpoint);
    }
}

#[tokio::test]
async fn only_the_position_outlives_the_process() {
    let inner = Arc::new(SdkMemory::default());
    let store = SdkCheckpointStore::new(inner.clone());
    store.store(&key("0"), &with_holes(), &Expected::Absent).await.unwrap();
    let restarted = SdkCheckpointStore::new(inner);
    let left = restarted.load(&key("0")).await.unwrap().unwrap().checkpoint;
    let position = Checkpoint { watermark: with_holes().watermark, ..Checkpoint::default() };
    assert_eq!(left, position);
}

#[tokio::test]
async fn what_a_processor_of_the_sdk_wrote_is_another_version() {
    let inner = Arc::new(SdkMemory::default());
    let store = SdkCheckpointStore::new(inner.clone());
    let version = store.store(&key("0"), &with_holes(), &Expected::Absent).await.unwrap();
    inner.put("0", Some("8192"), Some(45));
    let stale = store.store(&key("0"), &at(43), &Expected::Version(version)).await;
    assert!(matches!(stale, Err(StoreError::Conflict)), "{stale:?}");
    let found = store.load(&key("0")).await.unwrap().unwrap();
    let position = Position { offset: Some("8192".into()), ..Position::at(45) };
    let expected = Checkpoint { watermark: Some(position), ..Checkpoint::default() };
    assert_eq!(found.checkpoint, expected);
    store.store(&key("0"), &at(46), &Expected::Version(found.version)).await.unwrap();
    assert_eq!(inner.get("0").unwrap().1, Some(46));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_known_as_ours() {
    let inner = Arc::new(SdkMemory::default());
    let store = SdkCheckpointStore::new(inner.clone());
    let mut fence = Fence::claim(None, Incarnation(7), 10, WriteId(1));
    let (claim, expected) = fence.pending().unwrap();
    inner.lose_next_answer();
    let lost = store.store(&key("0"), claim, expected).await;
    assert!(
        matches!(&lost, Err(StoreError::Failed(error)) if error.class() == ErrorClass::Transient),
        "{lost:?}"
    );
    let again = store.store(&key("0"), claim, expected).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    let found = store.load(&key("0")).await.unwrap();
    assert_eq!(fence.on_conflict(found), Verdict::Written);
}

/// Within a process the later owner is safe; between two, the one that was slow is not noticed.
#[tokio::test]
async fn an_owner_of_another_process_that_writes_late_moves_the_checkpoint_back() {
    let inner = Arc::new(SdkMemory::gated());
    let (old, new) =
        (Arc::new(SdkCheckpointStore::new(inner.clone())), SdkCheckpointStore::new(inner.clone()));
    inner.put("0", None, Some(10));
    let version = old.load(&key("0")).await.unwrap().unwrap().version;
    let late = tokio::spawn({
        let old = old.clone();
        async move { old.store(&key("0"), &at(11), &Expected::Version(version)).await }
    });
    tokio::task::yield_now().await;
    // The old owner has compared, and waits. Meanwhile the new one claims and goes far ahead.
    inner.put("0", None, Some(90));
    assert_eq!(new.load(&key("0")).await.unwrap().unwrap().checkpoint, at(90));
    inner.let_through(1);
    late.await.unwrap().unwrap();
    assert_eq!(inner.get("0").unwrap().1, Some(11), "events from 12 on are handled again");
    assert_eq!(new.load(&key("0")).await.unwrap().unwrap().checkpoint, at(11));
}

#[tokio::test]
async fn owners_within_one_process_are_fenced() {
    let store = SdkCheckpointStore::new(Arc::new(SdkMemory::default()));
    let hub = Incarnation(7);
    let mut first = Fence::claim(None, hub, 1, WriteId(1));
    let (claim, expected) = first.pending().unwrap();
    let version = store.store(&key("0"), claim, expected).await.unwrap();
    first.on_stored(version);
    let second = Fence::claim(store.load(&key("0")).await.unwrap(), hub, 2, WriteId(2));
    let (claim, expected) = second.pending().unwrap();
    store.store(&key("0"), claim, expected).await.unwrap();
    first.on_progress(Some(Position::at(7)), Vec::new(), WriteId(3));
    let (progress, expected) = first.pending().unwrap();
    let late = store.store(&key("0"), progress, expected).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    let verdict = first.on_conflict(store.load(&key("0")).await.unwrap());
    assert_eq!(verdict, Verdict::Superseded(Superseded::Epoch(LeaseEpoch(2))));
}

#[tokio::test]
async fn a_position_that_cannot_be_known_hides_no_other() {
    let inner = Arc::new(SdkMemory::default());
    inner.put("0", Some("4096"), Some(42));
    inner.put("1", Some("4096"), None);
    inner.put("2", None, None);
    let store = SdkCheckpointStore::new(inner);
    let listed = store.list(&key("0").scope).await.unwrap();
    let seen: Vec<_> = listed
        .iter()
        .map(|(id, stored)| (id.as_str(), stored.as_ref().map_err(|error| error.class()).is_ok()))
        .collect();
    assert_eq!(seen, [("0", true), ("1", false), ("2", true)]);
    let error = store.load(&key("1")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::BadData);
    assert!(error.to_string().contains("no sequence number"), "{error}");
}

#[tokio::test]
async fn no_error_holds_the_signature_that_opened_the_store() {
    let inner = Arc::new(SdkMemory::default());
    let store = SdkCheckpointStore::new(inner.clone());
    for why in [
        "error sending request for url (https://acc.example/state?sv=1&sig=canary%3D&se=2)",
        "the token sv=1&sig=canary was refused",
    ] {
        inner.refuse(why);
        let listed = store.list(&key("0").scope).await.unwrap_err();
        let loaded = store.load(&key("0")).await.unwrap_err();
        let written = store.store(&key("0"), &at(1), &Expected::Absent).await;
        let Err(StoreError::Failed(written)) = written else { panic!("{written:?}") };
        for error in [listed, loaded, written] {
            let shown = format!("{error:?} {}", error_chain(&error).join(" "));
            assert!(!shown.contains("canary"), "{shown}");
            assert_eq!(error.class(), ErrorClass::Transient);
        }
    }
    inner.refuse("error for url (https://acc.example/state?sig=canary): reset");
    let error = store.load(&key("0")).await.unwrap_err();
    let cause = error_chain(&error).pop().unwrap();
    assert!(cause.contains("because: error for url (https://acc.example/state): reset"), "{cause}");
}

#[tokio::test]
async fn a_worker_goes_on_where_the_last_one_stopped() {
    let inner = Arc::new(SdkMemory::default());
    let hub = MemoryHub::new("orders", 1);
    let run = async |published: i64| {
        for number in 0..published {
            hub.publish(0, OutgoingEvent::new(format!("{number}")));
        }
        let (seen, store) = (Seen::default(), SdkCheckpointStore::new(inner.clone()));
        let record = seen.clone();
        let handle = BatchConsumer::builder(Arc::new(hub.transport("$Default")), Arc::new(store))
            .event_handler(move |event: Event, _: EventContext| {
                record.record(&event);
                async { Ok::<(), Failure>(()) }
            })
            .unwrap()
            .start();
        until("handled", || seen.len() >= usize::try_from(published).unwrap()).await;
        assert!(drained(handle).await.is_clean());
        let mut numbers = seen.numbers();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(run(10).await, (0..10).collect::<Vec<_>>());
    assert_eq!(run(5).await, (10..15).collect::<Vec<_>>());
}
