//! Workers that are killed while events fail, are parked and come back: in the end each one is done or a dead
//! letter, and none is parked.

use std::time::Duration;

use rand::Rng as _;
use tokio::time::sleep;

use super::storm::{self, Storm};
use super::worker::{Pace, Work};

const STORM: Storm = Storm {
    // As short as a clock of whole seconds allows.
    pace: Pace {
        heartbeat: Duration::from_millis(300),
        expiry: Duration::from_secs(2),
        look: Duration::from_millis(500),
    },
    work: Work::Failing,
    events: 3_000,
    changes: 3,
    // Then nothing is left but what was parked.
    late_changes: 2,
    what: "kills, of events of which eleven in a hundred fail",
};

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_while_workers_are_killed_is_done_or_a_dead_letter_and_nothing_stays_parked() {
    let report = storm::through(STORM, async |_, fleet, workers, random| {
        sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        let killed = fleet.one_at_work(workers, random).await;
        workers.swap_remove(killed).kill().await;
        workers.push(fleet.add());
    })
    .await;
    assert!(report.taken > 0, "{report}");
}
