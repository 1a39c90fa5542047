//! All interleavings of two workers, one partition, one lease record and one checkpoint, within
//! bounds: every order of looks, writes, lost answers, late writes, a crash, a departure.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::SystemTime;

use super::*;
use crate::checkpoint::{Checkpoint, LeaseEpoch, StoredCheckpoint, VersionToken, WriteId};
use crate::event::{Incarnation, Position, SequenceNumber};
use crate::lease::{LeaseListing, Member, StoredMember};
use crate::state::fence::{Fence, Verdict};

const EXPIRY: Duration = Duration::from_secs(30);
/// Events in the log.
const EVENTS: i64 = 2;

fn limits() -> LeaseLimits {
    LeaseLimits {
        expiry: EXPIRY,
        foreign_expiry: EXPIRY,
        look_interval: Duration::from_secs(10),
        busy_interval: Duration::from_secs(2),
        hand_off_timeout: Duration::from_secs(60),
        max_hand_offs: 16,
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn partition() -> PartitionId {
    PartitionId::from("0")
}

/// A write on its way to the store.
#[derive(Clone, Debug)]
enum Flight {
    Sent(LeaseWrite),
    /// Applied or refused; the answer is on its way back.
    Answered(LeaseWrite, LeaseWritten),
    /// Nobody waits for it any more; it may still arrive.
    Late(LeaseWrite),
}

/// Takes one change of a world.
type Step<'a> = dyn FnMut(&dyn Fn(&mut World)) + 'a;

/// What a worker does with the partition.
#[derive(Clone, Debug)]
enum Run {
    /// About to read the checkpoint.
    Begins,
    /// About to write the claim.
    Claims(Fence),
    /// Handles the next event after `at`; `written`: all of it is checkpointed.
    Owns { fence: Fence, at: i64, written: bool },
}

#[derive(Clone, Debug)]
struct Worker {
    table: LeaseTable,
    /// Whether its process lives.
    lives: bool,
    /// Whether others find its heartbeat young.
    seen: bool,
    listing: Option<LeaseListing>,
    flights: Vec<Flight>,
    run: Option<Run>,
    yields: bool,
    loses: bool,
    looks_left: u32,
}

#[derive(Clone, Debug)]
struct World {
    workers: [Worker; 2],
    record: Option<StoredOwnership>,
    checkpoint: Option<StoredCheckpoint>,
    versions: u64,
    handled: [u32; EVENTS as usize],
    /// What may still go wrong.
    crashes_left: u32,
    lost_answers_left: u32,
    late_left: u32,
    departures_left: u32,
    /// Whether a worker was taken for dead: only then may events repeat.
    took_over: bool,
}

impl World {
    fn new(bounds: &Bounds, base: Instant) -> Self {
        let worker = |name: &str| {
            let mut table = LeaseTable::new(name.into(), limits());
            table.on_partitions([partition()]);
            let since = base - EXPIRY;
            table.watch = Some(Watch { since, last_look: base, last_now: now() });
            Worker {
                table,
                lives: true,
                seen: true,
                listing: None,
                flights: Vec::new(),
                run: None,
                yields: false,
                loses: false,
                looks_left: bounds.looks,
            }
        };
        Self {
            workers: [worker("a"), worker("b")],
            record: None,
            checkpoint: None,
            versions: 0,
            handled: [0; EVENTS as usize],
            crashes_left: bounds.crashes,
            lost_answers_left: bounds.lost_answers,
            late_left: bounds.late,
            departures_left: bounds.departures,
            took_over: false,
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut text = String::new();
        write!(text, "{self:?}").expect("text");
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    }

    fn version(&mut self) -> VersionToken {
        self.versions += 1;
        VersionToken(self.versions.to_string())
    }

    fn listing(&self) -> LeaseListing {
        let member = |worker: &Worker| StoredMember {
            member: Member {
                owner: worker.table.me.clone(),
                wants: worker.table.wants().clone(),
                leaving: worker.table.is_leaving(),
            },
            modified: if worker.seen { now() } else { now() - 2 * EXPIRY },
        };
        LeaseListing {
            now: now(),
            ownerships: self
                .record
                .clone()
                .map(|stored| (partition(), stored))
                .into_iter()
                .collect(),
            members: self.workers.iter().map(member).collect(),
        }
    }

    fn apply(&mut self, write: &LeaseWrite) -> LeaseWritten {
        if !write.expected.is_met_by(self.record.as_ref().map(|stored| &stored.version)) {
            return LeaseWritten::Conflict(self.record.clone());
        }
        let version = self.version();
        let ownership = write.ownership.clone();
        self.record =
            Some(StoredOwnership { ownership, version: version.clone(), modified: now() });
        LeaseWritten::Stored(version)
    }

    /// Writes a checkpoint behind a fence; `None`: the right to write has ended.
    fn checkpoint(&mut self, fence: &mut Fence) -> Option<()> {
        while let Some((pending, expected)) = fence.pending() {
            if expected.is_met_by(self.checkpoint.as_ref().map(|stored| &stored.version)) {
                let before = self.checkpoint.take().map(|stored| stored.checkpoint);
                let checkpoint = pending.clone();
                assert_forward(before.as_ref(), &checkpoint);
                let version = self.version();
                self.checkpoint = Some(StoredCheckpoint { checkpoint, version: version.clone() });
                fence.on_stored(version);
            } else if let Verdict::Superseded(_) = fence.on_conflict(self.checkpoint.clone()) {
                return None;
            }
        }
        Some(())
    }

    fn carry_out(&mut self, index: usize, actions: Vec<Action>) {
        let worker = &mut self.workers[index];
        for action in actions {
            match action {
                Action::Write(write) => worker.flights.push(Flight::Sent(write)),
                Action::Start(_) => {
                    assert!(worker.run.is_none(), "it runs already");
                    (worker.yields, worker.loses) = (false, false);
                    worker.run = Some(Run::Begins);
                }
                Action::Yield(_) => worker.yields = true,
                Action::CallBack(_) => worker.yields = false,
                Action::Lose(_) => worker.loses = true,
                Action::Forget(_) => unreachable!("no record is that old"),
            }
        }
    }

    fn end(&mut self, index: usize, how: Ended) {
        self.workers[index].run = None;
        let actions = self.workers[index].table.on_ended(&partition(), how);
        self.carry_out(index, actions);
    }

    /// All worlds that are one step away.
    fn next(&self, base: Instant) -> Vec<World> {
        let mut worlds = Vec::new();
        let mut step = |change: &dyn Fn(&mut World)| {
            let mut world = self.clone();
            change(&mut world);
            worlds.push(world);
        };
        for index in 0..2 {
            let worker = &self.workers[index];
            for at in 0..worker.flights.len() {
                self.fly(index, at, base, &mut step);
            }
            if !worker.lives {
                if worker.seen {
                    step(&|world| {
                        world.workers[index].seen = false;
                        world.took_over = true;
                    });
                }
                continue;
            }
            if worker.listing.is_none() && worker.looks_left > 0 {
                step(&|world| {
                    world.workers[index].looks_left -= 1;
                    world.workers[index].table.on_look_begun();
                    world.workers[index].listing = Some(world.listing());
                });
            }
            if worker.listing.is_some() {
                step(&|world| {
                    let listing = world.workers[index].listing.take().expect("there");
                    let actions = world.workers[index].table.on_look(listing, base);
                    world.carry_out(index, actions);
                });
            }
            if !worker.table.next_polls().is_empty() {
                step(&|world| {
                    let found = world.record.clone();
                    let actions = world.workers[index].table.on_polled(&partition(), found);
                    world.carry_out(index, actions);
                });
            }
            self.run(index, &mut step);
            if self.crashes_left > 0 {
                step(&|world| {
                    world.crashes_left -= 1;
                    let worker = &mut world.workers[index];
                    worker.lives = false;
                    (worker.run, worker.listing) = (None, None);
                });
                // Taken for dead while it lives.
                step(&|world| {
                    world.crashes_left -= 1;
                    world.workers[index].seen = false;
                    world.took_over = true;
                });
            }
            if self.departures_left > 0 {
                step(&|world| {
                    world.departures_left -= 1;
                    world.workers[index].table.leave();
                });
            }
        }
        worlds
    }

    fn fly(&self, index: usize, at: usize, base: Instant, step: &mut Step<'_>) {
        let lives = self.workers[index].lives;
        let answer = |world: &mut World, write: &LeaseWrite, written: LeaseWritten| {
            if world.workers[index].lives {
                let actions = world.workers[index].table.on_written(write, written, base);
                world.carry_out(index, actions);
            }
        };
        match &self.workers[index].flights[at] {
            Flight::Sent(write) => {
                step(&|world| {
                    let written = world.apply(write);
                    world.workers[index].flights[at] = Flight::Answered(write.clone(), written);
                });
                if self.late_left > 0 && lives {
                    step(&|world| {
                        world.late_left -= 1;
                        world.workers[index].flights[at] = Flight::Late(write.clone());
                        answer(world, write, LeaseWritten::Unknown);
                    });
                }
            }
            Flight::Answered(write, written) => {
                step(&|world| {
                    world.workers[index].flights.remove(at);
                    answer(world, write, written.clone());
                });
                if self.lost_answers_left > 0 && lives {
                    step(&|world| {
                        world.lost_answers_left -= 1;
                        world.workers[index].flights.remove(at);
                        answer(world, write, LeaseWritten::Unknown);
                    });
                }
            }
            Flight::Late(write) => step(&|world| {
                world.workers[index].flights.remove(at);
                world.apply(write);
            }),
        }
    }

    fn run(&self, index: usize, step: &mut Step<'_>) {
        let worker = &self.workers[index];
        let Some(run) = &worker.run else {
            return;
        };
        if worker.loses {
            step(&|world| world.end(index, Ended::Lost));
            return;
        }
        let drains = worker.yields || worker.table.is_leaving();
        match run {
            Run::Begins | Run::Claims(_) if drains => {
                step(&|world| world.end(index, Ended::Drained));
            }
            Run::Begins => step(&|world| {
                let write_id = WriteId(world.versions * 2 + index as u64);
                let fence = Fence::claim(world.checkpoint.clone(), Incarnation(1), 0, write_id);
                world.workers[index].run = Some(Run::Claims(fence));
            }),
            Run::Claims(fence) => step(&|world| {
                let mut fence = fence.clone();
                let epoch = world.checkpoint.as_ref().map(|stored| stored.checkpoint.lease_epoch);
                world.workers[index].run = Some(match world.checkpoint(&mut fence) {
                    Some(()) => {
                        assert!(Some(fence.lease_epoch()) > epoch, "every claim has its own epoch");
                        let at = fence.stored().watermark.as_ref();
                        let at = at.map_or(-1, |position| position.sequence_number.0);
                        Run::Owns { fence, at, written: true }
                    }
                    None => Run::Begins,
                });
            }),
            Run::Owns { fence, at, written } => {
                if !written {
                    step(&|world| {
                        let mut fence = fence.clone();
                        let write_id = WriteId(world.versions * 2 + index as u64);
                        fence.on_progress(Some(Position::at(*at)), Vec::new(), write_id);
                        match world.checkpoint(&mut fence) {
                            Some(()) => {
                                let run = Run::Owns { fence, at: *at, written: true };
                                world.workers[index].run = Some(run);
                            }
                            None => world.end(index, Ended::Lost),
                        }
                    });
                } else if drains {
                    step(&|world| world.end(index, Ended::Drained));
                }
                if *at + 1 < EVENTS && !drains {
                    step(&|world| {
                        let next = *at + 1;
                        let count = &mut world.handled[next as usize];
                        *count += 1;
                        assert!(*count == 1 || world.took_over, "event {next} repeats");
                        let run = Run::Owns { fence: fence.clone(), at: next, written: false };
                        world.workers[index].run = Some(run);
                    });
                }
            }
        }
    }
}

fn assert_forward(before: Option<&Checkpoint>, after: &Checkpoint) {
    let number = |checkpoint: &Checkpoint| {
        checkpoint.watermark.as_ref().map(|position| position.sequence_number)
    };
    if let Some(before) = before {
        assert!(number(after) >= number(before), "backwards: {before:?} -> {after:?}");
        assert!(after.lease_epoch >= before.lease_epoch);
    }
    assert!(number(after) < Some(SequenceNumber(EVENTS)));
    assert!(after.lease_epoch > LeaseEpoch(0));
}

/// What may go wrong, and how often each worker may look.
struct Bounds {
    looks: u32,
    crashes: u32,
    lost_answers: u32,
    late: u32,
    departures: u32,
}

/// Visits every world that can be reached within the bounds; returns how many there are.
fn search(bounds: &Bounds) -> usize {
    let base = Instant::now();
    let mut seen = HashSet::new();
    let mut open = vec![World::new(bounds, base)];
    while let Some(world) = open.pop() {
        if seen.insert(world.fingerprint()) {
            open.extend(world.next(base));
        }
    }
    seen.len()
}

#[test]
fn no_interleaving_of_two_workers_repeats_an_event_or_moves_a_checkpoint_back() {
    let none = Bounds { looks: 2, crashes: 0, lost_answers: 0, late: 0, departures: 0 };
    for (what, bounds) in [
        ("nothing goes wrong", Bounds { ..none }),
        ("a departure", Bounds { departures: 1, ..none }),
        ("a crash, or a worker taken for dead", Bounds { crashes: 1, ..none }),
        ("a lost answer", Bounds { lost_answers: 1, ..none }),
        ("a late write", Bounds { late: 1, ..none }),
        ("a departure and a late write", Bounds { departures: 1, late: 1, ..none }),
        ("a departure and a lost answer", Bounds { departures: 1, lost_answers: 1, ..none }),
    ] {
        println!("{what}: {} worlds", search(&bounds));
    }
}

/// Two workers of which the other one has everything, and its heartbeat is as old as this.
fn look_at_a_holder(table: &mut LeaseTable, heartbeat_age: Duration, at: Instant) -> Vec<Action> {
    let other = OwnerId::new("b");
    let ownership = Ownership::of(other.clone());
    let version = VersionToken("1".to_owned());
    let member = Member { owner: other, wants: BTreeSet::new(), leaving: false };
    table.on_look_begun();
    table.on_look(
        LeaseListing {
            now: now(),
            ownerships: vec![(
                partition(),
                StoredOwnership { ownership, version, modified: now() },
            )],
            members: vec![StoredMember { member, modified: now() - heartbeat_age }],
        },
        at,
    )
}

#[test]
fn after_a_time_without_looks_nobody_is_taken_for_dead_at_once() {
    let mut table = LeaseTable::new("a".into(), limits());
    table.on_partitions([partition()]);
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    let (young, old) = (Duration::from_secs(1), 2 * EXPIRY);
    for seconds in [0, 10, 20] {
        assert_eq!(look_at_a_holder(&mut table, young, after(seconds)), []);
    }
    // The store was away, and is back: the other one could not write either.
    for seconds in [300, 308, 315] {
        assert_eq!(look_at_a_holder(&mut table, old, after(seconds)), []);
    }
    // It had time enough.
    assert!(matches!(look_at_a_holder(&mut table, old, after(316))[..], [Action::Write(_)]));
}

#[test]
fn after_a_look_that_failed_nobody_is_taken_for_dead_at_once() {
    let mut table = LeaseTable::new("a".into(), limits());
    table.on_partitions([partition()]);
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    for seconds in [0, 10, 20] {
        assert_eq!(look_at_a_holder(&mut table, Duration::from_secs(1), after(seconds)), []);
    }
    table.on_store_failed();
    assert_eq!(look_at_a_holder(&mut table, 2 * EXPIRY, after(30)), []);
    assert_eq!(look_at_a_holder(&mut table, 2 * EXPIRY, after(40)), []);
    assert!(matches!(look_at_a_holder(&mut table, 2 * EXPIRY, after(46))[..], [Action::Write(_)]));
}

#[test]
fn a_worker_in_doubt_is_given_nothing() {
    let mut table = LeaseTable::new("a".into(), limits());
    table.on_partitions([partition(), "1".into()]);
    let mine = |id: &str| {
        let ownership = Ownership::of("a".into());
        let version = VersionToken(id.to_owned());
        (PartitionId::from(id), StoredOwnership { ownership, version, modified: now() })
    };
    let wants = BTreeSet::from([partition(), "1".into()]);
    let ghost = Member { owner: "b".into(), wants, leaving: false };
    let listing = LeaseListing {
        now: now(),
        ownerships: vec![mine("0"), mine("1")],
        members: vec![StoredMember { member: ghost, modified: now() - 2 * EXPIRY }],
    };
    let base = Instant::now();
    for write in table.on_look(listing.clone(), base) {
        let Action::Write(write) = write else { panic!("{write:?}") };
        let written = LeaseWritten::Stored(VersionToken("9".to_owned()));
        table.on_written(&write, written, base);
    }
    table.on_look_begun();
    assert_eq!(table.on_look(listing, base + Duration::from_secs(1)), []);
}

#[test]
fn a_hand_off_is_called_back_in_time_without_a_look() {
    let mut table = LeaseTable::new("a".into(), limits());
    table.on_partitions([partition()]);
    let base = Instant::now();
    let deadline = base + limits().hand_off_timeout;
    let entry = table.entries.get_mut(&partition()).expect("there");
    entry.role = Role::Yielding { to: "b".into(), deadline };
    assert_eq!(table.next_overdue(), Some(deadline));
    assert_eq!(table.on_time(deadline - Duration::from_secs(1)), []);
    assert_eq!(table.on_time(deadline), [Action::CallBack(partition())]);
    assert_eq!(table.next_overdue(), None);
}

#[test]
fn who_is_watched_without_a_break_is_taken_for_dead_when_its_lease_expires() {
    let mut table = LeaseTable::new("a".into(), limits());
    table.on_partitions([partition()]);
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    for seconds in [0, 10, 20] {
        assert_eq!(look_at_a_holder(&mut table, Duration::from_secs(seconds), after(seconds)), []);
    }
    let expired = look_at_a_holder(&mut table, EXPIRY + Duration::from_secs(1), after(31));
    assert!(matches!(expired[..], [Action::Write(_)]), "{expired:?}");
}

/// The ownerships of a listing are older than its members: a worker gives a partition away and goes in
/// between.
#[test]
fn who_claims_from_a_giver_that_is_gone_has_what_it_was_given() {
    let mut table = LeaseTable::new("a".into(), limits());
    table.on_partitions([partition()]);
    let marked = Ownership { target: Some("a".into()), ..Ownership::of("b".into()) };
    let stored = |ownership, version: &str| {
        let version = VersionToken(version.to_owned());
        StoredOwnership { ownership, version, modified: now() }
    };
    let ownerships = vec![(partition(), stored(marked, "1"))];
    table.on_look_begun();
    let listing = LeaseListing { now: now(), ownerships, members: Vec::new() };
    let now = Instant::now();
    let actions = table.on_look(listing, now);
    let [Action::Write(claim)] = &actions[..] else { panic!("{actions:?}") };
    let given = stored(Ownership::of("a".into()), "2");
    let found = LeaseWritten::Conflict(Some(given));
    assert_eq!(table.on_written(claim, found, now), [Action::Start(partition())]);
}

#[test]
fn a_record_of_a_worker_that_is_long_gone_is_removed_by_one_of_those_that_live() {
    for (me, other, expected) in [("a", "b", true), ("b", "a", false)] {
        let mut table = LeaseTable::new(me.into(), limits());
        let member = |owner: &str, age| StoredMember {
            member: Member { owner: owner.into(), wants: BTreeSet::new(), leaving: false },
            modified: now() - age,
        };
        let members = vec![
            member(other, Duration::ZERO),
            member("c", MEMBER_KEPT + Duration::from_secs(1)),
            member("d", MEMBER_KEPT - Duration::from_secs(1)),
        ];
        table.on_look_begun();
        let listing = LeaseListing { now: now(), ownerships: Vec::new(), members };
        let actions = table.on_look(listing, Instant::now());
        assert_eq!(actions.contains(&Action::Forget("c".into())), expected);
        assert_eq!(actions.len(), usize::from(expected));
    }
}
