//! Events of keys that stay in order, whatever becomes of the workers and of single calls.

use std::time::Duration;

use rand::Rng as _;
use tokio::time::sleep;

use super::storm::{self, Storm};
use super::worker::{Pace, Work};

const STORM: Storm = Storm {
    // A worker that is added must connect in time to be drained in good order, on a busy machine too.
    pace: Pace {
        heartbeat: Duration::from_secs(1),
        expiry: Duration::from_secs(6),
        look: Duration::from_secs(1),
    },
    work: Work::Keyed,
    events: 100_000,
    changes: 9,
    late_changes: 0,
    what: "additions, drains and kills, with keys",
};

#[tokio::test(flavor = "multi_thread")]
async fn workers_added_drained_and_killed_keep_every_key_in_order_while_events_fail() {
    let report = storm::through(STORM, async |number, fleet, workers, random| {
        sleep(Duration::from_millis(random.random_range(0..300))).await;
        let chosen = random.random_range(0..workers.len());
        match number % 3 {
            0 => workers.push(fleet.add()),
            1 => {
                workers.swap_remove(chosen).kill().await;
                workers.push(fleet.add());
            }
            _ => workers.swap_remove(chosen).drain().await,
        }
    })
    .await;
    assert!(report.taken > 0, "{report}");
    assert!(report.given > 0, "{report}");
}
