//! With default settings: how long a partition rests where its owner changes, in good order and
//! after a SIGKILL.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore::event::PartitionId;

use super::conformance::link_rules::stories;
use super::evidence;
use super::journal::{Handled, now};
use super::processes::{Fleet, alone};
use super::publishing::Publishing;
use super::support::LIMIT;
use super::support::waiting::found;
use super::worker::Work;

const PARTITIONS: usize = 16;
/// Between two events of a partition.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
/// docs/guarantees.md promises two seconds, which hold on a machine that has time for its workers, and
/// which `scripts/soak` writes down. Here the machine may be busy with anything. What would be wrong on
/// any machine is a hand-off that nobody was told of: it waits for the next look at the leases, ten
/// seconds apart, so half of that tells the two from each other.
const HAND_OFF_BAR: Duration = Duration::from_secs(5);
/// The default expiry of a lease, and one look, and what it takes to begin. Whoever misses a take
/// waits for a second expiry.
const FAILOVER_BAR: Duration = Duration::from_secs(50);

/// Where a partition's owner changed.
#[derive(Clone, Debug)]
struct Change {
    partition: PartitionId,
    from: String,
    to: String,
    /// The last event that the old owner settled.
    settled: u64,
    /// The first that the new one received.
    received: u64,
}

/// All changes of owner so far.
fn changes(fleet: &Fleet) -> Vec<Change> {
    let mut settled: BTreeMap<(PartitionId, u64), u64> = BTreeMap::new();
    for (_, lines) in fleet.journals::<Handled>("handled") {
        settled.extend(lines.into_iter().map(|line| ((line.partition, line.epoch), line.at)));
    }
    let mut owners: BTreeMap<PartitionId, Vec<(u64, u64, String)>> = BTreeMap::new();
    for link in stories(&fleet.journals("links")) {
        let epoch = u64::try_from(link.level).unwrap();
        if let Some(&(received, _, _)) = link.received.first() {
            let last = settled.get(&(link.partition.clone(), epoch)).copied().unwrap_or(received);
            owners.entry(link.partition).or_default().push((received, last, link.by));
        }
    }
    let mut changes = Vec::new();
    for (partition, mut owners) in owners {
        owners.sort();
        changes.extend(owners.windows(2).map(|pair| Change {
            partition: partition.clone(),
            from: pair[0].2.clone(),
            to: pair[1].2.clone(),
            settled: pair[0].1,
            received: pair[1].0,
        }));
    }
    changes
}

/// Waits until so many partitions have gone from one worker to another since `begun`.
async fn moved(fleet: &Fleet, from: &str, to: &str, begun: u64, count: usize) -> Vec<Change> {
    let is_one =
        |change: &Change| change.from == from && change.to == to && change.received > begun;
    let look = || {
        let moved: Vec<Change> = changes(fleet).into_iter().filter(is_one).collect();
        if moved.len() >= count { Ok(moved) } else { Err(moved) }
    };
    found(&format!("{from} to {to}"), Duration::from_millis(200), LIMIT, look).await
}

/// Prints the distribution of these times and returns the longest.
fn longest(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let (least, most) = (times[0], times[times.len() - 1]);
    let median = times[times.len() / 2];
    println!("{what}: {} partitions, {least:.2?} / {median:.2?} / {most:.2?}", times.len());
    most
}

fn rests(changes: &[Change]) -> Vec<Duration> {
    let rest = |change: &Change| change.received.saturating_sub(change.settled);
    changes.iter().map(|change| Duration::from_nanos(rest(change))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_rests_for_no_look_in_a_hand_off_and_for_one_expiry_after_a_kill() {
    let _alone = alone().await;
    let mut fleet = Fleet::start(PARTITIONS, None, Work::None).await;
    let publishing = Publishing::start(&fleet, usize::MAX, 1, PUBLISH_EVERY);
    let first = fleet.add();
    fleet.handles(500).await;

    let begun = now();
    let second = fleet.add();
    let added = moved(&fleet, &first.name, &second.name, begun, PARTITIONS / 2).await;
    let added_longest =
        longest("a worker is added, rest in a hand-off (min/median/max)", rests(&added));

    let (begun, removed) = (now(), first.name.clone());
    first.drain().await;
    let gone = moved(&fleet, &removed, &second.name, begun, PARTITIONS / 2).await;
    let gone_longest =
        longest("a worker is removed, rest in a hand-off (min/median/max)", rests(&gone));
    let partitions: BTreeSet<_> =
        added.iter().chain(&gone).map(|change| &change.partition).collect();
    assert_eq!(partitions.len(), PARTITIONS, "all have changed hands");

    let (begun, killed) = (now(), second.name.clone());
    let third = fleet.add();
    moved(&fleet, &killed, &third.name, begun, PARTITIONS / 2).await;
    let begun = now();
    second.kill().await;
    let taken = moved(&fleet, &killed, &third.name, begun, PARTITIONS / 2).await;
    let times = taken.iter().map(|change| Duration::from_nanos(change.received - begun));
    let failover_longest =
        longest("a worker is killed, until another receives (min/median/max)", times.collect());

    publishing.stop().await;
    fleet.handles_all().await;
    third.drain().await;
    println!("{}", evidence::check(&fleet).await);
    assert!(added_longest < HAND_OFF_BAR, "{added_longest:?}");
    assert!(gone_longest < HAND_OFF_BAR, "{gone_longest:?}");
    assert!(failover_longest < FAILOVER_BAR, "{failover_longest:?}");
    fleet.stop().await;
}
