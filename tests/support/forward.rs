//! Ports that forward to another and meddle with one call.
//!
//! A test implements [`OverTransport`], [`OverCheckpoints`] or [`OverLeases`]: it names the port
//! below and overrides the call that it is about. [`Over`] makes a port of it.

use std::fmt::Debug;

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::Error;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken,
};
use longshore::event::{ConsumerGroup, EntityName, PartitionId};
use longshore::lease_store::{
    LeaseListing, LeaseStore, Member, OwnerId, Ownership, StoredOwnership,
};
use longshore::transport::{HubProperties, Link, LogProperties, OpenLink, Transport};

/// A port made of what overrides some calls of another.
#[derive(Debug)]
pub struct Over<T>(pub T);

pub trait OverTransport: Debug + Send + Sync + 'static {
    fn below(&self) -> &dyn Transport;

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties, Error>> {
        self.below().hub_properties()
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        self.below().open(options)
    }
}

impl<T: OverTransport> Transport for Over<T> {
    fn namespace(&self) -> &str {
        self.0.below().namespace()
    }

    fn entity(&self) -> &EntityName {
        self.0.below().entity()
    }

    fn consumer_group(&self) -> &ConsumerGroup {
        self.0.below().consumer_group()
    }

    fn place(&self) -> String {
        self.0.below().place()
    }

    fn connect(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.0.below().connect()
    }

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties, Error>> {
        self.0.hub_properties()
    }

    fn log_properties<'a>(
        &'a self,
        partition: &'a PartitionId,
    ) -> BoxFuture<'a, Result<LogProperties, Error>> {
        self.0.below().log_properties(partition)
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        self.0.open(options)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.below().close()
    }
}

pub trait OverCheckpoints: Debug + Send + Sync + 'static {
    fn below(&self) -> &dyn CheckpointStore;

    /// Comes before every call, which fails where this does.
    fn before(&self) -> BoxFuture<'_, Result<(), Error>> {
        async { Ok(()) }.boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        self.below().store(key, checkpoint, expected)
    }
}

impl<T: OverCheckpoints> CheckpointStore for Over<T> {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        async move {
            self.0.before().await?;
            self.0.below().load(key).await
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move {
            self.0.before().await?;
            self.0.store(key, checkpoint, expected).await
        }
        .boxed()
    }

    fn overwrite_unreadable<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move {
            self.0.before().await?;
            self.0.below().overwrite_unreadable(key, checkpoint).await
        }
        .boxed()
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        async move {
            self.0.before().await?;
            self.0.below().list(scope).await
        }
        .boxed()
    }
}

pub trait OverLeases: Debug + Send + Sync + 'static {
    fn below(&self) -> &dyn LeaseStore;

    /// Comes before every call, which fails where this does.
    fn before(&self) -> BoxFuture<'_, Result<(), Error>>;
}

impl<T: OverLeases> LeaseStore for Over<T> {
    fn list<'a>(
        &'a self,
        scope: &'a CheckpointScope,
    ) -> BoxFuture<'a, Result<LeaseListing, Error>> {
        async move {
            self.0.before().await?;
            self.0.below().list(scope).await
        }
        .boxed()
    }

    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>> {
        async move {
            self.0.before().await?;
            self.0.below().load(key).await
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        ownership: &'a Ownership,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move {
            self.0.before().await?;
            self.0.below().store(key, ownership, expected).await
        }
        .boxed()
    }

    fn write_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        member: &'a Member,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.0.before().await?;
            self.0.below().write_member(scope, member).await
        }
        .boxed()
    }

    fn remove_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        owner: &'a OwnerId,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.0.before().await?;
            self.0.below().remove_member(scope, owner).await
        }
        .boxed()
    }
}
