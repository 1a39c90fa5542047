//! What an ideal engine would do with events of keys that must stay in order, and whose keys they are.
//!
//! The ideal gives a slot that is free to the oldest event that may begin: one whose key has none under
//! way, and which is within the window of its partition, counted from the oldest unsettled one. It
//! knows nothing of the future and costs nothing.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use rand::Rng;

/// An event, and how long its handler takes.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub partition: usize,
    /// `None`: it need not wait for any other.
    pub key: Option<usize>,
    pub takes: Duration,
}

/// Keys by their rank: the one of rank r is as frequent as 1 / r^exponent.
pub struct Zipf {
    /// Of each rank, how much has it or one before.
    up_to: Vec<f64>,
}

impl Zipf {
    pub fn new(keys: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=keys).map(|rank| 1.0 / (rank as f64).powf(exponent));
        let up_to = weights.map(|weight| {
            sum += weight;
            sum
        });
        Self { up_to: up_to.collect() }
    }

    /// A rank, from 0.
    pub fn draw(&self, random: &mut impl Rng) -> usize {
        let total = self.up_to.last().copied().unwrap_or_default();
        let place = random.random::<f64>() * total;
        self.up_to.partition_point(|up_to| *up_to <= place).min(self.up_to.len().saturating_sub(1))
    }
}

/// What is in one partition.
#[derive(Default)]
struct Log {
    /// Its jobs, oldest first.
    jobs: Vec<usize>,
    settled: Vec<bool>,
    /// How many are settled from the first on.
    settled_to: usize,
    /// How many have come within the window.
    admitted: usize,
}

/// How long the ideal takes for all, with so many slots for all partitions and a window of so many
/// events for each.
pub fn ideal(jobs: &[Job], slots: usize, window: usize) -> Duration {
    Schedule::new(jobs, window).run(slots)
}

struct Schedule<'a> {
    jobs: &'a [Job],
    window: usize,
    logs: Vec<Log>,
    /// Of each job, its place in its partition.
    places: Vec<usize>,
    /// What may begin, oldest first.
    ready: BinaryHeap<Reverse<usize>>,
    /// Keys that have one under way, or ready, and those that wait behind it.
    behind: HashMap<usize, VecDeque<usize>>,
}

impl<'a> Schedule<'a> {
    fn new(jobs: &'a [Job], window: usize) -> Self {
        let mut logs: Vec<Log> = Vec::new();
        let mut places = Vec::with_capacity(jobs.len());
        for (number, job) in jobs.iter().enumerate() {
            if logs.len() <= job.partition {
                logs.resize_with(job.partition + 1, Log::default);
            }
            let log = &mut logs[job.partition];
            places.push(log.jobs.len());
            log.jobs.push(number);
            log.settled.push(false);
        }
        let (ready, behind) = (BinaryHeap::new(), HashMap::new());
        let mut this = Self { jobs, window, logs, places, ready, behind };
        (0..this.logs.len()).for_each(|partition| this.admit(partition));
        this
    }

    /// Takes in what the window of a partition has room for.
    fn admit(&mut self, partition: usize) {
        let log = &mut self.logs[partition];
        let end = (log.settled_to + self.window).min(log.jobs.len());
        let admitted = log.admitted..end.max(log.admitted);
        log.admitted = admitted.end;
        for at in admitted {
            let number = self.logs[partition].jobs[at];
            match self.jobs[number].key.map(|key| self.behind.entry(key)) {
                Some(std::collections::hash_map::Entry::Occupied(mut waiting)) => {
                    waiting.get_mut().push_back(number);
                }
                Some(std::collections::hash_map::Entry::Vacant(vacant)) => {
                    vacant.insert(VecDeque::new());
                    self.ready.push(Reverse(number));
                }
                None => self.ready.push(Reverse(number)),
            }
        }
    }

    fn settle(&mut self, number: usize) {
        let Job { partition, key, .. } = self.jobs[number];
        if let Some(key) = key {
            match self.behind.get_mut(&key).and_then(VecDeque::pop_front) {
                Some(next) => self.ready.push(Reverse(next)),
                None => drop(self.behind.remove(&key)),
            }
        }
        let log = &mut self.logs[partition];
        log.settled[self.places[number]] = true;
        let more = log.settled[log.settled_to..].iter().take_while(|settled| **settled).count();
        log.settled_to += more;
        if more > 0 {
            self.admit(partition);
        }
    }

    fn run(mut self, slots: usize) -> Duration {
        let (mut now, mut free) = (Duration::ZERO, slots);
        let mut running: BinaryHeap<Reverse<(Duration, usize)>> = BinaryHeap::new();
        loop {
            while free > 0
                && let Some(Reverse(number)) = self.ready.pop()
            {
                free -= 1;
                running.push(Reverse((now + self.jobs[number].takes, number)));
            }
            let Some(Reverse((ends, number))) = running.pop() else { return now };
            now = ends;
            free += 1;
            self.settle(number);
        }
    }
}
