//! The picture at the end of the demo: how fast each way was, as bars.

use std::time::Duration;

use crate::report::{blocks, size};

/// Wider, the eye loses the line.
const MAX_COLUMNS: usize = 110;

/// Narrower, a bar shows nothing: better a line that wraps.
const MIN_BAR_COLUMNS: usize = 10;

const BAR_TITLE: &str = "longer is faster";

/// One way to move the files.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) time: Duration,
    pub(super) bytes: u64,
}

/// Whether the last row, which the picture is about, stands out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Colours {
    None,
    Ansi,
}

impl Row {
    fn seconds(&self) -> f64 {
        self.time.as_secs_f64().max(1e-3)
    }

    fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds()
    }
}

/// The rows, the first of which the others are compared with, and below them what is said about
/// them; no wider than so many columns.
pub(super) fn chart(rows: &[Row], said: &str, columns: usize, colours: Colours) -> Vec<String> {
    let columns = columns.min(MAX_COLUMNS);
    let names = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let titles = format!("{:>9}{:>9}{:>10}", "time", "MB/s", "speed-up");
    let others = names + 2 + titles.len();
    let bar = columns.saturating_sub(others).max(MIN_BAR_COLUMNS);
    let fastest = rows.iter().map(Row::megabytes_per_second).fold(f64::MIN_POSITIVE, f64::max);
    let first = rows.first().map_or(1.0, Row::seconds);
    let title = if bar >= BAR_TITLE.len() { BAR_TITLE } else { "" };
    let mut lines = vec![format!("{:names$}  {title:bar$}{titles}", "")];
    for (index, row) in rows.iter().enumerate() {
        let rate = row.megabytes_per_second();
        let drawn = format!("{:bar$}", blocks(rate / fastest, bar));
        let seconds = format!("{:.2} s", row.seconds());
        let factor = format!("{:.1}x", first / row.seconds());
        let line = format!("{:names$}  {drawn}{seconds:>9}{rate:>9.2}{factor:>10}", row.name);
        let stands_out = colours == Colours::Ansi && index + 1 == rows.len();
        lines.push(if stands_out { format!("\x1b[1;32m{line}\x1b[0m") } else { line });
    }
    lines.push(String::new());
    lines.extend(wrapped(said, columns));
    lines
}

/// What the ways had in common, in one sentence.
pub(super) fn said(
    files: u64,
    bytes: u64,
    ways: usize,
    connection_bytes_per_second: u32,
) -> String {
    format!(
        "Each way moved the same {files} files ({}) once, all on this machine: HTTP on loopback \
         at {}/s a connection, an Event Hubs-compatible broker, the Azure SDK. All {} SHA-256 \
         were right.",
        size(bytes),
        size(connection_bytes_per_second.into()),
        files * ways as u64
    )
}

fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [Row; 3] {
        let row = |name: &str, seconds: f64| Row {
            name: name.to_owned(),
            time: Duration::from_secs_f64(seconds),
            bytes: 50_000_000,
        };
        [
            row("one at a time", 10.0),
            row("batches of 20, 10 at once", 2.0),
            row("longshore, 10 at once", 1.0),
        ]
    }

    #[test]
    fn bars_are_proportional_and_numbers_aligned() {
        assert_eq!(
            chart(&rows(), "The same files.", 80, Colours::None),
            [
                "                           longer is faster              time     MB/s  speed-up",
                "one at a time              ██▌                        10.00 s     5.00      1.0x",
                "batches of 20, 10 at once  ████████████▌               2.00 s    25.00      5.0x",
                "longshore, 10 at once      █████████████████████████   1.00 s    50.00     10.0x",
                "",
                "The same files.",
            ]
        );
    }

    #[test]
    fn the_picture_keeps_to_its_columns() {
        let text = said(150, 1_310_000, 3, 5_000_000);
        for columns in 70..200 {
            for line in chart(&rows(), &text, columns, Colours::None) {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn only_the_last_row_is_coloured_and_only_where_colours_are_wanted() {
        let plain = chart(&rows(), "x", 80, Colours::None);
        let coloured = chart(&rows(), "x", 80, Colours::Ansi);
        assert!(plain.iter().all(|line| !line.contains('\x1b')));
        assert_eq!(coloured[3], format!("\x1b[1;32m{}\x1b[0m", plain[3]));
        assert_eq!(coloured[..3], plain[..3]);
    }

    #[test]
    fn runs_that_took_no_time_have_a_picture_too() {
        let none = Row { name: "a".to_owned(), time: Duration::ZERO, bytes: 0 };
        let lines = chart(&[none.clone(), none], "x", 80, Colours::None);
        assert!(lines[1].ends_with("0.00 s     0.00      1.0x"), "{lines:?}");
    }

    #[test]
    fn what_was_compared_is_one_sentence_and_a_count() {
        assert_eq!(
            said(150, 1_310_000, 3, 5_000_000),
            "Each way moved the same 150 files (1.3 MB) once, all on this machine: HTTP on \
             loopback at 5.0 MB/s a connection, an Event Hubs-compatible broker, the Azure SDK. \
             All 450 SHA-256 were right."
        );
    }
}
