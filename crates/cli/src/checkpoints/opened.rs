//! What the settings name, opened: the stores, the way to the hub, whose checkpoints they are.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::configured::{Configured, no_answer};
use crate::{CommandError, brief};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::checkpoint_store::{CheckpointScope, CheckpointStore, Listed};
use longshore::config::{LeaseOptions, PositionLost};
use longshore::error::Error;
use longshore::event::StartPosition;
use longshore::lease_store::{CheckpointKey, LeaseListing, LeaseStore, StoredOwnership};
use longshore::settings::CheckpointPlace;
use longshore::state::owner::{Owner, owner_by};
use longshore::transport::event_hubs::EventHubsTransport;
use longshore::transport::{HubProperties, Transport};

/// What is wrong with settings that have no hub.
pub(super) const WITHOUT_HUB: &str = "has no checkpoints that outlive a process";

pub(super) struct Opened {
    pub(super) transport: EventHubsTransport,
    pub(super) scope: CheckpointScope,
    pub(super) checkpoints: Arc<dyn CheckpointStore>,
    pub(super) leases: Option<Arc<dyn LeaseStore>>,
    pub(super) lease_options: LeaseOptions,
    /// Where checkpoints are, without a secret.
    pub(super) place: String,
    /// Who has the folder of checkpoints for itself meanwhile.
    pub(super) in_use_by: Option<String>,
    pub(super) policy: Policy,
}

/// What a worker with these settings does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Without a checkpoint.
    pub(super) start_position: StartPosition,
    /// With one that is not of this log.
    pub(super) position_lost: PositionLost,
}

/// What the stores are opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Reads, beside a worker that has the folder. A folder that is not there is refused: who reads from
    /// it is in the wrong place.
    Look,
    /// Writes. A folder that is not there is made, and one that a worker has is refused.
    Change,
    /// Reads what a change would do, and is refused where that is. A folder that is not there has no
    /// checkpoints.
    DryRun,
}

impl Purpose {
    /// Of a command that changes something.
    pub(super) fn of_change(dry_run: bool) -> Self {
        if dry_run { Self::DryRun } else { Self::Change }
    }
}

impl Opened {
    pub(super) fn new(configured: Configured, purpose: Purpose) -> Result<Self, CommandError> {
        let Configured { settings, namespace, entity } = configured;
        let failed = |error: &Error| CommandError::new(brief(error));
        let (mut place, mut is_there) = (settings.checkpoint_place().to_string(), true);
        if let CheckpointPlace::Folder(path) = settings.checkpoint_place() {
            let path = std::path::absolute(&path).unwrap_or(path);
            is_there = path.exists();
            if purpose == Purpose::Look && !is_there {
                return Err(no_folder(&path));
            }
            place = path.display().to_string();
        }
        let mut in_use_by = None;
        let (checkpoints, leases): (Arc<dyn CheckpointStore>, _) = match purpose {
            Purpose::Change => {
                let stores = settings.open_stores().map_err(|error| failed(&error))?;
                (stores.checkpoints, stores.leases)
            }
            Purpose::DryRun if !is_there => (Arc::new(MemoryCheckpointStore::new()), None),
            Purpose::Look | Purpose::DryRun => {
                let stores = settings.open_stores_to_read().map_err(|error| failed(&error))?;
                if let Some(in_use) = stores.in_use {
                    if purpose == Purpose::DryRun {
                        return Err(failed(&in_use.refusal));
                    }
                    in_use_by = Some(in_use.user);
                }
                (stores.checkpoints, stores.leases)
            }
        };
        let options = settings.consumer_options();
        let transport =
            EventHubsTransport::new(namespace, entity, settings.consumer_group().clone());
        Ok(Self {
            scope: CheckpointScope {
                namespace: transport.namespace().to_owned(),
                entity: transport.entity().clone(),
                consumer_group: transport.consumer_group().clone(),
            },
            transport,
            checkpoints,
            leases,
            lease_options: settings.lease_options().clone(),
            place,
            in_use_by,
            policy: Policy {
                start_position: options.start_position,
                position_lost: options.position_lost,
            },
        })
    }

    /// What the hub says of itself.
    pub(super) async fn hub(&self) -> Result<HubProperties, CommandError> {
        let Self { transport, .. } = self;
        let hub = transport.hub_properties().await;
        hub.map_err(|error| no_answer(transport.entity(), &transport.place(), &error))
    }

    /// Every checkpoint, by partition.
    pub(super) async fn list(&self) -> Result<Vec<Listed>, CommandError> {
        let listed = self.checkpoints.list(&self.scope).await;
        listed.map_err(|error| CommandError::new(brief(&error)))
    }

    /// The leases; `None` if there is no store of them.
    pub(super) async fn look(&self) -> Result<Option<LeaseListing>, String> {
        let Some(leases) = &self.leases else { return Ok(None) };
        let listing = leases.list(&self.scope).await;
        listing.map(Some).map_err(|error| brief(&error))
    }

    /// The ownership record of a partition; `None` if there is none, or no store of them.
    pub(super) async fn ownership(
        &self,
        key: &CheckpointKey,
    ) -> Result<Option<StoredOwnership>, String> {
        let Some(leases) = &self.leases else { return Ok(None) };
        leases.load(key).await.map_err(|error| brief(&error))
    }

    /// Who has a partition by its record, and by the heartbeats of a listing.
    pub(super) fn owner_by(
        &self,
        stored: &StoredOwnership,
        listing: &LeaseListing,
    ) -> Option<Owner> {
        let LeaseOptions { lease_expiry, foreign_lease_expiry, .. } = self.lease_options;
        owner_by(stored, listing, lease_expiry, foreign_lease_expiry)
    }

    /// Whose checkpoints, and where they are: the head of what scripts read.
    pub(super) fn head(&self) -> Map<String, Value> {
        let CheckpointScope { namespace, entity, consumer_group } = &self.scope;
        let fields = [
            ("namespace", namespace.as_str()),
            ("entity", entity.as_str()),
            ("consumer_group", consumer_group.as_str()),
            ("store", self.place.as_str()),
        ];
        let fields = fields.into_iter().map(|(field, value)| (field.to_owned(), value.into()));
        fields.chain([("in_use_by".to_owned(), json!(self.in_use_by))]).collect()
    }

    /// The same for people.
    pub(super) fn title(&self) -> String {
        let CheckpointScope { namespace, entity, consumer_group } = &self.scope;
        let in_use = match &self.in_use_by {
            Some(user) => format!("\nin use by {user}: it may be further than what is shown"),
            None => String::new(),
        };
        format!(
            "hub {entity} at {namespace}, consumer group {consumer_group}\ncheckpoints in {}{in_use}",
            self.place
        )
    }
}

fn no_folder(path: &Path) -> CommandError {
    CommandError::new(format!(
        "there is no folder {}: no worker with these settings has run here; \
         LONGSHORE_CHECKPOINT_FOLDER or LONGSHORE_CHECKPOINT_CONTAINER names another place",
        path.display()
    ))
}
