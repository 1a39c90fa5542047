//! The first line of a file: what a listing says of its record, and which version it is of.
//!
//! ```text
//! {"longshore":"v=1;namespace=…","version":"5b1d…"}
//! { the record }
//! ```

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable_folder::random_name;
use crate::error::{Error, ErrorClass};
use crate::failure_store::VersionToken;
use crate::hex::hex;

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Head {
    /// The metadata.
    pub(super) line: String,
    pub(super) version: VersionToken,
}

#[derive(Serialize, Deserialize)]
struct Written<'a> {
    longshore: std::borrow::Cow<'a, str>,
    version: std::borrow::Cow<'a, str>,
}

impl Head {
    /// Of a new version.
    pub(super) fn new(line: String) -> Self {
        Self { line, version: VersionToken(random_name()) }
    }

    /// The file of a record.
    pub(super) fn before(&self, record: &[u8]) -> Result<Vec<u8>, Error> {
        let written = Written {
            longshore: self.line.as_str().into(),
            version: self.version.0.as_str().into(),
        };
        let mut file = serde_json::to_vec(&written).map_err(|error| {
            let message = "it cannot be written as JSON";
            Error::new(ErrorClass::Permanent, "put the failure", message).with_source(error)
        })?;
        file.push(b'\n');
        file.extend_from_slice(record);
        Ok(file)
    }

    /// Reads the head of a file.
    pub(super) fn read(file: &[u8]) -> Result<Self, String> {
        let line = file.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let written: Written<'_> = serde_json::from_slice(line)
            .map_err(|_| "its first line does not say what it is".to_owned())?;
        let version = VersionToken(written.version.into_owned());
        Ok(Self { line: written.longshore.into_owned(), version })
    }

    /// The version of a file, and how many bytes are before its record. One without a head has none, and a
    /// version of its own, so that it can be deleted.
    pub(super) fn of(file: &[u8]) -> (VersionToken, usize) {
        match Self::read(file) {
            Ok(head) => {
                let end = file.iter().position(|byte| *byte == b'\n');
                (head.version, end.map_or(file.len(), |end| end + 1))
            }
            Err(_) => {
                let digest = Sha256::digest(file);
                let short = digest.get(..16).unwrap_or_default();
                (VersionToken(format!("sha256-{}", hex(short))), 0)
            }
        }
    }
}
