//! The first line of a file: what a listing says of its record, which version it is of, and checksums.
//!
//! ```text
//! {"longshore":"v=1;namespace=…","version":"5b1d…","record":"9c0a…","checksum":"77e2…"}
//! { the record }
//! ```
//!
//! `record` is the checksum of the record, and `checksum` that of what is before it in the line. So a listing knows
//! that a line is whole without the record, and a record that is damaged can be listed and deleted. A file without
//! checksums is of an earlier release, or was edited by somebody who removed them, and is taken as it is.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable_folder::{checksum, is_checksum, random_name};
use crate::error::{Error, ErrorClass};
use crate::failure_store::VersionToken;
use crate::hex::hex;

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Head {
    /// The metadata.
    pub(super) line: String,
    pub(super) version: VersionToken,
}

/// A file, as far as it can be read.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) version: VersionToken,
    /// Where the record begins.
    pub(super) record_at: usize,
    /// Whether it is not what was written.
    pub(super) is_damaged: bool,
}

#[derive(Serialize, Deserialize)]
struct Written<'a> {
    longshore: Cow<'a, str>,
    version: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<Cow<'a, str>>,
}

impl Written<'_> {
    fn own_checksum(&self) -> String {
        checksum(&self.parts())
    }

    /// What its own checksum is of.
    fn parts(&self) -> [&[u8]; 5] {
        let record = self.record.as_deref().unwrap_or_default();
        [self.longshore.as_bytes(), b"\n", self.version.as_bytes(), b"\n", record.as_bytes()]
    }

    fn is_whole(&self) -> bool {
        self.checksum.as_ref().is_none_or(|digits| is_checksum(digits, &self.parts()))
    }

    fn is_of(&self, record: &[u8]) -> bool {
        self.record.as_ref().is_none_or(|digits| is_checksum(digits, &[record]))
    }
}

impl Head {
    /// Of a new version.
    pub(super) fn new(line: String) -> Self {
        Self { line, version: VersionToken(random_name()) }
    }

    /// The file of a record.
    pub(super) fn before(&self, record: &[u8]) -> Result<Vec<u8>, Error> {
        let mut written = Written {
            longshore: self.line.as_str().into(),
            version: self.version.0.as_str().into(),
            record: Some(checksum(&[record]).into()),
            checksum: None,
        };
        written.checksum = Some(written.own_checksum().into());
        let mut file = serde_json::to_vec(&written).map_err(|error| {
            let message = "it cannot be written as JSON";
            Error::new(ErrorClass::Permanent, "put the failure", message).with_source(error)
        })?;
        file.push(b'\n');
        file.extend_from_slice(record);
        Ok(file)
    }

    /// Reads the head of a file.
    pub(super) fn read(file: &[u8]) -> Result<Self, &'static str> {
        let Some((written, _)) = split(file) else {
            return Err("its first line does not say what it is");
        };
        if !written.is_whole() {
            return Err(
                "the checksum in its first line is wrong, so that is damaged, or was edited",
            );
        }
        let version = VersionToken(written.version.into_owned());
        Ok(Self { line: written.longshore.into_owned(), version })
    }
}

impl Content {
    /// Of a file. One whose head cannot be read has a version of its own, so that it can be deleted.
    pub(super) fn of(file: &[u8]) -> Self {
        let whole = || VersionToken(format!("sha256-{}", hex(Sha256::digest(file).split_at(16).0)));
        let Some((written, record_at)) = split(file) else {
            return Self { version: whole(), record_at: 0, is_damaged: false };
        };
        if !written.is_whole() {
            return Self { version: whole(), record_at, is_damaged: true };
        }
        let is_damaged = !written.is_of(file.get(record_at..).unwrap_or_default());
        Self { version: VersionToken(written.version.into_owned()), record_at, is_damaged }
    }
}

/// The head of a file, and where its record begins.
fn split(file: &[u8]) -> Option<(Written<'_>, usize)> {
    let end = file.iter().position(|byte| *byte == b'\n');
    let (line, record_at) = match end {
        Some(end) => (file.get(..end)?, end + 1),
        None => (file, file.len()),
    };
    Some((serde_json::from_slice(line).ok()?, record_at))
}
