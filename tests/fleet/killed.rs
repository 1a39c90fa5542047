//! Workers that are killed, or stopped for a while, as events flow: none is lost, and repeats stay
//! within the contract.

use std::time::Duration;

use rand::Rng as _;
use tokio::time::sleep;

use super::storm::{self, Storm};
use super::worker::{Pace, Work};

/// Leases as short as a clock of whole seconds allows.
const PACE: Pace = Pace {
    heartbeat: Duration::from_millis(300),
    expiry: Duration::from_secs(2),
    look: Duration::from_millis(500),
};

const KILLS: Storm = Storm {
    pace: PACE,
    work: Work::Uneven,
    events: 200_000,
    changes: 10,
    late_changes: 0,
    what: "kills",
};
const PAUSES: Storm = Storm {
    pace: PACE,
    work: Work::Uneven,
    events: 80_000,
    changes: 5,
    late_changes: 0,
    what: "pauses",
};

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_while_events_flow_lose_none_and_repeat_what_was_not_checkpointed() {
    let report = storm::through(KILLS, async |_, fleet, workers, random| {
        // Not where the count of published events moves: anywhere between.
        sleep(Duration::from_millis(random.random_range(0..300))).await;
        let killed = fleet.one_at_work(workers, random).await;
        workers.swap_remove(killed).kill().await;
        workers.push(fleet.add());
    })
    .await;
    assert!(report.taken > 0, "{report}");
}

/// A process that does not run for longer than its leases last wakes up as the owner of what
/// others have by then: handlers, timers and answers go on where they were.
#[tokio::test(flavor = "multi_thread")]
async fn workers_stopped_for_a_while_lose_none_and_undo_nothing_when_they_wake() {
    let report = storm::through(PAUSES, async |_, fleet, workers, random| {
        sleep(Duration::from_millis(random.random_range(0..300))).await;
        let stopped = fleet.one_at_work(workers, random).await;
        workers[stopped].pause();
        sleep(Duration::from_millis(random.random_range(500..6_000))).await;
        workers[stopped].resume();
    })
    .await;
    assert!(report.taken > 0, "{report}");
}
