//! What the settings name, opened: the stores, the way to the hub, whose checkpoints they are.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::configured::Configured;
use crate::{CommandError, brief};
use longshore::checkpoint_store::{CheckpointScope, CheckpointStore, Listed};
use longshore::config::{LeaseOptions, PositionLost};
use longshore::event::{PartitionId, StartPosition};
use longshore::lease_store::{CheckpointKey, LeaseListing, LeaseStore, StoredOwnership};
use longshore::settings::CheckpointPlace;
use longshore::state::owner::{Owner, owner_by, owner_of};
use longshore::transport::Transport;
use longshore::transport::event_hubs::EventHubsTransport;

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

/// Whether a folder that is not there is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Missing {
    /// Who reads from it is in the wrong place.
    Refused,
    Created,
}

impl Opened {
    pub(super) fn new(configured: Configured, missing: Missing) -> Result<Self, CommandError> {
        let Configured { settings, namespace, entity } = configured;
        let place = match settings.checkpoint_place() {
            CheckpointPlace::Folder(path) => {
                let path = std::path::absolute(&path).unwrap_or(path);
                if missing == Missing::Refused && !path.exists() {
                    return Err(no_folder(&path));
                }
                path.display().to_string()
            }
            container => container.to_string(),
        };
        let stores = settings.open_stores().map_err(|error| CommandError::new(brief(&error)))?;
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
            checkpoints: stores.checkpoints,
            leases: stores.leases,
            lease_options: settings.lease_options().clone(),
            place,
            policy: Policy {
                start_position: options.start_position,
                position_lost: options.position_lost,
            },
        })
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

    pub(super) fn owner(&self, listing: &LeaseListing, partition: &PartitionId) -> Option<Owner> {
        let LeaseOptions { lease_expiry, foreign_lease_expiry, .. } = self.lease_options;
        owner_of(listing, partition, lease_expiry, foreign_lease_expiry)
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
        fields.into_iter().map(|(field, value)| (field.to_owned(), value.into())).collect()
    }

    /// The same for people.
    pub(super) fn title(&self) -> String {
        let CheckpointScope { namespace, entity, consumer_group } = &self.scope;
        format!(
            "hub {entity} at {namespace}, consumer group {consumer_group}\ncheckpoints in {}",
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
