//! Data folders that were damaged: every event is served as it was written, or a word is said.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::address::Start;
use super::event::{self, Prepared};
use super::extents;
use super::log::{Next, Read, ReadLimit, encode_records};
use super::mailbox::{LinkKey, Mailbox};
use super::segment::Segment;
use super::store::Store;
use super::writer::tests::append_and_be_killed;
use super::{EmulatorError, wire};

const HUB: &str = "orders";
/// Of the first partition in one file, of the second in three; the third has none.
const PARTITIONS: u32 = 3;
const EVENTS: [&[i64]; PARTITIONS as usize] = [&[600], &[150, 150, 100], &[]];

fn event(number: i64) -> Vec<Prepared> {
    let mut message = BytesMut::new();
    wire::put_descriptor(&mut message, 0x75);
    wire::put_binary(&mut message, format!("event {number} {}", "x".repeat(40)).as_bytes());
    event::prepare(message.freeze(), None).unwrap().events
}

/// Writes the segments of a partition as the writer does.
fn write_partition(folder: &Path, files: &[i64]) {
    std::fs::create_dir_all(folder).unwrap();
    let mut next = Next::FIRST;
    for count in files {
        let segment = Segment::starting_at(folder, next);
        let mut bytes = segment.header().to_vec();
        let events: Vec<_> = (0..*count).flat_map(event).collect();
        let encoded = encode_records(events.iter(), next, 1_000);
        bytes.extend_from_slice(&encoded.records);
        std::fs::write(&segment.path, bytes).unwrap();
        next = encoded.next;
    }
}

/// How the last run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Closed,
    Killed,
}

/// A folder with a hub, of whose partitions each has these files of so many events.
pub(super) fn write_folder_of(root: &Path, hub: &str, partitions: &[&[i64]]) {
    let (store, _lock) = Store::open(root.to_owned()).unwrap();
    store.open_hub(hub, partitions.len() as u32).unwrap();
    for (partition, files) in partitions.iter().enumerate() {
        write_partition(&root.join("hubs").join(hub).join(partition.to_string()), files);
    }
}

/// A folder of 1,000 events.
fn write_folder(root: &Path, ended: Ended) {
    match ended {
        Ended::Closed => {
            write_folder_of(root, HUB, &EVENTS);
            let (store, _lock) = Store::open(root.to_owned()).unwrap();
            let hub = store.open_hub(HUB, PARTITIONS).unwrap();
            store.on_closed(&[hub.into()]).unwrap();
        }
        Ended::Killed => {
            let (store, _lock) = Store::open(root.to_owned()).unwrap();
            let store = Arc::new(store);
            let hub = store.open_hub(HUB, PARTITIONS).unwrap();
            for (partition, files) in hub.partitions().iter().zip(EVENTS) {
                append_and_be_killed(&store, partition, files);
            }
        }
    }
}

/// How many events of each partition must be there.
fn noted_events(root: &Path) -> Vec<usize> {
    let extents = extents::load(root).unwrap().unwrap();
    extents.hubs[HUB].partitions.iter().map(|noted| noted.end as usize).collect()
}

const GONE: &str = "gone";

type Stored = Vec<(i64, i64, Vec<u8>)>;

/// What a start serves of each partition, and what it says.
fn serve(root: &Path) -> Result<(Vec<Stored>, Vec<String>), String> {
    let said = |error: EmulatorError| error.to_string();
    let (store, _lock) = Store::open(root.to_owned()).map_err(said)?;
    let hub = store.open_hub(HUB, PARTITIONS).map_err(said)?;
    let mailbox = Arc::new(Mailbox::default());
    let link = LinkKey { channel: 0, handle: 0, serial: 0 };
    let limit = ReadLimit { events: 1_000, bytes: 1 << 20 };
    let mut served = Vec::new();
    for partition in hub.partitions() {
        let mut cursor = partition.log.cursor_at(Start::Earliest).unwrap();
        let mut stored = Stored::new();
        loop {
            let mut events = match partition.log.read_or_wait(&mut cursor, limit, &mailbox, link) {
                Read::Events(events) => events,
                Read::File(job) => {
                    let mut events = job.run().map_err(|error| error.to_string())?;
                    cursor.advance(&mut events);
                    events
                }
                Read::CaughtUp => break,
            };
            let events = events.drain(..);
            stored.extend(events.map(|event| (event.sequence, event.offset, event.encoded.into())));
        }
        served.push(stored);
    }
    Ok((served, store.take_notes()))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
    found.sort();
}

fn copy(from: &Path, to: &Path) {
    let mut found = Vec::new();
    files(from, &mut found);
    for path in found {
        let copied = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copied.parent().unwrap()).unwrap();
        std::fs::copy(path, copied).unwrap();
    }
}

/// What was done to a file.
#[derive(Debug)]
struct Damage {
    path: PathBuf,
    what: String,
}

impl Damage {
    /// Whether what was said names the file: a log by its folder, where a part of it is not there.
    fn is_named_by(&self, said: &str) -> bool {
        let folder = self.path.parent().filter(|_| self.path.extension() == Some("log".as_ref()));
        let is_lost = said.contains("is cut or gone");
        let named = folder.filter(|_| is_lost).unwrap_or(&self.path);
        said.contains(&named.display().to_string())
    }
}

/// Damages one file.
fn damage(root: &Path, random: &mut SmallRng) -> Damage {
    let mut found = Vec::new();
    files(root, &mut found);
    found.retain(|path| !path.ends_with("lock"));
    let path = found.choose(random).unwrap().clone();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = random.random_range(0..bytes.len());
    let what = match random.random_range(0..4) {
        0 => {
            bytes[at] ^= 1 << random.random_range(0..8);
            format!("a bit of byte {at}")
        }
        1 => {
            let end = (at + random.random_range(1..2_000)).min(bytes.len());
            let zeros = random.random();
            bytes[at..end].fill_with(|| if zeros { 0 } else { random.random() });
            format!("bytes {at} to {end}")
        }
        2 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        _ => {
            std::fs::remove_file(&path).unwrap();
            return Damage { path, what: GONE.to_owned() };
        }
    };
    std::fs::write(&path, bytes).unwrap();
    Damage { path, what }
}

fn is_prefix(part: &[Stored], whole: &[Stored]) -> bool {
    part.len() == whole.len() && part.iter().zip(whole).all(|(part, whole)| whole.starts_with(part))
}

#[test]
fn damage_never_costs_an_event_without_a_word() {
    let count = std::env::var("LONGSHORE_DAMAGES").map_or(400, |count| count.parse().unwrap());
    let mut refused = 0;
    let mut cut = 0;
    for ended in [Ended::Closed, Ended::Killed] {
        let whole = tempfile::tempdir().unwrap();
        write_folder(whole.path(), ended);
        let reference = tempfile::tempdir().unwrap();
        copy(whole.path(), reference.path());
        let (all, notes) = serve(reference.path()).unwrap();
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 1_000);
        assert_eq!(notes.is_empty(), ended == Ended::Closed, "{notes:?}");
        let noted = noted_events(whole.path());
        let expected = if ended == Ended::Closed { [600, 400, 0] } else { [10, 310, 0] };
        assert_eq!(noted, expected, "{ended:?}");
        for seed in 0..count / 2 {
            let mut random = SmallRng::seed_from_u64(seed);
            let dir = tempfile::tempdir().unwrap();
            copy(whole.path(), dir.path());
            let damage = damage(dir.path(), &mut random);
            let at = format!("{ended:?}, seed {seed}, {damage:?}");
            let (served, notes) = match serve(dir.path()) {
                Ok(served) => served,
                Err(said) => {
                    assert!(damage.is_named_by(&said), "{at}: {said}");
                    refused += 1;
                    continue;
                }
            };
            if damage.what == GONE {
                // Without it nothing is missed any more, and that is said.
                assert!(damage.path.ends_with(extents::FILE), "{at}: {notes:?}");
                assert!(notes.iter().any(|note| damage.is_named_by(note)), "{at}: {notes:?}");
            }
            if served != all {
                cut += 1;
                assert!(is_prefix(&served, &all), "{at}");
                assert_eq!(ended, Ended::Killed, "{at}: {notes:?}");
                let holds = served.iter().zip(&noted).all(|(served, noted)| served.len() >= *noted);
                assert!(holds, "{at}: {notes:?}");
                let is_said = notes.iter().any(|note| note.contains("did not close"));
                assert!(is_said, "{at}: {notes:?}");
            }
        }
    }
    println!("{count} damages: {refused} starts refused, {cut} torn ends cut and said");
    assert!(refused > count / 3 && cut > 0, "{refused} {cut}");
}

#[test]
fn a_hub_that_is_gone_is_missed_and_one_that_was_deleted_is_not() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), Ended::Closed);
    {
        let (store, _lock) = Store::open(dir.path().to_owned()).unwrap();
        store.open_hub("other", 1).unwrap();
        store.remove_hub("other").unwrap();
    }
    assert!(serve(dir.path()).is_ok());
    std::fs::remove_dir_all(dir.path().join("hubs").join(HUB)).unwrap();
    assert!(serve(dir.path()).unwrap_err().contains("held the event hub 'orders'"));
    // As the message says.
    std::fs::remove_file(dir.path().join("extents.json")).unwrap();
    let (served, _) = serve(dir.path()).unwrap();
    assert!(served.iter().all(Vec::is_empty));
}

#[test]
fn files_that_retention_removed_are_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), Ended::Closed);
    let (store, lock) = Store::open(dir.path().to_owned()).unwrap();
    let hub = Arc::new(store.open_hub(HUB, PARTITIONS).unwrap());
    let log = &hub.partitions()[1].log;
    log.keep(super::log::Retention { age: None, bytes: Some(1) });
    let removed = log.trim(0);
    assert_eq!(removed.len(), 2);
    store.on_trimmed(&[Arc::clone(&hub)]).unwrap();
    for file in removed {
        std::fs::remove_file(file).unwrap();
    }
    // Killed here.
    drop((store, lock));
    let (served, _) = serve(dir.path()).unwrap();
    assert_eq!(served[1].first().unwrap().0, 300);
    let newest = Segment::starting_at(
        &dir.path().join("hubs").join(HUB).join("1"),
        Next { sequence: 300, ..Next::FIRST },
    );
    std::fs::remove_file(newest.path).unwrap();
    assert!(serve(dir.path()).unwrap_err().contains("and held 300 to 400"));
}
