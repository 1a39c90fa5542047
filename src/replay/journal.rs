//! What happened to the letters of a job, a line each, in the order in which it happened.
//!
//! The store says most of it too. The journal says what the store forgets: that a letter is gone because it is
//! done, that somebody took it away, why it failed again before another job replayed it.
//!
//! A line that a killed run left half is passed over.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::ErrorClass;
use crate::private_file;
use crate::state::replay::Fate;

/// How a job ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum End {
    /// All letters have their fate.
    Finished,
    /// A letter of the canary failed again.
    Canary,
    /// Too large a share failed again.
    Share,
}

/// What is known of a letter beyond its fate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// What kind of failure it was, of one that failed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ErrorClass>,
    /// Why, in one line.
    pub why: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// It may be out from now on.
    HandingOut(usize),
    Out(usize),
    /// It was not handed out after all.
    Back(usize),
    Done(usize),
    FailedAgain(usize, Note),
    Dropped(usize),
    Skipped(usize, Note),
    InDoubt(usize, Note),
    Ended(End),
}

/// How far a letter got, by the journal alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// It may be out, or not.
    HandingOut,
    /// It was out for certain.
    Out,
    Has(Fate),
}

/// The journal of a job, open.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    pub(super) known: BTreeMap<usize, Known>,
    pub(super) notes: BTreeMap<usize, Note>,
    pub(super) end: Option<End>,
}

impl Journal {
    /// Opens it, and reads what earlier runs left.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = private_file::open(options.read(true).append(true).create(true), path)?;
        let mut content = String::new();
        file.read_to_string(&mut content)?;
        let mut journal = Self { file, known: BTreeMap::new(), notes: BTreeMap::new(), end: None };
        for line in content.lines() {
            if let Ok(line) = serde_json::from_str(line) {
                journal.take(&line);
            }
        }
        Ok(journal)
    }

    fn take(&mut self, line: &Line) {
        let (letter, known) = match line {
            Line::HandingOut(letter) => (letter, Known::HandingOut),
            Line::Out(letter) => (letter, Known::Out),
            Line::Back(letter) => {
                self.known.remove(letter);
                return;
            }
            Line::Done(letter) => (letter, Known::Has(Fate::Done)),
            Line::FailedAgain(letter, _) => (letter, Known::Has(Fate::FailedAgain)),
            Line::Dropped(letter) => (letter, Known::Has(Fate::Dropped)),
            Line::Skipped(letter, _) => (letter, Known::Has(Fate::Skipped)),
            Line::InDoubt(letter, _) => (letter, Known::Has(Fate::InDoubt)),
            Line::Ended(end) => {
                self.end = Some(*end);
                return;
            }
        };
        self.known.insert(*letter, known);
        if let Line::FailedAgain(_, note) | Line::Skipped(_, note) | Line::InDoubt(_, note) = line {
            self.notes.insert(*letter, note.clone());
        }
    }

    /// Adds lines. They outlive this process; [`Journal::flush`] makes them outlive the machine.
    pub(super) fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            // Each begins with the end of the one before it, which may be torn.
            text.push('\n');
            text.push_str(&serde_json::to_string(line)?);
        }
        self.file.write_all(text.as_bytes())?;
        for line in lines {
            self.take(line);
        }
        Ok(())
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_letter_counts_and_a_torn_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let note = Note { class: Some(ErrorClass::Permanent), why: "404\n\"".to_owned() };
        let mut journal = Journal::open(&path).unwrap();
        journal
            .write(&[
                Line::HandingOut(0),
                Line::HandingOut(1),
                Line::HandingOut(2),
                Line::Out(0),
                Line::FailedAgain(0, note.clone()),
                Line::Back(2),
            ])
            .unwrap();
        journal.file.write_all(b"\n{\"done\":").unwrap();
        let mut again = Journal::open(&path).unwrap();
        again.write(&[Line::Out(1)]).unwrap();
        let read = Journal::open(&path).unwrap();
        let known = BTreeMap::from([(0, Known::Has(Fate::FailedAgain)), (1, Known::Out)]);
        assert_eq!((read.known, read.end), (known, None));
        assert_eq!(read.notes, BTreeMap::from([(0, note)]));
    }
}
