//! Hubs and their partitions: who publishes where, and who may receive.
//!
//! Receivers of one consumer group on one partition:
//!
//! ```text
//!            attach without level            attach with level n
//!  open   ->  open (at most 5 at once)   ->  exclusive(n), the others are detached
//!  exclusive(m) -> refused               ->  n >= m: exclusive(n), the old one is detached
//!                                            n <  m: refused
//! ```
//!
//! Invariant: a group's list holds either one receiver with an owner level or only receivers
//! without one.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event::partition_of_key;
use super::hub_options::HubOptions;
use super::log::{PartitionLog, Retention};
use super::mailbox::{LinkKey, Mailbox, Notice};
use super::refusal::{
    ARGUMENT_OUT_OF_RANGE, DETACH_FORCED, ENTITY_UPDATED, LINK_STOLEN, NOT_FOUND,
    RESOURCE_LIMIT_EXCEEDED, Refusal,
};

/// How many receivers without an owner level a group may have on a partition, as in the service.
const MAX_SHARED_RECEIVERS: usize = 5;

/// A stream of events, split into partitions.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) name: String,
    pub(super) created_at_ms: i64,
    partitions: Vec<Arc<Partition>>,
    next_partition: AtomicU32,
    /// In lower case; without it any group is there.
    groups: Option<BTreeSet<String>>,
    retention: Retention,
    senders: Mutex<Vec<(Arc<Mailbox>, LinkKey)>>,
}

impl Hub {
    pub(super) fn new(name: String, created_at_ms: i64, partitions: Vec<Arc<Partition>>) -> Self {
        let next_partition = AtomicU32::new(0);
        Self {
            name,
            created_at_ms,
            partitions,
            next_partition,
            groups: None,
            retention: Retention::default(),
            senders: Mutex::default(),
        }
    }

    /// The hub with more partitions behind those it has.
    pub(super) fn grown(&self, more: Vec<Arc<Partition>>) -> Self {
        let partitions = self.partitions.iter().cloned().chain(more).collect();
        let mut options = self.options();
        let hub = Self::new(self.name.clone(), self.created_at_ms, partitions);
        options.partitions = hub.partition_count();
        hub.ruled_by(&options)
    }

    /// The hub as `options` want it.
    pub(super) fn ruled_by(mut self, options: &HubOptions) -> Self {
        self.groups = options.consumer_groups.as_ref().map(|groups| {
            let groups = groups.iter().map(|group| group.to_ascii_lowercase());
            groups.chain(["$default".to_owned()]).collect()
        });
        self.retention = options.retention;
        for partition in &self.partitions {
            partition.log.keep(options.retention);
        }
        self
    }

    /// What makes another hub like this one.
    pub(super) fn options(&self) -> HubOptions {
        HubOptions {
            name: self.name.clone(),
            partitions: self.partition_count(),
            consumer_groups: self
                .groups
                .iter()
                .map(|groups| groups.iter().cloned().collect())
                .next(),
            retention: self.retention,
        }
    }

    fn lock_senders(&self) -> MutexGuard<'_, Vec<(Arc<Mailbox>, LinkKey)>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a link that sends to this hub.
    pub(super) fn on_sender(&self, mailbox: &Arc<Mailbox>, link: LinkKey) {
        self.lock_senders().push((Arc::clone(mailbox), link));
    }

    pub(super) fn on_sender_gone(&self, mailbox: &Arc<Mailbox>, link: LinkKey) {
        self.lock_senders().retain(|(other, key)| !(Arc::ptr_eq(other, mailbox) && *key == link));
    }

    /// Detaches every sending link and returns how many there were.
    pub(super) fn detach_senders(&self, refusal: &Refusal) -> usize {
        let senders = std::mem::take(&mut *self.lock_senders());
        for (mailbox, link) in &senders {
            mailbox.post(Notice::Detach(*link, refusal.clone()));
        }
        senders.len()
    }

    /// Whether a consumer group is there.
    pub(super) fn admit_group(&self, group: &str) -> Result<(), Refusal> {
        match &self.groups {
            Some(groups) if !groups.contains(&group.to_ascii_lowercase()) => Err(Refusal::new(
                NOT_FOUND,
                format!(
                    "The messaging entity '{}/ConsumerGroups/{group}' could not be found",
                    self.name
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn partitions(&self) -> &[Arc<Partition>] {
        &self.partitions
    }

    pub(super) fn partition_count(&self) -> u32 {
        self.partitions.len() as u32
    }

    pub(super) fn partition(&self, id: u32) -> Result<&Arc<Partition>, Refusal> {
        self.partitions.get(id as usize).ok_or_else(|| {
            Refusal::new(
                ARGUMENT_OUT_OF_RANGE,
                format!(
                    "partition {id} of '{}' does not exist; it has 0 to {}",
                    self.name,
                    self.partitions.len().saturating_sub(1)
                ),
            )
        })
    }

    /// The partition for events that name none: by their key, or in turn.
    pub(super) fn route(&self, key: Option<&[u8]>) -> Result<&Arc<Partition>, Refusal> {
        let count = self.partition_count();
        let id = match key {
            Some(key) => partition_of_key(key, count),
            None => self.next_partition.fetch_add(1, Ordering::Relaxed) % count.max(1),
        };
        self.partition(id)
    }
}

/// What the sending links of a hub with new partitions are told.
pub(super) fn updated() -> Refusal {
    Refusal::new(ENTITY_UPDATED, "The messaging entity was updated, the link is detached")
}

/// What the links of a deleted hub are told.
pub(super) fn recreated() -> Refusal {
    Refusal::new(DETACH_FORCED, "The messaging entity was deleted and created again")
}

/// One partition: its log and its receivers.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) id: u32,
    pub(super) log: PartitionLog,
    /// Where its files are; none for a log in memory.
    pub(super) folder: Option<PathBuf>,
    groups: Mutex<HashMap<String, Vec<Receiver>>>,
    gone: AtomicBool,
}

#[derive(Debug)]
struct Receiver {
    owner_level: Option<i64>,
    mailbox: Arc<Mailbox>,
    link: LinkKey,
}

impl Receiver {
    fn is(&self, mailbox: &Arc<Mailbox>, link: LinkKey) -> bool {
        self.link == link && Arc::ptr_eq(&self.mailbox, mailbox)
    }

    fn detach(self, refusal: Refusal) {
        self.mailbox.post(Notice::Detach(self.link, refusal));
    }
}

impl Partition {
    pub(super) fn new(id: u32, log: PartitionLog, folder: Option<PathBuf>) -> Self {
        Self { id, log, folder, groups: Mutex::default(), gone: AtomicBool::new(false) }
    }

    /// Takes no more events: the hub was deleted.
    pub(super) fn go(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Admits a receiver, and detaches those it displaces.
    pub(super) fn on_attach(
        &self,
        group: &str,
        owner_level: Option<i64>,
        mailbox: &Arc<Mailbox>,
        link: LinkKey,
    ) -> Result<(), Refusal> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever looked the hub up before it was deleted would wait here for ever.
        if self.is_gone() {
            return Err(recreated());
        }
        let receivers = groups.entry(group.to_ascii_lowercase()).or_default();
        let present = receivers.iter().filter_map(|receiver| receiver.owner_level).max();
        match (present, owner_level) {
            (Some(present), None) => return Err(self.refuse_non_exclusive(group, present)),
            (Some(present), Some(asked)) if asked < present => {
                return Err(self.refuse_lower(group, asked, present));
            }
            (None, None) if receivers.len() >= MAX_SHARED_RECEIVERS => {
                return Err(self.refuse_too_many(group));
            }
            _ => {}
        }
        let displaced = match owner_level {
            Some(_) => std::mem::take(receivers),
            None => Vec::new(),
        };
        receivers.push(Receiver { owner_level, mailbox: Arc::clone(mailbox), link });
        drop(groups);
        for receiver in displaced {
            receiver.detach(self.stolen(group, owner_level));
        }
        Ok(())
    }

    /// Forgets a receiver; one that was displaced is not there any more.
    pub(super) fn on_detach(&self, group: &str, mailbox: &Arc<Mailbox>, link: LinkKey) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let key = group.to_ascii_lowercase();
        if let Some(receivers) = groups.get_mut(&key) {
            receivers.retain(|receiver| !receiver.is(mailbox, link));
            if receivers.is_empty() {
                groups.remove(&key);
            }
        }
    }

    /// Detaches every receiver with `refusal` and returns how many there were.
    pub(super) fn detach_receivers(&self, refusal: &Refusal) -> usize {
        let groups =
            std::mem::take(&mut *self.groups.lock().unwrap_or_else(PoisonError::into_inner));
        let receivers: Vec<Receiver> = groups.into_values().flatten().collect();
        let count = receivers.len();
        for receiver in receivers {
            receiver.detach(refusal.clone());
        }
        count
    }

    fn stolen(&self, group: &str, owner_level: Option<i64>) -> Refusal {
        Refusal::new(
            LINK_STOLEN,
            format!(
                "New receiver with higher epoch of '{}' is created hence current receiver is \
                 getting disconnected (partition {}, group '{group}')",
                owner_level.unwrap_or_default(),
                self.id
            ),
        )
    }

    fn refuse_lower(&self, group: &str, asked: i64, present: i64) -> Refusal {
        Refusal::new(
            LINK_STOLEN,
            format!(
                "Receiver with epoch '{asked}' is refused: one with the higher epoch '{present}' \
                 is connected (partition {}, group '{group}')",
                self.id
            ),
        )
    }

    fn refuse_non_exclusive(&self, group: &str, present: i64) -> Refusal {
        Refusal::new(
            LINK_STOLEN,
            format!(
                "Receiver without an epoch is refused: one with epoch '{present}' is connected \
                 (partition {}, group '{group}')",
                self.id
            ),
        )
    }

    fn refuse_too_many(&self, group: &str) -> Refusal {
        Refusal::new(
            RESOURCE_LIMIT_EXCEEDED,
            format!(
                "Exceeded the maximum number of allowed receivers per partition in a consumer \
                 group which is {MAX_SHARED_RECEIVERS} (partition {}, group '{group}')",
                self.id
            ),
        )
    }
}
