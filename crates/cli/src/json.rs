//! JSON as it is written: in ASCII.

use std::fmt::Write as _;

use serde::Serialize;

/// JSON in ASCII: nothing in it steers a terminal, so nothing has to be escaped in a way that
/// JSON does not know.
pub(crate) fn as_json(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    let mut ascii = String::with_capacity(text.len());
    // Only strings hold such letters.
    for letter in text.chars() {
        if letter.is_ascii() && letter != '\u{7f}' {
            ascii.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            let _infallible = write!(ascii, "\\u{unit:04x}");
        }
    }
    Ok(ascii)
}
