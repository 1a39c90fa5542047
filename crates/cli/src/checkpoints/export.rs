//! `export`: every checkpoint as a line, whole or not at all in a file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use serde_json::json;

use super::opened::{Opened, Purpose, WITHOUT_HUB};
use super::{ExportArgs, line};
use crate::table::counted;
use crate::terminal::{as_json, give, give_all, tell};
use crate::{CommandError, Ending, ReportFormat, brief};
use longshore::private_file;

pub(super) async fn run(args: ExportArgs) -> Result<Ending, CommandError> {
    let ExportArgs { to, config, report } = args;
    let Some(configured) = config.read(report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let opened = Opened::new(configured, Purpose::Look)?;
    if let Some(user) = &opened.in_use_by {
        tell(format_args!(
            "{} is in use by {user}: it may be further than what is exported",
            opened.place
        ));
    }
    let mut lines = String::new();
    let (mut checkpoints, mut unreadable) = (0, Vec::new());
    for (partition, stored) in opened.list().await? {
        match stored {
            Ok(stored) => {
                lines.push_str(&line::write(&opened.scope, &partition, &stored.checkpoint)?);
                lines.push('\n');
                checkpoints += 1;
            }
            Err(error) => {
                tell(brief(&error));
                unreadable.push(partition.to_string());
            }
        }
    }
    match &to {
        None => give_all(&lines)
            .map_err(|error| CommandError::caused("the lines cannot be written", &error))?,
        Some(file) => {
            let shown = file.display();
            create(file, &lines).map_err(|error| {
                CommandError::caused(format_args!("{shown} cannot be written"), &error)
            })?;
            match report {
                Some(ReportFormat::Json) => {
                    let mut report = opened.head();
                    report.insert("checkpoints".to_owned(), json!(checkpoints));
                    report.insert("unreadable".to_owned(), json!(unreadable));
                    give(as_json(&report)?);
                }
                None => give(format_args!(
                    "{}\n{} written to {shown}",
                    opened.title(),
                    counted(checkpoints, "checkpoint")
                )),
            }
        }
    }
    if unreadable.is_empty() {
        return Ok(Ending::Done);
    }
    tell(format_args!("{} checkpoints could not be read and are left out", unreadable.len()));
    Ok(Ending::SomeFailed)
}

/// Makes a file that was not there. What an earlier run wrote may be all that is left.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = private_file::open(OpenOptions::new().write(true).create_new(true), path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // A part of it would pass for the whole.
        let _gone = fs::remove_file(path);
    }
    written
}
