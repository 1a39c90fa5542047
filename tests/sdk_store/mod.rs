//! A store as one writes it for the Azure SDK's own trait: in memory, keyed like its blob store,
//! and with trouble on demand.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_messaging_eventhubs::CheckpointStore;
use azure_messaging_eventhubs::models::{Checkpoint, Ownership};
use tokio::sync::Semaphore;

pub struct SdkMemory {
    checkpoints: Mutex<BTreeMap<String, Checkpoint>>,
    /// Writes wait here.
    gate: Semaphore,
    lose_answer: AtomicBool,
    /// Why every call fails.
    refusal: Mutex<Option<String>>,
}

impl Default for SdkMemory {
    fn default() -> Self {
        Self {
            checkpoints: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            lose_answer: AtomicBool::new(false),
            refusal: Mutex::default(),
        }
    }
}

impl SdkMemory {
    /// One whose writes wait for [`SdkMemory::let_through`].
    pub fn gated() -> Self {
        Self { gate: Semaphore::new(0), ..Self::default() }
    }

    pub fn let_through(&self, writes: usize) {
        self.gate.add_permits(writes);
    }

    /// The next write is made, and fails all the same.
    pub fn lose_next_answer(&self) {
        self.lose_answer.store(true, Ordering::SeqCst);
    }

    /// From now on every call fails with this text, and with it as the cause.
    pub fn refuse(&self, why: &str) {
        *self.refusal.lock().unwrap() = Some(why.to_owned());
    }

    fn allowed(&self) -> azure_core::Result<()> {
        match &*self.refusal.lock().unwrap() {
            Some(why) => {
                let cause = std::io::Error::other(format!("because: {why}"));
                Err(azure_core::Error::with_error(ErrorKind::Io, cause, why.clone()))
            }
            None => Ok(()),
        }
    }

    /// Writes as a processor of the SDK does.
    pub fn put(&self, partition: &str, offset: Option<&str>, sequence_number: Option<i64>) {
        let checkpoint = Checkpoint {
            fully_qualified_namespace: "hubs.example".to_owned(),
            event_hub_name: "orders".to_owned(),
            consumer_group: "$Default".to_owned(),
            partition_id: partition.to_owned(),
            offset: offset.map(str::to_owned),
            sequence_number,
        };
        self.insert(checkpoint).unwrap();
    }

    /// Offset and sequence number, as a processor of the SDK reads them.
    pub fn get(&self, partition: &str) -> Option<(Option<String>, Option<i64>)> {
        let checkpoints = self.checkpoints.lock().unwrap();
        let found = checkpoints.values().find(|found| found.partition_id == partition)?;
        Some((found.offset.clone(), found.sequence_number))
    }

    fn insert(&self, checkpoint: Checkpoint) -> azure_core::Result<()> {
        let name = Checkpoint::get_checkpoint_blob_name(
            &checkpoint.fully_qualified_namespace,
            &checkpoint.event_hub_name,
            &checkpoint.consumer_group,
            &checkpoint.partition_id,
        )?;
        self.checkpoints.lock().unwrap().insert(name, checkpoint);
        Ok(())
    }
}

fn lost() -> azure_core::Error {
    azure_core::Error::with_message(ErrorKind::Io, "the answer got lost")
}

#[async_trait]
impl CheckpointStore for SdkMemory {
    async fn claim_ownership(&self, _: &[Ownership]) -> azure_core::Result<Vec<Ownership>> {
        Ok(Vec::new())
    }

    async fn list_checkpoints(
        &self,
        namespace: &str,
        event_hub_name: &str,
        consumer_group: &str,
    ) -> azure_core::Result<Vec<Checkpoint>> {
        self.allowed()?;
        let prefix =
            Checkpoint::get_checkpoint_blob_prefix_name(namespace, event_hub_name, consumer_group)?;
        let checkpoints = self.checkpoints.lock().unwrap();
        let of_group = checkpoints.iter().filter(|(name, _)| name.starts_with(&prefix));
        Ok(of_group.map(|(_, checkpoint)| checkpoint.clone()).collect())
    }

    async fn list_ownerships(
        &self,
        _: &str,
        _: &str,
        _: &str,
    ) -> azure_core::Result<Vec<Ownership>> {
        Ok(Vec::new())
    }

    async fn update_checkpoint(&self, checkpoint: Checkpoint) -> azure_core::Result<()> {
        self.allowed()?;
        self.gate.acquire().await.unwrap().forget();
        self.insert(checkpoint)?;
        if self.lose_answer.swap(false, Ordering::SeqCst) { Err(lost()) } else { Ok(()) }
    }
}
