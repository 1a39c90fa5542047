//! An event as a line that fits the terminal, or as one of JSON.

use std::fmt::Write as _;
use std::io;

use crate::event_line;
use crate::report::size;
use crate::table::{Side, cut, cut_within, padded};
use crate::terminal::{give_all, in_one_line, result_columns};
use longshore::event::Event;
use longshore::timestamp::rfc3339;

/// The columns of keys; longer ones are cut.
const KEY_COLUMNS: usize = 12;

/// A body is not cut shorter, however narrow the terminal is.
const MIN_BODY_COLUMNS: usize = 16;

/// Bytes of a body that is no text which are shown.
const HEX_BYTES: usize = 16;

const GAP: &str = "  ";

/// Prints lines.
pub(super) struct Lines {
    is_json: bool,
    place_columns: usize,
    /// Titles stand above the first line.
    has_titles: bool,
}

impl Lines {
    pub(super) fn new(is_json: bool, place_columns: usize) -> Self {
        Self { is_json, place_columns, has_titles: is_json }
    }

    /// # Errors
    /// Where they cannot all be written.
    pub(super) fn print(&mut self, events: &[Event]) -> io::Result<()> {
        let mut text = String::new();
        let columns = result_columns();
        if !self.has_titles && !events.is_empty() {
            self.has_titles = true;
            text.push_str(&self.row(["event", "enqueued (UTC)", "key", "body"], columns));
            text.push('\n');
        }
        for event in events {
            if self.is_json {
                text.push_str(&event_line::write(event)?);
            } else {
                text.push_str(&self.text(event, columns));
            }
            text.push('\n');
        }
        if text.is_empty() { Ok(()) } else { give_all(&text) }
    }

    fn text(&self, event: &Event, columns: usize) -> String {
        let place = format!("{}#{}", event.partition().id, event.sequence_number());
        let time = rfc3339(event.enqueued_time()).replace('T', " ");
        let time = time.get(..19).unwrap_or_default();
        let key = in_one_line(event.key().unwrap_or("-"));
        let body = in_one_line(&body(event, columns));
        self.row([&in_one_line(&place), time, &key, &body], columns)
    }

    /// One line, whose end is cut.
    fn row(&self, [place, time, key, body]: [&str; 4], columns: usize) -> String {
        let place = padded(place, Side::Left, self.place_columns);
        let time = padded(time, Side::Left, 19);
        let key = padded(&cut_within(key, KEY_COLUMNS), Side::Left, KEY_COLUMNS);
        let before = [place, time, key].join(GAP) + GAP;
        let room = columns.saturating_sub(crate::table::width(&before)).max(MIN_BODY_COLUMNS);
        (before + &cut(body, room)).trim_end().to_owned()
    }
}

/// A body as text, where it is; no longer than the columns need it.
fn body(event: &Event, columns: usize) -> String {
    if let Some(unreadable) = event.unreadable() {
        return format!("(cannot be decoded: {})", unreadable.reason);
    }
    let body = event.body();
    match std::str::from_utf8(body) {
        Ok("") => "(empty)".to_owned(),
        Ok(text) => text.chars().take(columns + 1).collect(),
        Err(_) => {
            let mut shown = format!("({} that are no text)", size(body.len() as u64));
            for byte in body.iter().take(HEX_BYTES) {
                let _infallible = write!(shown, " {byte:02x}");
            }
            shown
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use longshore::event::{EventParts, Partition};

    fn shown(key: Option<&str>, body: &[u8]) -> String {
        let partition = Arc::new(Partition::new("orders", "3"));
        let mut parts = EventParts::new(partition, 17, body.to_vec());
        parts.key = key.map(str::to_owned);
        Lines::new(false, 5).text(&parts.into(), 80)
    }

    #[test]
    fn a_line_is_one_line_that_fits_whatever_the_event_holds() {
        assert_eq!(shown(Some("k"), b"text"), "3#17   1970-01-01 00:00:00  k             text");
        assert_eq!(shown(None, b""), "3#17   1970-01-01 00:00:00  -             (empty)");
        let binary = shown(None, &[0xff; 300]);
        assert!(binary.contains("(300 bytes that are no text) ff"), "{binary}");
        let hostile = "\u{1b}[2J\r\n\u{9b}31m\u{202e}日本".repeat(50);
        let line = shown(Some(&hostile), hostile.as_bytes());
        assert!(crate::table::width(&line) <= 80, "{line}");
        assert!(!line.contains(|letter: char| letter.is_control() || letter == '\u{202e}'));
    }
}
