//! Trims the logs of hubs now and then, away from whoever publishes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::broker::{Broker, unix_millis};

/// How late an event may go after its time.
const EVERY: Duration = Duration::from_millis(500);

/// Trims until `stop`.
pub(super) async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let files = trim(&broker);
        if !files.is_empty() {
            // Whether they are gone or not, the log does not begin there any more.
            let broker = Arc::clone(&broker);
            let _ended = tokio::task::spawn_blocking(move || remove(&broker, &files)).await;
        }
    }
}

fn trim(broker: &Broker) -> Vec<PathBuf> {
    let now_ms = unix_millis();
    let hubs = broker.hubs();
    let partitions = hubs.iter().flat_map(|hub| hub.partitions());
    partitions.flat_map(|partition| partition.log.trim(now_ms)).collect()
}

fn remove(broker: &Broker, files: &[PathBuf]) {
    if let Err(error) = broker.on_trimmed() {
        // The next start would miss them.
        tracing::warn!(%error, "old log files are kept");
        return;
    }
    for file in files {
        if let Err(error) = std::fs::remove_file(file) {
            tracing::warn!(file = %file.display(), %error, "an old log file cannot be removed");
        }
    }
}
