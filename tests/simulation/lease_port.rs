//! The lease store of one worker, with the same weather as its other ports, and with listings that
//! are not atomic: the one half of the ownerships, then the other, then the members.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use longshore::Error;
use longshore::lease_store::{
    CheckpointKey, CheckpointScope, Expected, LeaseListing, LeaseStore, Member, OwnerId, Ownership,
    StoreError, StoredOwnership, VersionToken,
};
use tokio::time::sleep;

use super::ports::{Fate, To, failed};
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
        async {
            self.0.world.count_request("lease list");
            match self.0.depart(To::Stores).await {
                Fate::Refused => return Err(failed("list the leases")),
                Fate::Hang => return pending().await,
                _ => {}
            }
            let answer = self.list_in_parts(scope).await;
            self.0.arrive(To::Stores).await;
            answer
        }
        .boxed()
    }

    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>> {
        async {
            self.0.world.count_request("lease read");
            match self.0.depart(To::Stores).await {
                Fate::Refused => return Err(failed("read the lease")),
                Fate::Hang => return pending().await,
                _ => {}
            }
            let answer = self.0.world.leases.load(key).await;
            self.0.arrive(To::Stores).await;
            answer
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        ownership: &'a Ownership,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async {
            let worker = &self.0;
            worker.world.count_request("lease write");
            let fate = worker.depart(To::Stores).await;
            let apply = || worker.world.write_ownership(&worker.name, key, ownership, expected);
            let answer = match fate {
                Fate::Good => apply(),
                Fate::Refused => Err(failed("write the lease").into()),
                Fate::Hang => pending().await,
                Fate::LostAnswer => {
                    let _lost = apply();
                    Err(failed("write the lease").into())
                }
                Fate::Late => {
                    let (worker, wait) = (Arc::clone(worker), worker.random(100..=60_000));
                    let (key, ownership, expected) =
                        (key.clone(), ownership.clone(), expected.clone());
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(wait)).await;
                        let world = &worker.world;
                        let _nobody_waits =
                            world.write_ownership(&worker.name, &key, &ownership, &expected);
                    });
                    pending().await
                }
                Fate::Repeated => {
                    let _first = apply();
                    apply()
                }
            };
            worker.arrive(To::Stores).await;
            answer
        }
        .boxed()
    }

    fn write_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        member: &'a Member,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async {
            let worker = &self.0;
            worker.world.count_request("heartbeat");
            match worker.depart(To::Stores).await {
                Fate::Refused => return Err(failed("write the heartbeat")),
                Fate::Hang => return pending().await,
                Fate::Late => {
                    let (worker, wait) = (Arc::clone(worker), worker.random(100..=60_000));
                    let (scope, member) = (scope.clone(), member.clone());
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(wait)).await;
                        let written = worker.world.leases.write_member(&scope, &member).await;
                        written.expect("written");
                    });
                    return pending().await;
                }
                Fate::LostAnswer => {
                    worker.world.leases.write_member(scope, member).await?;
                    return Err(failed("write the heartbeat"));
                }
                Fate::Good | Fate::Repeated => {}
            }
            worker.world.leases.write_member(scope, member).await?;
            worker.arrive(To::Stores).await;
            Ok(())
        }
        .boxed()
    }

    fn remove_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        owner: &'a OwnerId,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async {
            self.0.world.count_request("member removed");
            match self.0.depart(To::Stores).await {
                Fate::Refused => return Err(failed("remove the member record")),
                Fate::Hang => return pending().await,
                _ => {}
            }
            self.0.world.oracle(|oracle| oracle.on_ended(&self.0.name, false));
            self.0.world.leases.remove_member(scope, owner).await
        }
        .boxed()
    }
}
