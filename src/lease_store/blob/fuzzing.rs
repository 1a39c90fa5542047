//! What holds of leases in the metadata of blobs, whoever wrote it.

use std::time::SystemTime;

use super::{Found, Holder, Metadata, VersionToken, decode, decode_member, encode, encode_member};

/// What is read as an ownership of ours, or as a member, is read as the same where it is written again. Each line
/// is a key, a colon and a value.
///
/// # Panics
/// Where that does not hold.
pub fn lease_blobs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let metadata: Metadata = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    if let Some(member) = decode_member(&metadata) {
        let again = decode_member(&encode_member(&member));
        let Some(again) = again else { unreachable!("{member:?} is lost") };
        assert_eq!((&again.owner, again.leaving), (&member.owner, member.leaving));
        assert!(again.wants.is_subset(&member.wants));
    }
    let of = |metadata| {
        let found = Found {
            metadata,
            version: VersionToken(String::new()),
            modified: SystemTime::UNIX_EPOCH,
        };
        decode(found).ownership
    };
    let ownership = of(metadata);
    // Others' owners are theirs to write.
    if !matches!(ownership.holder, Holder::Foreign(_)) {
        assert_eq!(of(encode(&ownership)), ownership);
    }
}
