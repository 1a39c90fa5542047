//! What a data folder must hold: how far the log of each partition came, noted in a file of its own.
//!
//! ```text
//!  missing ──opened──> open ──stopped in order──> closed ──opened──> open …
//!             noted: what its files held, on the disk     noted: all that was ever accepted
//!             and, with each file that is begun, its first events
//! ```
//!
//! A log may reach beyond what is noted of it, and may begin earlier; one that ends before it, or
//! begins later, has lost events. So a file that is cut, or gone, is found out, even if the files that
//! are left look as if nothing had happened. One loss is beyond it: what a broker that was killed had
//! written behind all that is noted, if it is cut between two records. So a hub that was not closed is
//! always named. Pure, but for [`load`] and [`save`].
//!
//! Invariant: what is noted was on the disk before, and what is removed was noted as removed before.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::EmulatorError;
use super::private;

pub(super) const FILE: &str = "extents.json";
const CHECKSUM: &str = "crc32";

/// What is noted of all hubs, by lower-case name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Extents {
    pub(super) hubs: BTreeMap<String, HubExtent>,
}

/// What is noted of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HubExtent {
    pub(super) created_at_ms: i64,
    /// A broker has it open, or did not end in order.
    pub(super) is_open: bool,
    pub(super) partitions: Vec<Extent>,
}

/// A part of a log that must be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Extent {
    /// The first event.
    pub(super) begin: i64,
    /// Behind the last one.
    pub(super) end: i64,
    /// Where the record of `end` begins, or will.
    pub(super) end_offset: i64,
}

impl Extent {
    /// Whether a log that is like `self` has lost nothing of `noted`.
    pub(super) fn holds(&self, noted: &Self) -> bool {
        let ends_behind = match self.end == noted.end {
            true => self.end_offset == noted.end_offset,
            false => self.end > noted.end,
        };
        self.begin <= noted.begin && ends_behind
    }

    /// What must be there when `self` was, and `later` is: retention moved the beginning, and
    /// publishers the end.
    pub(super) fn followed_by(self, later: Self) -> Self {
        let end = if later.end > self.end { later } else { self };
        Self { begin: later.begin.max(self.begin), ..end }
    }
}

/// Reads the file of a data folder; `None` if there is none.
pub(super) fn load(root: &Path) -> Result<Option<Extents>, EmulatorError> {
    read_sealed(&root.join(FILE), Seal::Required)
}

/// Writes the file of a data folder durably.
pub(super) fn save(root: &Path, extents: &Extents) -> Result<(), EmulatorError> {
    write_sealed(&root.join(FILE), extents)
}

/// Whether a file without a checksum is taken for whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    Required,
    /// It may be of an earlier version.
    Optional,
}

/// Reads a small JSON file that has its own checksum; `None` if there is none.
pub(super) fn read_sealed<T: Serialize + DeserializeOwned>(
    path: &Path,
    seal: Seal,
) -> Result<Option<T>, EmulatorError> {
    let bytes = private::read(path).map_err(|error| EmulatorError::storage("read", path, error))?;
    let Some(bytes) = bytes else { return Ok(None) };
    match unseal(&bytes, seal) {
        Some(content) => Ok(Some(content)),
        None => Err(EmulatorError::DamagedFile { path: path.to_owned() }),
    }
}

/// The content of a file that is whole.
pub(super) fn unseal<T: Serialize + DeserializeOwned>(bytes: &[u8], seal: Seal) -> Option<T> {
    let mut value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let noted = value.as_object_mut()?.remove(CHECKSUM);
    let content: T = serde_json::from_value(value).ok()?;
    let is_whole = match noted {
        Some(noted) => noted.as_u64() == Some(checksum(&content)?.into()),
        None => seal == Seal::Optional,
    };
    is_whole.then_some(content)
}

/// Over the content as this version writes it, whatever the order and the spaces of the file.
fn checksum(content: &impl Serialize) -> Option<u32> {
    serde_json::to_vec(content).ok().map(|bytes| crc32fast::hash(&bytes))
}

/// Writes a small JSON file with its own checksum, durably.
pub(super) fn write_sealed(path: &Path, content: &impl Serialize) -> Result<(), EmulatorError> {
    let written = || private::replace(path, &sealed(content)?);
    written().map_err(|error| EmulatorError::storage("write", path, error))
}

/// The content as a file holds it.
pub(super) fn sealed(content: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut value = serde_json::to_value(content)?;
    if let Some((object, checksum)) = value.as_object_mut().zip(checksum(content)) {
        object.insert(CHECKSUM.to_owned(), checksum.into());
    }
    let mut text = serde_json::to_vec_pretty(&value)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extents() -> Extents {
        let partitions = vec![Extent { begin: 0, end: 31, end_offset: 977 }, Extent::default()];
        let hub = HubExtent { created_at_ms: 1_700_000_000_000, is_open: false, partitions };
        Extents { hubs: [("orders".to_owned(), hub)].into() }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).unwrap().is_none());
        save(dir.path(), &extents()).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(extents()));
        std::fs::write(dir.path().join(FILE), r#"{"hubs":{}}"#).unwrap();
        assert!(matches!(load(dir.path()), Err(EmulatorError::DamagedFile { .. })));
    }

    #[test]
    fn every_flipped_bit_is_found_or_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &extents()).unwrap();
        let whole = std::fs::read(dir.path().join(FILE)).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read: Option<Extents> = unseal(&damaged, Seal::Optional);
            assert!(read.is_none_or(|read| read == extents()), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn what_must_be_there_only_moves_on(
            one in (0i64..9, 0i64..9), two in (0i64..9, 0i64..9),
        ) {
            let extent = |(begin, end)| Extent { begin, end, end_offset: end * 100 };
            let both = extent(one).followed_by(extent(two));
            prop_assert_eq!(both.begin, one.0.max(two.0));
            prop_assert_eq!(both.end, one.1.max(two.1));
            prop_assert_eq!(both.end_offset, both.end * 100);
        }
    }
}
