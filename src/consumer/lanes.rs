//! The lanes that all partitions of a consumer, or of a set, share.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::HashTable;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock::lock;
use crate::error::InvalidConfig;
use crate::lanes::{Lane, LaneRule, LaneSnapshot, MAX_LANE_CLOSING};
use crate::state::lanes::Named;
use crate::state::lanes::table::{LaneId, LaneTable, Member};

/// What lanes are known by, and found with a hash that is made once for an event.
#[derive(Debug)]
pub(crate) struct Names<I>(HashTable<(Named, I)>);

impl<I> Default for Names<I> {
    fn default() -> Self {
        Self(HashTable::new())
    }
}

impl<I: Copy> Names<I> {
    pub(crate) fn get(&self, name: &Named) -> Option<I> {
        self.0.find(name.hash, |(known, _)| known == name).map(|(_, id)| *id)
    }

    /// Adds a name that is not there.
    pub(crate) fn insert(&mut self, name: Named, id: I) {
        self.0.insert_unique(name.hash, (name, id), |(known, _)| known.hash);
    }

    pub(crate) fn remove(&mut self, name: &Named) {
        if let Ok(entry) = self.0.find_entry(name.hash, |(known, _)| known == name) {
            entry.remove();
        }
    }
}

/// The table of lanes behind a lock, with a wake-up for each partition.
pub(crate) struct SharedLanes {
    rule: LaneRule,
    /// Who publishes chooses the names: nobody may know what collides.
    hasher: RandomState,
    lanes: Mutex<Lanes>,
}

/// What is behind the lock.
pub(crate) struct Lanes {
    pub(crate) table: LaneTable,
    names: Names<LaneId>,
    /// By the number of the member.
    wakes: Vec<Option<Arc<Wake>>>,
}

/// How a partition is told that the table has news for it.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    told: Notify,
    has_news: AtomicBool,
}

impl Wake {
    /// Ready once there is news.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    /// Whether there may be news. Asked before they are taken, so that none are missed.
    pub(crate) fn take_has_news(&self) -> bool {
        self.has_news.swap(false, Ordering::AcqRel)
    }

    fn tell(&self) {
        self.has_news.store(true, Ordering::Release);
        self.told.notify_one();
    }
}

impl Lanes {
    /// The id of a lane, which is new where nobody has events of it.
    pub(crate) fn id(&mut self, name: &Named) -> LaneId {
        if let Some(id) = self.names.get(name) {
            return id;
        }
        let id = self.table.on_new(name.clone());
        self.names.insert(name.clone(), id);
        id
    }

    /// Forgets the names of lanes that the table forgot, and wakes whom it told something.
    fn settle(&mut self) {
        while let Some(name) = self.table.take_forgotten() {
            self.names.remove(&name);
        }
        while let Some(member) = self.table.take_woken() {
            if let Some(Some(wake)) = self.wakes.get(member.index()) {
                wake.tell();
            }
        }
    }
}

impl SharedLanes {
    pub(crate) fn new(rule: LaneRule) -> Self {
        let table = LaneTable::new(rule.cap());
        let lanes = Lanes { table, names: Names::default(), wakes: Vec::new() };
        Self { rule, hasher: RandomState::new(), lanes: Mutex::new(lanes) }
    }

    pub(crate) fn rule(&self) -> &LaneRule {
        &self.rule
    }

    /// A lane as names are kept.
    pub(crate) fn named(&self, lane: Lane) -> Named {
        let hash = self.hasher.hash_one(lane.as_bytes());
        Named { lane, hash }
    }

    /// Runs a step of the table. No user's code runs in it, and nothing waits.
    pub(crate) fn step<R>(&self, step: impl FnOnce(&mut Lanes) -> R) -> R {
        let mut lanes = lock(&self.lanes);
        let result = step(&mut lanes);
        lanes.settle();
        result
    }

    /// A partition begins.
    pub(crate) fn join(&self) -> (Member, Arc<Wake>) {
        self.step(|lanes| {
            let member = lanes.table.join();
            let wake = Arc::new(Wake::default());
            if lanes.wakes.len() <= member.index() {
                lanes.wakes.resize(member.index() + 1, None);
            }
            if let Some(place) = lanes.wakes.get_mut(member.index()) {
                *place = Some(Arc::clone(&wake));
            }
            (member, wake)
        })
    }

    /// Closes a lane for so long.
    pub(crate) fn close(&self, lane: &Lane, time: Duration) -> Result<(), InvalidConfig> {
        if time > MAX_LANE_CLOSING {
            let bound = format!("it must be at most {MAX_LANE_CLOSING:?}");
            return Err(InvalidConfig::new("lane_closing", format!("{time:?}"), bound));
        }
        let (now, name) = (Instant::now(), self.named(lane.clone()));
        if !time.is_zero() {
            self.step(|lanes| {
                lanes.table.on_time(now.into_std());
                let id = lanes.id(&name);
                lanes.table.close(id, (now + time).into_std());
            });
        }
        Ok(())
    }

    /// Opens a lane that is closed.
    pub(crate) fn open(&self, lane: &Lane) {
        let name = self.named(lane.clone());
        self.step(|lanes| {
            if let Some(id) = lanes.names.get(&name) {
                lanes.table.open(id);
            }
        });
    }

    /// Lets fewer events of one lane be under way, or as many as of others again; and closes it first,
    /// where a time is given.
    pub(crate) fn narrow(&self, lane: &Lane, most: Option<usize>, closed_until: Option<Instant>) {
        let name = self.named(lane.clone());
        self.step(|lanes| {
            let Some(id) = lanes.names.get(&name) else { return };
            lanes.table.narrow(id, most);
            if let Some(until) = closed_until {
                lanes.table.close(id, until.into_std());
            }
        });
    }

    /// Changes how many events of a lane may be under way.
    pub(crate) fn set_cap(&self, cap: usize) -> Result<(), InvalidConfig> {
        if self.rule.is_ordered() {
            let bound = "it cannot be changed where lanes are ordered: they hold one";
            return Err(InvalidConfig::new("lane_cap", cap, bound));
        }
        if cap == 0 {
            return Err(InvalidConfig::new("lane_cap", cap, "it must be at least 1"));
        }
        self.step(|lanes| lanes.table.set_cap(cap));
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> LaneSnapshot {
        self.step(|lanes| {
            lanes.table.on_time(Instant::now().into_std());
            lanes.table.snapshot()
        })
    }
}

impl fmt::Debug for SharedLanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLanes").field("rule", &self.rule).finish_non_exhaustive()
    }
}
