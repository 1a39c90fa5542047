//! Writes of an operator: by compare-and-swap, and not while an owner is alive.
//!
//! First the checkpoint is read, then its lease, then it is written. A worker takes the lease
//! before it claims the checkpoint, so one that comes in between is seen in the lease, fails our
//! compare with its claim, or claims what we wrote. Heartbeats are listed for many partitions at
//! once: a worker has one before it takes a lease, so they say who is alive of all leases that are
//! older than the listing. Where the answer to a write does not come,
//! what is found next says first of all whether it was made: nothing is written twice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rand::Rng;
use tokio::time::{Instant, sleep};

use super::opened::Opened;
use super::table::owner_text;
use super::{Force, Writes};
use crate::{CommandError, brief};
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, Expected, StoreError, StoredCheckpoint, WriteId,
};
use longshore::error::{Error, ErrorClass};
use longshore::event::PartitionId;
use longshore::lease_store::LeaseListing;
use longshore::state::owner::{Owner, OwnerKind, is_covered_by};
use longshore::timestamp::unix_millis;

/// How often a write is tried whose compare failed, or whose answer did not come.
const ATTEMPTS: u32 = 5;

/// Between two attempts, times the number of those made.
const PAUSE: Duration = Duration::from_millis(300);

/// How long listed heartbeats are good for. Short beside any lease.
const HEARTBEATS_GOOD_FOR: Duration = Duration::from_secs(3);

/// What a write came to.
#[derive(Debug)]
pub(super) enum Written {
    Done(Box<Change>),
    /// It must not be done.
    Refused(String),
    /// It could not be done.
    Failed(String),
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) before: Option<Checkpoint>,
    pub(super) after: Checkpoint,
    /// An owner that is alive: the write was forced.
    pub(super) owner: Option<Owner>,
    /// Where it went over what could not be read: why that could not.
    pub(super) over_unreadable: Option<String>,
}

/// Writes checkpoints of one scope.
pub(super) struct Guarded<'a> {
    opened: &'a Opened,
    force: Force,
    writes: Writes,
    /// The last listing of the leases, for its heartbeats, and when it was asked for.
    heard: Mutex<Option<(Instant, Arc<LeaseListing>)>>,
}

impl<'a> Guarded<'a> {
    /// Looks at the leases, so that what is wrong with their store is known before the first
    /// write.
    pub(super) async fn new(
        opened: &'a Opened,
        force: Force,
        writes: Writes,
    ) -> Result<Self, CommandError> {
        let guarded = Self { opened, force, writes, heard: Mutex::default() };
        match guarded.listen().await {
            Err(error) if force == Force::Off => Err(CommandError::new(error)),
            _ => Ok(guarded),
        }
    }

    /// Writes what `make` makes of the stored checkpoint; of one that changed meanwhile, again. Where
    /// writes are [dry](Writes::Dry), says what would be written.
    pub(super) async fn write(
        &self,
        partition: &PartitionId,
        make: impl Fn(Option<&Checkpoint>, WriteId) -> Checkpoint,
    ) -> Written {
        let key = CheckpointKey { scope: self.opened.scope.clone(), partition: partition.clone() };
        let write_id = WriteId(rand::rng().random());
        // The last write whose answer did not come.
        let mut unanswered: Option<Change> = None;
        let mut why = String::new();
        for attempt in 1..=ATTEMPTS {
            let stored = match self.opened.checkpoints.load(&key).await {
                Ok(stored) => stored,
                Err(error) if may_pass(&error) && attempt < ATTEMPTS => {
                    why = brief(&error);
                    sleep(PAUSE * attempt).await;
                    continue;
                }
                Err(error) if error.class() == ErrorClass::BadData => {
                    return self.write_over(&key, &error, &make, write_id).await;
                }
                Err(error) => return Written::Failed(brief(&error)),
            };
            if let Some(change) = unanswered.take_if(|change| took_effect(change, stored.as_ref()))
            {
                return Written::Done(Box::new(change));
            }
            let owner = match self.live_owner(&key).await {
                Ok(owner) => owner,
                Err(written) => return written,
            };
            let (before, expected) = match stored {
                Some(stored) => (Some(stored.checkpoint), Expected::Version(stored.version)),
                None => (None, Expected::Absent),
            };
            let after = make(before.as_ref(), write_id);
            let change = Change { before, after, owner, over_unreadable: None };
            if self.writes == Writes::Dry {
                return Written::Done(Box::new(change));
            }
            match self.opened.checkpoints.store(&key, &change.after, &expected).await {
                Ok(_version) => return Written::Done(Box::new(change)),
                Err(StoreError::Conflict) => why = StoreError::Conflict.to_string(),
                Err(StoreError::Failed(error)) if may_pass(&error) => {
                    why = brief(&error);
                    unanswered = Some(change);
                }
                Err(StoreError::Failed(error)) => return Written::Failed(brief(&error)),
            }
            sleep(PAUSE * attempt).await;
        }
        Written::Failed(format!("given up after {ATTEMPTS} attempts: {why}"))
    }

    /// Writes over what cannot be read, if that is forced. What is left of it is not known, so
    /// nothing of it is kept; the reset generation is above any that was counted.
    async fn write_over(
        &self,
        key: &CheckpointKey,
        unreadable: &Error,
        make: impl Fn(Option<&Checkpoint>, WriteId) -> Checkpoint,
        write_id: WriteId,
    ) -> Written {
        if self.force == Force::Off {
            return Written::Failed(format!("{}; --force writes over it", brief(unreadable)));
        }
        let owner = match self.live_owner(key).await {
            Ok(owner) => owner,
            Err(written) => return written,
        };
        let mut after = make(None, write_id);
        let above_all = u64::try_from(unix_millis(SystemTime::now())).unwrap_or(0);
        after.reset_generation = after.reset_generation.max(above_all);
        let (written, what) = match self.writes {
            Writes::Dry => (Ok(()), "the old value would be gone"),
            Writes::Done => {
                let store = &self.opened.checkpoints;
                let written = store.overwrite_unreadable(key, &after).await;
                (written.map(drop), "the old value is gone")
            }
        };
        match written {
            Ok(()) => {
                let over_unreadable = Some(format!("{what}: {}", brief(unreadable)));
                let change = Change { before: None, after, owner, over_unreadable };
                Written::Done(Box::new(change))
            }
            Err(StoreError::Conflict) => {
                Written::Failed(format!("{}; look again", StoreError::Conflict))
            }
            Err(StoreError::Failed(error)) => Written::Failed(brief(&error)),
        }
    }

    /// The owner that is alive, if the write is forced.
    async fn live_owner(&self, key: &CheckpointKey) -> Result<Option<Owner>, Written> {
        let owner = match self.owner(key).await {
            Ok(owner) => owner,
            Err(_) if self.force == Force::On => None,
            Err(error) => {
                return Err(Written::Failed(format!("its owner is not known: {error}")));
            }
        };
        match owner.filter(|owner| owner.is_alive) {
            Some(owner) if self.force == Force::Off => Err(Written::Refused(format!(
                "{} has it; stop it first, or write all the same with --force",
                owner_text(&owner)
            ))),
            owner => Ok(owner),
        }
    }

    async fn owner(&self, key: &CheckpointKey) -> Result<Option<Owner>, String> {
        let Some(stored) = self.opened.ownership(key).await? else { return Ok(None) };
        let heard = match self.heard() {
            Some(heard) if is_covered_by(&stored, &heard) => Some(heard),
            _ => self.listen().await?,
        };
        Ok(heard.and_then(|heard| self.opened.owner_by(&stored, &heard)))
    }

    /// The last listing, while it is good.
    fn heard(&self) -> Option<Arc<LeaseListing>> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, listing) = heard.as_ref()?;
        (since.elapsed() < HEARTBEATS_GOOD_FOR).then(|| Arc::clone(listing))
    }

    /// Lists the leases, for their heartbeats; `None` if there is no store of them.
    async fn listen(&self) -> Result<Option<Arc<LeaseListing>>, String> {
        let asked = Instant::now();
        let listing = self.opened.look().await?.map(Arc::new);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = listing.clone().map(|listing| (asked, listing));
        Ok(listing)
    }
}

/// Whether a write without an answer was made, by what is found later. The write counts the reset
/// generation up, and whoever writes over it keeps that: a worker may have claimed it, and gone on
/// from there.
fn took_effect(change: &Change, found: Option<&StoredCheckpoint>) -> bool {
    let generation = change.after.reset_generation;
    found.is_some_and(|found| found.checkpoint.reset_generation >= generation)
}

/// Whether somebody who waits for it should try again.
fn may_pass(error: &Error) -> bool {
    error.class().is_retryable() && error.class() != ErrorClass::Auth
}

/// What a forced write means to the owner that is alive.
pub(super) fn forced_note(owner: &Owner) -> String {
    let named = owner_text(owner);
    match owner.kind {
        OwnerKind::Worker => {
            format!("{named} has it: it notices the reset, and goes on from there")
        }
        OwnerKind::Foreign => format!(
            "{named} has it: it does not notice, and its next checkpoint goes over this one; stop it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::time::SystemTime;

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;
    use crate::checkpoints::opened::Policy;
    use longshore::checkpoint_store::memory::MemoryCheckpointStore;
    use longshore::checkpoint_store::{
        CheckpointScope, CheckpointStore, LeaseEpoch, Listed, VersionToken,
    };
    use longshore::clock::Clock;
    use longshore::config::{LeaseOptions, PositionLost};
    use longshore::event::{Incarnation, Position, StartPosition};
    use longshore::lease_store::memory::MemoryLeaseStore;
    use longshore::lease_store::{LeaseStore, Member, OwnerId, Ownership, StoredOwnership};
    use longshore::state::reset::reset;
    use longshore::transport::event_hubs::{EventHubsTransport, Namespace};

    /// What happens at a write, before or after it is made.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Trouble {
        /// A worker claims the partition just before.
        Claim,
        /// One does so just after the checkpoint was read.
        ClaimAfterRead,
        /// The answer gets lost.
        LostAnswer,
        /// The answer gets lost, and a worker claims what was written.
        LostAnswerThenClaim,
        /// The write gets lost.
        LostWrite,
    }

    #[derive(Debug)]
    struct Troubled {
        inner: MemoryCheckpointStore,
        leases: Arc<MemoryLeaseStore>,
        trouble: Trouble,
        left: AtomicUsize,
    }

    impl Troubled {
        /// Whether there is trouble yet another time.
        fn take(&self) -> bool {
            let left = self.left.load(Ordering::SeqCst);
            self.left.store(left.saturating_sub(1), Ordering::SeqCst);
            left > 0
        }

        async fn claim(&self, key: &CheckpointKey) {
            let stored = self.inner.load(key).await.expect("in memory");
            let expected = stored
                .as_ref()
                .map_or(Expected::Absent, |stored| Expected::Version(stored.version.clone()));
            let mut checkpoint = stored.map(|stored| stored.checkpoint).unwrap_or_default();
            checkpoint.lease_epoch.0 += 1;
            checkpoint.write_id = WriteId(1);
            self.inner.store(key, &checkpoint, &expected).await.expect("in memory");
            let owner = OwnerId::new("loader-1");
            let member = Member { owner: owner.clone(), wants: [].into(), leaving: false };
            self.leases.write_member(&key.scope, &member).await.expect("in memory");
            let ownership = Ownership::of(owner);
            let _owned = self.leases.store(key, &ownership, &Expected::Absent).await;
        }
    }

    impl CheckpointStore for Troubled {
        fn load<'a>(
            &'a self,
            key: &'a CheckpointKey,
        ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
            async move {
                let stored = self.inner.load(key).await;
                if self.trouble == Trouble::ClaimAfterRead && self.take() {
                    self.claim(key).await;
                }
                stored
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
                if self.trouble == Trouble::Claim && self.take() {
                    self.claim(key).await;
                }
                let is_lost = match self.trouble {
                    Trouble::LostAnswer | Trouble::LostAnswerThenClaim | Trouble::LostWrite => {
                        self.take()
                    }
                    Trouble::Claim | Trouble::ClaimAfterRead => false,
                };
                if !is_lost {
                    return self.inner.store(key, checkpoint, expected).await;
                }
                if self.trouble != Trouble::LostWrite {
                    self.inner.store(key, checkpoint, expected).await?;
                }
                if self.trouble == Trouble::LostAnswerThenClaim {
                    self.claim(key).await;
                }
                Err(Error::new(ErrorClass::Transient, "store", "the answer got lost").into())
            }
            .boxed()
        }

        fn list<'a>(
            &'a self,
            scope: &'a CheckpointScope,
        ) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
            self.inner.list(scope)
        }
    }

    fn opened(checkpoints: Arc<dyn CheckpointStore>, leases: Arc<dyn LeaseStore>) -> Opened {
        let string = "Endpoint=sb://a.example/;SharedAccessKeyName=n;SharedAccessKey=Y2FuYXJ5";
        let namespace = Namespace::from_connection_string(string).expect("valid");
        Opened {
            transport: EventHubsTransport::new(namespace, "orders", "$Default"),
            scope: CheckpointScope {
                namespace: "a.example".to_owned(),
                entity: "orders".into(),
                consumer_group: "$Default".into(),
            },
            checkpoints,
            leases: Some(leases),
            lease_options: LeaseOptions::default(),
            place: "memory".to_owned(),
            in_use_by: None,
            policy: Policy {
                start_position: StartPosition::Earliest,
                position_lost: PositionLost::Earliest,
            },
        }
    }

    async fn written(trouble: Trouble, times: usize, force: Force) -> Written {
        let leases = Arc::new(MemoryLeaseStore::new());
        let store = Troubled {
            inner: MemoryCheckpointStore::new(),
            leases: leases.clone(),
            trouble,
            left: AtomicUsize::new(times),
        };
        let opened = opened(Arc::new(store), leases);
        let guarded = Guarded::new(&opened, force, Writes::Done).await.expect("in memory");
        let partition = "0".into();
        let write = guarded.write(&partition, |stored, write_id| {
            reset(stored, Position::at(5), Incarnation(7), write_id)
        });
        write.await
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_claims_meanwhile_is_left_alone() {
        let refused = written(Trouble::Claim, 1, Force::Off).await;
        assert!(
            matches!(&refused, Written::Refused(why) if why.contains("worker loader-1")),
            "{refused:?}"
        );
        let refused = written(Trouble::ClaimAfterRead, 1, Force::Off).await;
        assert!(matches!(&refused, Written::Refused(_)), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_forced_write_goes_over_the_claim_and_keeps_its_epoch() {
        let Written::Done(change) = written(Trouble::Claim, 3, Force::On).await else {
            panic!("written")
        };
        assert_eq!((change.after.lease_epoch, change.after.reset_generation), (LeaseEpoch(3), 1));
        assert_eq!(change.before.map(|before| before.lease_epoch), Some(LeaseEpoch(3)));
        assert!(change.owner.is_some_and(|owner| owner.is_alive));
        let failed = written(Trouble::Claim, 5, Force::On).await;
        assert!(matches!(&failed, Written::Failed(why) if why.contains("after 5 attempts")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_whose_answer_was_lost_is_made_once() {
        let Written::Done(change) = written(Trouble::LostAnswer, 1, Force::Off).await else {
            panic!("written")
        };
        assert_eq!((change.before, change.after.reset_generation), (None, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_whose_answer_was_lost_is_done_though_a_worker_has_claimed_it() {
        for force in [Force::Off, Force::On] {
            let written = written(Trouble::LostAnswerThenClaim, 1, force).await;
            let Written::Done(change) = written else { panic!("{written:?}") };
            assert_eq!((&change.before, change.after.reset_generation), (&None, 1), "{force:?}");
            assert_eq!(change.after.lease_epoch, LeaseEpoch(0), "{force:?}");
            assert!(change.owner.is_none(), "{force:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_was_lost_itself_is_made_again() {
        let written = written(Trouble::LostWrite, 2, Force::Off).await;
        let Written::Done(change) = written else { panic!("{written:?}") };
        assert_eq!((change.before, change.after.reset_generation), (None, 1));
    }
    /// A lease store that counts its listings.
    #[derive(Debug, Default)]
    struct Counted {
        inner: MemoryLeaseStore,
        listings: AtomicUsize,
    }

    impl LeaseStore for Counted {
        fn list<'a>(
            &'a self,
            scope: &'a CheckpointScope,
        ) -> BoxFuture<'a, Result<LeaseListing, Error>> {
            self.listings.fetch_add(1, Ordering::SeqCst);
            self.inner.list(scope)
        }

        fn load<'a>(
            &'a self,
            key: &'a CheckpointKey,
        ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>> {
            self.inner.load(key)
        }

        fn store<'a>(
            &'a self,
            key: &'a CheckpointKey,
            ownership: &'a Ownership,
            expected: &'a Expected,
        ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
            self.inner.store(key, ownership, expected)
        }

        fn write_member<'a>(
            &'a self,
            scope: &'a CheckpointScope,
            member: &'a Member,
        ) -> BoxFuture<'a, Result<(), Error>> {
            self.inner.write_member(scope, member)
        }

        fn remove_member<'a>(
            &'a self,
            scope: &'a CheckpointScope,
            owner: &'a OwnerId,
        ) -> BoxFuture<'a, Result<(), Error>> {
            self.inner.remove_member(scope, owner)
        }
    }

    /// A wall clock that a test sets.
    #[derive(Debug, Default)]
    struct Seconds(AtomicU64);

    impl Clock for Seconds {
        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::SeqCst))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_are_listed_once_in_a_while_and_not_for_each_partition() {
        let clock = Arc::new(Seconds::default());
        let inner = MemoryLeaseStore::with_clock(clock.clone());
        let leases = Arc::new(Counted { inner, listings: AtomicUsize::new(0) });
        let opened = opened(Arc::new(MemoryCheckpointStore::new()), leases.clone());
        let key = |partition: usize| CheckpointKey {
            scope: opened.scope.clone(),
            partition: partition.to_string().into(),
        };
        let member =
            |name: &str| Member { owner: OwnerId::new(name), wants: [].into(), leaving: false };
        let own = async |partition, name: &str| {
            let ownership = Ownership::of(OwnerId::new(name));
            let owned = leases.store(&key(partition), &ownership, &Expected::Absent).await;
            owned.expect("in memory");
        };
        // Of 1,000 partitions a dead worker had the first 500, and nobody the others.
        for partition in 0..500 {
            own(partition, "dead").await;
        }
        clock.0.store(100, Ordering::SeqCst);
        let guarded = Guarded::new(&opened, Force::Off, Writes::Done).await.expect("in memory");
        let write = async |partition| {
            let make = |stored: Option<&Checkpoint>, write_id| {
                reset(stored, Position::at(5), Incarnation(7), write_id)
            };
            guarded.write(&key(partition).partition, make).await
        };
        for partition in 0..1_000 {
            let written = write(partition).await;
            assert!(matches!(written, Written::Done(_)), "{written:?}");
        }
        assert_eq!(leases.listings.load(Ordering::SeqCst), 1);

        // A worker that came since is seen at once.
        clock.0.store(101, Ordering::SeqCst);
        leases.write_member(&opened.scope, &member("loader-1")).await.expect("in memory");
        own(1_000, "loader-1").await;
        let written = write(1_000).await;
        assert!(matches!(written, Written::Refused(_)), "{written:?}");
        assert_eq!(leases.listings.load(Ordering::SeqCst), 2);

        // So is one that had its lease all along and is alive again, a little later.
        leases.write_member(&opened.scope, &member("dead")).await.expect("in memory");
        sleep(HEARTBEATS_GOOD_FOR).await;
        let written = write(0).await;
        assert!(matches!(written, Written::Refused(_)), "{written:?}");
    }
}
