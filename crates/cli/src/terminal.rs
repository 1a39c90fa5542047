//! What reaches the terminal: messages, results, log lines and live bars, none of which tears
//! another.
//!
//! Results go to stdout, everything else to stderr. Whoever writes takes the bars away first
//! and puts them back after. Text that comes from lists, servers and hubs is hostile: what could
//! steer a terminal is written as its code instead.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::sync::{LazyLock, Mutex, PoisonError};

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use tracing_subscriber::fmt::MakeWriter;

pub(super) use super::json::as_json;

/// How often a bar is drawn at most.
const DRAWS_PER_SECOND: u8 = 15;

/// The columns of a terminal that does not say.
const DEFAULT_COLUMNS: u16 = 80;

/// The bars, where stderr can show any.
static BARS: LazyLock<Option<MultiProgress>> = LazyLock::new(|| {
    let terminal = Hangup(Term::stderr());
    let is_live = io::stderr().is_terminal() && can_move(env::var_os("TERM").as_deref());
    is_live.then(|| {
        MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(
            Box::new(terminal),
            DRAWS_PER_SECOND,
        ))
    })
});

/// Why a result was lost, where one was.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// Tells the person at the terminal. One who hung up is no reason to stop.
pub(super) fn tell(message: impl fmt::Display) {
    let line = format!("longshore: {}\n", harmless(&message.to_string(), Breaks::Escaped));
    beside_bars(|| {
        let _gone = io::stderr().lock().write_all(line.as_bytes());
    });
}

/// Gives a result of one or more lines, to whoever is there to take it. What nobody takes is
/// [`lost`].
pub(super) fn give(result: impl fmt::Display) {
    write_result(&harmless(&result.to_string(), Breaks::Kept));
}

/// Gives lines that are useless where a part of them is lost.
///
/// # Errors
/// If they could not all be written.
pub(super) fn give_all(lines: &str) -> io::Result<()> {
    let text = harmless(lines, Breaks::Kept);
    let mut written = Ok(());
    beside_bars(|| {
        let mut stdout = io::stdout().lock();
        written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    });
    written
}

/// Gives lines that are known to be harmless; they may be coloured.
pub(super) fn give_picture(lines: &[String]) {
    write_result(&lines.join("\n"));
}

fn write_result(text: &str) {
    beside_bars(|| {
        if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
            LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    });
}

/// Why a result did not reach stdout. A reader who has gone away has had enough, and is no reason.
pub(super) fn lost() -> Option<io::Error> {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner).take();
    lost.filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// Whether the reader of stdout has gone away, as that of a pipe may.
pub(super) fn is_stdout_gone() -> bool {
    #[cfg(unix)]
    {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stdout = io::stdout();
        let mut looks = [PollFd::new(&stdout, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = poll(&mut looks, Some(&at_once));
        let gone = PollFlags::ERR | PollFlags::HUP;
        polled.is_ok() && looks.iter().any(|look| look.revents().intersects(gone))
    }
    #[cfg(not(unix))]
    {
        false
    }
}

/// Takes the bars away for good: the process ends now.
pub(super) fn leave() {
    if let Some(bars) = &*BARS {
        let _gone = bars.clear();
        bars.set_draw_target(ProgressDrawTarget::hidden());
    }
}

fn beside_bars(write: impl FnOnce()) {
    match &*BARS {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Whether a terminal of this type can draw over what it has written.
fn can_move(term: Option<&std::ffi::OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Whether results may be coloured.
pub(super) fn is_colourful() -> bool {
    let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !no_colour && can_move(env::var_os("TERM").as_deref())
}

/// The columns that results have.
pub(super) fn result_columns() -> usize {
    Term::stdout().size_checked().map_or(DEFAULT_COLUMNS, |(_rows, columns)| columns).into()
}

/// A line at the bottom of the terminal that changes. Dropped, it is gone.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar below those that are there; `None` if stderr cannot show any.
    pub(super) fn new() -> Option<Self> {
        let bars = BARS.as_ref()?;
        let style = ProgressStyle::with_template("{msg}").ok()?;
        Some(Self(bars.add(ProgressBar::no_length().with_style(style))))
    }

    /// Shows the line that `draw` makes for so many columns.
    pub(super) fn show(&self, draw: impl FnOnce(usize) -> String) {
        // A line that fills the last column wraps on some terminals.
        let columns = usize::from(Term::stderr().size().1).saturating_sub(1);
        self.0.set_message(harmless(&draw(columns), Breaks::Escaped));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        if let Some(bars) = &*BARS {
            bars.remove(&self.0);
        }
    }
}

/// Whether line breaks are part of a text or of what it quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaks {
    Kept,
    Escaped,
}

/// The text without characters that steer a terminal or hide what it says.
fn harmless(text: &str, breaks: Breaks) -> String {
    let mut harmless = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' if breaks == Breaks::Kept => harmless.push('\n'),
            _ if letter.is_control() || steers(letter) => {
                let _infallible = write!(harmless, "{}", letter.escape_default());
            }
            _ => harmless.push(letter),
        }
    }
    harmless
}

/// A text in one line, with nothing that steers a terminal.
pub(super) fn in_one_line(text: &str) -> String {
    harmless(text, Breaks::Escaped)
}

/// An event of the log in a line of its own: what it quotes cannot look like another event.
fn one_line(event: &str) -> String {
    harmless(event.strip_suffix('\n').unwrap_or(event), Breaks::Escaped) + "\n"
}

/// Characters that are not control characters to Unicode, and reorder or break lines.
fn steers(letter: char) -> bool {
    matches!(letter,
        '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
        | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// Where tracing writes its lines: to stderr, beside the bars.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log;

impl MakeWriter<'_> for Log {
    type Writer = LogEvent;

    fn make_writer(&self) -> LogEvent {
        LogEvent(Vec::new())
    }
}

/// One event of the log, written whole when it is dropped.
#[derive(Debug)]
pub(super) struct LogEvent(Vec<u8>);

impl io::Write for LogEvent {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogEvent {
    fn drop(&mut self) {
        let text = one_line(&String::from_utf8_lossy(&self.0));
        beside_bars(|| {
            let _gone = io::stderr().lock().write_all(text.as_bytes());
        });
    }
}

/// A terminal that may hang up: what it does not take is lost, and nothing else. (The bars
/// would panic.)
#[derive(Debug)]
struct Hangup(Term);

impl TermLike for Hangup {
    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        let _gone = self.0.move_cursor_up(lines);
        Ok(())
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        let _gone = self.0.move_cursor_down(lines);
        Ok(())
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        let _gone = self.0.move_cursor_right(columns);
        Ok(())
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        let _gone = self.0.move_cursor_left(columns);
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        let _gone = self.0.write_line(text);
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let _gone = self.0.write_str(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        let _gone = self.0.clear_line();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        // Behind a full line the terminal's own ^C would wrap, and the line would stay.
        let _gone = self.0.write_str("\r").and_then(|()| self.0.flush());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_as_its_code() {
        let hostile = "a\x1b[2Jb\x07c\rd\u{9b}31me\u{202e}f\u{7f}\nfailed: é 日 █";
        assert_eq!(
            harmless(hostile, Breaks::Escaped),
            r"a\u{1b}[2Jb\u{7}c\rd\u{9b}31me\u{202e}f\u{7f}\nfailed: é 日 █"
        );
        assert_eq!(harmless("a\nb\r\n", Breaks::Kept), "a\nb\\r\n");
    }

    #[test]
    fn an_event_of_the_log_is_one_line_whatever_it_quotes() {
        let forged = "INFO id=a\n2026-01-01T00:00:00Z ERROR all is lost\r\n\n";
        let line = one_line(forged);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.ends_with("all is lost\\r\\n\n"), "{line}");
    }

    #[test]
    fn json_is_the_same_value_and_harmless() {
        let value = ["a\u{7f}é\u{202e}\u{1F6A2}\"\n", "plain"];
        let json = as_json(&value).expect("JSON");
        assert!(json.is_ascii(), "{json}");
        assert_eq!(harmless(&json, Breaks::Kept), json);
        let read: [String; 2] = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read, value);
    }

    #[test]
    fn a_dumb_terminal_gets_no_bars() {
        assert!(can_move(Some("xterm-256color".as_ref())));
        for term in [None, Some(""), Some("dumb")] {
            assert!(!can_move(term.map(AsRef::as_ref)), "{term:?}");
        }
    }
}
