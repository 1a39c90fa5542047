//! A processor of the Python SDK and a worker of ours share a hub and a container: both go on at
//! the same time, and each begins where the other stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore::event::PartitionId;
use tokio::time::Instant;

use super::journal::{Handled, now};
use super::processes::{Fleet, alone};
use super::publishing::Publishing;
use super::support::LIMIT;
use super::support::waiting::found;
use super::worker::{Pace, Work};

const PARTITIONS: usize = 4;
const PACE: Pace = Pace {
    heartbeat: Duration::from_secs(2),
    expiry: Duration::from_secs(30),
    look: Duration::from_secs(1),
};

const SECOND: u64 = 1_000_000_000;

/// The partitions whose events a process handled in the last second, and in the one before it.
fn owned(fleet: &Fleet, name: &str) -> BTreeSet<PartitionId> {
    // The clock after the journal: what is read is of the past.
    let lines = super::journal::read(fleet.path(name, "handled"));
    owned_at(now(), &lines)
}

/// The same of a time. A line that is younger than the time counts as of that time: whoever reads
/// a journal that grows may have looked at the clock before.
fn owned_at(now: u64, lines: &[Handled]) -> BTreeSet<PartitionId> {
    let within = |from: u64, to: u64| -> BTreeSet<PartitionId> {
        let lines = lines.iter().filter(|line| (from..to).contains(&now.saturating_sub(line.at)));
        lines.map(|line| line.partition.clone()).collect()
    };
    &within(0, SECOND) & &within(SECOND, 2 * SECOND)
}

#[test]
fn a_line_that_is_younger_than_the_clock_is_of_the_last_second() {
    let line =
        |partition: &str, at: u64| Handled { partition: partition.into(), number: 0, epoch: 1, at };
    let now = 10 * SECOND;
    let lines = [
        // Handled in both seconds, last after the clock was read.
        line("0", now - SECOND),
        line("0", now + 1),
        // In one of them only.
        line("1", now + 1),
        line("2", now - SECOND),
        line("2", now - 2 * SECOND),
        line("3", now - SECOND + 1),
        // In both.
        line("4", now - 2 * SECOND + 1),
        line("4", now),
    ];
    assert_eq!(owned_at(now, &lines), BTreeSet::from(["0".into(), "4".into()]));
}

/// Waits until the processes handle events of so many partitions each, of all together.
async fn share(fleet: &Fleet, shares: &[(&str, usize)]) -> Vec<BTreeSet<PartitionId>> {
    let look = || {
        let owned: Vec<_> = shares.iter().map(|(name, _)| owned(fleet, name)).collect();
        let all: BTreeSet<_> = owned.iter().flatten().collect();
        let is_even = owned.iter().zip(shares).all(|(owned, (_, count))| owned.len() == *count);
        if is_even && all.len() == PARTITIONS { Ok(owned) } else { Err(owned) }
    };
    found(&format!("{shares:?}"), Duration::from_millis(200), LIMIT, look).await
}

/// The lowest and the highest number of each partition in a journal, after a time.
fn numbers(fleet: &Fleet, name: &str, kind: &str, after: u64) -> BTreeMap<PartitionId, (i64, i64)> {
    let mut numbers = BTreeMap::new();
    for line in super::journal::read::<Handled>(fleet.path(name, kind)) {
        if line.at > after {
            let (lowest, highest) =
                numbers.entry(line.partition).or_insert((line.number, line.number));
            *lowest = line.number.min(*lowest);
            *highest = line.number.max(*highest);
        }
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_processor_and_a_worker_share_a_hub_and_go_on_where_the_other_stopped() {
    let _alone = alone().await;
    let started = Instant::now();
    let mut fleet = Fleet::start(PARTITIONS, Some(PACE), Work::None).await;
    let publishing = Publishing::start(&fleet, usize::MAX, 1, Duration::from_millis(100));
    let python = fleet.add_python();
    let first = fleet.add();
    let shares = share(&fleet, &[(&python.name, 2), (&first.name, 2)]).await;
    let shared = started.elapsed();

    // Ours stops: Python takes over.
    let had = &shares[1];
    let (name, stops) = (first.name.clone(), now());
    first.drain().await;
    let left = numbers(&fleet, &name, "handled", 0);
    share(&fleet, &[(&python.name, PARTITIONS)]).await;
    let begun = numbers(&fleet, &python.name, "handled", stops);
    for partition in had {
        assert_eq!(begun[partition].0, left[partition].1 + 1, "{partition}: {left:?}, {begun:?}");
    }

    // Ours is back, and takes its share from the processor, which never gives.
    let second = fleet.add();
    let shares = share(&fleet, &[(&python.name, 2), (&second.name, 2)]).await;

    // Python stops: ours takes over.
    let had = &shares[0];
    let name = python.name.clone();
    python.drain().await;
    let handled = numbers(&fleet, &name, "handled", 0);
    let acknowledged = numbers(&fleet, &name, "checkpointed", 0);
    share(&fleet, &[(&second.name, PARTITIONS)]).await;
    let begun = numbers(&fleet, &second.name, "handled", 0);
    for partition in had {
        // Its last checkpoint may have been written without an answer.
        let allowed = acknowledged[partition].1 + 1..=handled[partition].1 + 1;
        assert!(allowed.contains(&begun[partition].0), "{partition}: {allowed:?}, {begun:?}");
    }

    publishing.stop().await;
    let published = fleet.handles_all().await;
    second.drain().await;
    println!("{published} events, shared after {shared:.1?}, {:.1?} in all", started.elapsed());
    fleet.stop().await;
}
