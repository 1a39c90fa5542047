//! The checksum that a small file has of itself: a flipped bit in it is noticed, and not taken at its word.
//!
//! It is no protection against anybody.

use crc_fast::{CrcAlgorithm, Digest};

use crate::hex::{from_hex, hex};

/// The digits of a checksum.
pub(crate) const DIGITS: usize = 16;

/// The CRC-64/NVME of these parts as one, in hexadecimal digits.
pub(crate) fn checksum(parts: &[&[u8]]) -> String {
    hex(&crc64(parts).to_be_bytes())
}

/// Whether these digits are the checksum of the parts.
pub(crate) fn is_checksum(digits: &str, parts: &[&[u8]]) -> bool {
    from_hex(digits).map(u64::from_be_bytes) == Some(crc64(parts))
}

fn crc64(parts: &[&[u8]]) -> u64 {
    let mut crc = Digest::new(CrcAlgorithm::Crc64Nvme);
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_of_its_parts_as_one() {
        let digits = checksum(&[b"123456789"]);
        // The check value of CRC-64/NVME.
        assert_eq!(digits, "ae8b14860a799888");
        assert_eq!(digits.len(), DIGITS);
        assert!(is_checksum(&digits, &[b"1234", b"", b"56789"]));
        assert!(is_checksum(&digits.to_uppercase(), &[b"123456789"]));
        for wrong in ["", "ae8b14860a79988", "ae8b14860a799889", "+e8b14860a799888"] {
            assert!(!is_checksum(wrong, &[b"123456789"]), "{wrong}");
        }
    }
}
