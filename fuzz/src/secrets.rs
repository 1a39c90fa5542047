//! A secret that is known, to find where it is shown.

/// Stands in seeds where a secret stands.
const SECRET: &str = "canary5f1e";

/// How a secret stands that is one. Without what is behind it, a password is a port that is none.
const PLACES: [(&str, &str); 2] = [("sig=", ""), ("user:", "@")];

/// Whether what is said shows the secret of a text, in which it stands only where a secret does.
pub(crate) fn are_shown(text: &[u8], said: &str) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let secret =
        PLACES.map(|(before, behind)| text.matches(&format!("{before}{SECRET}{behind}")).count());
    let is_secret = secret.iter().sum::<usize>() == text.matches(SECRET).count();
    is_secret && said.contains(SECRET)
}
