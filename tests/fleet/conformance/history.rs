//! From the journals of processes to the calls on each record.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use longshore::checkpoint_store::Checkpoint;
use longshore::event::PartitionId;
use longshore::lease_store::OwnerId;

use super::members::{MemberCall, MemberWhat};
use super::register::{Call, Outcome, What};
use super::schedule::Span;
use crate::ports::{
    Answer, CallLine, CallNews, FoundCheckpoint, Lease, Peer, Question, StoredLease,
};

/// The calls of all processes, by record.
#[derive(Default)]
pub struct History {
    pub checkpoints: BTreeMap<PartitionId, Vec<Call<Checkpoint>>>,
    pub leases: BTreeMap<PartitionId, Vec<Call<Lease>>>,
    pub members: BTreeMap<OwnerId, Vec<MemberCall>>,
    pub clock: StoreClock,
    pub count: usize,
}

/// What a listing of leases said.
struct Listing {
    by: String,
    span: Span,
    leases: Vec<(PartitionId, StoredLease)>,
    members: Vec<(Peer, u64)>,
}

struct CheckpointListing {
    by: String,
    span: Span,
    found: Vec<(PartitionId, FoundCheckpoint)>,
}

impl History {
    /// # Errors
    /// An answer that is none to its question.
    pub fn read(journals: &[(String, Vec<CallLine>)]) -> Result<Self, String> {
        let mut history = Self::default();
        let mut listings = Vec::new();
        let mut checkpoint_listings = Vec::new();
        for (by, lines) in journals {
            for (question, span, answer) in pairs(lines) {
                history.count += 1;
                let by = by.clone();
                match (question, answer) {
                    (Question::LoadCheckpoint { partition }, Some(Answer::Checkpoint(found))) => {
                        let call = Call { by, span, what: What::Read(found) };
                        history.checkpoints.entry(partition).or_default().push(call);
                    }
                    (Question::StoreCheckpoint { partition, checkpoint, expected }, answer) => {
                        let outcome = outcome(answer)?;
                        let what = What::Write { value: checkpoint, expected, outcome };
                        let call = Call { by, span: known(span, &what), what };
                        history.checkpoints.entry(partition).or_default().push(call);
                    }
                    (Question::ListCheckpoints, Some(Answer::Checkpoints(found))) => {
                        checkpoint_listings.push(CheckpointListing { by, span, found });
                    }
                    (Question::LoadLease { partition }, Some(Answer::Lease(found))) => {
                        history.read_lease(by, span, partition, found);
                    }
                    (Question::StoreLease { partition, lease, expected }, answer) => {
                        let outcome = outcome(answer)?;
                        let what = What::Write { value: lease, expected, outcome };
                        let call = Call { by, span: known(span, &what), what };
                        history.leases.entry(partition).or_default().push(call);
                    }
                    (Question::ListLeases, Some(Answer::Leases { now, leases, members })) => {
                        history.clock.on_answer(span, now, &leases, &members);
                        listings.push(Listing { by, span, leases, members });
                    }
                    (Question::WriteMember { member }, answer) => {
                        let owner = member.owner.clone();
                        history.write_member(owner, span, Some(member), answer)?;
                    }
                    (Question::RemoveMember { owner }, answer) => {
                        history.write_member(owner, span, None, answer)?;
                    }
                    // Nothing was learned.
                    (_, None | Some(Answer::Failed(_))) => {}
                    (question, Some(answer)) => {
                        return Err(format!("{answer:?} is no answer to {question:?}"));
                    }
                }
            }
        }
        history.add_checkpoint_listings(checkpoint_listings);
        history.add_listings(listings);
        Ok(history)
    }

    fn read_lease(
        &mut self,
        by: String,
        span: Span,
        partition: PartitionId,
        found: Option<StoredLease>,
    ) {
        if let Some(found) = &found {
            self.clock.on_version(found);
        }
        let what = What::Read(found.map(|found| (found.lease, found.version)));
        self.leases.entry(partition).or_default().push(Call { by, span, what });
    }

    fn write_member(
        &mut self,
        owner: OwnerId,
        span: Span,
        peer: Option<Peer>,
        answer: Option<Answer>,
    ) -> Result<(), String> {
        let is_answered = match answer {
            Some(Answer::Done) => true,
            None | Some(Answer::Failed(_)) => false,
            Some(other) => return Err(format!("{other:?} is no answer to a heartbeat")),
        };
        let span = if is_answered { span } else { Span { end: None, ..span } };
        let what = MemberWhat::Write { peer, is_answered };
        self.members.entry(owner).or_default().push(MemberCall { span, what });
        Ok(())
    }

    /// A listing reads every record that there ever was, also where it says nothing of it.
    fn add_listings(&mut self, listings: Vec<Listing>) {
        let listed = listings.iter().flat_map(|listing| &listing.leases);
        let partitions: BTreeSet<PartitionId> =
            listed.map(|(partition, _)| partition).chain(self.leases.keys()).cloned().collect();
        let listed = listings.iter().flat_map(|listing| &listing.members);
        let owners: BTreeSet<OwnerId> =
            listed.map(|(peer, _)| &peer.owner).chain(self.members.keys()).cloned().collect();
        for Listing { by, span, leases, members } in listings {
            let mut leases: BTreeMap<_, _> = leases.into_iter().collect();
            let mut members: BTreeMap<_, _> =
                members.into_iter().map(|(peer, _)| (peer.owner.clone(), peer)).collect();
            for partition in &partitions {
                self.read_lease(by.clone(), span, partition.clone(), leases.remove(partition));
            }
            for owner in &owners {
                let what = MemberWhat::Read(members.remove(owner));
                self.members.entry(owner.clone()).or_default().push(MemberCall { span, what });
            }
        }
    }

    fn add_checkpoint_listings(&mut self, listings: Vec<CheckpointListing>) {
        for CheckpointListing { by, span, found } in listings {
            let mut found: BTreeMap<_, _> = found.into_iter().collect();
            for (partition, calls) in &mut self.checkpoints {
                let what = match found.remove(partition) {
                    Some(Some(stored)) => What::Read(Some(stored)),
                    None => What::Read(None),
                    // It could not be read.
                    Some(None) => continue,
                };
                calls.push(Call { by: by.clone(), span, what });
            }
        }
    }
}

/// Each call of a process: its question, its time, its answer where it has one.
fn pairs(lines: &[CallLine]) -> Vec<(Question, Span, Option<Answer>)> {
    let mut answers: HashMap<u64, (u64, &Answer)> = HashMap::new();
    for line in lines {
        if let CallNews::Answered(answer) = &line.what {
            answers.insert(line.call, (line.at, answer));
        }
    }
    let asked = lines.iter().filter_map(|line| {
        let CallNews::Asked(question) = &line.what else {
            return None;
        };
        let answered = answers.get(&line.call);
        let span = Span { begin: line.at, end: answered.map(|(at, _)| *at) };
        Some((question.clone(), span, answered.map(|(_, answer)| (*answer).clone())))
    });
    asked.collect()
}

fn outcome(answer: Option<Answer>) -> Result<Outcome, String> {
    match answer {
        Some(Answer::Stored(version)) => Ok(Outcome::Stored(version)),
        Some(Answer::Conflict) => Ok(Outcome::Conflict),
        None | Some(Answer::Failed(_)) => Ok(Outcome::Unknown),
        Some(other) => Err(format!("{other:?} is no answer to a write")),
    }
}

/// What failed may be applied after it failed.
fn known<V>(span: Span, what: &What<V>) -> Span {
    match what {
        What::Write { outcome: Outcome::Unknown, .. } => Span { end: None, ..span },
        _ => span,
    }
}

/// What answers said about the store's clock.
#[derive(Default)]
pub struct StoreClock {
    answers: Vec<(Span, u64)>,
    stamps: HashMap<String, u64>,
    faults: Vec<String>,
}

impl StoreClock {
    fn on_answer(
        &mut self,
        span: Span,
        now: u64,
        leases: &[(PartitionId, StoredLease)],
        members: &[(Peer, u64)],
    ) {
        self.answers.push((span, now));
        let modified = leases.iter().map(|(_, stored)| stored.modified);
        let modified = modified.chain(members.iter().map(|(_, modified)| *modified));
        for modified in modified.filter(|modified| *modified > now) {
            self.faults.push(format!("a record of {modified} was listed at {now}"));
        }
    }

    fn on_version(&mut self, stored: &StoredLease) {
        let stamp = *self.stamps.entry(stored.version.clone()).or_insert(stored.modified);
        if stamp != stored.modified {
            let fault = format!("{} is of {stamp} and of {}", stored.version, stored.modified);
            self.faults.push(fault);
        }
    }

    /// The clock is one: it does not go back, no record is of the future, and a version has one
    /// time.
    pub fn check(mut self) -> Result<(), String> {
        if let Some(fault) = self.faults.first() {
            return Err(fault.clone());
        }
        self.answers.sort_by_key(|(span, _)| span.begin);
        let mut ended: Vec<(u64, u64)> =
            self.answers.iter().filter_map(|(span, now)| Some((span.end?, *now))).collect();
        ended.sort_unstable();
        let (mut over, mut latest) = (ended.iter().peekable(), 0);
        for (span, now) in &self.answers {
            while let Some((_, before)) = over.next_if(|(end, _)| *end < span.begin) {
                latest = latest.max(*before);
            }
            if *now < latest {
                return Err(format!("the store's clock went back from {latest} to {now}"));
            }
        }
        Ok(())
    }
}
