//! The delivery contract, checked event by event against what handlers, checkpoints and leases
//! left in the journals.
//!
//! - Every event of the logs was handled.
//! - A checkpoint covers only what was handled when its write began, and covers all that the ones
//!   before it covered.
//! - An owner handles no event that its claim found covered, and none twice.
//! - An event was handled again only where its owner's lease was *taken*, which is done to who was
//!   killed or cut off. Who gave a partition away, or released it, had all of it checkpointed.
//! - What failed may be settled before it is done, once it is parked: a checkpoint covers it only after the
//!   attempt that parks it began, and whoever owns the partition may handle it without having received it.
//!   It is handled again only as others are, after a take. So is what is given up, and it is never done.
//! - What had been handled for a while when a checkpoint was written is covered by it, above its
//!   watermark too: so only what was unfinished then, or came later, is handled again.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use longshore::checkpoint_store::Checkpoint;
use longshore::event::PartitionId;

use super::conformance::link_rules::LinkStory;
use super::conformance::{Accepted, Write};
use super::failing::{Fate, Tried};
use super::journal::Handled;
use super::ports::Lease;
use super::worker::Work;

/// How long a worker may take from a handler's end to its event being settled: its processor may
/// be busy elsewhere.
const SETTLING_NANOS: u64 = 2_000_000_000;

/// What the journals of a run say.
pub struct Run<'a> {
    /// How many events each partition's log holds, from number 0 on.
    pub log_ends: &'a [i64],
    pub handled: &'a [(String, Vec<Handled>)],
    pub links: &'a [LinkStory],
    pub accepted: &'a Accepted,
    pub failing: Failing<'a>,
}

/// What of a run fails, and when that was tried.
#[derive(Clone, Copy)]
pub struct Failing<'a> {
    pub work: Work,
    pub tried: &'a [(String, Vec<Tried>)],
}

/// What a run came to.
#[derive(Default, Debug)]
pub struct Report {
    pub events: usize,
    /// Handler calls beyond the first of an event.
    pub repeats: usize,
    /// Those of events that were parked.
    pub repeats_of_parked: usize,
    /// Times a partition began with a new owner: nobody had it, it was given, it was taken.
    pub free: usize,
    pub given: usize,
    pub taken: usize,
    /// Most repeats that one take brought.
    pub most_repeats: usize,
    /// Events that an owner found settled above the watermark of what it took, and left alone.
    pub spared: usize,
    pub checkpoints: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events; ownerships: {} of what was free, {} given, {} taken; {} repeats, {} at \
             most by one take, {} spared above watermarks; {} checkpoints",
            self.events,
            self.free,
            self.given,
            self.taken,
            self.repeats,
            self.most_repeats,
            self.spared,
            self.checkpoints
        )
    }
}

impl Failing<'_> {
    /// The attempts at what is given up, as what is over.
    fn given_up(&self) -> Vec<(String, Vec<Handled>)> {
        let is_given_up =
            |line: &&Tried| self.work.fate(&line.partition, line.number) == Fate::GivenUp;
        let over = |line: &Tried| Handled {
            partition: line.partition.clone(),
            number: line.number,
            epoch: line.epoch,
            at: line.at,
        };
        let of = |(worker, lines): &(String, Vec<Tried>)| {
            (worker.clone(), lines.iter().filter(is_given_up).map(over).collect())
        };
        self.tried.iter().map(of).collect()
    }
}

/// How an ownership came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Beginning {
    Free,
    Given,
    Taken,
    /// The same worker had it before.
    Again,
}

/// What one worker did with one partition under one lease epoch.
struct Ownership<'a> {
    worker: &'a str,
    epoch: u64,
    beginning: Beginning,
    claim: &'a Checkpoint,
    /// Its last write that was applied.
    last: &'a Write<Checkpoint>,
    handled: HashMap<i64, u64>,
}

fn watermark(checkpoint: &Checkpoint) -> i64 {
    checkpoint.watermark.as_ref().map_or(-1, |at| at.sequence_number.0)
}

fn covers(checkpoint: &Checkpoint, number: i64) -> bool {
    let runs = &checkpoint.settled_above;
    number <= watermark(checkpoint)
        || runs.iter().any(|run| (run.first.0..=run.last.0).contains(&number))
}

/// What a checkpoint covers above a number.
fn covered(checkpoint: &Checkpoint, above: i64) -> impl Iterator<Item = i64> {
    let runs = checkpoint.settled_above.iter().flat_map(|run| run.first.0..=run.last.0);
    (above + 1..=watermark(checkpoint)).chain(runs.filter(move |number| *number > above))
}

/// Checks a run.
///
/// # Errors
/// The first event that the contract does not allow.
pub fn check(run: &Run<'_>) -> Result<Report, String> {
    let mut report = Report::default();
    for (index, &end) in run.log_ends.iter().enumerate() {
        let partition = PartitionId::from(index.to_string());
        check_partition(run, &partition, end, &mut report)
            .map_err(|fault| format!("partition {partition}: {fault}"))?;
    }
    Ok(report)
}

fn check_partition(
    run: &Run<'_>,
    partition: &PartitionId,
    end: i64,
    report: &mut Report,
) -> Result<(), String> {
    let chain = run.accepted.checkpoints.get(partition).ok_or("it has no checkpoint")?;
    let leases = run.accepted.leases.get(partition).ok_or("it has no lease")?;
    let mut ownerships = ownerships(chain, leases)?;
    let fate = |number: i64| run.failing.work.fate(partition, number);
    let is_parked = |number: i64| matches!(fate(number), Fate::Parked(_));
    let done = run.handled.iter().flat_map(|(_, lines)| lines);
    if let Some(wrong) = done
        .filter(|line| line.partition == *partition)
        .find(|line| fate(line.number) == Fate::GivenUp)
    {
        return Err(format!("{wrong:?}, which never succeeds"));
    }
    let mut first_handled: BTreeMap<i64, u64> = BTreeMap::new();
    let given_up = run.failing.given_up();
    for (worker, lines) in run.handled.iter().chain(&given_up) {
        for line in lines.iter().filter(|line| line.partition == *partition) {
            let of = |one: &&mut Ownership<'_>| one.epoch == line.epoch && one.worker == worker;
            let owner = ownerships.iter_mut().find(of);
            let owner = owner.ok_or_else(|| format!("{worker} had no claim for {line:?}"))?;
            if owner.handled.insert(line.number, line.at).is_some() {
                return Err(format!("{worker} handled {} twice", line.number));
            }
            if covers(owner.claim, line.number) && !is_parked(line.number) {
                return Err(format!("{worker} handled {}, which was settled", line.number));
            }
            let first = first_handled.entry(line.number).or_insert(line.at);
            *first = line.at.min(*first);
        }
    }
    if let Some(lost) = (0..end).find(|number| !first_handled.contains_key(number)) {
        return Err(format!("{lost} was lost"));
    }
    report.events += first_handled.len();
    report.checkpoints += chain.len();
    let mut may_be_settled = first_handled.clone();
    for line in run.failing.tried.iter().flat_map(|(_, lines)| lines) {
        if line.partition == *partition && fate(line.number).settles_at(line.attempt) {
            let first = may_be_settled.entry(line.number).or_insert(line.at);
            *first = line.at.min(*first);
        }
    }
    check_checkpoints(chain, &may_be_settled)?;
    let newest = &chain[chain.len() - 1].value;
    if end > 0 && !covers(newest, end - 1) {
        return Err(format!("the last checkpoint is {newest:?}, and the log ends before {end}"));
    }
    received(run.links, partition, &ownerships, is_parked)?;
    for ownership in &ownerships {
        // A dead letter takes as long as its store.
        settled_in_time(ownership, |number| fate(number) == Fate::GivenUp)?;
        match ownership.beginning {
            Beginning::Free => report.free += 1,
            Beginning::Given => report.given += 1,
            Beginning::Taken => report.taken += 1,
            Beginning::Again => {}
        }
        report.spared +=
            ownership.claim.settled_above.iter().fold(0, |sum, run| {
                sum + usize::try_from(run.last.0 - run.first.0 + 1).unwrap_or(0)
            });
    }
    count_repeats(&ownerships, is_parked, report)
}

/// The owners of a partition, one after the other.
fn ownerships<'a>(
    chain: &'a [Write<Checkpoint>],
    leases: &[Write<Lease>],
) -> Result<Vec<Ownership<'a>>, String> {
    let mut ownerships: Vec<Ownership<'a>> = Vec::new();
    let mut held = None;
    for write in chain {
        let epoch = write.value.lease_epoch.0;
        match ownerships.last_mut() {
            Some(current) if current.epoch == epoch && current.worker == write.by => {
                current.last = write;
            }
            Some(current) if current.epoch >= epoch => {
                return Err(format!(
                    "{} wrote under epoch {epoch} after {}",
                    write.by, current.epoch
                ));
            }
            _ => {
                let (mut beginning, run) = beginning(leases, write, held)?;
                if held == Some(run) {
                    beginning = Beginning::Again;
                }
                held = Some(run);
                ownerships.push(Ownership {
                    worker: &write.by,
                    epoch,
                    beginning,
                    claim: &write.value,
                    last: write,
                    handled: HashMap::new(),
                });
            }
        }
    }
    Ok(ownerships)
}

/// How the writer of this claim had come by the lease, and with which write of the lease its time
/// began; `before` is that of the owner that claimed before. Who had the lease in between claimed
/// nothing, but may have taken it, and given it on.
///
/// The write is the writer's own, or that of who gave it the lease: a worker whose own write is late is
/// refused, reads that the lease is its already, and claims.
fn beginning(
    leases: &[Write<Lease>],
    claim: &Write<Checkpoint>,
    before: Option<usize>,
) -> Result<(Beginning, usize), String> {
    let is_theirs = |write: &Write<Lease>| {
        let holder = write.value.holder.as_ref();
        holder.and_then(|owner| owner.as_str().rsplit_once('-')).map(|(name, _)| name)
            == Some(claim.by.as_str())
    };
    let began = leases.iter().rposition(|write| is_theirs(write) && write.begin < claim.begin);
    let began = began.ok_or_else(|| {
        format!("{} claimed without a lease: {claim:?}; the lease: {leases:#?}", claim.by)
    })?;
    let first = (0..=began).rev().take_while(|&index| is_theirs(&leases[index])).last();
    let first = first.unwrap_or(began);
    let in_between = before.map_or(first, |before| before + 1)..=first;
    let taken = in_between.into_iter().any(|index| came(leases, index) == Beginning::Taken);
    Ok((if taken { Beginning::Taken } else { came(leases, first) }, first))
}

/// How the holder that this write of the lease names had come by it.
fn came(leases: &[Write<Lease>], index: usize) -> Beginning {
    let write = &leases[index];
    let before = index.checked_sub(1).and_then(|before| leases[before].value.holder.as_ref());
    let holder = write.value.holder.as_ref();
    let named = holder.and_then(|owner| owner.as_str().rsplit_once('-')).map(|(name, _)| name);
    match (before, holder) {
        (before, holder) if before == holder => Beginning::Again,
        _ if named != Some(write.by.as_str()) => Beginning::Given,
        (None, _) => Beginning::Free,
        (Some(_), _) => Beginning::Taken,
    }
}

/// Checkpoints move forward, and cover nothing that was not handled before they were written.
fn check_checkpoints(
    chain: &[Write<Checkpoint>],
    first_handled: &BTreeMap<i64, u64>,
) -> Result<(), String> {
    let mut before = &Checkpoint::default();
    for write in chain {
        let Write { by, begin, value, .. } = write;
        let reached = watermark(before);
        if watermark(value) < reached {
            return Err(format!("{by} moved the checkpoint back from {reached}"));
        }
        if let Some(lost) = covered(before, reached).find(|number| !covers(value, *number)) {
            return Err(format!("{by} wrote over {lost}, which was settled"));
        }
        let is_early = |number: &i64| first_handled.get(number).is_none_or(|at| at > begin);
        if let Some(early) = covered(value, reached).find(is_early) {
            return Err(format!("{by} checkpointed {early} before it was handled"));
        }
        before = value;
    }
    Ok(())
}

/// What an owner handled came over a link of its level.
fn received(
    links: &[LinkStory],
    partition: &PartitionId,
    ownerships: &[Ownership<'_>],
    is_parked: impl Fn(i64) -> bool,
) -> Result<(), String> {
    for ownership in ownerships {
        let level = i64::try_from(ownership.epoch).unwrap_or(i64::MAX);
        let mut runs: Vec<(i64, i64)> = links
            .iter()
            .filter(|link| link.partition == *partition && link.level == level)
            .flat_map(|link| link.received.iter().map(|(_, first, last)| (*first, *last)))
            .collect();
        runs.sort_unstable();
        // Two links may bring the same for a while: how far the runs reach that begin here or before.
        let mut reach = i64::MIN;
        for (_, last) in &mut runs {
            reach = reach.max(*last);
            *last = reach;
        }
        let is_there = |number: i64| {
            let at = runs.partition_point(|(first, _)| *first <= number);
            at.checked_sub(1).is_some_and(|at| runs[at].1 >= number)
        };
        if let Some(number) =
            ownership.handled.keys().find(|number| !is_there(**number) && !is_parked(**number))
        {
            return Err(format!("{} handled {number} and did not receive it", ownership.worker));
        }
    }
    Ok(())
}

fn settled_in_time(ownership: &Ownership<'_>, is_slow: impl Fn(i64) -> bool) -> Result<(), String> {
    let Write { begin, value, .. } = ownership.last;
    for (number, at) in &ownership.handled {
        if at + SETTLING_NANOS < *begin && !covers(value, *number) && !is_slow(*number) {
            return Err(format!(
                "{} had handled {number} long before its last checkpoint, which leaves it out",
                ownership.worker
            ));
        }
    }
    Ok(())
}

/// Who was given a partition repeats nothing. Who took it repeats what no acknowledged checkpoint
/// covered, which is what the claim found.
fn count_repeats(
    ownerships: &[Ownership<'_>],
    is_parked: impl Fn(i64) -> bool,
    report: &mut Report,
) -> Result<(), String> {
    let mut last_owner: HashMap<i64, usize> = HashMap::new();
    for (index, ownership) in ownerships.iter().enumerate() {
        let mut repeats = 0;
        for number in ownership.handled.keys() {
            let Some(before) = last_owner.insert(*number, index) else {
                continue;
            };
            repeats += 1;
            report.repeats_of_parked += usize::from(is_parked(*number));
            let was = &ownerships[before];
            let end = ownerships[before + 1].beginning;
            if end != Beginning::Taken {
                return Err(format!(
                    "{number} was handled by {} and again by {}, and the lease of the first was \
                     not taken: {end:?}",
                    was.worker, ownership.worker
                ));
            }
            let last = was.last;
            if last.end.is_some() && covers(&last.value, *number) && !is_parked(*number) {
                return Err(format!("{number} was handled again after its checkpoint"));
            }
        }
        report.repeats += repeats;
        report.most_repeats = report.most_repeats.max(repeats);
    }
    Ok(())
}

#[path = "delivery_tests.rs"]
mod tests;
