//! What every checkpoint store must do, run against each, and what the file store adds.
//!
//! A new store joins with one `contract!` line at the end of the list below. What not every
//! medium can hold is named in the line of each store that can. The blob store needs Azurite,
//! which scripts/test installs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod azurite;
mod sdk_store;

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::checkpoint_store::sdk::SdkCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, LeaseEpoch, SettledRun,
    StoreError, Trial, VersionToken, WriteId,
};
use longshore::error::{Error, ErrorClass, error_chain};
use longshore::event::{Incarnation, Position, SequenceNumber};
use longshore::testing::contract::checkpoint_stores;

/// An empty store, and what must live as long as it.
struct Fixture {
    store: Arc<dyn CheckpointStore>,
    _keep: Box<dyn Any + Send>,
}

/// Each case of the contract as a test of its own; those that not every medium can hold are named.
macro_rules! contract {
    ($name:ident, $fixture:expr $(, $more:ident)*) => {
        contract!(@ $name, $fixture,
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
            one_of_eight_concurrent_writers_wins_each_version,
            concurrent_creations_have_one_winner,
            $($more,)*
        );
    };
    (@ $name:ident, $fixture:expr, $($case:ident,)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let fixture: Fixture = $fixture.await;
                    checkpoint_stores().hold_one(stringify!($case), fixture.store).await;
                }
            )*
        }
    };
}

/// Every case is in the lists above.
#[test]
fn the_whole_contract_is_run() {
    let source = include_str!("store_contract.rs");
    for case in checkpoint_stores().names() {
        assert!(
            source.contains(&format!("            {case},"))
                || source.contains(&format!("    {case}")),
            "{case}"
        );
    }
}

contract!(
    memory,
    memory_store(),
    any_name_is_a_key_of_its_own,
    hubs_and_groups_that_differ_by_case_are_one,
    any_offset_survives
);
contract!(
    file,
    file_store(),
    any_name_is_a_key_of_its_own,
    hubs_and_groups_that_differ_by_case_are_one,
    any_offset_survives
);
contract!(
    blob,
    blob_store(),
    any_name_is_a_key_of_its_own,
    hubs_and_groups_that_differ_by_case_are_one
);
// Within one process: between two it has no fence, and what is beside the position is lost with
// the process (tests/sdk_checkpoints.rs). Not `any_name_is_a_key_of_its_own`, nor
// `hubs_and_groups_that_differ_by_case_are_one`: stores of the SDK's trait put names together to
// paths as they are, refuse empty ones, and tell none with a slash apart.
contract!(sdk, sdk_store(), any_offset_survives);

async fn memory_store() -> Fixture {
    Fixture { store: Arc::new(MemoryCheckpointStore::new()), _keep: Box::new(()) }
}

async fn file_store() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    Fixture {
        store: Arc::new(FileCheckpointStore::open(dir.path()).unwrap()),
        _keep: Box::new(dir),
    }
}

async fn sdk_store() -> Fixture {
    let store = SdkCheckpointStore::new(Arc::new(sdk_store::SdkMemory::default()));
    Fixture { store: Arc::new(store), _keep: Box::new(()) }
}

async fn blob_store() -> Fixture {
    let container = azurite::Container::create().await;
    Fixture { store: Arc::new(container.store(azurite::ALL)), _keep: Box::new(container) }
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

/// What the file store promises beyond the contract.
mod files {
    use std::time::Instant;

    use super::*;

    const FOLDER: &str = "hubs.example/orders/%24default";

    /// A process that another test starts has the locks of this one until it runs its program.
    fn open(dir: &Path) -> FileCheckpointStore {
        let give_up = Instant::now() + Duration::from_secs(10);
        loop {
            match FileCheckpointStore::open(dir) {
                Err(error) if is_locked(&error) && Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                opened => return opened.unwrap(),
            }
        }
    }

    fn is_locked(error: &Error) -> bool {
        error.to_string().contains("is in use by")
    }

    fn file_of(dir: &Path, partition: &str) -> PathBuf {
        dir.join(FOLDER).join(format!("{partition}.json"))
    }

    fn names_in(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn open_error(dir: &Path) -> Error {
        FileCheckpointStore::open(dir).unwrap_err()
    }

    #[tokio::test]
    async fn values_and_versions_outlive_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let version = create(&open(dir.path()), &key("0"), &full()).await;
        let store = open(dir.path());
        let stored = store.load(&key("0")).await.unwrap().unwrap();
        assert_eq!(stored.checkpoint, full());
        assert_eq!(stored.version, version);
        store.store(&key("0"), &at(1), &Expected::Version(version)).await.unwrap();
        assert_eq!(names_in(&dir.path().join(FOLDER)), ["0.json"]);
    }

    #[tokio::test]
    async fn a_file_can_be_read_by_people() {
        let dir = tempfile::tempdir().unwrap();
        create(&open(dir.path()), &key("0"), &at(7)).await;
        let text = fs::read_to_string(file_of(dir.path(), "0")).unwrap();
        assert!(text.lines().count() > 5, "{text}");
        for part in ["\"consumer_group\": \"$Default\"", "\"sequence_number\": 7"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[tokio::test]
    async fn an_unreadable_file_is_reported_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for partition in ["0", "1", "2", "3", "4"] {
            create(&store, &key(partition), &at(7)).await;
        }
        let good = fs::read_to_string(file_of(dir.path(), "4")).unwrap();
        fs::write(file_of(dir.path(), "1"), "").unwrap();
        fs::write(file_of(dir.path(), "2"), &good).unwrap();
        let later = good.replace("\"format\": 1", "\"format\": 2");
        fs::write(file_of(dir.path(), "3"), later).unwrap();
        fs::write(dir.path().join(FOLDER).join("Copy.json"), &good).unwrap();

        for (partition, fault) in [
            ("1", "EOF"),
            ("2", "it is the checkpoint of hubs.example/orders/$Default/4"),
            ("3", "its format is 2"),
        ] {
            let error = store.load(&key(partition)).await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::BadData);
            let text = error.to_string();
            let path = file_of(&dir.path().canonicalize().unwrap(), partition);
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(text.contains(fault) && text.contains("move it away"), "{text}");

            let write = store.store(&key(partition), &at(8), &Expected::Absent).await;
            assert!(
                matches!(&write, Err(StoreError::Failed(error)) if error.class() == ErrorClass::BadData),
                "{write:?}"
            );
            assert!(text.contains("set --force"), "{text}");
        }
        let listed = store.list(&key("0").scope).await.unwrap();
        let seen: Vec<_> =
            listed.iter().map(|(id, stored)| (id.as_str(), stored.is_ok())).collect();
        assert_eq!(
            seen,
            [("0", true), ("1", false), ("2", false), ("3", false), ("4", true), ("Copy", false),]
        );
    }

    #[tokio::test]
    async fn each_flipped_bit_of_a_file_is_noticed_or_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        create(&store, &key("0"), &full()).await;
        let file = file_of(dir.path(), "0");
        let whole = fs::read(&file).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        let end_of_checksum = text.find("\"revision\"").unwrap();
        let mut is_said = false;
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, damaged).unwrap();
            match store.load(&key("0")).await {
                Ok(stored) => {
                    assert_eq!(stored.unwrap().checkpoint, full(), "bit {bit}");
                    assert!(bit / 8 < end_of_checksum, "bit {bit} is not noticed");
                }
                Err(error) => {
                    assert_eq!(error.class(), ErrorClass::BadData, "bit {bit}");
                    let error = error.to_string();
                    assert!(error.contains("0.json cannot be read as a checkpoint: "), "{error}");
                    is_said |= error.contains("its checksum is wrong, so it is damaged")
                        && error.contains("set --force");
                }
            }
        }
        assert!(is_said);
    }

    #[tokio::test]
    async fn a_file_whose_line_with_the_checksum_was_removed_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        create(&store, &key("0"), &at(7)).await;
        let file = file_of(dir.path(), "0");
        let text = fs::read_to_string(&file).unwrap();
        let edited = text.replace("\"sequence_number\": 7", "\"sequence_number\": 9");
        fs::write(&file, &edited).unwrap();
        let error = store.load(&key("0")).await.unwrap_err().to_string();
        assert!(error.contains("was edited and still has its line `checksum`"), "{error}");
        let lines = edited.lines().filter(|line| !line.contains("checksum"));
        fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let stored = store.load(&key("0")).await.unwrap().unwrap();
        let watermark = stored.checkpoint.watermark.unwrap();
        assert_eq!(watermark.sequence_number, SequenceNumber(9));
        // The next write has one again.
        store.store(&key("0"), &at(10), &Expected::Version(stored.version)).await.unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("\"checksum\": \""));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_is_no_regular_file_is_listed_as_unreadable() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        create(&store, &key("0"), &at(7)).await;
        let [pipe, link, folder] = ["1", "2", "3"].map(|partition| file_of(dir.path(), partition));
        let long = "p".repeat(400);
        create(&store, &key(&long), &at(7)).await;
        let of_long = names_in(&dir.path().join(FOLDER)).pop().unwrap();
        let of_long = dir.path().join(FOLDER).join(of_long);
        fs::remove_file(&of_long).unwrap();
        for pipe in [&pipe, &of_long] {
            let made = std::process::Command::new("mkfifo").arg(pipe).status().unwrap();
            assert!(made.success());
        }
        std::os::unix::fs::symlink(file_of(dir.path(), "0"), &link).unwrap();
        fs::create_dir(&folder).unwrap();
        // Not ours.
        fs::create_dir(dir.path().join(FOLDER).join("aside")).unwrap();
        let listed = store.list(&key("0").scope).await.unwrap();
        assert_eq!(listed.len(), 5, "{listed:?}");
        let (partition, stored) = &listed[0];
        assert!(partition.as_str() == "0" && stored.is_ok(), "{listed:?}");
        let root = dir.path().canonicalize().unwrap().join(FOLDER);
        for (_, unreadable) in &listed[1..] {
            let told = unreadable.as_ref().unwrap_err().to_string();
            assert!(told.contains(&root.display().to_string()), "{told}");
            assert!(told.contains("not a regular file"), "{told}");
        }
        assert!(store.load(&key("1")).await.is_err());
    }

    #[tokio::test]
    async fn an_unreadable_file_is_written_over_by_who_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        create(&store, &key("0"), &at(7)).await;
        for bad in ["", "{\"format\": 2}"] {
            fs::write(file_of(dir.path(), "0"), bad).unwrap();
            let version = store.overwrite_unreadable(&key("0"), &at(8)).await.unwrap();
            let stored = store.load(&key("0")).await.unwrap().unwrap();
            assert_eq!((stored.checkpoint, &stored.version), (at(8), &version));
            store.store(&key("0"), &at(9), &Expected::Version(version)).await.unwrap();
        }
    }

    /// The file as releases before this one wrote it, under the names as they were spelled.
    fn spelled(dir: &Path, folder: &str, entity: &str, checkpoint: &Checkpoint) -> PathBuf {
        let folder = dir.join("hubs.example").join(folder);
        fs::create_dir_all(&folder).unwrap();
        let record = serde_json::json!({
            "format": 1, "revision": 4, "namespace": "hubs.example", "entity": entity,
            "consumer_group": "$Default", "partition": "0", "checkpoint": checkpoint,
        });
        let file = folder.join("0.json");
        fs::write(&file, record.to_string()).unwrap();
        file
    }

    #[tokio::test]
    async fn a_file_that_was_filed_as_spelled_is_found_and_replaced_by_the_first_write() {
        let dir = tempfile::tempdir().unwrap();
        let reset = Checkpoint { reset_generation: 1, ..at(3) };
        let files = [
            spelled(dir.path(), "%4Frders/%24%44efault", "Orders", &at(9)),
            // An operator put this one back: it is the later one.
            spelled(dir.path(), "orders/%24%44efault", "orders", &reset),
            spelled(dir.path(), "%4F%52%44%45%52%53/%24default", "ORDERS", &at(5)),
        ];
        let store = open(dir.path());
        for entity in ["orders", "Orders"] {
            let scope = scope("hubs.example", entity, "$default");
            let listed = store.list(&scope).await.unwrap();
            assert_eq!(listed.len(), 1, "{listed:?}");
            let key = CheckpointKey { scope, partition: "0".into() };
            let stored = store.load(&key).await.unwrap();
            assert_eq!(stored.as_ref().unwrap().checkpoint, reset);
            assert_eq!(listed[0].1.as_ref().ok(), stored.as_ref());
        }
        // Another hub's is not taken for it.
        let other = CheckpointKey {
            scope: scope("hubs.example", "order", "$default"),
            partition: "0".into(),
        };
        assert_eq!(store.load(&other).await.unwrap(), None);

        let version = store.load(&key("0")).await.unwrap().unwrap().version;
        store.store(&key("0"), &at(4), &Expected::Version(version)).await.unwrap();
        assert_eq!(value(&store, &key("0")).await, at(4));
        assert!(files.iter().all(|file| !file.exists()), "they would come back when it is moved");
        fs::remove_file(file_of(dir.path(), "0")).unwrap();
        assert_eq!(store.load(&key("0")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_broker_of_this_machine_may_come_back_on_another_port() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let at_port = |namespace: &str| CheckpointKey {
            scope: scope(namespace, "orders", "$Default"),
            partition: "0".into(),
        };
        let version = create(&store, &at_port("localhost:5672"), &at(7)).await;
        for namespace in ["localhost", "localhost:6000"] {
            let stored = store.load(&at_port(namespace)).await.unwrap().unwrap();
            assert_eq!((stored.checkpoint, &stored.version), (at(7), &version));
        }
        assert_eq!(store.load(&at_port("127.0.0.1:5672")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_edit_by_hand_makes_the_version_stale() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let version = create(&store, &key("0"), &at(7)).await;
        let text = fs::read_to_string(file_of(dir.path(), "0")).unwrap();
        let edited = text.replace("\"sequence_number\": 7", "\"sequence_number\": 5");
        let edited = edited.lines().filter(|line| !line.contains("checksum"));
        fs::write(file_of(dir.path(), "0"), edited.collect::<Vec<_>>().join("\n")).unwrap();
        assert_conflict(store.store(&key("0"), &at(8), &Expected::Version(version)).await);
        assert_eq!(value(&store, &key("0")).await, at(5));
    }

    #[tokio::test]
    async fn a_write_cut_at_any_byte_leaves_the_old_value() {
        let dir = tempfile::tempdir().unwrap();
        create(&open(dir.path()), &key("0"), &at(7)).await;
        let whole = fs::read(file_of(dir.path(), "0")).unwrap();
        for length in 0..=whole.len() {
            let partial = dir.path().join(FOLDER).join(".partial-00ff");
            fs::write(&partial, &whole[..length]).unwrap();
            let store = open(dir.path());
            assert_eq!(value(&store, &key("0")).await, at(7));
            assert_eq!(store.list(&key("0").scope).await.unwrap().len(), 1);
            assert!(!partial.exists());
        }
    }

    #[tokio::test]
    async fn a_folder_is_used_by_one_store_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path());
        let error = open_error(dir.path());
        assert_eq!(error.class(), ErrorClass::Permanent);
        let owner = format!("is in use by process {}", std::process::id());
        assert!(error.to_string().contains(&owner), "{error}");
        create(&first, &key("0"), &at(1)).await;
        drop(first);
        open(dir.path());
    }

    /// Somebody who takes a lock for a left-over deletes its file; a second worker then gets a lock
    /// of its own. From then on the first one touches nothing.
    #[cfg(unix)]
    #[tokio::test]
    async fn who_lost_its_lock_file_to_another_writes_nothing_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path());
        let version = create(&first, &key("0"), &at(1)).await;
        fs::remove_file(dir.path().join(".longshore.lock")).unwrap();
        let second = open(dir.path());
        let written = first.store(&key("0"), &at(2), &Expected::Version(version.clone())).await;
        let Err(StoreError::Failed(error)) = written else { panic!("{written:?}") };
        let said = format!("{error} {:?}", error_chain(&error));
        assert!(said.contains("another process may have the folder"), "{said}");
        assert_eq!(value(&second, &key("0")).await, at(1));
        second.store(&key("0"), &at(3), &Expected::Version(version)).await.unwrap();
    }

    /// Holds a folder until it is told to end. Not a test of its own: the next one starts it.
    #[tokio::test]
    #[ignore = "started by a_second_worker_on_a_folder_is_refused_and_changes_nothing"]
    async fn child_that_holds_a_folder() {
        let Some(dir) = std::env::var_os("LONGSHORE_TEST_HELD_FOLDER") else {
            return;
        };
        let store = open(Path::new(&dir));
        create(&store, &key("0"), &at(1)).await;
        println!("\nheld");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_second_worker_on_a_folder_is_refused_and_changes_nothing() {
        use std::io::{BufRead as _, BufReader};
        use std::process::{Command, Stdio};

        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "files::child_that_holds_a_folder"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env("LONGSHORE_TEST_HELD_FOLDER", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "held"));
        let before = fs::read(file_of(dir.path(), "0")).unwrap();
        // By another way to the same folder, too.
        let link = tempfile::tempdir().unwrap();
        let link = link.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        for way in [dir.path(), &link] {
            let error = open_error(way);
            assert_eq!(error.class(), ErrorClass::Permanent);
            let owner = format!("is in use by process {}; stop it first", child.id());
            assert!(error.to_string().contains(&owner), "{error}");
        }
        assert_eq!(fs::read(file_of(dir.path(), "0")).unwrap(), before);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(value(&open(dir.path()), &key("0")).await, at(1));
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("taken");
        fs::write(&file, "").unwrap();
        let error = open_error(&file.join("checkpoints"));
        assert_eq!(error.class(), ErrorClass::Permanent);
        let text = error.to_string();
        assert!(text.contains("taken is a file; choose a folder"), "{text}");
    }

    #[tokio::test]
    async fn a_failed_write_leaves_the_old_values() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        create(&store, &key("0"), &at(1)).await;
        // A file where the folder of another scope must be.
        fs::write(dir.path().join("taken"), "").unwrap();
        let blocked = CheckpointKey { scope: scope("taken", "e", "g"), partition: "0".into() };
        for result in [
            store.load(&blocked).await.map(|_| ()),
            match store.store(&blocked, &at(1), &Expected::Absent).await {
                Err(StoreError::Failed(error)) => Err(error),
                other => panic!("{other:?}"),
            },
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
            assert!(error.to_string().contains("taken is a file"), "{error}");
        }
        assert_eq!(value(&store, &key("0")).await, at(1));
    }

    /// Writes until it is killed. Not a test of its own: the next one starts it.
    #[tokio::test]
    #[ignore = "started by a_killed_writer_leaves_the_last_value_it_was_told_is_stored"]
    async fn child_that_writes_until_killed() {
        let Some(dir) = std::env::var_os("LONGSHORE_TEST_KILLED_WRITER") else {
            return;
        };
        let store = open(Path::new(&dir));
        let mut expected = match store.load(&key("0")).await.unwrap() {
            Some(stored) => Expected::Version(stored.version),
            None => Expected::Absent,
        };
        for number in 1.. {
            let version = store.store(&key("0"), &at(number), &expected).await;
            expected = Expected::Version(version.unwrap());
            println!("stored {number}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_killed_writer_leaves_the_last_value_it_was_told_is_stored() {
        use std::io::{BufRead as _, BufReader};
        use std::process::{Command, Stdio};

        let dir = tempfile::tempdir().unwrap();
        for writes in [1, 3, 10] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "files::child_that_writes_until_killed"])
                .args(["--ignored", "--nocapture", "--test-threads=1"])
                .env("LONGSHORE_TEST_KILLED_WRITER", dir.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut told = 0;
            while told < writes {
                let line = lines.next().unwrap().unwrap();
                if let Some((_, number)) = line.split_once("stored ") {
                    told = number.parse().unwrap();
                }
            }
            child.kill().unwrap();
            child.wait().unwrap();
            for line in lines.map_while(Result::ok) {
                if let Some((_, number)) = line.split_once("stored ") {
                    told = number.parse().unwrap();
                }
            }
            let store = open(dir.path());
            let left = value(&store, &key("0")).await;
            // The write that was under way may have been made.
            assert!(left == at(told) || left == at(told + 1), "{told}: {left:?}");
            assert_eq!(names_in(&dir.path().join(FOLDER)), ["0.json"]);
        }
    }
}
