//! A hash in the forms that people have it.

use crate::hex::from_hex;

/// Reads a hash as people have it: hexadecimal digits in either case, or base64, behind `sha256` or
/// `sha-256` and any of `:`, `=` and `-`, as checksum files, HTTP (RFC 9530) and HTML write it.
pub(super) fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let after = |name: &str| {
        let (before, rest) = text.split_at_checked(name.len())?;
        before.eq_ignore_ascii_case(name).then_some(rest)
    };
    let hash = match after("sha-256").or_else(|| after("sha256")) {
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

fn from_base64(text: &str) -> Option<[u8; 32]> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    // Padded to 44 characters, or not.
    let bare = text.strip_suffix('=').unwrap_or(text);
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
}
