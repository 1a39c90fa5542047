//! How a service ends, whatever it does: a worker, a scheduler.

use std::fmt;

use serde::Serialize;

use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::consumer::ExitCause;

/// What its exit codes say.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0         stopped by Ctrl-C or SIGTERM: all that was begun is done
  1         the environment stopped it, such as a hub that does not exist or a
            full disk
  2         the command line or the settings cannot be used
  3         stopped by a signal, but some partitions had stopped before; the log
            says why
  4         stopped by a signal, and the time to finish ran out: the next start
            repeats what was cut
  130, 143  a second Ctrl-C or SIGTERM stopped it at once

After any of them the next start goes on where this one stopped.";

/// What a drain comes to, and what it left, which is told.
pub(crate) fn left(cause: ExitCause, exit: &impl fmt::Display) -> Ending {
    match cause {
        // What another worker has is no failure of this one.
        ExitCause::Drained | ExitCause::TakenOver => Ending::Done,
        ExitCause::WorkLeft => {
            tell(format_args!("{exit}; the next start does it again"));
            Ending::WorkLeft
        }
        _ => {
            tell(exit);
            Ending::SomeFailed
        }
    }
}

/// Prints the figures of a run.
///
/// # Errors
/// If the figures are not JSON.
pub(crate) fn print<R: Serialize + fmt::Display>(
    report: &R,
    format: Option<ReportFormat>,
) -> Result<(), CommandError> {
    match format {
        Some(ReportFormat::Json) => give(as_json(report)?),
        None => give(report),
    }
    Ok(())
}
