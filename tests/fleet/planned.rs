//! Workers that are added and drained while events flow: every event once.

use std::time::Duration;

use rand::seq::SliceRandom as _;

use super::storm::{self, Storm};
use super::worker::{Pace, Work};

const STORM: Storm = Storm {
    // Leases last as long as by default, so that nothing is taken; looks are closer together.
    pace: Pace {
        heartbeat: Duration::from_secs(2),
        expiry: Duration::from_secs(30),
        look: Duration::from_secs(1),
    },
    work: Work::Uneven,
    events: 200_000,
    changes: 10,
    late_changes: 0,
    what: "changes",
};

#[tokio::test(flavor = "multi_thread")]
async fn workers_added_and_drained_while_events_flow_handle_every_event_once() {
    let report = storm::through(STORM, async |number, fleet, workers, random| {
        if number % 2 == 0 {
            workers.push(fleet.add());
        } else {
            workers.shuffle(random);
            workers.pop().unwrap().drain().await;
        }
    })
    .await;
    assert_eq!(report.repeats, 0);
    assert_eq!(report.taken, 0);
    assert!(report.given > 0, "{report}");
}
