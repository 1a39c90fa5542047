//! Who owns what, as one worker sees it: claim, ask, hand over, renew, let go.
//!
//! ```text
//!            claim acknowledged                    somebody wants it, mark acknowledged
//!  Other ───────────────────────> Held ─────────────────────────────────> Yielding
//!    ^  ^                          │ ^                                       │  │
//!    │  └──── the store says ──────┘ └──── not drained by the deadline ──────┘  │ drained
//!    │        somebody else                                                     v
//!    └───────────────────────── the target is written as the owner ────────── Giving
//! ```
//!
//! The rules:
//!
//! - An ownership record is changed by compare-and-swap alone, and a worker runs a partition only
//!   after such a write of its own.
//! - A partition of a live worker of ours is never taken, only asked for. The holder marks it
//!   with the target, drains, and writes the target as the holder.
//! - A worker that cannot reach the store goes on: whoever takes its partitions fences their
//!   checkpoints and has the higher owner level.
//! - Whoever could not reach the store does not take others for dead at once: after an outage all
//!   heartbeats are old. It looks for half an expiry without a failure first, in which every worker
//!   that lives has written one.
//! - Placement is even, and moves only where it was uneven at two looks in a row.
//!
//! Time is an argument. Ages are differences on the store's clock, so clocks of workers do not
//! count.

mod action;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use crate::checkpoint::Expected;
use crate::event::PartitionId;
use crate::lease::{Holder, OwnerId, Ownership, StoredOwnership};

pub use action::{Action, Ended, LeaseWrite, LeaseWritten, Purpose};

/// How long leases last and how often one looks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseLimits {
    /// A worker whose last heartbeat is older is gone.
    pub expiry: Duration,
    /// A foreign ownership that was not renewed for this long is free.
    pub foreign_expiry: Duration,
    /// Between two looks while nothing is going on.
    pub look_interval: Duration,
    /// Between two looks while something is.
    pub busy_interval: Duration,
    /// How long a hand-off may drain before it is put off.
    pub hand_off_timeout: Duration,
    /// Most hand-offs asked for, and most given, at once.
    pub max_hand_offs: usize,
}

/// Where a partition stands for us.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Role {
    /// It is not ours.
    Other,
    /// It is ours.
    Held,
    /// It drains, for this worker.
    Yielding { to: OwnerId, deadline: Instant },
    /// It is drained: this worker, or nobody, is to be written as its holder.
    Giving { to: Option<OwnerId> },
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    role: Role,
    /// The record as last known.
    stored: Option<StoredOwnership>,
    /// Whether something of it runs here.
    running: bool,
    /// A write is under way.
    writing: bool,
    /// What we know is newer than a listing that is under way.
    touched: bool,
    /// Looks in a row at which nobody had it.
    free_looks: u32,
    /// Not to be handed over before.
    rests_until: Option<Instant>,
}

impl Entry {
    fn new() -> Self {
        Self {
            role: Role::Other,
            stored: None,
            running: false,
            writing: false,
            touched: false,
            free_looks: 0,
            rests_until: None,
        }
    }

    fn expected(&self) -> Expected {
        self.stored
            .as_ref()
            .map_or(Expected::Absent, |stored| Expected::Version(stored.version.clone()))
    }

    fn is_held_by(&self, owner: &OwnerId) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.ownership.holder.worker() == Some(owner))
    }

    fn target(&self) -> Option<&OwnerId> {
        self.stored.as_ref().and_then(|stored| stored.ownership.target.as_ref())
    }
}

/// How long the member record of a worker that died is kept: nobody that is only paused loses it.
pub const MEMBER_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The leases of one consumer group, as one worker knows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseTable {
    me: OwnerId,
    limits: LeaseLimits,
    entries: BTreeMap<PartitionId, Entry>,
    leaving: bool,
    /// Whether the last look found placement uneven in a way that we would mend.
    uneven: bool,
    wants: BTreeSet<PartitionId>,
    /// Other live workers that stay.
    stayers: BTreeSet<OwnerId>,
    /// Whether any worker is about to stop.
    sees_leaving: bool,
    /// How long until the heartbeat that is the first to be overdue expires.
    next_expiry: Option<Duration>,
    watch: Option<Watch>,
}

/// Looks without a break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Watch {
    since: Instant,
    last_look: Instant,
    /// The same on the store's clock, which goes on while this machine sleeps.
    last_now: SystemTime,
}

impl LeaseTable {
    /// The table of `me`, who owns nothing.
    pub fn new(me: OwnerId, limits: LeaseLimits) -> Self {
        Self {
            me,
            limits,
            entries: BTreeMap::new(),
            leaving: false,
            uneven: false,
            wants: BTreeSet::new(),
            stayers: BTreeSet::new(),
            sees_leaving: false,
            next_expiry: None,
            watch: None,
        }
    }

    /// The hub has these partitions.
    pub fn on_partitions(&mut self, partitions: impl IntoIterator<Item = PartitionId>) {
        for partition in partitions {
            self.entries.entry(partition).or_insert_with(Entry::new);
        }
    }

    /// From now on everything is given away and nothing is taken.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.wants.clear();
    }

    /// Whether [`LeaseTable::leave`] was called.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// The partitions to ask for in our member record.
    pub fn wants(&self) -> &BTreeSet<PartitionId> {
        &self.wants
    }

    /// Whether any other worker lives that does not stop as well.
    pub fn has_successors(&self) -> bool {
        !self.stayers.is_empty()
    }

    /// Whether nothing is ours, nothing runs, and nothing is being written.
    pub fn is_empty(&self) -> bool {
        self.entries
            .values()
            .all(|entry| entry.role == Role::Other && !entry.running && !entry.writing)
    }

    /// Whether everything of ours is on its way to another worker, or there already.
    pub fn is_promised(&self) -> bool {
        self.entries.values().all(|entry| entry.role != Role::Held)
    }

    /// The partitions that we asked for, or that are being drained for us: read their records every
    /// half second. An owner that has nothing to wait for drains within milliseconds, so a newcomer
    /// that waited for the mark would find the partition resting at its next look.
    pub fn next_polls(&self) -> Vec<PartitionId> {
        self.entries
            .iter()
            .filter(|(partition, entry)| self.is_awaited(partition, entry))
            .map(|(partition, _)| partition.clone())
            .collect()
    }

    fn is_awaited(&self, partition: &PartitionId, entry: &Entry) -> bool {
        let is_coming = entry.target() == Some(&self.me) || self.wants.contains(partition);
        is_coming && entry.role == Role::Other && !entry.writing && !entry.running
    }

    /// When to look again, counted from the last look.
    pub fn next_look(&self) -> Duration {
        let busy = self.uneven
            || self.sees_leaving
            || self.leaving
            || !self.wants.is_empty()
            || self.entries.values().any(|entry| {
                matches!(entry.role, Role::Yielding { .. } | Role::Giving { .. })
                    || entry.free_looks > 0
            });
        let pace = if busy { self.limits.busy_interval } else { self.limits.look_interval };
        self.next_expiry.map_or(pace, |expiry| pace.min(expiry))
    }

    /// Say so before each listing is begun: what happens from now on is newer than what it says.
    pub fn on_look_begun(&mut self) {
        for entry in self.entries.values_mut() {
            entry.touched = entry.writing;
        }
    }

    /// A look or a heartbeat failed: the others may have been unable to write as well.
    pub fn on_store_failed(&mut self) {
        self.watch = None;
    }

    /// When a hand-off is overdue; looks may fail for longer than that.
    pub fn next_overdue(&self) -> Option<Instant> {
        let deadlines = self.entries.values().filter_map(|entry| match entry.role {
            Role::Yielding { deadline, .. } => Some(deadline),
            _ => None,
        });
        deadlines.min()
    }

    /// Calls hand-offs back that did not drain in time.
    pub fn on_time(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for (partition, entry) in &mut self.entries {
            if matches!(entry.role, Role::Yielding { deadline, .. } if deadline <= now) {
                entry.role = Role::Held;
                entry.rests_until = Some(now + self.limits.hand_off_timeout);
                actions.push(Action::CallBack(partition.clone()));
            }
        }
        actions
    }

    /// What a write came to.
    pub fn on_written(
        &mut self,
        write: &LeaseWrite,
        written: LeaseWritten,
        now: Instant,
    ) -> Vec<Action> {
        let me = self.me.clone();
        let timeout = self.limits.hand_off_timeout;
        let Some(entry) = self.entries.get_mut(&write.partition) else {
            return Vec::new();
        };
        entry.writing = false;
        entry.touched = true;
        match written {
            LeaseWritten::Stored(version) => {
                let modified =
                    entry.stored.as_ref().map_or(SystemTime::UNIX_EPOCH, |stored| stored.modified);
                let ownership = write.ownership.clone();
                entry.stored = Some(StoredOwnership { ownership, version, modified });
            }
            // Our own write, whose answer was lost, or an attempt of it that came late; or who had the
            // partition gave it to us while our write was under way.
            LeaseWritten::Conflict(Some(found)) if found.ownership == write.ownership => {
                entry.stored = Some(found);
            }
            LeaseWritten::Conflict(found) => {
                entry.stored = found;
                return self.on_refused(&write.partition);
            }
            LeaseWritten::Unknown => return Vec::new(),
        }
        let partition = write.partition.clone();
        match write.purpose {
            Purpose::Claim if self.leaving => {
                entry.role = Role::Giving { to: None };
                self.give(&partition).into_iter().collect()
            }
            Purpose::Claim => {
                self.wants.remove(&partition);
                entry.role = Role::Held;
                entry.running = true;
                vec![Action::Start(partition)]
            }
            Purpose::Mark if entry.role == Role::Held => {
                let Some(to) = write.ownership.target.clone() else {
                    return Vec::new();
                };
                if entry.running {
                    entry.role = Role::Yielding { to, deadline: now + timeout };
                    return vec![Action::Yield(partition)];
                }
                entry.role = Role::Giving { to: Some(to) };
                self.give(&partition).into_iter().collect()
            }
            Purpose::Give => {
                if !entry.is_held_by(&me) {
                    entry.role = Role::Other;
                }
                Vec::new()
            }
            // It ended meanwhile, and waits for this write to be given away.
            Purpose::Mark | Purpose::Unmark | Purpose::Renew => {
                let Role::Giving { to } = &mut entry.role else {
                    return Vec::new();
                };
                *to = to.take().or_else(|| write.ownership.target.clone());
                if entry.running {
                    return Vec::new();
                }
                self.give(&partition).into_iter().collect()
            }
        }
    }

    /// A write's compare failed, and the entry knows why.
    fn on_refused(&mut self, partition: &PartitionId) -> Vec<Action> {
        let Some(entry) = self.entries.get_mut(partition) else {
            return Vec::new();
        };
        if entry.is_held_by(&self.me) {
            // Still ours: what is to be done about it is found at the next look, except that
            // who waits for a drained partition waits for us.
            return match entry.role {
                Role::Giving { .. } => self.give(partition).into_iter().collect(),
                _ => Vec::new(),
            };
        }
        let had = std::mem::replace(&mut entry.role, Role::Other);
        match had {
            Role::Held | Role::Yielding { .. } if entry.running => {
                vec![Action::Lose(partition.clone())]
            }
            _ => Vec::new(),
        }
    }

    /// What ran of a partition has ended.
    pub fn on_ended(&mut self, partition: &PartitionId, how: Ended) -> Vec<Action> {
        let leaving = self.leaving;
        let Some(entry) = self.entries.get_mut(partition) else {
            return Vec::new();
        };
        entry.running = false;
        match (how, &entry.role) {
            (_, Role::Other) => return Vec::new(),
            (Ended::Lost, _) => {
                // Only the store knows whose it is: the next look reads it.
                entry.role = Role::Other;
                return Vec::new();
            }
            (_, Role::Yielding { to, .. }) => entry.role = Role::Giving { to: Some(to.clone()) },
            (_, Role::Held) if leaving => {
                let to = entry.target().cloned();
                entry.role = Role::Giving { to };
            }
            // It was called back too late: it begins again, if it still is ours.
            (Ended::Drained, Role::Held) => {
                entry.role = Role::Other;
                return self.claim(partition).into_iter().collect();
            }
            (Ended::Stopped, Role::Held) | (_, Role::Giving { .. }) => {}
        }
        self.give(partition).into_iter().collect()
    }

    /// Releases what is ours and stopped long ago: the second half of leaving.
    pub fn release_stopped(&mut self) -> Vec<Action> {
        let stopped: Vec<PartitionId> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.role == Role::Held && !entry.running && !entry.writing)
            .map(|(partition, entry)| {
                entry.role = Role::Giving { to: None };
                partition.clone()
            })
            .collect();
        stopped.iter().filter_map(|partition| self.give(partition)).collect()
    }

    /// What the record of a partition that we wait for says now.
    pub fn on_polled(
        &mut self,
        partition: &PartitionId,
        found: Option<StoredOwnership>,
    ) -> Vec<Action> {
        if !self.entries.get(partition).is_some_and(|entry| self.is_awaited(partition, entry)) {
            return Vec::new();
        }
        let Some(entry) = self.entries.get_mut(partition) else {
            return Vec::new();
        };
        entry.stored = found;
        entry.touched = true;
        if self.leaving || !entry.is_held_by(&self.me) {
            return Vec::new();
        }
        // The answer may be old: the compare-and-swap decides.
        self.claim(partition).into_iter().collect()
    }

    fn claim(&mut self, partition: &PartitionId) -> Option<Action> {
        self.write(partition, Ownership::of(self.me.clone()), Purpose::Claim)
    }

    /// The write that gives a drained partition away, unless one is under way.
    fn give(&mut self, partition: &PartitionId) -> Option<Action> {
        let entry = self.entries.get(partition)?;
        let Role::Giving { to } = &entry.role else {
            return None;
        };
        let holder = to.clone().map_or(Holder::Nobody, Holder::Worker);
        self.write(partition, Ownership { holder, target: None }, Purpose::Give)
    }

    fn write(
        &mut self,
        partition: &PartitionId,
        ownership: Ownership,
        purpose: Purpose,
    ) -> Option<Action> {
        let entry = self.entries.get_mut(partition)?;
        if entry.writing {
            return None;
        }
        entry.writing = true;
        entry.touched = true;
        let expected = entry.expected();
        Some(Action::Write(LeaseWrite {
            partition: partition.clone(),
            ownership,
            expected,
            purpose,
        }))
    }
}

#[cfg(test)]
mod tests;
