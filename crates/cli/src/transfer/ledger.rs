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
struct Done {
    path: PathPrint,
    key: u64,
    bytes: u64,
}

/// What earlier runs did: for each path the last result.
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
        all.shrink_to_fit();
        Results(all)
    }
}

impl Results {
    /// The length that the file of this line had, where it was the last one at its path.
    pub(super) fn bytes_of(&self, path: &str, key: &Key) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        let path = PathPrint::of(path);
        let index = self.0.binary_search_by_key(&path, |done| done.path).ok()?;
        self.0.get(index).filter(|done| done.key == first_of(&key.0)).map(|done| done.bytes)
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
        let path = PathPrint::of(path);
        // The lowest bits choose the place within a table, the uppermost its control byte.
        let shard = usize::try_from(path.0 >> 32).unwrap_or_default() % SHARDS;
        let key = u32::try_from(first_of(&key.0) >> 32).unwrap_or_default();
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let Some(shard) = self.tasks.get_mut(shard) else { return Seen::New };
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
        assert_eq!(results.bytes_of("a", &key("two")), Some(3));
        assert_eq!(results.bytes_of("a", &key("one")), None, "another one took its place");
        assert_eq!(results.bytes_of("b", &key("x")), Some(2));
        assert_eq!(results.bytes_of("c", &key("x")), None);
        assert_eq!(Results::default().bytes_of("a", &key("one")), None);
    }

    #[test]
    fn lines_are_told_apart() {
        let mut seen = SeenLines::new();
        for number in 1..1_000 {
            assert_eq!(seen.on_task(&number.to_string(), &key("x"), number), Seen::New);
        }
        assert_eq!(seen.on_task("7", &key("x"), 2_000), Seen::Repeated);
        assert_eq!(seen.on_task("7", &key("y"), 2_001), Seen::Clashes(7));
        assert!(seen.on_fault(&key("no url")) && !seen.on_fault(&key("no url")));
    }
}
