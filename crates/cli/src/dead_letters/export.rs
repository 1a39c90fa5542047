//! `export`: the record of every letter as a line, whole or not at all in a file.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::json;

use super::ExportArgs;
use super::filter::FilterArgs;
use super::letters::{self, Looked, Next};
use super::opened::Opened;
use crate::table::counted;
use crate::terminal::{as_json, give, give_all, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::error::error_chain;
use longshore::failure_store::{FailureKey, FailureKind};
use longshore::private_file;

/// Keys that are kept at a time, between a listing and the reads.
const KEYS_AT_A_TIME: usize = 5_000;

/// What was written.
#[derive(Default)]
struct Written {
    letters: u64,
    unreadable: u64,
}

pub(super) async fn run(args: ExportArgs) -> Result<Ending, CommandError> {
    let ExportArgs { filter, to, config, report } = args;
    let Some(opened) = Opened::new(&config, report)? else {
        return Ok(Ending::Unusable);
    };
    let (written, looked) = match &to {
        None => write(&opened, &filter, &mut Stdout).await?,
        Some(path) => {
            let mut file = create(path)?;
            match write(&opened, &filter, &mut file)
                .await
                .and_then(|done| file.end().map(|()| done))
            {
                Ok(done) => done,
                Err(error) => {
                    // A part of it would pass for the whole.
                    let _gone = fs::remove_file(path);
                    return Err(error);
                }
            }
        }
    };
    if let Some(path) = &to {
        match report {
            Some(ReportFormat::Json) => give(as_json(&json!({
                "store": opened.place,
                "letters": written.letters,
                "unreadable": written.unreadable + looked.unreadable,
            }))?),
            None => give(format_args!(
                "{} written to {}",
                counted(written.letters, "letter"),
                path.display()
            )),
        }
    }
    looked.tell(&opened.place, FailureKind::Dead);
    let unreadable = written.unreadable + looked.unreadable;
    if unreadable == 0 {
        return Ok(Ending::Done);
    }
    tell(format_args!("{} could not be read and are left out", counted(unreadable, "letter")));
    Ok(Ending::SomeFailed)
}

/// Where lines go.
trait Lines {
    fn add(&mut self, line: &str) -> Result<(), CommandError>;
}

struct Stdout;

impl Lines for Stdout {
    fn add(&mut self, line: &str) -> Result<(), CommandError> {
        give_all(line).map_err(|error| CommandError::caused("the lines cannot be written", &error))
    }
}

struct IntoFile<'a> {
    path: &'a Path,
    file: BufWriter<File>,
}

impl Lines for IntoFile<'_> {
    fn add(&mut self, line: &str) -> Result<(), CommandError> {
        self.file.write_all(line.as_bytes()).map_err(|error| not_written(self.path, &error))
    }
}

impl IntoFile<'_> {
    fn end(&mut self) -> Result<(), CommandError> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(|error| not_written(self.path, &error))
    }
}

fn create(path: &Path) -> Result<IntoFile<'_>, CommandError> {
    let file = private_file::open(OpenOptions::new().write(true).create_new(true), path);
    let file = file.map_err(|error| not_written(path, &error))?;
    Ok(IntoFile { path, file: BufWriter::new(file) })
}

fn not_written(path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::caused(format_args!("{} cannot be written", path.display()), error)
}

/// Reads what the listing names, some thousand at a time, so that memory is bounded.
async fn write(
    opened: &Opened,
    filter: &FilterArgs,
    lines: &mut impl Lines,
) -> Result<(Written, Looked), CommandError> {
    let mut written = Written::default();
    let mut scan = letters::Scan::new(opened, filter, FailureKind::Dead);
    loop {
        let mut keys: Vec<FailureKey> = Vec::new();
        let is_over = scan
            .run(|letter| {
                keys.push(letter.key);
                Ok(if keys.len() < KEYS_AT_A_TIME { Next::GoOn } else { Next::Enough })
            })
            .await?;
        for key in &keys {
            write_one(opened, key, lines, &mut written).await?;
        }
        if is_over {
            return Ok((written, scan.looked));
        }
    }
}

async fn write_one(
    opened: &Opened,
    key: &FailureKey,
    lines: &mut impl Lines,
    written: &mut Written,
) -> Result<(), CommandError> {
    let read = opened.store.read(key).await;
    let record = match read {
        // It was deleted meanwhile.
        Ok(None) => return Ok(()),
        Ok(Some(stored)) => stored.record(),
        Err(error) => Err(error),
    };
    match record {
        Ok(record) => {
            written.letters += 1;
            lines.add(&format!("{}\n", as_json(&record)?))
        }
        Err(error) => {
            written.unreadable += 1;
            tell(error_chain(&error).join(": "));
            Ok(())
        }
    }
}
