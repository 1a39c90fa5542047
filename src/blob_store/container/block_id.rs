//! The id of a block: what it is part of, where it belongs, and how its bytes are told from others.
//!
//! Staged blocks cannot be read back, but their ids are listed. So what a later run has to know of one
//! is in its id: 64 bytes, the most that the service takes, for all ids of a blob must have one width.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | `lsb1` |
//! | 12 | the upload: what the blob is made from, in which version, and in which blocks |
//! | 8 | where the block begins |
//! | 8 | its CRC-64/NVME |
//! | 32 | the state of the SHA-256 behind it, if the hash is asked for |

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest, Sha256};

use crate::blob_store::MadeOf;

const MARK: &[u8; 4] = b"lsb1";

/// The length of an id.
pub(super) const ID_BYTES: usize = 64;

/// Which upload a block belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct UploadKey([u8; 12]);

impl UploadKey {
    /// The upload of a blob that is made in this way: the same in each process.
    pub(super) fn of(made: &MadeOf<'_>) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(made.source);
        hasher.update(made.bytes.to_be_bytes());
        hasher.update(made.block_bytes.to_be_bytes());
        hasher.update([u8::from(made.with_sha256)]);
        hasher.update(made.version.as_bytes());
        let hash: [u8; 32] = hasher.finalize().into();
        let mut key = [0; 12];
        key.copy_from_slice(&hash[..12]);
        Self(key)
    }

    /// The copy of a blob that is made in this way, whose ids have no sums.
    pub(super) fn of_copy(made: &MadeOf<'_>) -> Self {
        Self::beside(b"copy", made)
    }

    /// What is noted of such a copy, in ids alone.
    pub(super) fn of_notes(made: &MadeOf<'_>) -> Self {
        Self::beside(b"notes", made)
    }

    fn beside(what: &[u8], made: &MadeOf<'_>) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(what);
        hasher.update(Self::of(made).0);
        let hash: [u8; 32] = hasher.finalize().into();
        let mut key = [0; 12];
        key.copy_from_slice(&hash[..12]);
        Self(key)
    }

    /// One that nobody else has.
    pub(super) fn random() -> Self {
        Self(SmallRng::from_os_rng().random())
    }
}

/// See the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct BlockId {
    pub(super) upload: UploadKey,
    pub(super) at: u64,
    pub(super) crc64: u64,
    /// Zeros where no hash is asked for.
    pub(super) sha256_state: [u8; 32],
}

impl BlockId {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ID_BYTES);
        bytes.extend_from_slice(MARK);
        bytes.extend_from_slice(&self.upload.0);
        bytes.extend_from_slice(&self.at.to_be_bytes());
        bytes.extend_from_slice(&self.crc64.to_be_bytes());
        bytes.extend_from_slice(&self.sha256_state);
        bytes
    }

    /// Reads an id of ours; `None` if it is somebody else's.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (mark, rest) = bytes.split_first_chunk::<4>()?;
        let (upload, rest) = rest.split_first_chunk::<12>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (crc64, state) = rest.split_first_chunk::<8>()?;
        (mark == MARK).then_some(Self {
            upload: UploadKey(*upload),
            at: u64::from_be_bytes(*at),
            crc64: u64::from_be_bytes(*crc64),
            sha256_state: state.try_into().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_bytes_and_nothing_else_is_one() {
        let id = BlockId {
            upload: UploadKey([3; 12]),
            at: 1 << 40,
            crc64: 0xfeed,
            sha256_state: [9; 32],
        };
        let bytes = id.to_bytes();
        assert_eq!((bytes.len(), BlockId::parse(&bytes)), (ID_BYTES, Some(id)));
        assert_eq!(BlockId::parse(&bytes[1..]), None);
        assert_eq!(BlockId::parse(&[&bytes[..], b"x"].concat()), None);
        assert_eq!(BlockId::parse(b"YmxvY2stMQ=="), None);
    }

    #[test]
    fn an_upload_is_another_one_where_anything_of_it_is_another() {
        let (source, other) = ([1; 16], [2; 16]);
        let made = MadeOf::new(&source, "v", 10, 4);
        let key = UploadKey::of(&made);
        assert_eq!(key, UploadKey::of(&MadeOf::new(&source, "v", 10, 4)));
        for another in [
            MadeOf::new(&other, "v", 10, 4),
            MadeOf::new(&source, "w", 10, 4),
            MadeOf::new(&source, "v", 11, 4),
            MadeOf::new(&source, "v", 10, 5),
            made.with_sha256(false),
        ] {
            assert_ne!(key, UploadKey::of(&another), "{another:?}");
        }
        assert_ne!(key, UploadKey::of_copy(&made), "its ids say other things");
        assert_eq!(UploadKey::of_copy(&made), UploadKey::of_copy(&made));
        assert_ne!(UploadKey::of_notes(&made), UploadKey::of_copy(&made));
        assert_ne!(UploadKey::random(), UploadKey::random());
    }
}
