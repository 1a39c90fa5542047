//! Lines of a file, of stdin or of the command line, one by one, however many there are.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read};
use std::path::Path;
use std::thread;
use std::vec;

use tokio::sync::mpsc;

use crate::CommandError;
use crate::terminal::tell;

/// The longest line: more than any event, written in base64, has.
const MOST_BYTES: usize = 32 << 20;

/// How much is read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Lines that are read ahead.
const LINES_AHEAD: usize = 16;

/// A line without its end, or why it cannot be used.
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) text: Result<Vec<u8>, String>,
}

/// See the module.
pub(super) enum Lines {
    Given(vec::IntoIter<Line>),
    Read(mpsc::Receiver<io::Result<Line>>),
}

impl Lines {
    /// Those of the command line.
    pub(super) fn of(bodies: &[String]) -> Self {
        let line = |(number, body): (u64, &String)| Line { number, text: Ok(body.clone().into()) };
        Self::Given((1..).zip(bodies).map(line).collect::<Vec<_>>().into_iter())
    }

    /// Those of a file, or of stdin. They are read in a thread of their own: one that waits for a pipe
    /// keeps nobody from ending.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, CommandError> {
        let input: Box<dyn Read + Send> = match path.filter(|path| *path != Path::new("-")) {
            None => {
                if io::stdin().is_terminal() {
                    tell("reading lines from the terminal; Ctrl-D ends them");
                }
                Box::new(io::stdin())
            }
            Some(path) => Box::new(file(path).map_err(|error| {
                CommandError::caused(format_args!("{} cannot be read", path.display()), &error)
            })?),
        };
        let (to, lines) = mpsc::channel(LINES_AHEAD);
        thread::spawn(move || read(BufReader::with_capacity(BUFFER_BYTES, input), &to));
        Ok(Self::Read(lines))
    }

    /// What one of them is called, and what all are.
    pub(super) fn noun(&self) -> [&'static str; 2] {
        match self {
            Self::Given(_) => ["body", "bodies"],
            Self::Read(_) => ["line", "lines"],
        }
    }

    /// The next one; `None` at the end.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Option<io::Result<Line>> {
        match self {
            Self::Given(lines) => lines.next().map(Ok),
            Self::Read(lines) => lines.recv().await,
        }
    }
}

fn file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    Ok(file)
}

/// Hands lines on, until there are no more or nobody wants any.
fn read(mut input: impl BufRead, to: &mpsc::Sender<io::Result<Line>>) {
    for number in 1.. {
        let line = match next_line(&mut input, number) {
            Ok(None) => return,
            Ok(Some(text)) => Ok(Line { number, text }),
            Err(error) => Err(error),
        };
        let is_over = line.is_err();
        let is_empty = matches!(&line, Ok(Line { text: Ok(text), .. }) if text.is_empty());
        if !is_empty && to.blocking_send(line).is_err() || is_over {
            return;
        }
    }
}

type Text = Result<Vec<u8>, String>;

/// Reads to the end of a line; of one that is too long, without keeping it.
fn next_line(input: &mut impl BufRead, number: u64) -> io::Result<Option<Text>> {
    let mut line = Vec::new();
    let mut bytes = 0;
    let mut is_begun = false;
    loop {
        let part = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            part => part?,
        };
        if part.is_empty() && !is_begun {
            return Ok(None);
        }
        is_begun = true;
        let end = part.iter().position(|byte| *byte == b'\n');
        let text = part.get(..end.unwrap_or(part.len())).unwrap_or_default();
        bytes += text.len();
        if bytes <= MOST_BYTES {
            line.extend_from_slice(text);
        }
        let is_over = end.is_some() || part.is_empty();
        let taken = text.len() + usize::from(end.is_some());
        input.consume(taken);
        if is_over {
            break;
        }
    }
    if bytes > MOST_BYTES {
        let most = MOST_BYTES >> 20;
        return Ok(Some(Err(format!("it has {bytes} bytes, and a line may have {most} MiB"))));
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    // The mark that Windows editors put before UTF-8.
    if number == 1 && line.starts_with(b"\xEF\xBB\xBF") {
        line.drain(..3);
    }
    Ok(Some(Ok(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<Text> {
        let mut input = BufReader::with_capacity(3, text);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input, lines.len() as u64 + 1).expect("in memory") {
            lines.push(line);
        }
        lines
    }

    #[test]
    fn lines_are_bytes_without_their_ends() {
        let read = lines(b"\xEF\xBB\xBFone\r\n\n\xff two\rx\nlast");
        let expected: Vec<Text> =
            [&b"one"[..], b"", b"\xff two\rx", b"last"].map(|line| Ok(line.to_vec())).into();
        assert_eq!(read, expected);
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\n"), [Ok(vec![])]);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_the_next_one_is_read() {
        let mut text = vec![b'x'; MOST_BYTES + 1];
        text.extend_from_slice(b"\nnext\n");
        let mut input = BufReader::new(text.as_slice());
        let long = next_line(&mut input, 1).expect("in memory").expect("a line");
        assert!(long.expect_err("too long").contains("33554433 bytes"));
        assert_eq!(next_line(&mut input, 2).expect("in memory"), Some(Ok(b"next".to_vec())));
    }
}
