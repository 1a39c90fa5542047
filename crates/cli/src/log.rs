//! The log on stderr, and what never gets into it.
//!
//! `RUST_LOG` decides, up to a limit: below `info`, and in spans, the protocol crates write whole
//! frames and requests, and tokens are in them. Which crates those are changes with every upgrade,
//! so the limit is for all crates but this one.

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::terminal::Log;

/// Starts the log. `unasked` is what it shows unless `RUST_LOG` asks for more or less: most commands
/// print themselves what users need to know.
pub(super) fn start(unasked: &str) {
    let asked = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(unasked));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(Log)
        .with_filter(asked.and(filter_fn(may_be_shown)));
    tracing_subscriber::registry().with(lines).init();
}

fn may_be_shown(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_ours = target == "longshore" || target.starts_with("longshore::");
    is_ours || (metadata.is_event() && *metadata.level() <= Level::INFO)
}
