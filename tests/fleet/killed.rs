//! Workers that are killed while events flow: none is lost, and repeats stay within the contract.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::sleep;

use super::evidence;
use super::processes::{Fleet, Worker, alone, chosen};
use super::publishing::Publishing;
use super::worker::{Pace, Work};

const PARTITIONS: usize = 16;

/// Leases as short as a clock of whole seconds allows.
const PACE: Pace = Pace {
    heartbeat: Duration::from_millis(300),
    expiry: Duration::from_secs(2),
    look: Duration::from_millis(500),
};

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_while_events_flow_lose_none_and_repeat_what_was_not_checkpointed() {
    let _alone = alone().await;
    let total = chosen("LONGSHORE_EVENTS", 200_000);
    let count = chosen("LONGSHORE_CHANGES", 10);
    let seed = chosen("LONGSHORE_SEED", 7);
    let mut random = SmallRng::seed_from_u64(seed as u64);
    let started = std::time::Instant::now();
    let mut fleet = Fleet::start(PARTITIONS, Some(PACE), Work::Uneven).await;
    let mut workers: Vec<Worker> = (0..3).map(|_| fleet.add()).collect();
    let publishing = Publishing::start(&fleet, total, 64, Duration::from_millis(200));
    let mut changes: Vec<usize> =
        (0..count).map(|_| random.random_range(total / 20..total * 9 / 10)).collect();
    changes.sort_unstable();
    for at in changes {
        publishing.reaches(at).await;
        // Not where the count of published events moves: anywhere between.
        sleep(Duration::from_millis(random.random_range(0..300))).await;
        let killed = random.random_range(0..workers.len());
        workers.swap_remove(killed).kill().await;
        workers.push(fleet.add());
    }
    publishing.finish().await;
    let published = fleet.handles_all().await;
    for worker in workers {
        worker.drain().await;
    }
    let report = evidence::check(&fleet).await;
    println!("seed {seed}, {count} kills, {:.0?}: {report}", started.elapsed());
    assert!(published >= total / PARTITIONS * PARTITIONS, "{published}");
    assert_eq!(report.delivery.events, published);
    assert!(report.delivery.taken > 0, "{report}");
    fleet.stop().await;
}
