//! What is known of the files of a list: which were done before, and which lines were read already.
//!
//! Both are tables of fingerprints, so that they cost little: 24 bytes for each result of earlier runs,
//! and some 20 to 35 for each line of the list, half of a gigabyte for twenty million. A fingerprint of a
//! path has 64 bits. Of a million paths two have the same one with a chance of one to thirty million; then
//! one of the two lines is refused aloud, as if both had one file. That a line is passed over because of a
//! fingerprint takes one of its key as well.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use sha2::{Digest, Sha256};

use super::line::Key;

/// Tables that grow one at a time: the last step to twice the size is that of one of them.
const SHARDS: usize = 64;

/// The path of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct PathPrint(u64);

impl PathPrint {
    fn of(path: &str) -> Self {
        let hash: [u8; 32] = Sha256::digest(path).into();
        Self(first_of(&hash))
    }
}

fn first_of(hash: &[u8]) -> u64 {
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The number is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = first_of(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// A result of an earlier run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Done {
    key: u64,
    path: PathPrint,
    /// The length of the file.
    pub(super) bytes: u64,
}

/// What earlier runs did: for each path the last result. In the order of the keys.
#[derive(Debug, Default)]
pub(super) struct Results(Vec<Done>);

/// Reads results, the oldest first.
#[derive(Debug, Default)]
pub(super) struct ResultsBuilder(Vec<Done>);

impl ResultsBuilder {
    pub(super) fn add(&mut self, path: &str, key: &Key, bytes: u64) {
        self.0.push(Done { path: PathPrint::of(path), key: first_of(&key.0), bytes });
    }

    pub(super) fn build(self) -> Results {
        let Self(mut all) = self;
        // Stable: of one path the last stays last.
        all.sort_by_key(|done| done.path);
        all.dedup_by(|later, earlier| {
            let same = later.path == earlier.path;
            if same {
                *earlier = *later;
            }
            same
        });
        all.sort_unstable();
        all.shrink_to_fit();
        Results(all)
    }
}

impl Results {
    /// What became of this line, if its file was the last one at its path.
    pub(super) fn of_line(&self, key: &Key) -> Option<&Done> {
        let key = first_of(&key.0);
        let index = self.0.partition_point(|done| done.key < key);
        self.0.get(index).filter(|done| done.key == key)
    }
}

/// What a line is among those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// The first one with its path.
    New,
    /// The same as a line before.
    Repeated,
    /// Another one, whose file is that of this line.
    Clashes(u64),
}

type Shard = HashMap<PathPrint, (u32, u32), BuildHasherDefault<AsItIs>>;

/// The table of a path: by bits that choose neither the place within it, nor the control byte.
fn shard(path: PathPrint) -> usize {
    usize::try_from(path.0 >> 32).unwrap_or_default() % SHARDS
}

fn short(key: &Key) -> u32 {
    u32::try_from(first_of(&key.0) >> 32).unwrap_or_default()
}

/// The lines that were read.
pub(super) struct SeenLines {
    /// By path: a fingerprint of the key, and the number.
    tasks: Vec<Shard>,
    /// Keys of lines that are no tasks.
    faults: HashMap<u64, (), BuildHasherDefault<AsItIs>>,
}

impl SeenLines {
    pub(super) fn new() -> Self {
        Self { tasks: (0..SHARDS).map(|_| Shard::default()).collect(), faults: HashMap::default() }
    }

    /// A line that is a task.
    pub(super) fn on_task(&mut self, path: &str, key: &Key, number: u64) -> Seen {
        self.on_print(PathPrint::of(path), key, number)
    }

    /// A line whose file was done before; its path need not be known.
    pub(super) fn on_done(&mut self, done: &Done, key: &Key, number: u64) -> Seen {
        self.on_print(done.path, key, number)
    }

    /// Whether it is this line that has the path of what was done.
    pub(super) fn is_of(&self, done: &Done, key: &Key) -> bool {
        let shard = self.tasks.get(shard(done.path));
        shard
            .and_then(|shard| shard.get(&done.path))
            .is_some_and(|(before, _)| *before == short(key))
    }

    fn on_print(&mut self, path: PathPrint, key: &Key, number: u64) -> Seen {
        let key = short(key);
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let Some(shard) = self.tasks.get_mut(shard(path)) else { return Seen::New };
        match shard.get(&path) {
            None => {
                shard.insert(path, (key, number));
                Seen::New
            }
            Some((before, _)) if *before == key => Seen::Repeated,
            Some((_, first)) => Seen::Clashes(u64::from(*first)),
        }
    }

    /// A line that is none. Returns whether it is the first one with these words.
    pub(super) fn on_fault(&mut self, key: &Key) -> bool {
        self.faults.insert(first_of(&key.0), ()).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::of(text.as_bytes())
    }

    #[test]
    fn of_each_path_the_last_result_counts_and_only_for_its_line() {
        let mut results = ResultsBuilder::default();
        for (path, line, bytes) in [("a", "one", 1), ("b", "x", 2), ("a", "two", 3)] {
            results.add(path, &key(line), bytes);
        }
        let results = results.build();
        assert_eq!(results.0.len(), 2);
        let bytes = |line: &str| results.of_line(&key(line)).map(|done| done.bytes);
        assert_eq!((bytes("two"), bytes("x")), (Some(3), Some(2)));
        assert_eq!(bytes("one"), None, "another one took its place");
        assert_eq!(Results::default().of_line(&key("one")), None);
    }

    #[test]
    fn lines_are_told_apart() {
        let mut seen = SeenLines::new();
        for number in 1..1_000 {
            assert_eq!(seen.on_task(&number.to_string(), &key("x"), number), Seen::New);
        }
        assert_eq!(seen.on_task("7", &key("x"), 2_000), Seen::Repeated);
        assert_eq!(seen.on_task("7", &key("y"), 2_001), Seen::Clashes(7));
        let mut results = ResultsBuilder::default();
        results.add("7", &key("x"), 1);
        results.add("new", &key("z"), 1);
        let results = results.build();
        let of = |line: &str| *results.of_line(&key(line)).expect("done");
        assert_eq!(seen.on_done(&of("x"), &key("x"), 2_002), Seen::Repeated);
        assert!(!seen.is_of(&of("z"), &key("z")));
        assert_eq!(seen.on_done(&of("z"), &key("z"), 2_003), Seen::New);
        assert!(seen.is_of(&of("z"), &key("z")) && !seen.is_of(&of("z"), &key("y")));
        assert_eq!(seen.on_task("new", &key("y"), 2_004), Seen::Clashes(2_003));
        assert!(seen.on_fault(&key("no url")) && !seen.on_fault(&key("no url")));
    }
}
