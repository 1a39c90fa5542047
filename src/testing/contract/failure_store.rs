//! What every failure store must do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Contract, cases};
use crate::error::ErrorClass;
use crate::event::{Incarnation, SequenceNumber};
use crate::failure_store::{
    Expected, FailureEntry, FailureKey, FailureKind, FailureMeta, FailurePrefix, FailureStore,
    Fingerprint, ListedFailure, LogIdentity, StoreError, VersionToken,
};

/// What every [`FailureStore`] must do.
pub fn failure_stores() -> Contract<dyn FailureStore> {
    cases!(
        what_is_absent_reads_as_none,
        what_is_put_is_read_and_listed,
        a_put_meets_what_it_expects_or_changes_nothing,
        an_equal_value_put_again_has_a_new_version,
        a_delete_is_of_one_version_and_can_be_made_again,
        one_of_eight_concurrent_writers_wins_each_version,
        a_prefix_lists_its_own_and_no_other,
        a_block_lists_its_numbers_and_no_other,
        pages_list_all_once_in_the_order_of_numbers,
        pages_go_on_while_entries_come_and_go,
        any_name_is_a_key_of_its_own,
        names_that_are_one_to_the_service_are_one_key,
        long_texts_are_cut_in_listings_alone,
        times_of_any_age_survive,
    )
}

impl Contract<dyn FailureStore> {
    /// Runs all cases, each on a store that `fresh` makes, which is empty.
    ///
    /// # Panics
    /// Where a case does not hold.
    pub async fn hold<S: FailureStore>(&self, mut fresh: impl AsyncFnMut() -> S) {
        for name in self.names() {
            self.hold_one(name, Arc::new(fresh().await)).await;
        }
    }
}

fn log_of(namespace: &str, entity: &str, group: &str, partition: &str) -> LogIdentity {
    LogIdentity {
        namespace: namespace.to_owned(),
        entity: entity.into(),
        incarnation: Incarnation(1_700_000_000_123),
        consumer_group: group.into(),
        partition: partition.into(),
    }
}

fn log() -> LogIdentity {
    log_of("ns.example", "orders", "$Default", "0")
}

fn dead(number: i64) -> FailureKey {
    log().event(SequenceNumber(number)).key(FailureKind::Dead)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A value that says `text`.
fn entry(text: &str) -> FailureEntry {
    let fingerprint = Fingerprint::of(ErrorClass::Permanent, text);
    let mut meta = FailureMeta::new(ErrorClass::Permanent, fingerprint, at(1));
    meta.reason = text.to_owned();
    FailureEntry { meta, content: Bytes::copy_from_slice(text.as_bytes()) }
}

async fn create(store: &dyn FailureStore, key: &FailureKey, text: &str) -> VersionToken {
    store.put(key, &entry(text), &Expected::Absent).await.unwrap()
}

async fn text_of(store: &dyn FailureStore, key: &FailureKey) -> Option<String> {
    let stored = store.read(key).await.unwrap()?;
    assert_eq!(&stored.key, key);
    Some(String::from_utf8(stored.content.to_vec()).unwrap())
}

fn assert_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Conflict)), "{result:?}");
}

/// All pages of at most `limit`.
async fn listed(
    store: &dyn FailureStore,
    prefix: &FailurePrefix,
    limit: usize,
) -> Vec<ListedFailure> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(prefix, after.as_ref(), limit).await.unwrap();
        assert!(page.entries.len() <= limit);
        all.extend(page.entries.into_iter().map(Result::unwrap));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

fn numbers(listed: &[ListedFailure]) -> Vec<i64> {
    listed.iter().map(|listed| listed.key.event.sequence_number.0).collect()
}

async fn what_is_absent_reads_as_none(store: Arc<dyn FailureStore>) {
    assert_eq!(store.read(&dead(0)).await.unwrap(), None);
    let all = FailurePrefix::all(FailureKind::Dead);
    let page = store.list(&all, None, 10).await.unwrap();
    assert!(page.entries.is_empty() && page.next.is_none());
    create(&*store, &dead(1), "one").await;
    assert_eq!(store.read(&dead(0)).await.unwrap(), None);
    assert!(!store.place().is_empty());
}

async fn what_is_put_is_read_and_listed(store: Arc<dyn FailureStore>) {
    let version = create(&*store, &dead(7), "seven").await;
    let stored = store.read(&dead(7)).await.unwrap().unwrap();
    assert_eq!(stored.content, "seven");
    assert_eq!(stored.version, version);
    let listed = listed(&*store, &FailurePrefix::all(FailureKind::Dead), 10).await;
    assert_eq!(listed, [ListedFailure { key: dead(7), meta: entry("seven").meta, version }]);
}

async fn a_put_meets_what_it_expects_or_changes_nothing(store: Arc<dyn FailureStore>) {
    let put = |text, expected| {
        let store = store.clone();
        async move { store.put(&dead(7), &entry(text), &expected).await }
    };
    let first = put("first", Expected::Absent).await.unwrap();
    assert_conflict(put("absent", Expected::Absent).await);
    let second = put("second", Expected::Version(first.clone())).await.unwrap();
    assert_ne!(first, second);
    assert_conflict(put("stale", Expected::Version(first)).await);
    assert_eq!(text_of(&*store, &dead(7)).await.as_deref(), Some("second"));
    let listed = listed(&*store, &FailurePrefix::all(FailureKind::Dead), 10).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((&*listed[0].meta.reason, &listed[0].version), ("second", &second));
    let third = put("third", Expected::Anything).await.unwrap();
    assert_conflict(put("stale", Expected::Version(second)).await);
    assert_conflict(store.put(&dead(8), &entry("x"), &Expected::Version(third)).await);
    assert_eq!(store.read(&dead(8)).await.unwrap(), None);
    store.put(&dead(8), &entry("anything"), &Expected::Anything).await.unwrap();
    assert_eq!(text_of(&*store, &dead(8)).await.as_deref(), Some("anything"));
    assert_eq!(text_of(&*store, &dead(7)).await.as_deref(), Some("third"));
}

/// Otherwise a value that changed twice would pass for one that never changed.
async fn an_equal_value_put_again_has_a_new_version(store: Arc<dyn FailureStore>) {
    let mut versions = vec![create(&*store, &dead(7), "a").await];
    for text in ["b", "a", "a"] {
        let expected = Expected::Version(versions.last().unwrap().clone());
        let next = store.put(&dead(7), &entry(text), &expected).await.unwrap();
        assert!(!versions.contains(&next));
        versions.push(next);
    }
    store.delete(&dead(7), versions.last().unwrap()).await.unwrap();
    let again = create(&*store, &dead(7), "a").await;
    assert!(!versions.contains(&again));
}

async fn a_delete_is_of_one_version_and_can_be_made_again(store: Arc<dyn FailureStore>) {
    let first = create(&*store, &dead(7), "first").await;
    let expected = Expected::Version(first.clone());
    let second = store.put(&dead(7), &entry("second"), &expected).await.unwrap();
    assert_conflict(store.delete(&dead(7), &first).await);
    assert_eq!(text_of(&*store, &dead(7)).await.as_deref(), Some("second"));
    for _ in 0..2 {
        store.delete(&dead(7), &second).await.unwrap();
        assert_eq!(store.read(&dead(7)).await.unwrap(), None);
        assert!(listed(&*store, &FailurePrefix::all(FailureKind::Dead), 10).await.is_empty());
    }
    assert_conflict(store.put(&dead(7), &entry("x"), &Expected::Version(second)).await);
    create(&*store, &dead(7), "again").await;
    assert_eq!(text_of(&*store, &dead(7)).await.as_deref(), Some("again"));
}

async fn one_of_eight_concurrent_writers_wins_each_version(store: Arc<dyn FailureStore>) {
    let mut expected = Expected::Absent;
    for round in 0..8 {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (store, expected) = (store.clone(), expected.clone());
                tokio::spawn(async move {
                    let text = format!("{round}-{writer}");
                    let put = store.put(&dead(7), &entry(&text), &expected).await;
                    (text, put)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            match writer.await.unwrap() {
                (text, Ok(version)) => winners.push((text, version)),
                (_, lost) => assert_conflict(lost),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let stored = store.read(&dead(7)).await.unwrap().unwrap();
        let (text, version) = winners.remove(0);
        assert_eq!((stored.content, &stored.version), (Bytes::from(text.clone()), &version));
        let listed = listed(&*store, &FailurePrefix::all(FailureKind::Dead), 10).await;
        assert_eq!((&listed[0].meta.reason, &listed[0].version), (&text, &version));
        expected = Expected::Version(version);
    }
}

async fn a_prefix_lists_its_own_and_no_other(store: Arc<dyn FailureStore>) {
    let mut anew = log();
    anew.incarnation = Incarnation(1_700_000_000_124);
    let logs = [
        log(),
        anew,
        log_of("ns.example", "orders", "audit", "0"),
        log_of("ns.example", "orders", "$Default", "00"),
        log_of("ns.example", "orders-2", "$Default", "0"),
        log_of("ns.example.org", "orders", "$Default", "0"),
    ];
    for log in &logs {
        for kind in [FailureKind::Dead, FailureKind::Parked] {
            create(&*store, &log.event(SequenceNumber(5)).key(kind), "x").await;
        }
    }
    for kind in [FailureKind::Dead, FailureKind::Parked] {
        for log in &logs {
            let listed = listed(&*store, &FailurePrefix::of_log(kind, log), 10).await;
            let keys: Vec<_> = listed.iter().map(|listed| &listed.key).collect();
            assert_eq!(keys, [&log.event(SequenceNumber(5)).key(kind)]);
        }
        for (prefix, entries) in [
            (FailurePrefix::all(kind), 6),
            (FailurePrefix::of_namespace(kind, "NS.example"), 5),
            (FailurePrefix::of_entity(kind, "ns.example", &"Orders".into()), 4),
            (FailurePrefix::of_entity(kind, "ns.example", &"order".into()), 0),
        ] {
            assert_eq!(listed(&*store, &prefix, 10).await.len(), entries, "{prefix:?}");
        }
    }
}

async fn a_block_lists_its_numbers_and_no_other(store: Arc<dyn FailureStore>) {
    let all = [-5, 0, 9_999, 10_000, 16_383, 16_384, 19_999, 20_000, 100_000, 163_840, i64::MAX];
    for number in all {
        create(&*store, &dead(number), "x").await;
    }
    let other = log_of("ns.example", "orders", "$Default", "00").event(SequenceNumber(12_000));
    create(&*store, &other.key(FailureKind::Dead), "x").await;
    create(&*store, &log().event(SequenceNumber(12_000)).key(FailureKind::Parked), "x").await;
    for (number, expected) in [
        (0, &[0, 9_999][..]),
        (9_999, &[0, 9_999]),
        (12_345, &[10_000, 16_383, 16_384, 19_999]),
        (20_001, &[20_000]),
        (30_000, &[]),
        (165_000, &[163_840]),
        (i64::MAX, &[i64::MAX]),
        (-1, &all),
    ] {
        let prefix = FailurePrefix::of_block(FailureKind::Dead, &log(), SequenceNumber(number));
        for limit in [1, 2, 5_000] {
            assert_eq!(numbers(&listed(&*store, &prefix, limit).await), expected, "{number}");
        }
    }
}

async fn pages_list_all_once_in_the_order_of_numbers(store: Arc<dyn FailureStore>) {
    let sorted = [0, 1, 2, 9, 10, 99, 16_383, 16_384, 65_537, 4_294_967_296, i64::MAX];
    for number in sorted.iter().rev() {
        create(&*store, &dead(*number), "x").await;
    }
    let other = log_of("ns.example", "orders", "$Default", "1").event(SequenceNumber(4));
    create(&*store, &other.key(FailureKind::Dead), "x").await;
    let prefix = FailurePrefix::of_log(FailureKind::Dead, &log());
    for limit in [1, 2, 3, 11, 5_000] {
        assert_eq!(numbers(&listed(&*store, &prefix, limit).await), sorted, "{limit}");
    }
    let all = listed(&*store, &FailurePrefix::all(FailureKind::Dead), 5).await;
    assert_eq!(numbers(&all), [&sorted[..], &[4]].concat());
}

async fn pages_go_on_while_entries_come_and_go(store: Arc<dyn FailureStore>) {
    let mut versions = Vec::new();
    for number in 0..10 {
        versions.push(create(&*store, &dead(number), "x").await);
    }
    let prefix = FailurePrefix::of_log(FailureKind::Dead, &log());
    let first = store.list(&prefix, None, 4).await.unwrap();
    let seen: Vec<_> = first.entries.into_iter().map(Result::unwrap).collect();
    assert!(!seen.is_empty());
    // The one that the token stands on, and others, are gone; one came before it.
    for number in 0..6 {
        store.delete(&dead(number), &versions[usize::try_from(number).unwrap()]).await.unwrap();
    }
    create(&*store, &dead(-5), "x").await;
    let mut after = first.next;
    let mut rest = Vec::new();
    while let Some(token) = after {
        let page = store.list(&prefix, Some(&token), 4).await.unwrap();
        rest.extend(page.entries.into_iter().map(Result::unwrap));
        after = page.next;
    }
    assert_eq!(numbers(&rest), [6, 7, 8, 9]);
}

async fn any_name_is_a_key_of_its_own(store: Arc<dyn FailureStore>) {
    let long = "long".repeat(64);
    let longer = format!("{long}er");
    let names = [
        "a", "a/b", "a\\b", "a%2fb", ".", "..", "../a", "/a", "a.", ".a", "a.json", "", " ", "ä",
        "$default", "%", "a\nb", "a;b=c", &long, &longer,
    ];
    let mut keys = BTreeSet::new();
    for name in names {
        for log in [
            log_of(name, "e", "g", "p"),
            log_of("n", name, "g", "p"),
            log_of("n", "e", name, "p"),
            log_of("n", "e", "g", name),
        ] {
            keys.insert(log.event(SequenceNumber(1)).key(FailureKind::Dead));
        }
    }
    for key in &keys {
        create(&*store, key, &key.to_string()).await;
    }
    for key in &keys {
        assert_eq!(text_of(&*store, key).await, Some(key.to_string()));
    }
    let all = listed(&*store, &FailurePrefix::all(FailureKind::Dead), 100).await;
    assert_eq!(all.len(), keys.len());
    let found: BTreeSet<_> = all.into_iter().map(|listed| listed.key).collect();
    assert_eq!(found, keys);
}

/// As they are to the service: a worker that is configured anew, in another spelling, goes on.
async fn names_that_are_one_to_the_service_are_one_key(store: Arc<dyn FailureStore>) {
    let mut version = create(&*store, &dead(1), "0").await;
    for (round, log) in [
        log_of("NS.Example", "Orders", "$default", "0"),
        log_of("ns.example:5671", "ORDERS", "$DEFAULT", "0"),
    ]
    .into_iter()
    .enumerate()
    {
        let key = log.event(SequenceNumber(1)).key(FailureKind::Dead);
        assert_eq!(text_of(&*store, &key).await, Some(round.to_string()));
        assert_conflict(store.put(&key, &entry("x"), &Expected::Absent).await);
        let text = (round + 1).to_string();
        version = store.put(&key, &entry(&text), &Expected::Version(version)).await.unwrap();
        let prefix = FailurePrefix::of_log(FailureKind::Dead, &log);
        assert_eq!(listed(&*store, &prefix, 10).await.len(), 1);
    }
}

async fn long_texts_are_cut_in_listings_alone(store: Arc<dyn FailureStore>) {
    let long = "ä😀".repeat(20_000);
    let mut entry = entry(&long);
    for text in [&mut entry.meta.lane, &mut entry.meta.destination, &mut entry.meta.job] {
        *text = Some(long.clone());
    }
    entry.meta.worker.clone_from(&long);
    store.put(&dead(1), &entry, &Expected::Absent).await.unwrap();
    assert_eq!(text_of(&*store, &dead(1)).await.as_deref(), Some(&*long));
    let listed = listed(&*store, &FailurePrefix::all(FailureKind::Dead), 10).await;
    let meta = &listed[0].meta;
    assert!(long.starts_with(&meta.reason) && meta.reason.len() > 100);
    assert!(long.starts_with(meta.destination.as_deref().unwrap()));
}

async fn times_of_any_age_survive(store: Arc<dyn FailureStore>) {
    let hundred_years = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    for (number, due) in [(1, at(0)), (2, at(1)), (3, at(1_764_000_000) + hundred_years)] {
        let mut entry = entry("x");
        entry.meta.due = Some(due);
        let key = log().event(SequenceNumber(number)).key(FailureKind::Parked);
        store.put(&key, &entry, &Expected::Absent).await.unwrap();
        let listed = listed(&*store, &FailurePrefix::all(FailureKind::Parked), 10).await;
        assert_eq!(listed.last().unwrap().meta.due, Some(due));
    }
}
