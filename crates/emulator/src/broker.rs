//! What all connections of one emulator share: its settings, its hubs and where events go.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::EmulatorError;
use super::event::Prepared;
use super::hub::{Hub, Partition, recreated, updated};
use super::hub_options::HubOptions;
use super::injection::{FaultPoint, Injections};
use super::log::PartitionLog;
use super::mailbox::{AppendTicket, Mailbox};
use super::memory::Memory;
use super::refusal::{NOT_FOUND, RESOURCE_LIMIT_EXCEEDED, Refusal};
use super::settings::Settings;
use super::socket::Ending;
use super::store::Store;
use super::throughput::Ingress;
use super::weather::Weather;
use super::writer::{AppendRequest, Writer};

/// Hubs may have at most this many partitions; a chosen limit, the service's is 1,024 as well.
pub(super) const MAX_PARTITIONS: u32 = 1024;
const MAX_HUB_NAME_CHARS: usize = 256;
/// Hubs that clients may create by naming them; a client with a random name in its address would
/// otherwise create hubs for ever.
const MAX_CREATED_HUBS: usize = 1024;

/// Where accepted events go.
#[derive(Debug)]
pub(super) enum Storage {
    Memory,
    Files { store: Arc<Store>, writer: Writer },
}

/// How far a publish got when [`Broker::append`] returns.
#[derive(Debug)]
pub(super) enum Append {
    Done,
    /// The connection's mailbox gets the result.
    Pending,
    Refused(Refusal),
}

/// The shared part of an emulator.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) settings: Settings,
    storage: Storage,
    /// Of logs in memory.
    memory: Arc<Memory>,
    /// By lower-case name.
    hubs: Mutex<BTreeMap<String, Arc<Hub>>>,
    connections: Mutex<HashMap<u64, Ending>>,
    ingress: Option<Mutex<Ingress>>,
    pub(super) injections: Injections,
    pub(super) weather: Weather,
    /// Requests to `$management` so far.
    pub(super) management_calls: AtomicU64,
}

impl Broker {
    pub(super) fn new(settings: Settings, storage: Storage) -> Self {
        let ingress =
            settings.throughput_units.map(|units| Mutex::new(Ingress::new(units, Instant::now())));
        Self {
            memory: Memory::new(settings.max_memory_bytes),
            settings,
            storage,
            hubs: Mutex::default(),
            connections: Mutex::default(),
            ingress,
            injections: Injections::default(),
            weather: Weather::default(),
            management_calls: AtomicU64::new(0),
        }
    }

    fn lock_hubs(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Hub>>> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the hub `name`, or creates it. Blocks on files when the log is durable.
    pub(super) fn open_hub(&self, name: &str, partitions: u32) -> Result<Arc<Hub>, EmulatorError> {
        self.open_hub_with(&HubOptions::new(name, partitions))
    }

    /// The same with rules for the hub, which count when it is opened for the first time.
    pub(super) fn open_hub_with(&self, options: &HubOptions) -> Result<Arc<Hub>, EmulatorError> {
        let HubOptions { name, partitions, .. } = options;
        let partitions = *partitions;
        validate_hub(name, partitions)?;
        let mut hubs = self.lock_hubs();
        let key = name.to_ascii_lowercase();
        if let Some(hub) = hubs.get(&key) {
            if hub.partition_count() == partitions {
                return Ok(Arc::clone(hub));
            }
            return Err(EmulatorError::PartitionCount {
                hub: name.to_owned(),
                asked: partitions,
                present: hub.partition_count(),
            });
        }
        let hub = match &self.storage {
            Storage::Memory => self.hub_in_memory(name, partitions, unix_millis()),
            Storage::Files { store, .. } => store.open_hub(name, partitions)?,
        };
        let hub = Arc::new(hub.ruled_by(options));
        hubs.insert(key, Arc::clone(&hub));
        Ok(hub)
    }

    /// The hub a client names. With `create_on_first_use` it may be created here, which blocks for
    /// the few file operations that takes when the log is durable; that happens once per hub.
    pub(super) fn hub(&self, name: &str) -> Result<Arc<Hub>, Refusal> {
        let hubs = self.lock_hubs();
        if let Some(hub) = hubs.get(&name.to_ascii_lowercase()) {
            return Ok(Arc::clone(hub));
        }
        let count = hubs.len();
        drop(hubs);
        let Some(partitions) = self.settings.create_on_first_use else {
            return Err(not_found(name));
        };
        if count >= MAX_CREATED_HUBS {
            return Err(Refusal::new(
                RESOURCE_LIMIT_EXCEEDED,
                format!("'{name}' is not created: there are {count} event hubs already"),
            ));
        }
        // A hub of an earlier run keeps its partitions, whatever is asked for new ones.
        let opened = self
            .stored_partitions(name)
            .and_then(|stored| self.open_hub(name, stored.unwrap_or(partitions)));
        opened.map_err(|error| {
            tracing::warn!(hub = name, %error, "an event hub cannot be created on first use");
            Refusal::new(NOT_FOUND, format!("'{name}' cannot be created: {error}"))
        })
    }

    fn stored_partitions(&self, name: &str) -> Result<Option<u32>, EmulatorError> {
        match &self.storage {
            Storage::Memory => Ok(None),
            Storage::Files { store, .. } => {
                // The name becomes part of a path only after this.
                validate_hub(name, 1)?;
                store.stored_partitions(name)
            }
        }
    }

    pub(super) fn hubs(&self) -> Vec<Arc<Hub>> {
        self.lock_hubs().values().cloned().collect()
    }

    /// Hands `events` to the log of `partition`.
    pub(super) fn append(
        &self,
        partition: &Arc<Partition>,
        events: Vec<Prepared>,
        mailbox: &Arc<Mailbox>,
        ticket: AppendTicket,
    ) -> Append {
        if let Some(refusal) = self.injections.take(FaultPoint::Send) {
            return Append::Refused(refusal);
        }
        if partition.is_gone() {
            return Append::Refused(recreated());
        }
        if let Some(ingress) = &self.ingress {
            let mut ingress = ingress.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(refusal) = ingress.take(ticket.bytes, events.len(), ticket.received_at) {
                return Append::Refused(refusal);
            }
        }
        match &self.storage {
            Storage::Memory => match partition.log.append_in_memory(&events, unix_millis()) {
                Ok(()) => Append::Done,
                Err(refusal) => Append::Refused(refusal),
            },
            Storage::Files { writer, .. } => {
                let request = AppendRequest {
                    partition: Arc::clone(partition),
                    events,
                    mailbox: Arc::clone(mailbox),
                    ticket,
                };
                match writer.send(request) {
                    Ok(()) => Append::Pending,
                    Err(refusal) => Append::Refused(refusal),
                }
            }
        }
    }

    /// Opens the hubs of the data folder that nobody has opened yet. Blocks.
    pub(super) fn open_stored_hubs(&self) -> Result<(), EmulatorError> {
        let Storage::Files { store, .. } = &self.storage else { return Ok(()) };
        for name in store.stored_hubs()? {
            let is_open = self.lock_hubs().contains_key(&name.to_ascii_lowercase());
            if let Some(partitions) = store.stored_partitions(&name)?
                && !is_open
            {
                self.open_hub(&name, partitions)?;
            }
        }
        Ok(())
    }

    /// What was found in the data folder that people should know.
    pub(super) fn take_notes(&self) -> Vec<String> {
        match &self.storage {
            Storage::Memory => Vec::new(),
            Storage::Files { store, .. } => store.take_notes(),
        }
    }

    /// Notes in the data folder that logs begin later. Blocks.
    pub(super) fn on_trimmed(&self) -> Result<(), EmulatorError> {
        match &self.storage {
            Storage::Memory => Ok(()),
            Storage::Files { store, .. } => store.on_trimmed(&self.hubs()),
        }
    }

    /// Ends the log: what was sent is written and synced, and other processes may open the folder.
    pub(super) async fn close_log(self: &Arc<Self>) -> Result<(), EmulatorError> {
        let Storage::Files { store, writer } = &self.storage else { return Ok(()) };
        let mut result = writer.close().await;
        if result.is_ok() {
            let broker = Arc::clone(self);
            let noting = tokio::task::spawn_blocking(move || match &broker.storage {
                Storage::Memory => Ok(()),
                Storage::Files { store, .. } => store.on_closed(&broker.hubs()),
            });
            result = noting.await.unwrap_or(Err(EmulatorError::Stopped));
        }
        store.unlock();
        result
    }

    /// Detaches receivers of a hub; see `Faults::detach_receivers`.
    pub(super) fn detach_receivers(
        &self,
        hub: &str,
        partition: Option<u32>,
        refusal: &Refusal,
    ) -> usize {
        let hub = self.lock_hubs().get(&hub.to_ascii_lowercase()).cloned();
        hub.iter()
            .flat_map(|hub| hub.partitions())
            .filter(|candidate| partition.is_none_or(|id| id == candidate.id))
            .map(|partition| partition.detach_receivers(refusal))
            .sum()
    }

    /// Detaches the sending links of a hub; see `Faults::detach_senders`.
    pub(super) fn detach_senders(&self, hub: &str, refusal: &Refusal) -> usize {
        let hub = self.lock_hubs().get(&hub.to_ascii_lowercase()).cloned();
        hub.map_or(0, |hub| hub.detach_senders(refusal))
    }

    /// See `Faults::trim_log`.
    pub(super) fn trim_log(&self, hub: &str, partition: u32, sequence: i64) -> Option<i64> {
        let hub = self.lock_hubs().get(&hub.to_ascii_lowercase()).cloned()?;
        Some(hub.partition(partition).ok()?.log.trim_before(sequence))
    }

    /// See `Faults::recreate_hub`. Blocks on files when the log is durable.
    pub(super) fn recreate_hub(&self, name: &str) -> Result<bool, EmulatorError> {
        let mut hubs = self.lock_hubs();
        let key = name.to_ascii_lowercase();
        let Some(old) = hubs.get(&key).cloned() else {
            return Ok(false);
        };
        for partition in old.partitions() {
            partition.go();
        }
        let (name, partitions) = (&old.name, old.partition_count());
        let new = match &self.storage {
            Storage::Memory => {
                self.hub_in_memory(name, partitions, unix_millis().max(old.created_at_ms + 1))
            }
            Storage::Files { store, .. } => {
                store.remove_hub(name)?;
                store.open_hub(name, partitions)?
            }
        };
        hubs.insert(key, Arc::new(new.ruled_by(&old.options())));
        drop(hubs);
        // Whoever attaches again from now on gets the new one.
        for partition in old.partitions() {
            partition.detach_receivers(&recreated());
        }
        old.detach_senders(&recreated());
        Ok(true)
    }

    /// See `Faults::add_partitions`. Blocks on files when the log is durable.
    pub(super) fn add_partitions(&self, name: &str, more: u32) -> Result<bool, EmulatorError> {
        let mut hubs = self.lock_hubs();
        let key = name.to_ascii_lowercase();
        let Some(old) = hubs.get(&key).cloned() else {
            return Ok(false);
        };
        let present = old.partition_count();
        validate_hub(&old.name, present.saturating_add(more))?;
        let new = match &self.storage {
            Storage::Memory => self.partitions_in_memory(present..present + more),
            Storage::Files { store, .. } => store.add_partitions(&old.name, more)?,
        };
        hubs.insert(key, Arc::new(old.grown(new)));
        drop(hubs);
        // Whoever attaches again from now on has all of them.
        old.detach_senders(&updated());
        Ok(true)
    }

    pub(super) fn on_connected(&self, id: u64, ending: Ending) {
        self.lock_connections().insert(id, ending);
    }

    pub(super) fn on_disconnected(&self, id: u64) {
        self.lock_connections().remove(&id);
    }

    pub(super) fn connections(&self) -> usize {
        self.lock_connections().len()
    }

    /// Cuts every connection and returns how many there were.
    pub(super) fn cut_connections(&self) -> usize {
        let connections = std::mem::take(&mut *self.lock_connections());
        for ending in connections.values() {
            ending.cut.cancel();
        }
        connections.len()
    }

    /// Stops all traffic on the connections there are, and returns how many.
    pub(super) fn silence_connections(&self) -> usize {
        let connections = self.lock_connections();
        for ending in connections.values() {
            ending.silence.cancel();
        }
        connections.len()
    }

    fn hub_in_memory(&self, name: &str, partitions: u32, created_at_ms: i64) -> Hub {
        Hub::new(name.to_owned(), created_at_ms, self.partitions_in_memory(0..partitions))
    }

    fn partitions_in_memory(&self, ids: Range<u32>) -> Vec<Arc<Partition>> {
        let log = || PartitionLog::in_memory(&self.memory);
        ids.map(|id| Arc::new(Partition::new(id, log(), None))).collect()
    }

    fn lock_connections(&self) -> MutexGuard<'_, HashMap<u64, Ending>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(hub: &str) -> Refusal {
    Refusal::new(NOT_FOUND, format!("The messaging entity '{hub}' could not be found"))
}

/// Checks the name of a hub and its number of partitions, as [`EmulatorBuilder::hub`] does at the
/// start.
///
/// [`EmulatorBuilder::hub`]: crate::EmulatorBuilder::hub
///
/// # Errors
/// A name or a number that the service would not take.
pub fn validate_hub(name: &str, partitions: u32) -> Result<(), EmulatorError> {
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let valid = name.len() <= MAX_HUB_NAME_CHARS
        && ends_well(name.chars().next())
        && ends_well(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if !valid {
        return Err(EmulatorError::HubName { name: name.to_owned() });
    }
    if !(1..=MAX_PARTITIONS).contains(&partitions) {
        return Err(EmulatorError::PartitionLimit { hub: name.to_owned(), asked: partitions });
    }
    Ok(())
}

/// The time of the log.
pub(super) fn unix_millis() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}
