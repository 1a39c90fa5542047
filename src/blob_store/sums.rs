//! The sums of a blob's bytes.

use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::Md5;
use sha2::{Digest as _, Sha256};

/// What is known of a blob's bytes beside their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Sums {
    /// The CRC-64/NVME, which Azure Blob Storage computes as well.
    pub crc64: Option<u64>,
    /// The SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// The MD5. No note has it.
    pub md5: Option<[u8; 16]>,
}

impl Sums {
    /// The first two, as far as they are known.
    pub fn new(crc64: Option<u64>, sha256: Option<[u8; 32]>) -> Self {
        Self { crc64, sha256, md5: None }
    }

    /// The same, with the MD5.
    #[must_use]
    pub fn with_md5(mut self, md5: Option<[u8; 16]>) -> Self {
        self.md5 = md5;
        self
    }
}

/// The CRC-64/NVME of bytes.
#[cfg(any(feature = "blob", test))]
pub(crate) fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::crc64_nvme(bytes)
}

/// The CRC-64/NVME of bytes that follow others, of both together.
#[cfg(any(feature = "blob", test))]
pub(crate) fn joined_crc64(first: u64, second: u64, bytes_of_second: u64) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, first, second, bytes_of_second)
}

/// Sums of bytes as they come.
#[derive(Clone)]
pub(crate) struct Summing {
    crc64: Crc,
    sha256: Option<Sha256>,
    md5: Option<Md5>,
}

impl Summing {
    pub(crate) fn new(with_sha256: bool) -> Self {
        let sha256 = with_sha256.then(Sha256::new);
        Self { crc64: Crc::new(CrcAlgorithm::Crc64Nvme), sha256, md5: None }
    }

    /// The same, with the MD5 of the bytes.
    pub(crate) fn with_md5(mut self) -> Self {
        self.md5 = Some(Md5::new());
        self
    }

    pub(crate) fn update(&mut self, part: &[u8]) {
        self.crc64.update(part);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(part);
        }
        if let Some(md5) = &mut self.md5 {
            md5.update(part);
        }
    }

    pub(crate) fn sums(&self) -> Sums {
        let sha256 = self.sha256.clone().map(|sha256| sha256.finalize().into());
        let md5 = self.md5.clone().map(|md5| md5.finalize().into());
        Sums { crc64: Some(self.crc64.finalize()), sha256, md5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-64/NVME in the catalogue of parametrised CRC algorithms.
    #[test]
    fn the_sums_are_those_of_their_definitions() {
        let mut summing = Summing::new(true);
        summing.update(b"12345");
        summing.update(b"6789");
        let sums = summing.sums();
        assert_eq!(sums.crc64, Some(0xae8b_1486_0a79_9888));
        assert_eq!(sums.sha256, Some(Sha256::digest(b"123456789").into()));
        assert_eq!(joined_crc64(crc64(b"12345"), crc64(b"6789"), 4), crc64(b"123456789"));
        assert_eq!(joined_crc64(crc64(b""), crc64(b"6789"), 4), crc64(b"6789"));
        let mut summing = Summing::new(false).with_md5();
        summing.update(b"abc");
        assert_eq!(summing.sums().sha256, None);
        // RFC 1321, A.5.
        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        assert_eq!(summing.sums().md5.map(|md5| crate::hex::hex(&md5)).as_deref(), Some(md5));
    }
}
