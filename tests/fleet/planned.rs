//! Workers that are added and drained while events flow: every event once.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::evidence;
use super::processes::{Fleet, Worker, alone, chosen};
use super::publishing::Publishing;
use super::worker::{Pace, Work};

const PARTITIONS: usize = 16;

/// Leases last as long as by default, so that nothing is taken; looks are closer together.
const PACE: Pace = Pace {
    heartbeat: Duration::from_secs(2),
    expiry: Duration::from_secs(30),
    look: Duration::from_secs(1),
};

#[tokio::test(flavor = "multi_thread")]
async fn workers_added_and_drained_while_events_flow_handle_every_event_once() {
    let _alone = alone().await;
    let total = chosen("LONGSHORE_EVENTS", 200_000);
    let count = chosen("LONGSHORE_CHANGES", 10);
    let seed = chosen("LONGSHORE_SEED", 7);
    let mut random = SmallRng::seed_from_u64(seed as u64);
    let started = std::time::Instant::now();
    let mut fleet = Fleet::start(PARTITIONS, Some(PACE), Work::Uneven).await;
    let mut workers: Vec<Worker> = (0..3).map(|_| fleet.add()).collect();
    let publishing = Publishing::start(&fleet, total, 64, Duration::from_millis(200));
    // Each change at its own place of the stream, whether or not the one before has settled.
    let mut changes: Vec<usize> =
        (0..count).map(|_| random.random_range(total / 20..total * 9 / 10)).collect();
    changes.sort_unstable();
    for (change, at) in changes.into_iter().enumerate() {
        publishing.reaches(at).await;
        if change % 2 == 0 {
            workers.push(fleet.add());
        } else {
            workers.shuffle(&mut random);
            workers.pop().unwrap().drain().await;
        }
    }
    publishing.finish().await;
    let published = fleet.handles_all().await;
    for worker in workers {
        worker.drain().await;
    }
    let report = evidence::check(&fleet).await;
    println!("seed {seed}, {count} changes, {:.0?}: {report}", started.elapsed());
    assert!(published >= total / PARTITIONS * PARTITIONS, "{published}");
    assert_eq!(report.delivery.events, published);
    assert_eq!(report.delivery.repeats, 0);
    assert_eq!(report.delivery.taken, 0);
    assert!(report.delivery.given > 0, "{report}");
    fleet.stop().await;
}
