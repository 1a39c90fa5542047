//! What every failure store must do, run against each, and what each adds.
//!
//! A new store joins with one `contract!` line at the end of the list below. The container needs Azurite,
//! which scripts/test installs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod azurite;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::dead_letter::store::{LetterBody, StoreDeadLetterSink};
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::error::error_chain;
use longshore::event::{
    Body, EventParts, Incarnation, MessageId, MessageProperties, Partition, SequenceNumber, Value,
};
use longshore::failure_store::container::ContainerFailureStore;
use longshore::failure_store::folder::FolderFailureStore;
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{
    Expected, FailureEntry, FailureKey, FailureKind, FailureMeta, FailurePrefix, FailureStore,
    Fingerprint, ListedFailure, LogIdentity, StoreError, VersionToken,
};
use longshore::secret::Secret;
use longshore::testing::contract::failure_stores;
use longshore::{Error, ErrorClass, Event, Failure};

/// An empty store, and what must live as long as it.
struct Fixture {
    store: Arc<dyn FailureStore>,
    _keep: Box<dyn Any + Send>,
}

/// Each case of the contract as a test of its own, and what records and the sink over a store make of it.
macro_rules! contract {
    ($name:ident, $fixture:expr) => {
        contract!(@ $name, $fixture,
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
        );
    };
    (@ $name:ident, $fixture:expr, $($case:ident,)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let fixture: Fixture = $fixture.await;
                    failure_stores().hold_one(stringify!($case), fixture.store).await;
                }
            )*

            #[tokio::test]
            async fn a_record_survives_byte_for_byte_with_all_types() {
                let fixture: Fixture = $fixture.await;
                super::a_record_survives_byte_for_byte_with_all_types(fixture.store).await;
            }

            #[tokio::test]
            async fn a_damaged_record_is_told_and_hides_no_other() {
                let fixture: Fixture = $fixture.await;
                super::a_damaged_record_is_told_and_hides_no_other(fixture.store).await;
            }

            #[tokio::test]
            async fn a_sink_leaves_one_record_of_an_event() {
                let fixture: Fixture = $fixture.await;
                super::a_sink_leaves_one_record_of_an_event(fixture.store).await;
            }
        }
    };
}

contract!(memory, memory_store());
contract!(folder, folder_store());
contract!(container, container_store());

async fn memory_store() -> Fixture {
    Fixture { store: Arc::new(MemoryFailureStore::new()), _keep: Box::new(()) }
}

async fn folder_store() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = FolderFailureStore::open(dir.path()).unwrap();
    Fixture { store: Arc::new(store), _keep: Box::new(dir) }
}

async fn container_store() -> Fixture {
    let container = azurite::Container::create().await;
    let store = ContainerFailureStore::with_signature(&Secret::new(container.url(azurite::ALL)));
    Fixture { store: Arc::new(store.unwrap()), _keep: Box::new(container) }
}

fn log() -> LogIdentity {
    LogIdentity {
        namespace: "ns.example".to_owned(),
        entity: "orders".into(),
        incarnation: Incarnation(1_700_000_000_123),
        consumer_group: "$Default".into(),
        partition: "0".into(),
    }
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

fn letter(event: Event, message: &str) -> DeadLetter {
    let failure = Failure::permanent(message);
    DeadLetter::new(event, "$Default".into(), "worker-1", failure, at(60))
        .with_history(3, at(10))
        .with_origin("ns.example", Incarnation(1_700_000_000_123))
}

fn parts(number: i64, body: impl Into<Bytes>) -> EventParts {
    EventParts::new(Arc::new(Partition::new("orders", "0")), number, body)
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

fn odd_events() -> Vec<EventParts> {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let mut events: Vec<EventParts> =
        [Bytes::new(), Bytes::from_static(b"{\"a\":1}"), all_bytes.repeat(4_096).into()]
            .into_iter()
            .map(|body| parts(0, body))
            .collect();
    for body in [
        Body::Data(vec![]),
        Body::Data(vec![Bytes::from_static(b"a"), Bytes::from_static(b"\xff")]),
        Body::Value(Value::Null),
        Body::Value(Value::Map(vec![(Value::Int(1), Value::from("one"))])),
        Body::Sequence(vec![vec![Value::from(1_i64)], vec![]]),
    ] {
        let mut parts = parts(0, "");
        parts.set_structured_body(body);
        events.push(parts);
    }
    for parts in &mut events {
        for (name, value) in [
            ("ulong", Value::ULong(5)),
            ("infinite", Value::Double(f64::NEG_INFINITY)),
            ("binary", Value::Binary(Bytes::from_static(b"\0\xff"))),
            ("before 1970", Value::Timestamp(-1)),
            ("url", Value::from("https://u:p@h/a?sig=kept")),
        ] {
            parts.properties.insert(name.to_owned(), value.clone());
            parts.annotations.insert(name.into(), value);
        }
        let mut message = MessageProperties::default();
        message.message_id = Some(MessageId::Uuid([7; 16]));
        parts.set_message(message);
        parts.key = Some("k".to_owned());
        parts.offset = Some("4096".into());
        parts.enqueued_time = at(5) + Duration::from_millis(123);
    }
    events
}

async fn a_record_survives_byte_for_byte_with_all_types(store: Arc<dyn FailureStore>) {
    let sink = StoreDeadLetterSink::new(store.clone());
    for (number, mut parts) in (0..).zip(odd_events()) {
        parts.sequence_number = SequenceNumber(number);
        let event = Event::from(parts);
        sink.write(&letter(event.clone(), "404")).await.unwrap();
        let stored = store.read(&dead(number)).await.unwrap().unwrap();
        let read = stored.record().unwrap().to_event().unwrap();
        assert_eq!(read.body(), event.body());
        assert_eq!(read.structured_body(), event.structured_body());
        assert_eq!(read.properties(), event.properties());
        assert_eq!(read.annotations(), event.annotations());
        assert_eq!(read.message_properties(), event.message_properties());
        assert_eq!(read.position(), event.position());
        assert_eq!((read.key(), read.partition()), (event.key(), event.partition()));
    }
    let listed = listed(&*store, &FailurePrefix::all(FailureKind::Dead), 3).await;
    assert_eq!(listed.len(), odd_events().len());
    let meta = &listed[2].meta;
    assert_eq!((meta.attempts, meta.body_bytes, &*meta.worker), (3, 1 << 20, "worker-1"));
    assert_eq!((meta.first_failure, meta.last_failure), (at(10), at(60)));
    assert_eq!(meta.fingerprint, Fingerprint::of(ErrorClass::Permanent, "404"));
    assert_eq!(meta.enqueued_time, at(5) + Duration::from_millis(123));
}

async fn a_damaged_record_is_told_and_hides_no_other(store: Arc<dyn FailureStore>) {
    let whole = |number| FailureEntry::of(&record(number)).unwrap();
    let good = whole(1);
    let half =
        FailureEntry { content: good.content.slice(..good.content.len() / 2), ..good.clone() };
    let text = String::from_utf8(good.content.to_vec()).unwrap();
    let later = text.replace("\"version\": 3", "\"version\": 99");
    let later = FailureEntry { content: later.into(), ..good.clone() };
    let puts = [(1, good), (2, half), (3, later), (4, whole(5)), (5, whole(5))];
    for (number, entry) in puts {
        store.put(&dead(number), &entry, &Expected::Absent).await.unwrap();
    }
    let all = listed(&*store, &FailurePrefix::all(FailureKind::Dead), 10).await;
    assert_eq!(numbers(&all), [1, 2, 3, 4, 5]);
    for (number, fault) in [
        (1, None),
        (2, Some("cannot be read; repair it, or delete it")),
        (3, Some("its version is 99")),
        (4, Some("is a copy of dead/ns.example/orders/1700000000123/%24default/0/5")),
        (5, None),
    ] {
        let stored = store.read(&dead(number)).await.unwrap().unwrap();
        let Some(fault) = fault else {
            assert_eq!(stored.record().unwrap(), record(number));
            continue;
        };
        let error = stored.record().unwrap_err();
        assert_eq!(error.class(), ErrorClass::BadData);
        let told = error_chain(&error).join(": ");
        assert!(told.contains(fault) && told.contains(&format!("/{number}")), "{told}");
        store.delete(&dead(number), &stored.version).await.unwrap();
    }
}

fn record(number: i64) -> DeadLetterRecord {
    DeadLetterRecord::new(&letter(parts(number, "body").into(), "404"))
}

async fn a_sink_leaves_one_record_of_an_event(store: Arc<dyn FailureStore>) {
    let sink = StoreDeadLetterSink::new(store.clone());
    let event = Event::from(parts(7, "body"));
    let message = "https://u:canary@h/a/7.zip?sig=canary: 404";
    for attempts in [3, 5] {
        let letter = letter(event.clone(), message).with_history(attempts, at(10));
        sink.write(&letter).await.unwrap();
    }
    let mut anew = letter(event.clone(), message);
    anew.incarnation = Incarnation(1_700_000_000_999);
    let mut other_group = letter(event.clone(), message);
    other_group.consumer_group = "audit".into();
    let omitting = sink.clone().with_body(LetterBody::Omit);
    for letter in [&anew, &other_group] {
        omitting.write(letter).await.unwrap();
    }
    let all = listed(&*store, &FailurePrefix::all(FailureKind::Dead), 10).await;
    assert_eq!(all.len(), 3);
    let stored = store.read(&dead(7)).await.unwrap().unwrap();
    let read = stored.record().unwrap();
    assert_eq!((read.attempts, read.body().unwrap()), (5, Bytes::from_static(b"body")));
    for listed in &all {
        assert_eq!(listed.meta.reason, "https://h/…: …");
        assert_eq!(listed.meta.body_bytes, 4);
        assert_eq!(listed.meta.is_body_omitted, listed.key != dead(7));
        let stored = store.read(&listed.key).await.unwrap().unwrap();
        let text = String::from_utf8(stored.content.to_vec()).unwrap();
        assert!(!text.contains("canary"), "{text}");
        if listed.meta.is_body_omitted {
            let refused: Error = stored.record().unwrap().to_event().unwrap_err();
            assert!(refused.to_string().contains("cannot be replayed"), "{refused}");
        }
    }
}

/// What the folder promises beyond the contract.
mod folders {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};

    use super::*;

    const BUCKET: &str = "dead/ns.example/orders/1700000000123/%24default/0/0000000000000000000";

    fn open(dir: &Path) -> FolderFailureStore {
        FolderFailureStore::open(dir).unwrap()
    }

    fn file_of(dir: &Path, number: i64) -> PathBuf {
        dir.join(BUCKET).join(format!("{number:019}.json"))
    }

    async fn reasons(store: &dyn FailureStore) -> Vec<String> {
        let listed = listed(store, &FailurePrefix::all(FailureKind::Dead), 100).await;
        listed.into_iter().map(|listed| listed.meta.reason).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stores_that_share_a_folder_have_one_winner_for_each_version() {
        let dir = tempfile::tempdir().unwrap();
        let stores: Vec<_> = (0..4).map(|_| Arc::new(open(dir.path()))).collect();
        let mut expected = Expected::Absent;
        for round in 0..8 {
            let writers: Vec<_> = stores
                .iter()
                .map(|store| {
                    let (store, expected) = (Arc::clone(store), expected.clone());
                    tokio::spawn(async move { store.put(&dead(7), &entry("x"), &expected).await })
                })
                .collect();
            let mut winners = Vec::new();
            for writer in writers {
                match writer.await.unwrap() {
                    Ok(version) => winners.push(version),
                    lost => assert_conflict(lost),
                }
            }
            assert_eq!(winners.len(), 1, "round {round}");
            expected = Expected::Version(winners.remove(0));
        }
    }

    #[tokio::test]
    async fn a_file_is_for_people_and_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("failures"));
        let version = create(&store, &dead(7), "seven").await;
        let file = file_of(&dir.path().join("failures"), 7);
        let text = fs::read_to_string(&file).unwrap();
        let (head, record) = text.split_once('\n').unwrap();
        assert_eq!(record, "seven");
        assert!(head.contains("hub=orders;group=$Default") && head.contains(&version.0), "{head}");
        for path in file.ancestors().take_while(|path| *path != dir.path()) {
            let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        }
        assert_eq!(
            open(&dir.path().join("failures")).read(&dead(7)).await.unwrap().unwrap().version,
            version
        );
    }

    #[tokio::test]
    async fn an_index_that_is_gone_damaged_or_old_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for number in 1..=3 {
            create(&store, &dead(number), &number.to_string()).await;
        }
        let index = dir.path().join(BUCKET).join(".index");
        let whole = fs::read(&index).unwrap();
        let old = file_of(dir.path(), 2);
        let before = fs::read(&old).unwrap();
        store.put(&dead(2), &entry("two"), &Expected::Anything).await.unwrap();
        for content in [None, Some(&whole[..whole.len() / 2]), Some(&whole), Some(b"\xff\n\n a b")]
        {
            match content {
                Some(content) => fs::write(&index, content).unwrap(),
                None => fs::remove_file(&index).unwrap(),
            }
            assert_eq!(reasons(&store).await, ["1", "two", "3"]);
            assert!(fs::metadata(&index).unwrap().len() > 100, "it was mended");
            assert_eq!(reasons(&store).await, ["1", "two", "3"]);
        }
        // Somebody puts back what was there before.
        fs::write(&old, before).unwrap();
        assert_eq!(reasons(&store).await, ["1", "2", "3"]);
    }

    /// Every file with one bit of `whole` changed, one after the other.
    fn flipped(whole: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
        (0..8 * whole.len()).map(|bit| {
            let mut damaged = whole.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            (bit, damaged)
        })
    }

    #[tokio::test]
    async fn each_flipped_bit_of_a_file_is_noticed_or_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let entry = FailureEntry::of(&record(1)).unwrap();
        store.put(&dead(1), &entry, &Expected::Absent).await.unwrap();
        let file = file_of(dir.path(), 1);
        let whole = fs::read(&file).unwrap();
        let record_at = whole.iter().position(|byte| *byte == b'\n').unwrap();
        for (bit, damaged) in flipped(&whole) {
            fs::write(&file, damaged).unwrap();
            let stored = store.read(&dead(1)).await.unwrap().unwrap();
            match stored.record() {
                Ok(found) => {
                    assert_eq!(found, record(1), "bit {bit}");
                    assert!(bit / 8 < record_at, "bit {bit} of the record is not noticed");
                }
                Err(error) => assert_eq!(error.class(), ErrorClass::BadData, "bit {bit}"),
            }
            let page = store.list(&FailurePrefix::all(FailureKind::Dead), None, 10).await.unwrap();
            match &page.entries[..] {
                [Ok(listed)] => assert_eq!((&listed.key, &listed.meta), (&dead(1), &entry.meta)),
                [Err(error)] => {
                    assert!(error.to_string().contains("0001.json is no failure: "), "{error}");
                    assert!(bit / 8 <= record_at, "bit {bit} is of the record");
                }
                entries => panic!("bit {bit}: {entries:?}"),
            }
        }
        let said = |content: &[u8]| {
            fs::write(&file, content).unwrap();
            let (store, dead) = (store.clone(), dead(1));
            async move { store.read(&dead).await.unwrap().unwrap().record() }
        };
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let error = said(&damaged).await.unwrap_err().to_string();
        let damaged_and_what_to_do =
            "is damaged: it is not what was written; repair it, or delete it";
        assert!(error.contains(damaged_and_what_to_do), "{error}");
        // As an earlier release wrote it, and as somebody leaves it who edits it.
        let text = String::from_utf8(whole).unwrap();
        let (before, rest) = text.split_once(",\"checksum\"").unwrap();
        let before = before.split_once(",\"record\"").unwrap().0;
        let earlier = format!("{before}{}", &rest[rest.find('}').unwrap()..]);
        assert_eq!(said(earlier.as_bytes()).await.unwrap(), record(1));
        let page = store.list(&FailurePrefix::all(FailureKind::Dead), None, 10).await.unwrap();
        assert!(page.entries[0].is_ok(), "{page:?}");
    }

    #[tokio::test]
    async fn each_flipped_bit_of_an_index_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        create(&store, &dead(7), "seven").await;
        let all = FailurePrefix::all(FailureKind::Dead);
        let expected = listed(&store, &all, 10).await;
        let index = dir.path().join(BUCKET).join(".index");
        let whole = fs::read(&index).unwrap();
        for (bit, damaged) in flipped(&whole) {
            fs::write(&index, damaged).unwrap();
            assert_eq!(listed(&store, &all, 10).await, expected, "bit {bit}");
        }
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_named_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for number in [1, 5] {
            create(&store, &dead(number), "x").await;
        }
        let [pipe, link, folder] = [2, 3, 4].map(|number| file_of(dir.path(), number));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        std::os::unix::fs::symlink(file_of(dir.path(), 1), &link).unwrap();
        fs::create_dir(&folder).unwrap();
        // Not ours.
        fs::create_dir(dir.path().join(BUCKET).join("aside")).unwrap();
        std::os::unix::fs::symlink(&pipe, dir.path().join(BUCKET).join(".partial-1")).unwrap();
        let page = store.list(&FailurePrefix::all(FailureKind::Dead), None, 10).await.unwrap();
        assert_eq!(page.entries.len(), 5, "{page:?}");
        assert!(page.entries[0].is_ok() && page.entries[4].is_ok(), "{page:?}");
        let root = dir.path().canonicalize().unwrap();
        for (number, entry) in (2..).zip(&page.entries[1..4]) {
            let told = entry.as_ref().unwrap_err().to_string();
            let path = file_of(&root, number).display().to_string();
            assert!(told.contains(&path) && told.contains("not a regular file"), "{told}");
            let read = store.read(&dead(number)).await.unwrap_err().to_string();
            assert!(read.contains("not a regular file"), "{read}");
        }
    }

    #[tokio::test]
    async fn what_is_no_failure_is_named_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for number in 1..=4 {
            create(&store, &dead(number), "x").await;
        }
        fs::write(file_of(dir.path(), 2), "not ours").unwrap();
        fs::copy(file_of(dir.path(), 1), file_of(dir.path(), 3)).unwrap();
        fs::write(dir.path().join("dead/a-file"), "x").unwrap();
        let page = store.list(&FailurePrefix::all(FailureKind::Dead), None, 10).await.unwrap();
        let told: Vec<_> = page
            .entries
            .iter()
            .map(|entry| entry.as_ref().map(|it| it.key.clone()).map_err(ToString::to_string))
            .collect();
        assert_eq!((&told[0], &told[3]), (&Ok(dead(1)), &Ok(dead(4))));
        for (told, fault) in [
            (
                &told[1],
                "0000000000000000002.json is no failure: its first line does not say what it is",
            ),
            (
                &told[2],
                "it is a copy of dead/ns.example/orders/1700000000123/%24default/0/1; repair it",
            ),
        ] {
            let told = told.as_ref().unwrap_err();
            assert!(told.contains(fault), "{told}");
        }
        for number in [2, 3] {
            let stored = store.read(&dead(number)).await.unwrap().unwrap();
            assert!(stored.record().is_err());
            store.delete(&dead(number), &stored.version).await.unwrap();
        }
        assert_eq!(reasons(&store).await, ["x", "x"]);
    }

    #[tokio::test]
    async fn a_folder_without_failures_goes_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for _ in 0..3 {
            let version = create(&store, &dead(7), "x").await;
            assert!(dir.path().join(BUCKET).is_dir());
            store.delete(&dead(7), &version).await.unwrap();
            assert!(!dir.path().join(BUCKET).exists());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[tokio::test]
    async fn a_store_that_is_gone_or_in_the_way_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("failures");
        let store = open(&root);
        create(&store, &dead(1), "x").await;
        fs::remove_dir_all(&root).unwrap();
        let prefix = FailurePrefix::all(FailureKind::Dead);
        let put = store.put(&dead(1), &entry("x"), &Expected::Anything).await;
        let Err(StoreError::Failed(put)) = put else { panic!("{put:?}") };
        for error in [
            put,
            store.read(&dead(1)).await.unwrap_err(),
            store.list(&prefix, None, 10).await.unwrap_err(),
        ] {
            assert_eq!(error.class(), ErrorClass::Permanent);
            assert!(error.to_string().contains("removed or unmounted while in use; put it back"));
        }
        fs::write(&root, "").unwrap();
        let error = FolderFailureStore::open(&root).unwrap_err();
        assert!(error.to_string().contains("is a file; choose a folder"), "{error}");
    }
}

/// What the container promises beyond the contract.
mod containers {
    use super::*;

    fn open(url: String) -> ContainerFailureStore {
        ContainerFailureStore::with_signature(&Secret::new(url)).unwrap()
    }

    #[tokio::test]
    async fn a_blob_can_be_read_by_other_tools_and_its_metadata_is_ascii() {
        let container = azurite::Container::create().await;
        let store = open(container.url(azurite::ALL));
        create(&store, &dead(7), "ä 7").await;
        let name = "dead/ns.example/orders/1700000000123/%24default/0/0000000000000000007.json";
        assert_eq!(container.content(name).await.unwrap(), "ä 7".as_bytes());
        assert_eq!(container.header(name, "content-type").await.unwrap(), "application/json");
        let line = container.header(name, "x-ms-meta-longshore").await.unwrap();
        assert!(line.ends_with(";reason=%C3%A4%207"), "{line}");
    }

    #[tokio::test]
    async fn a_blob_of_somebody_else_is_named_and_hides_no_other() {
        let container = azurite::Container::create().await;
        let store = open(container.url(azurite::ALL));
        create(&store, &dead(7), "x").await;
        container.put("dead/a", &[]).await;
        container.put("dead/z", &[("longshore", "v=99")]).await;
        let page = store.list(&FailurePrefix::all(FailureKind::Dead), None, 10).await.unwrap();
        let told: Vec<_> =
            page.entries.iter().map(|entry| entry.as_ref().map_err(ToString::to_string)).collect();
        assert_eq!(told[1].as_ref().unwrap().key, dead(7));
        for (told, fault) in [(&told[0], "no metadata of a failure"), (&told[2], "of version 99")] {
            assert!(told.as_ref().unwrap_err().contains(fault), "{told:?}");
        }
    }

    #[tokio::test]
    async fn a_container_that_is_forbidden_or_gone_says_what_to_do() {
        let container = azurite::Container::create().await;
        let version = create(&open(container.url(azurite::ALL)), &dead(7), "x").await;
        let reader = open(container.url("rl"));
        assert_eq!(text_of(&reader, &dead(7)).await.as_deref(), Some("x"));
        let put = reader.put(&dead(8), &entry("x"), &Expected::Anything).await;
        let Err(StoreError::Failed(put)) = put else { panic!("{put:?}") };
        let deleted = reader.delete(&dead(7), &version).await;
        let Err(StoreError::Failed(deleted)) = deleted else { panic!("{deleted:?}") };
        for error in [put, deleted] {
            assert_eq!(error.class(), ErrorClass::Auth);
            assert!(error.to_string().contains("its signature or role must be valid"), "{error}");
        }
        let gone = open(azurite::Container::absent().url(azurite::ALL));
        let prefix = FailurePrefix::all(FailureKind::Dead);
        for error in [
            gone.list(&prefix, None, 10).await.unwrap_err(),
            gone.read(&dead(7)).await.unwrap_err(),
        ] {
            assert_eq!(error.class(), ErrorClass::Permanent);
            let told = format!("{error:?}");
            assert!(told.contains("does not exist; create it") && !told.contains("sig="), "{told}");
        }
    }
}
