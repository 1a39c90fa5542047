//! How a service ends, whatever it does: a worker, a scheduler.

use std::fmt;

use serde::Serialize;

use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::consumer::ExitCause;

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
