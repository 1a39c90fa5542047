//! What the files of a folder say of themselves, in one file beside them: so a listing reads a file, and not
//! thousands.
//!
//! It is a cache. A line counts only for a file that looks as it did when the line was written, and who
//! finds a file that no line knows adds one. So it may be damaged, old or gone, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::head::Head;
use crate::durable_folder::{DurableFolder, FolderLock, checksum, is_checksum};
use crate::failure_store::VersionToken;

const FILE: &str = ".index";

/// It begins anew when it is larger: most of its lines are then of files that are gone.
const MAX_BYTES: u64 = 24 * 1024 * 1024;

/// How a file looks: it is another one when it was written anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    file: u64,
    modified_nanos: u128,
    bytes: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let file = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let file = 0;
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { file, modified_nanos: since.as_nanos(), bytes: metadata.len() }
    }
}

pub(super) struct Index<'a> {
    root: &'a DurableFolder,
    folder: &'a Path,
}

impl<'a> Index<'a> {
    pub(super) fn of(root: &'a DurableFolder, folder: &'a Path) -> Self {
        Self { root, folder }
    }

    /// What it knows of these files.
    pub(super) fn read(&self, files: &[String]) -> BTreeMap<String, (Stamp, Head)> {
        let content = self.root.read(self.folder, FILE).ok().flatten().unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let wanted: BTreeSet<&str> = files.iter().map(String::as_str).collect();
        // The last line of a file counts.
        let mut lines = BTreeMap::new();
        for line in content.lines() {
            if let Some((known, digits)) = line.rsplit_once(' ')
                && let Some((file, rest)) = known.split_once(' ')
                && wanted.contains(file)
                && is_checksum(digits, &[known.as_bytes()])
            {
                lines.insert(file, rest);
            }
        }
        let known = lines.into_iter();
        known.filter_map(|(file, rest)| Some((file.to_owned(), read_line(rest)?))).collect()
    }

    /// Adds lines, under the lock of the folder. Where that fails, there are none.
    pub(super) fn append<'b>(
        &self,
        lock: &FolderLock,
        lines: impl IntoIterator<Item = (&'b str, Stamp, &'b Head)>,
    ) {
        let mut text = String::new();
        for (file, Stamp { file: number, modified_nanos, bytes }, head) in lines {
            let Head { line, version: VersionToken(version) } = head;
            let known = format!("{file} {number} {modified_nanos} {bytes} {version} {line}");
            // Each begins with the end of the one before it, which may be torn.
            text.push_str(&format!("\n{known} {}", checksum(&[known.as_bytes()])));
        }
        let _ = self.try_append(lock, &text);
    }

    fn try_append(&self, lock: &FolderLock, text: &str) -> io::Result<()> {
        self.root.append(lock, self.folder, FILE, text.as_bytes(), MAX_BYTES)
    }
}

fn read_line(rest: &str) -> Option<(Stamp, Head)> {
    let mut parts = rest.split(' ');
    let mut next = || parts.next();
    let file = next()?.parse().ok()?;
    let modified_nanos = next()?.parse().ok()?;
    let bytes = next()?.parse().ok()?;
    let version = VersionToken(next()?.to_owned());
    let line = next()?.to_owned();
    let is_whole = next().is_none();
    is_whole.then_some((Stamp { file, modified_nanos, bytes }, Head { line, version }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::durable_folder::Access;

    #[test]
    fn whole_lines_are_known_and_the_last_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = DurableFolder::open(dir.path().to_owned(), Access::Shared, "open").unwrap();
        let folder = Path::new("a");
        let lock = root.lock_folder(folder).unwrap();
        let index = Index::of(&root, folder);
        let files = ["1.json".to_owned(), "2.json".to_owned()];
        assert!(index.read(&files).is_empty());
        let stamp = |bytes| Stamp { file: 7, modified_nanos: 8, bytes };
        let head = |line: &str| Head::new(line.to_owned());
        let heads = [head("v=1;a=b"), head("v=1;c=d")];
        index.append(&lock, [("1.json", stamp(1), &heads[0]), ("3.json", stamp(1), &heads[0])]);
        // A writer was killed amid its line.
        index.try_append(&lock, "\n2.json 7 8 9 0 v=1;cu").unwrap();
        index.append(&lock, [("1.json", stamp(2), &heads[1])]);
        let known = index.read(&files);
        assert_eq!(
            known.into_iter().collect::<Vec<_>>(),
            [(files[0].clone(), (stamp(2), heads[1].clone()))]
        );
    }
}
