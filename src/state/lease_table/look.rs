//! What a worker makes of a listing: who lives, what is free, what is uneven.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use super::{Action, Entry, LeaseTable, MEMBER_KEPT, Purpose, Role, Watch};
use crate::event::PartitionId;
use crate::lease::{Holder, LeaseListing, OwnerId, Ownership, StoredMember};
use crate::state::placement::{Shares, weight};

/// At this many looks in a row that find a partition free, whoever sees it takes it: the worker
/// whose it would be may see something else, or not be able to.
const FREE_LOOKS: u32 = 3;

/// Slack beside an expiry, so that the look finds it expired: the store's clock has seconds.
const EXPIRY_SLACK: Duration = Duration::from_millis(1_100);

/// Whose a partition is, all things considered.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Standing {
    /// Nobody's: never owned, released, or of an owner that is gone.
    Free,
    /// Ours, says the store.
    Mine,
    /// A live worker's.
    Worker(OwnerId),
    /// A foreign processor's, which renews it.
    Foreign(OwnerId),
}

/// What a listing says.
struct View {
    /// Live workers, this one included.
    live: BTreeSet<OwnerId>,
    /// Live workers that do not stop, this one included unless it stops itself.
    stayers: BTreeSet<OwnerId>,
    /// What live workers other than this one ask for.
    wants: BTreeMap<OwnerId, BTreeSet<PartitionId>>,
    standings: BTreeMap<PartitionId, Standing>,
    shares: Shares,
    has_foreign: bool,
}

/// Who may still be there.
struct Known<'a> {
    live: &'a BTreeSet<OwnerId>,
    /// Workers that have not said for an expiry that they live, and may: they keep what they have,
    /// and get nothing.
    doubtful: &'a BTreeSet<OwnerId>,
    foreign_may_live: bool,
}

fn age(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

impl LeaseTable {
    /// Takes a listing in: what is to be done, and what to ask for from now on.
    pub fn on_look(&mut self, listing: LeaseListing, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let watched = self.watched(&listing, now);
        let doubt = (self.limits.expiry / 2).checked_sub(watched);
        let members = self.take_in(&listing, doubt, &mut actions);
        let mut view = self.view(&listing, members, watched);
        self.claim_what_is_free(&view.standings, &mut view.shares, &view.stayers, &mut actions);
        self.put_off_overdue(&view, now, &mut actions);
        self.give_what_is_wanted(&mut view, now, &mut actions);
        self.ask_for_a_share(&view, &mut actions);
        self.finish_gifts(&view, &mut actions);
        if view.has_foreign {
            self.renew(&mut actions);
        }
        // One of those that live tidies up, one record at a look.
        if view.live.first() == Some(&self.me) {
            let is_old = |stored: &&StoredMember| age(listing.now, stored.modified) > MEMBER_KEPT;
            let old = listing.members.iter().find(is_old);
            actions.extend(old.map(|stored| Action::Forget(stored.member.owner.clone())));
        }
        self.stayers = view.stayers;
        self.stayers.remove(&self.me);
        actions
    }

    /// Updates the records; what the store gave to others is lost. Returns the live members.
    fn take_in(
        &mut self,
        listing: &LeaseListing,
        doubt: Option<Duration>,
        actions: &mut Vec<Action>,
    ) -> Vec<StoredMember> {
        let mut found: BTreeMap<_, _> =
            listing.ownerships.iter().map(|(partition, stored)| (partition, stored)).collect();
        for (partition, entry) in &mut self.entries {
            let stored = found.remove(partition).cloned();
            if entry.touched {
                continue;
            }
            entry.stored = stored;
            if entry.role != Role::Other && !entry.is_held_by(&self.me) {
                if entry.running {
                    actions.push(Action::Lose(partition.clone()));
                }
                entry.role = Role::Other;
            }
        }
        let mut next_expiry = None;
        let others = listing.members.iter().filter(|stored| stored.member.owner != self.me);
        let members = others.filter(|stored| {
            let left = self.limits.expiry.checked_sub(age(listing.now, stored.modified));
            // A heartbeat is written several times within an expiry: this one is late.
            let look = left.max(doubt).map(|left| left + EXPIRY_SLACK);
            if let Some(look) = look.filter(|look| *look < self.limits.expiry / 2) {
                next_expiry = Some(next_expiry.map_or(look, |next: Duration| next.min(look)));
            }
            left.is_some()
        });
        let members = members.cloned().collect();
        self.next_expiry = next_expiry;
        members
    }

    /// How long we have looked without a break: a look or a heartbeat that failed, or a time in
    /// which this process or this machine slept.
    ///
    /// An outage that we do not notice fits between two heartbeats of ours, a third of an expiry.
    /// A live worker's heartbeat was at most another third old when it began; after it a request
    /// that hangs ends in a sixth, and the next is sent in a twelfth: together that is less than
    /// an expiry. After an outage that we do notice, everyone has written within half of one.
    fn watched(&mut self, listing: &LeaseListing, now: Instant) -> Duration {
        let break_of = self.limits.expiry * 2 / 3;
        let goes_on = |watch: &Watch| {
            now.saturating_duration_since(watch.last_look) <= break_of
                && age(listing.now, watch.last_now) <= break_of
        };
        let since = self.watch.filter(goes_on).map_or(now, |watch| watch.since);
        self.watch = Some(Watch { since, last_look: now, last_now: listing.now });
        now.saturating_duration_since(since)
    }

    fn view(
        &mut self,
        listing: &LeaseListing,
        members: Vec<StoredMember>,
        watched: Duration,
    ) -> View {
        let mut live = BTreeSet::from([self.me.clone()]);
        let mut stayers = BTreeSet::new();
        if !self.leaving {
            stayers.insert(self.me.clone());
        }
        let mut wants = BTreeMap::new();
        self.sees_leaving = false;
        for StoredMember { member, .. } in members {
            live.insert(member.owner.clone());
            if member.leaving {
                self.sees_leaving = true;
            } else {
                stayers.insert(member.owner.clone());
                wants.insert(member.owner, member.wants);
            }
        }
        let may_live = watched <= self.limits.expiry / 2;
        let others = listing.members.iter().map(|stored| &stored.member.owner);
        let doubtful: BTreeSet<_> =
            others.filter(|owner| may_live && !live.contains(*owner)).cloned().collect();
        // A processor of another SDK renews at its own pace, several times within its expiry.
        let foreign_may_live =
            watched <= (self.limits.foreign_expiry / 4).max(self.limits.expiry / 2);
        let known = Known { live: &live, doubtful: &doubtful, foreign_may_live };
        let standings: BTreeMap<_, _> = self
            .entries
            .iter()
            .map(|(partition, entry)| (partition.clone(), self.standing(entry, listing, &known)))
            .collect();
        let foreign: BTreeSet<_> = standings
            .values()
            .filter_map(|standing| match standing {
                Standing::Foreign(owner) => Some(owner.clone()),
                _ => None,
            })
            .collect();
        let has_foreign = !foreign.is_empty();
        let mut shares = Shares::new(self.entries.len(), stayers.iter().cloned().chain(foreign));
        for (partition, standing) in &standings {
            let target = self.entries.get(partition).and_then(Entry::target);
            match (target.filter(|target| stayers.contains(*target)), standing) {
                (_, Standing::Free) => {}
                (Some(target), _) => shares.add(target),
                (None, Standing::Mine) => shares.add(&self.me),
                (None, Standing::Worker(owner) | Standing::Foreign(owner)) => shares.add(owner),
            }
        }
        View { live, stayers, wants, standings, shares, has_foreign }
    }

    fn standing(&self, entry: &Entry, listing: &LeaseListing, known: &Known<'_>) -> Standing {
        let Some(stored) = &entry.stored else {
            return Standing::Free;
        };
        match &stored.ownership.holder {
            Holder::Nobody => Standing::Free,
            Holder::Worker(owner) if *owner == self.me => Standing::Mine,
            Holder::Worker(owner)
                if known.live.contains(owner) || known.doubtful.contains(owner) =>
            {
                Standing::Worker(owner.clone())
            }
            Holder::Worker(_) => Standing::Free,
            Holder::Foreign(owner) => {
                let is_young = age(listing.now, stored.modified) < self.limits.foreign_expiry;
                if is_young || known.foreign_may_live {
                    Standing::Foreign(owner.clone())
                } else {
                    Standing::Free
                }
            }
        }
    }

    fn claim_what_is_free(
        &mut self,
        standings: &BTreeMap<PartitionId, Standing>,
        shares: &mut Shares,
        stayers: &BTreeSet<OwnerId>,
        actions: &mut Vec<Action>,
    ) {
        for (partition, standing) in standings {
            let Some(entry) = self.entries.get_mut(partition) else {
                continue;
            };
            let was_free = std::mem::take(&mut entry.free_looks);
            let is_idle = entry.role == Role::Other && !entry.running && !entry.writing;
            match standing {
                Standing::Free => {
                    let place = shares.place(partition, stayers).cloned();
                    if let Some(owner) = &place {
                        shares.add(owner);
                    }
                    entry.free_looks = was_free + 1;
                    let is_mine = place.as_ref() == Some(&self.me) || was_free + 1 >= FREE_LOOKS;
                    if is_mine && is_idle && !self.leaving {
                        actions.extend(self.claim(partition));
                    }
                }
                // Written as ours, and nothing of it runs: given to us, or lost for a moment.
                Standing::Mine if is_idle && self.leaving => {
                    entry.role = Role::Giving { to: None };
                }
                Standing::Mine if is_idle => actions.extend(self.claim(partition)),
                _ => {}
            }
        }
    }

    /// A hand-off that did not drain in time, or whose target is gone, is called back.
    fn put_off_overdue(&mut self, view: &View, now: Instant, actions: &mut Vec<Action>) {
        let mut unmark = Vec::new();
        actions.extend(self.on_time(now));
        for (partition, entry) in &mut self.entries {
            if matches!(&entry.role, Role::Yielding { to, .. } if !view.stayers.contains(to)) {
                entry.role = Role::Held;
                entry.rests_until = Some(now + self.limits.hand_off_timeout);
                actions.push(Action::CallBack(partition.clone()));
            }
            let wanted = |target: &OwnerId| {
                view.wants.get(target).is_some_and(|wants| wants.contains(partition))
            };
            let rests = entry.rests_until.is_some_and(|rests| rests > now);
            if entry.role == Role::Held
                && let Some(target) = entry.target()
                && (rests || !wanted(target))
            {
                unmark.push(partition.clone());
            }
        }
        for partition in unmark {
            let ownership = Ownership::of(self.me.clone());
            actions.extend(self.write(&partition, ownership, Purpose::Unmark));
        }
    }

    fn give_what_is_wanted(&mut self, view: &mut View, now: Instant, actions: &mut Vec<Action>) {
        let mut given = self
            .entries
            .values()
            .filter(|entry| matches!(entry.role, Role::Yielding { .. } | Role::Giving { .. }))
            .count();
        let partitions: Vec<PartitionId> = self.entries.keys().cloned().collect();
        for partition in partitions {
            let Some(entry) = self.entries.get(&partition) else {
                continue;
            };
            let rests = entry.rests_until.is_some_and(|rests| rests > now) && !self.leaving;
            let may_give = self.leaving || view.shares.count(&self.me) > view.shares.floor();
            if given >= self.limits.max_hand_offs {
                return;
            }
            if entry.role != Role::Held || entry.writing || rests {
                continue;
            }
            // Marked before, by a write whose answer was lost: that target has it already.
            let marked = entry.target().cloned();
            if marked.is_none() && !may_give {
                continue;
            }
            let wanters = view
                .wants
                .iter()
                .filter(|(_, wants)| wants.contains(&partition))
                .map(|(owner, _)| owner)
                .filter(|owner| marked.as_ref().is_none_or(|marked| marked == *owner));
            let to = match &marked {
                Some(_) => wanters.max_by_key(|owner| weight(owner, &partition)).cloned(),
                None => view.shares.place(&partition, wanters).cloned(),
            };
            let Some(to) = to else {
                continue;
            };
            if marked.is_none() {
                view.shares.remove(&self.me);
                view.shares.add(&to);
            }
            given += 1;
            let ownership = Ownership { target: Some(to), ..Ownership::of(self.me.clone()) };
            actions.extend(self.write(&partition, ownership, Purpose::Mark));
        }
    }

    /// Decides what to ask others for, and takes from foreign processors, which do not listen.
    fn ask_for_a_share(&mut self, view: &View, actions: &mut Vec<Action>) {
        let before = std::mem::take(&mut self.wants);
        let was_uneven = std::mem::take(&mut self.uneven);
        if self.leaving {
            return;
        }
        let mut shares = view.shares.clone();
        // What a worker that stops has is up for grabs, at once.
        for (partition, standing) in &view.standings {
            let Standing::Worker(owner) = standing else {
                continue;
            };
            let promised = self.entries.get(partition).and_then(Entry::target);
            let is_promised = promised.is_some_and(|target| view.stayers.contains(target));
            if view.live.contains(owner) && !view.stayers.contains(owner) && !is_promised {
                let place = shares.place(partition, &view.stayers).cloned();
                if let Some(owner) = place {
                    shares.add(&owner);
                    if owner == self.me {
                        self.wants.insert(partition.clone());
                    }
                }
            }
        }
        // What is promised to us and not ours yet is still asked for, or it would be called back.
        let promised: Vec<PartitionId> = view
            .standings
            .iter()
            .filter(|(_, standing)| matches!(standing, Standing::Worker(_)))
            .filter(|(partition, _)| {
                self.entries.get(*partition).and_then(Entry::target) == Some(&self.me)
            })
            .map(|(partition, _)| partition.clone())
            .collect();
        self.wants.extend(promised);
        let mut donors: Vec<(PartitionId, OwnerId, bool)> = Vec::new();
        for (partition, standing) in &view.standings {
            let promised = self.entries.get(partition).and_then(Entry::target).is_some();
            match standing {
                Standing::Worker(owner) if view.stayers.contains(owner) && !promised => {
                    donors.push((partition.clone(), owner.clone(), false));
                }
                Standing::Foreign(owner) => donors.push((partition.clone(), owner.clone(), true)),
                _ => {}
            }
        }
        // First what was asked for before, so that answers find the question; then by rank.
        donors.sort_by_key(|(partition, _, _)| {
            (!before.contains(partition), std::cmp::Reverse(weight(&self.me, partition)))
        });
        let (floor, ceiling) = (shares.floor(), shares.ceiling());
        let mut stole = false;
        for (partition, owner, is_foreign) in donors {
            let (mine, theirs) = (shares.count(&self.me), shares.count(&owner));
            let would_move =
                (mine < floor && theirs > floor) || (mine < ceiling && theirs > ceiling);
            if !would_move || self.wants.len() >= self.limits.max_hand_offs {
                continue;
            }
            self.uneven = true;
            if !was_uneven {
                return;
            }
            shares.remove(&owner);
            shares.add(&self.me);
            if !is_foreign {
                self.wants.insert(partition);
            } else if !std::mem::replace(&mut stole, true) {
                let is_idle = self
                    .entries
                    .get(&partition)
                    .is_some_and(|entry| entry.role == Role::Other && !entry.running);
                if is_idle {
                    actions.extend(self.claim(&partition));
                }
            }
        }
    }

    /// Writes what is drained and not given yet; takes it back where the target is gone.
    fn finish_gifts(&mut self, view: &View, actions: &mut Vec<Action>) {
        let partitions: Vec<PartitionId> = self.entries.keys().cloned().collect();
        for partition in partitions {
            let Some(entry) = self.entries.get_mut(&partition) else {
                continue;
            };
            let Role::Giving { to } = &mut entry.role else {
                continue;
            };
            if entry.writing {
                continue;
            }
            if to.as_ref().is_some_and(|to| !view.stayers.contains(to)) {
                *to = None;
            }
            let nobody = to.is_none();
            if nobody && !self.leaving && !entry.running {
                entry.role = Role::Other;
                actions.extend(self.claim(&partition));
            } else if !entry.running {
                actions.extend(self.give(&partition));
            }
        }
    }

    fn renew(&mut self, actions: &mut Vec<Action>) {
        let held: Vec<(PartitionId, Ownership)> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.role, Role::Held | Role::Yielding { .. }))
            .filter_map(|(partition, entry)| {
                Some((partition.clone(), entry.stored.as_ref()?.ownership.clone()))
            })
            .collect();
        for (partition, ownership) in held {
            actions.extend(self.write(&partition, ownership, Purpose::Renew));
        }
    }
}
