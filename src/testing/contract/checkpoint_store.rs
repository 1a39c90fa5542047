//! What every checkpoint store must do.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Contract, cases};
use crate::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, LeaseEpoch, SettledRun,
    StoreError, Trial, VersionToken, WriteId,
};
use crate::event::{Incarnation, Position, SequenceNumber};

/// What every [`CheckpointStore`] must do. A medium that cannot keep every name or text apart leaves out the
/// cases that it cannot hold, and says so where it is described:
/// `any_offset_survives`, `any_name_is_a_key_of_its_own` and `hubs_and_groups_that_differ_by_case_are_one`.
pub fn checkpoint_stores() -> Contract<dyn CheckpointStore> {
    cases!(
        an_absent_checkpoint_loads_as_none,
        a_created_checkpoint_is_loaded,
        creating_over_a_checkpoint_is_a_conflict,
        a_swap_replaces_value_and_version,
        a_stale_version_is_a_conflict_and_changes_nothing,
        a_version_of_an_absent_checkpoint_is_a_conflict,
        an_equal_value_written_again_has_a_new_version,
        a_listing_is_sorted_and_keeps_to_its_scope,
        what_can_be_read_is_not_written_over_as_unreadable,
        every_field_survives,
        any_offset_survives,
        any_name_is_a_key_of_its_own,
        hubs_and_groups_that_differ_by_case_are_one,
        one_of_eight_concurrent_writers_wins_each_version,
        concurrent_creations_have_one_winner,
    )
}

impl Contract<dyn CheckpointStore> {
    /// Runs all cases, each on a store that `fresh` makes, which is empty.
    ///
    /// # Panics
    /// Where a case does not hold.
    pub async fn hold<S: CheckpointStore>(&self, mut fresh: impl AsyncFnMut() -> S) {
        for name in self.names() {
            self.hold_one(name, Arc::new(fresh().await)).await;
        }
    }
}

fn scope(namespace: &str, entity: &str, group: &str) -> CheckpointScope {
    CheckpointScope {
        namespace: namespace.to_owned(),
        entity: entity.into(),
        consumer_group: group.into(),
    }
}

fn key(partition: &str) -> CheckpointKey {
    CheckpointKey {
        scope: scope("hubs.example", "orders", "$Default"),
        partition: partition.into(),
    }
}

fn at(sequence_number: i64) -> Checkpoint {
    Checkpoint { watermark: Some(Position::at(sequence_number)), ..Checkpoint::default() }
}

async fn create(
    store: &dyn CheckpointStore,
    key: &CheckpointKey,
    value: &Checkpoint,
) -> VersionToken {
    store.store(key, value, &Expected::Absent).await.unwrap()
}

async fn value(store: &dyn CheckpointStore, key: &CheckpointKey) -> Checkpoint {
    store.load(key).await.unwrap().unwrap().checkpoint
}

fn assert_conflict(result: Result<VersionToken, StoreError>) {
    assert!(matches!(result, Err(StoreError::Conflict)), "{result:?}");
}

async fn an_absent_checkpoint_loads_as_none(store: Arc<dyn CheckpointStore>) {
    assert_eq!(store.load(&key("0")).await.unwrap(), None);
    assert!(store.list(&key("0").scope).await.unwrap().is_empty());
    create(&*store, &key("1"), &at(1)).await;
    assert_eq!(store.load(&key("0")).await.unwrap(), None);
}

async fn a_created_checkpoint_is_loaded(store: Arc<dyn CheckpointStore>) {
    let version = create(&*store, &key("0"), &at(7)).await;
    let stored = store.load(&key("0")).await.unwrap().unwrap();
    assert_eq!(stored.checkpoint, at(7));
    assert_eq!(stored.version, version);
}

async fn creating_over_a_checkpoint_is_a_conflict(store: Arc<dyn CheckpointStore>) {
    create(&*store, &key("0"), &at(7)).await;
    assert_conflict(store.store(&key("0"), &at(8), &Expected::Absent).await);
    assert_eq!(value(&*store, &key("0")).await, at(7));
}

async fn a_swap_replaces_value_and_version(store: Arc<dyn CheckpointStore>) {
    let first = create(&*store, &key("0"), &at(7)).await;
    let second = store.store(&key("0"), &at(9), &Expected::Version(first.clone())).await.unwrap();
    assert_ne!(first, second);
    let stored = store.load(&key("0")).await.unwrap().unwrap();
    assert_eq!(stored.checkpoint, at(9));
    assert_eq!(stored.version, second);
}

async fn a_stale_version_is_a_conflict_and_changes_nothing(store: Arc<dyn CheckpointStore>) {
    let first = create(&*store, &key("0"), &at(7)).await;
    let expected = Expected::Version(first);
    store.store(&key("0"), &at(9), &expected).await.unwrap();
    assert_conflict(store.store(&key("0"), &at(8), &expected).await);
    assert_eq!(value(&*store, &key("0")).await, at(9));
}

async fn a_version_of_an_absent_checkpoint_is_a_conflict(store: Arc<dyn CheckpointStore>) {
    let version = create(&*store, &key("0"), &at(7)).await;
    let expected = Expected::Version(version);
    assert_conflict(store.store(&key("1"), &at(8), &expected).await);
    assert_eq!(store.load(&key("1")).await.unwrap(), None);
}

/// Otherwise a value that changed twice would pass for one that never changed.
async fn an_equal_value_written_again_has_a_new_version(store: Arc<dyn CheckpointStore>) {
    let mut versions = vec![create(&*store, &key("0"), &at(7)).await];
    for value in [8, 7, 7] {
        let expected = Expected::Version(versions.last().unwrap().clone());
        let next = store.store(&key("0"), &at(value), &expected).await.unwrap();
        assert!(!versions.contains(&next));
        versions.push(next);
    }
}

async fn a_listing_is_sorted_and_keeps_to_its_scope(store: Arc<dyn CheckpointStore>) {
    let scopes = [
        scope("hubs.example", "orders", "$Default"),
        scope("hubs.example", "orders", "audit"),
        scope("hubs.example", "orders-2", "$Default"),
        scope("other.example", "orders", "$Default"),
    ];
    for (number, scope) in (0_i64..).zip(&scopes) {
        for partition in ["3", "0", "a/b", "11", "2"] {
            let key = CheckpointKey { scope: scope.clone(), partition: partition.into() };
            create(&*store, &key, &at(number)).await;
        }
    }
    for (number, scope) in (0_i64..).zip(&scopes) {
        let listed = store.list(scope).await.unwrap();
        let partitions: Vec<_> = listed.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(partitions, ["0", "11", "2", "3", "a/b"]);
        for (id, stored) in listed {
            let stored = stored.unwrap();
            assert_eq!(stored.checkpoint, at(number));
            let key = CheckpointKey { scope: scope.clone(), partition: id };
            assert_eq!(store.load(&key).await.unwrap(), Some(stored));
        }
    }
    let empty = scope("hubs.example", "orders", "nobody");
    assert!(store.list(&empty).await.unwrap().is_empty());
}

/// The watermark of [`full`].
const FAR: i64 = i64::MAX - 100_000;

fn full() -> Checkpoint {
    Checkpoint {
        watermark: Some(Position {
            sequence_number: SequenceNumber(FAR),
            offset: Some("0:\"quoted\" 4294967296".into()),
            enqueued_time: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_080_000_123)),
        }),
        settled_above: vec![
            SettledRun { first: SequenceNumber(FAR + 2), last: SequenceNumber(FAR + 5) },
            SettledRun { first: SequenceNumber(FAR + 17), last: SequenceNumber(FAR + 17) },
        ],
        incarnation: Some(Incarnation(1_700_000_000_123)),
        reset_generation: u64::MAX,
        lease_epoch: LeaseEpoch(u64::MAX - 1),
        write_id: WriteId(u64::MAX - 2),
        takeovers_without_progress: u32::MAX,
        suspects_to: Some(SequenceNumber(FAR + 4_096)),
        trial: Some(Trial { event: SequenceNumber(FAR + 1), is_on: true, deaths: 1 }),
    }
}

async fn every_field_survives(store: Arc<dyn CheckpointStore>) {
    create(&*store, &key("full"), &full()).await;
    assert_eq!(value(&*store, &key("full")).await, full());
    create(&*store, &key("empty"), &Checkpoint::default()).await;
    assert_eq!(value(&*store, &key("empty")).await, Checkpoint::default());
    let mut many = full();
    many.settled_above = (1..5_000)
        .map(|n| SettledRun {
            first: SequenceNumber(FAR + n * 3),
            last: SequenceNumber(FAR + n * 3 + 1),
        })
        .collect();
    create(&*store, &key("many"), &many).await;
    assert_eq!(value(&*store, &key("many")).await, many);
}

async fn any_offset_survives(store: Arc<dyn CheckpointStore>) {
    for (partition, offset) in [("0", "ä\n"), ("1", " "), ("2", "-1")] {
        let position = Position { offset: Some(offset.into()), ..Position::at(-1) };
        let checkpoint = Checkpoint { watermark: Some(position), ..Checkpoint::default() };
        create(&*store, &key(partition), &checkpoint).await;
        assert_eq!(value(&*store, &key(partition)).await, checkpoint);
    }
}

async fn any_name_is_a_key_of_its_own(store: Arc<dyn CheckpointStore>) {
    let long = "long".repeat(100);
    let longer = "long".repeat(101);
    are_keys_of_their_own(
        &*store,
        &[
            "a", "a/b", "a\\b", "a%2fb", ".", "..", "../a", "/a", "a.", ".a", "a.json", "", " ",
            "ä", "Ä", "$default", "%", "a\nb", &long, &longer, "a:b", "a:", ":1",
        ],
    )
    .await;
}

/// As they are to the service: a worker that is configured anew, in another spelling, goes on.
async fn hubs_and_groups_that_differ_by_case_are_one(store: Arc<dyn CheckpointStore>) {
    let spelled = [
        scope("Hubs.Example", "Orders", "$Default"),
        scope("hubs.example", "orders", "$default"),
        scope("HUBS.EXAMPLE", "ORDERS", "$DEFAULT"),
    ];
    let keys = spelled.clone().map(|scope| CheckpointKey { scope, partition: "0".into() });
    let mut version = create(&*store, &keys[0], &at(0)).await;
    for (number, key) in (1_i64..).zip(keys.iter().cycle().take(6)) {
        assert_eq!(value(&*store, key).await, at(number - 1));
        assert_conflict(store.store(key, &at(99), &Expected::Absent).await);
        version = store.store(key, &at(number), &Expected::Version(version)).await.unwrap();
        for scope in &spelled {
            let listed = store.list(scope).await.unwrap();
            assert_eq!(listed.len(), 1, "{listed:?}");
            assert_eq!(listed[0].1.as_ref().unwrap().checkpoint, at(number));
        }
    }
}

async fn what_can_be_read_is_not_written_over_as_unreadable(store: Arc<dyn CheckpointStore>) {
    for stored in [None, Some(at(7))] {
        if let Some(stored) = &stored {
            create(&*store, &key("0"), stored).await;
        }
        // A store that has nothing unreadable may say so instead.
        let written = store.overwrite_unreadable(&key("0"), &at(8)).await;
        assert!(written.is_err(), "{written:?}");
        let found = store.load(&key("0")).await.unwrap();
        assert_eq!(found.map(|found| found.checkpoint), stored);
    }
}

async fn are_keys_of_their_own(store: &dyn CheckpointStore, names: &[&str]) {
    let mut keys = Vec::new();
    for name in names {
        keys.push(key(name));
        for scope in [scope(name, "e", "g"), scope("n", name, "g"), scope("n", "e", name)] {
            let partition = "0".into();
            keys.push(CheckpointKey { scope, partition });
        }
    }
    for (number, key) in (0_i64..).zip(&keys) {
        create(store, key, &at(number)).await;
    }
    for (number, key) in (0_i64..).zip(&keys) {
        assert_eq!(value(store, key).await, at(number), "{key:?}");
    }
    let listed = store.list(&key("").scope).await.unwrap();
    let mut expected: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    expected.sort_unstable();
    let partitions: Vec<_> = listed.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(partitions, expected);
    assert!(listed.iter().all(|(_, stored)| stored.is_ok()));
}

async fn one_of_eight_concurrent_writers_wins_each_version(store: Arc<dyn CheckpointStore>) {
    let mut version = create(&*store, &key("0"), &at(0)).await;
    for round in 1..=10_i64 {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (store, version) = (store.clone(), version.clone());
                tokio::spawn(async move {
                    let value = at(round * 100 + writer);
                    let expected = Expected::Version(version);
                    (value.clone(), store.store(&key("0"), &value, &expected).await)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            match writer.await.unwrap() {
                (value, Ok(version)) => winners.push((value, version)),
                (_, lost) => assert_conflict(lost),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let stored = store.load(&key("0")).await.unwrap().unwrap();
        assert_eq!((stored.checkpoint, stored.version.clone()), winners[0]);
        version = stored.version;
    }
}

async fn concurrent_creations_have_one_winner(store: Arc<dyn CheckpointStore>) {
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(
                async move { store.store(&key("0"), &at(writer), &Expected::Absent).await },
            )
        })
        .collect();
    let mut winners = 0;
    for writer in writers {
        match writer.await.unwrap() {
            Ok(_) => winners += 1,
            lost => assert_conflict(lost),
        }
    }
    assert_eq!(winners, 1);
}
