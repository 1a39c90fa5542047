//! What holds of connection strings and of the values of events.

use super::Namespace;
use super::values::{is_deeper_than, outgoing, received};
use crate::event::{MAX_NESTING, Value};

/// A connection string is taken, or refused without a word of what stands in it; nothing that is shown
/// of a namespace is its key.
///
/// # Panics
/// Where that does not hold.
pub fn connection_strings(bytes: &[u8]) {
    const SECRET: &str = "canary5f1e";
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Namespace::from_connection_string(text) {
        Ok(namespace) => {
            let is_key = !text.replace(&format!("SharedAccessKey={SECRET}"), "").contains(SECRET);
            assert!(!is_key || !format!("{namespace:?}").contains(SECRET), "{namespace:?}");
        }
        Err(error) => assert!(!error.to_string().contains(SECRET), "{error}"),
    }
}

/// A value that is read from JSON is no deeper than one may be, and the same through the SDK and back, and
/// through JSON and back.
///
/// # Panics
/// Where that does not hold.
pub fn event_values(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice(bytes) else { return };
    let Some(value) = Value::from_json(&json) else { return };
    assert!(!value.is_deeper_than(MAX_NESTING));
    let json = value.to_json();
    let again = Value::from_json(&json);
    assert!(again.is_some_and(|again| again.to_json() == json), "{json}");
    let sent = outgoing(value.clone());
    assert!(!is_deeper_than(&sent, MAX_NESTING));
    assert_eq!(received(&sent).to_json(), json);
    let _text = value.to_string();
}
