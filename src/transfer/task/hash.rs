//! A hash in the forms that people have it.

use super::fault::{InvalidTask, shown};
use crate::hex::from_hex;

/// Reads a SHA-256 as people have it: hexadecimal digits in either case, or base64, behind `sha256` or
/// `sha-256` and any of `:`, `=` and `-`, as checksum files, HTTP (RFC 9530) and HTML write it.
pub(super) fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    parse(text, &["sha-256", "sha256"])
}

/// Reads an MD5 in the same forms, and as `Content-MD5` has it.
fn parse_md5(text: &str) -> Option<[u8; 16]> {
    parse(text, &["md5"])
}

/// Reads the MD5 of a task.
///
/// # Errors
/// What stands there is none.
pub(super) fn read_md5(id: &str, md5: Option<&str>) -> Result<Option<[u8; 16]>, InvalidTask> {
    let read = |text: &str| {
        let wrong = || InvalidTask::Md5 { id: id.to_owned(), md5: shown(text) };
        parse_md5(text).ok_or_else(wrong)
    };
    md5.map(read).transpose()
}

fn parse<const N: usize>(text: &str, names: &[&str]) -> Option<[u8; N]> {
    let text = text.trim();
    let after = |name: &&str| {
        let (before, rest) = text.split_at_checked(name.len())?;
        before.eq_ignore_ascii_case(name).then_some(rest)
    };
    let hash = match names.iter().find_map(after) {
        Some(rest) => {
            let hash = rest.trim_start_matches([':', '=', '-', ' ']);
            if hash.len() == rest.len() {
                return None;
            }
            hash.trim_end_matches(':')
        }
        None => text,
    };
    from_hex(hash).or_else(|| from_base64(hash))
}

fn from_base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    // Padded to four characters, or not.
    let padding = "==".get(..(3 - N % 3) % 3).unwrap_or_default();
    let bare = text.strip_suffix(padding).unwrap_or(text);
    let bytes = STANDARD_NO_PAD.decode(bare).or_else(|_| URL_SAFE_NO_PAD.decode(bare)).ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::hex;

    #[test]
    fn a_hash_is_read_in_the_forms_that_people_have() {
        let hash: [u8; 32] = std::array::from_fn(|index| (index * 8 + 3) as u8);
        let digits = hex(&hash);
        let base64 = {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(hash)
        };
        let url_safe = base64.replace('+', "-").replace('/', "_");
        for text in [
            digits.clone(),
            digits.to_uppercase(),
            format!("sha256:{digits}"),
            format!("SHA256:{}", digits.to_uppercase()),
            format!("sha-256={base64}"),
            format!("sha-256=:{base64}:"),
            format!("sha256-{base64}"),
            format!(" {digits} "),
            base64.trim_end_matches('=').to_owned(),
            url_safe,
            base64,
        ] {
            assert_eq!(parse_sha256(&text), Some(hash), "{text}");
        }
        for wrong in ["", "sha256", "sha256:", &digits[1..], &format!("md5:{digits}"), "ä"] {
            assert_eq!(parse_sha256(wrong), None, "{wrong}");
        }
        assert_eq!(parse_sha256(&format!("sha256{digits}")), None);
    }
    #[test]
    fn an_md5_is_read_in_the_same_forms() {
        // Of "abc": RFC 1321, A.5.
        let md5 = from_hex("900150983cd24fb0d6963f7d28e17f72");
        assert!(md5.is_some());
        for text in [
            "900150983cd24fb0d6963f7d28e17f72",
            "MD5:900150983CD24FB0D6963F7D28E17F72",
            "kAFQmDzST7DWlj99KOF/cg==",
            "kAFQmDzST7DWlj99KOF/cg",
            "md5=:kAFQmDzST7DWlj99KOF_cg==:",
        ] {
            assert_eq!(parse_md5(text), md5, "{text}");
        }
        for wrong in ["", "md5:", "900150983cd24fb0d6963f7d28e17f7", "kAFQmDzST7DWlj99KOF/"] {
            assert_eq!(parse_md5(wrong), None, "{wrong}");
        }
    }
}
