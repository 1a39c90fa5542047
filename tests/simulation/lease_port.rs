//! The lease store of one worker, with the same weather as its other ports, and with listings that
//! are not atomic: the one half of the ownerships, then the other, then the members.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::Error;
use longshore::lease_store::{
    CheckpointKey, CheckpointScope, Expected, LeaseListing, LeaseStore, Member, OwnerId, Ownership,
    StoreError, StoredOwnership, VersionToken,
};
use tokio::time::sleep;

use super::oracle::worker_of;
use super::plan::ClaimStep;
use super::worker::Worker;

#[derive(Debug)]
pub struct SimLeases(pub Arc<Worker>);

impl SimLeases {
    async fn pause(&self) {
        let wait = self.0.random(0..=self.0.world.rates().latency_ms);
        sleep(Duration::from_millis(wait)).await;
        self.0.step();
    }

    async fn list_in_parts(&self, scope: &CheckpointScope) -> Result<LeaseListing, Error> {
        let leases = &self.0.world.leases;
        let mut ownerships = leases.list(scope).await?.ownerships;
        ownerships.truncate(ownerships.len() / 2);
        self.pause().await;
        let first_half_ends = ownerships.last().map(|(partition, _)| partition.clone());
        let rest = leases.list(scope).await?.ownerships.into_iter();
        ownerships.extend(rest.filter(|(partition, _)| Some(partition) > first_half_ends.as_ref()));
        self.pause().await;
        Ok(LeaseListing { ownerships, ..leases.list(scope).await? })
    }
}

impl LeaseStore for SimLeases {
    fn list<'a>(
        &'a self,
        scope: &'a CheckpointScope,
    ) -> BoxFuture<'a, Result<LeaseListing, Error>> {
        self.0.read("lease list", "list the leases", self.list_in_parts(scope)).boxed()
    }

    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>> {
        async {
            self.0.on_claim_step(ClaimStep::LeaseRead);
            self.0.read("lease read", "read the lease", self.0.world.leases.load(key)).await
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        ownership: &'a Ownership,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let (key, ownership, expected) = (key.clone(), ownership.clone(), expected.clone());
        let apply = move |worker: &Worker| {
            let answer = worker.world.write_ownership(&worker.name, &key, &ownership, &expected);
            let holder = ownership.holder.worker().map(worker_of);
            if answer.is_ok() && holder.as_deref() == Some(&worker.name) {
                worker.on_lease_taken();
            }
            answer
        };
        self.0.write("lease write", "write the lease", apply).boxed()
    }

    fn write_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        member: &'a Member,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let (scope, member) = (scope.clone(), member.clone());
        let apply = move |worker: &Worker| {
            let written = worker.world.leases.write_member(&scope, &member);
            written.now_or_never().expect("at once")
        };
        self.0.write("heartbeat", "write the heartbeat", apply).boxed()
    }

    fn remove_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        owner: &'a OwnerId,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let removal = async {
            self.0.world.oracle(|oracle| oracle.on_ended(&self.0.name, false));
            self.0.world.leases.remove_member(scope, owner).await
        };
        self.0.read("member removed", "remove the member record", removal).boxed()
    }
}
