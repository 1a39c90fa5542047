//! `--dry-run`: what a run would do with each line of the list. It sends no request and writes nothing.

use std::path::PathBuf;

use serde::Serialize;

use super::files::To;
use super::ledger::{Results, Seen, SeenLines};
use super::line::{self, Task};
use super::queue::{cannot_be_read, clashes, is_kept};
use super::reader::{ListPlace, ListReader, RawLine};
use super::results;
use crate::report::size;
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, ReportFormat, TransferArgs};
use longshore::transfer::url_policy::UrlPolicy;

/// Most lines that are named one by one; the others are counted.
const MAX_NAMED: usize = 1_000;

/// A line that would become a dead letter.
#[derive(Serialize, Debug)]
struct Fault {
    line: u64,
    why: String,
}

/// What the lines of a list come to.
#[derive(Serialize, Default, Debug)]
struct Plan {
    /// Files that would be asked for. One that is there already may be kept, as `--existing` says.
    files: u64,
    /// How long those are together whose task says a size.
    bytes: u64,
    /// How many of them say none.
    without_size: u64,
    /// Files that an earlier run completed.
    complete: u64,
    /// Lines that would become dead letters.
    cannot: u64,
    /// The first of those.
    faults: Vec<Fault>,
}

/// Reads the list, and tells lines apart as a run does.
struct Planning {
    /// The folder that files go to, if it is one.
    root: Option<PathBuf>,
    /// Files that no task may replace.
    kept: Vec<PathBuf>,
    policy: UrlPolicy,
    results: Results,
    seen: SeenLines,
    plan: Plan,
}

impl Planning {
    fn on_line(&mut self, line: &RawLine<'_>) {
        let read = line::read_raw(line.text, line.bytes, &line.key);
        let read = match read.and_then(|task| self.allowed(task)) {
            Ok(task) => match self.seen.on_task(&task.path, &line.key, line.number) {
                Seen::Repeated => return,
                Seen::New => Ok(task),
                Seen::Clashes(first) => Err(clashes(&task.path, first)),
            },
            Err(fault) => Err(fault),
        };
        match read {
            Ok(task) if self.is_complete(line, &task) => self.plan.complete += 1,
            Ok(task) => {
                self.plan.files += 1;
                match task.size {
                    Some(bytes) => self.plan.bytes = self.plan.bytes.saturating_add(bytes),
                    None => self.plan.without_size += 1,
                }
            }
            Err(why) if self.seen.on_fault(&line.key) => {
                self.plan.cannot += 1;
                if self.plan.faults.len() < MAX_NAMED {
                    self.plan.faults.push(Fault { line: line.number, why });
                }
            }
            Err(_repeated) => {}
        }
    }

    /// The task, if its URL may be asked for as far as that is known without a look-up, and its file is free.
    fn allowed(&self, task: Task) -> Result<Task, String> {
        let place = self.root.as_ref().and_then(|root| root.join(&task.path).canonicalize().ok());
        if place.is_some_and(|place| self.kept.contains(&place)) {
            return Err(is_kept(&task.path));
        }
        self.policy.check_url(&task.url).map_err(|refused| refused.to_string())?;
        Ok(task)
    }

    fn is_complete(&self, line: &RawLine<'_>, task: &Task) -> bool {
        self.results.of_line(&line.key).is_some_and(|done| match &self.root {
            Some(root) => {
                root.join(&task.path).metadata().is_ok_and(|file| file.len() == done.bytes)
            }
            // As a run does: to look for each would take a request.
            None => true,
        })
    }
}

/// Says what a run with these arguments would do.
///
/// # Errors
/// If the list or the state cannot be read.
pub(super) async fn run(
    args: &TransferArgs,
    place: ListPlace,
    reader: ListReader,
    policy: UrlPolicy,
) -> Result<Ending, CommandError> {
    let root = match &args.to {
        To::Folder(folder) => Some(folder.clone()),
        To::Container(_) => None,
    };
    let state = args.state.clone().unwrap_or_else(|| args.to.state());
    let kept = place.identity().into_iter().chain(args.http.credentials.clone());
    let kept = kept.filter_map(|file| file.canonicalize().ok()).collect();
    let name = place.name();
    let planned = tokio::task::spawn_blocking(move || {
        let (results, seen) = (results::read_only(&state)?, SeenLines::new());
        let planning = Planning { root, kept, policy, results, seen, plan: Plan::default() };
        plan(planning, reader).map_err(|error| CommandError::new(cannot_be_read(&name, &error)))
    });
    let plan = planned.await.map_err(|gone| CommandError::new(gone.to_string()))??;
    for Fault { line, why } in &plan.faults {
        tell(format_args!("{}:{line}: {why}", place.name()));
    }
    give(match args.report {
        Some(ReportFormat::Json) => as_json(&plan)?,
        None => as_text(&plan),
    });
    Ok(if plan.cannot > 0 { Ending::SomeFailed } else { Ending::Done })
}

fn plan(mut planning: Planning, mut reader: ListReader) -> std::io::Result<Plan> {
    while let Some(line) = reader.next_line()? {
        planning.on_line(&line);
    }
    Ok(planning.plan)
}

fn as_text(plan: &Plan) -> String {
    let Plan { files, bytes, without_size, complete, cannot, .. } = plan;
    let sizes = match (files - without_size, without_size) {
        (0, _) => String::new(),
        (_, 0) => format!(" ({})", size(*bytes)),
        (_, without) => format!(" ({}, and {without} of unknown size)", size(*bytes)),
    };
    let noun =
        |count: u64, one: &'static str, many: &'static str| if count == 1 { one } else { many };
    format!(
        "{files} {} would be fetched{sizes}, {complete} {} complete, {cannot} {} cannot be done; nothing was fetched",
        noun(*files, "file", "files"),
        noun(*complete, "is", "are"),
        noun(*cannot, "line", "lines"),
    )
}
