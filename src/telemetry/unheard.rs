//! What must be heard by whoever runs a worker, also where nothing listens to `tracing`.

use std::io::Write as _;

/// Writes a line on stderr where no subscriber of `tracing` is installed: it is in no log then.
pub(crate) fn tell(message: std::fmt::Arguments<'_>) {
    if !tracing::dispatcher::has_been_set() {
        // A stderr that is closed has no reader.
        let _written = writeln!(std::io::stderr(), "longshore: {message}");
    }
}
