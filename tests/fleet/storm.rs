//! Events that flow through a fleet while its workers change.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::delivery;
use super::evidence;
use super::failing;
use super::order;
use super::processes::{Fleet, Worker, alone, chosen};
use super::publishing::Publishing;
use super::worker::{Pace, Work};

const PARTITIONS: usize = 16;

/// What flows, and how many changes there are, where the environment says nothing else.
pub struct Storm {
    pub pace: Pace,
    pub work: Work,
    pub events: usize,
    pub changes: usize,
    /// How many more there are when all is published.
    pub late_changes: usize,
    /// What the changes are called.
    pub what: &'static str,
}

/// Publishes, with three workers to begin with; carries out each change, of its number, at a place
/// of the stream that the seed says, and checks what the journals say in the end.
pub async fn through(
    storm: Storm,
    mut change: impl AsyncFnMut(usize, &mut Fleet, &mut Vec<Worker>, &mut SmallRng),
) -> delivery::Report {
    let Storm { pace, work, events, changes, late_changes, what } = storm;
    let _alone = alone().await;
    let total = chosen("LONGSHORE_EVENTS", events);
    let count = chosen("LONGSHORE_CHANGES", changes);
    let seed = chosen("LONGSHORE_SEED", 7);
    let mut random = SmallRng::seed_from_u64(seed as u64);
    let started = Instant::now();
    let mut fleet = Fleet::start(PARTITIONS, Some(pace), work).await;
    let mut workers: Vec<Worker> = (0..3).map(|_| fleet.add()).collect();
    let publishing =
        Publishing::start(&fleet, total, work.round_events(), Duration::from_millis(200));
    // Each change at its own place, whether or not the one before has settled.
    let mut places: Vec<usize> =
        (0..count).map(|_| random.random_range(total / 20..total * 9 / 10)).collect();
    places.sort_unstable();
    for (number, place) in places.into_iter().enumerate() {
        publishing.reaches(place).await;
        change(number, &mut fleet, &mut workers, &mut random).await;
    }
    publishing.finish().await;
    for number in count..count + late_changes {
        change(number, &mut fleet, &mut workers, &mut random).await;
    }
    let published = fleet.handles_all().await;
    if work == Work::Failing {
        failing::rests(&fleet).await;
    }
    for worker in workers {
        worker.drain().await;
    }
    let report = evidence::check(&fleet).await;
    println!("seed {seed}, {} {what}, {:.0?}: {report}", count + late_changes, started.elapsed());
    if work == Work::Keyed {
        let order = order::check(&fleet.journals("begun"), &fleet.journals("handled"));
        let order = order.unwrap_or_else(|fault| panic!("a key is out of order: {fault}"));
        println!("seed {seed}, order: {order}");
        assert_eq!(order.events, published);
    }
    if work == Work::Failing {
        let parked = report.delivery.repeats_of_parked;
        println!("seed {seed}, ends: {}", failing::check(&fleet).await);
        println!("seed {seed}, handled again after they had been parked: {parked}");
    }
    assert!(published >= total / PARTITIONS * PARTITIONS, "{published}");
    assert_eq!(report.delivery.events, published);
    fleet.stop().await;
    report.delivery
}
