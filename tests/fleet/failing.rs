//! Events that fail: which, how often, and where they must be in the end.
//!
//! What becomes of an event is said by its position alone, so that every owner sees the same: one in a hundred
//! never succeeds, ten fail one to four times. The first failure is followed by another attempt in place,
//! each one after that by parking.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use longshore::event::PartitionId;
use longshore::failure_store::container::ContainerFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore as _, ListedFailure};
use longshore::secret::Secret;
use longshore::state::backoff::Backoff;
use longshore::{ConsumerOptions, ErrorClass, Failure, Outcome};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::processes::Fleet;
use super::support::within;

/// Attempts in place.
const MAX_ATTEMPTS: u32 = 2;
/// More than an event needs: none is given up that only failed for a while.
const PARK_DELAYS: [Duration; 4] = [
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(6),
    Duration::from_secs(8),
];

/// What becomes of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is done at this attempt, at the first or in place.
    Done(u32),
    /// The same, and it was parked before.
    Parked(u32),
    /// It is a dead letter.
    GivenUp,
}

impl Fate {
    pub fn of(partition: &PartitionId, number: i64) -> Self {
        let partition: u64 = partition.as_str().parse().unwrap();
        let mut random = SmallRng::seed_from_u64(partition << 48 ^ number.unsigned_abs());
        match random.random_range(0..1_000) {
            0..10 => Fate::GivenUp,
            10..110 => match random.random_range(2..=5) {
                done if done <= MAX_ATTEMPTS => Fate::Done(done),
                done => Fate::Parked(done),
            },
            _ => Fate::Done(1),
        }
    }

    /// What the handler says of this attempt, where it fails.
    pub fn failure(self, attempt: u32) -> Option<Outcome> {
        let failure = Failure::transient("not yet");
        match self {
            Fate::GivenUp => Some(Outcome::dead_letter(Failure::permanent("never"))),
            Fate::Done(done) | Fate::Parked(done) if attempt >= done => None,
            // In the end only such are left: they must not close their destination for each other.
            Fate::Parked(4..) => Some(Outcome::retry(failure.of_event())),
            Fate::Done(_) | Fate::Parked(_) => Some(Outcome::retry(failure)),
        }
    }

    /// Whether this attempt is the first one after which the event may be settled without being done.
    pub fn settles_at(self, attempt: u32) -> bool {
        match self {
            Fate::Done(_) => false,
            Fate::Parked(_) => attempt >= MAX_ATTEMPTS,
            Fate::GivenUp => true,
        }
    }
}

pub fn options() -> ConsumerOptions {
    let mut options = ConsumerOptions::default();
    options.max_attempts = MAX_ATTEMPTS;
    options.park_delays = PARK_DELAYS.to_vec();
    options.retry_backoff =
        Backoff::doubling(Duration::from_millis(50), Duration::from_millis(500));
    options
}

/// That a handler has begun with an event that fails, or did before.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct Tried {
    #[serde(rename = "p")]
    pub partition: PartitionId,
    #[serde(rename = "n")]
    pub number: i64,
    #[serde(rename = "a")]
    pub attempt: u32,
    /// The lease epoch of the ownership that handles it.
    #[serde(rename = "e")]
    pub epoch: u64,
    #[serde(rename = "t")]
    pub at: u64,
}

/// What stood where in the end.
#[derive(Default)]
pub struct Report {
    done: usize,
    parked: usize,
    dead: usize,
    failed: usize,
    again: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} done, {} of them after parking; {} dead letters; nothing parked; {} attempts failed, of \
             which {} were made again after a kill",
            self.done, self.parked, self.dead, self.failed, self.again
        )
    }
}

fn store(fleet: &Fleet) -> ContainerFailureStore {
    ContainerFailureStore::with_signature(&Secret::new(fleet.container_url.clone())).unwrap()
}

async fn listed(store: &ContainerFailureStore, kind: FailureKind) -> Vec<ListedFailure> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(&FailurePrefix::all(kind), after.as_ref(), usize::MAX).await.unwrap();
        all.extend(page.entries.into_iter().map(Result::unwrap));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

/// Waits until nothing is parked.
pub async fn rests(fleet: &Fleet) {
    let store = store(fleet);
    let rests = async {
        while !listed(&store, FailureKind::Parked).await.is_empty() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    within("nothing is parked", rests).await;
}

/// Checks after the last worker has ended: what is done and what is dead are disjoint and together all, each
/// as its position says, and nothing is parked. What was repeated is for the contract to check.
pub async fn check(fleet: &Fleet) -> Report {
    let store = store(fleet);
    let mut report = Report::default();
    let parked = listed(&store, FailureKind::Parked).await;
    assert!(parked.is_empty(), "{} are parked: {:?}", parked.len(), parked[0]);
    let mut dead: BTreeSet<(PartitionId, i64)> = BTreeSet::new();
    for letter in listed(&store, FailureKind::Dead).await {
        let event = letter.key.event.clone();
        assert_eq!(letter.meta.class, ErrorClass::Permanent, "{letter:?}");
        assert!(dead.insert((event.log.partition, event.sequence_number.0)), "{letter:?}");
    }
    let mut done: BTreeSet<(PartitionId, i64)> = BTreeSet::new();
    for (_, lines) in fleet.journals::<super::journal::Handled>("handled") {
        done.extend(lines.into_iter().map(|line| (line.partition, line.number)));
    }
    for (partition, end) in fleet.log_ends().await.into_iter().enumerate() {
        let partition = PartitionId::from(partition.to_string());
        for number in 0..end {
            let at = (partition.clone(), number);
            let (fate, is) =
                (Fate::of(&partition, number), (done.contains(&at), dead.contains(&at)));
            assert_eq!(is, (fate != Fate::GivenUp, fate == Fate::GivenUp), "{at:?}: {fate:?}");
            report.parked += usize::from(matches!(fate, Fate::Parked(_)));
        }
    }
    (report.done, report.dead) = (done.len(), dead.len());
    let mut tried: BTreeMap<(PartitionId, i64, u32), usize> = BTreeMap::new();
    for (_, lines) in fleet.journals::<Tried>("tried") {
        for Tried { partition, number, attempt, .. } in lines {
            if Fate::of(&partition, number).failure(attempt).is_some() {
                *tried.entry((partition, number, attempt)).or_default() += 1;
            }
        }
    }
    report.failed = tried.values().sum();
    report.again = report.failed - tried.len();
    report
}
