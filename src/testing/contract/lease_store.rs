//! What every lease store must do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Contract, cases};
use crate::lease_store::{
    CheckpointKey, CheckpointScope, Expected, Holder, LeaseStore, Member, Ownership, StoreError,
    VersionToken,
};

/// What every [`LeaseStore`] must do. One case waits a second, for clocks that have seconds.
pub fn lease_stores() -> Contract<dyn LeaseStore> {
    cases!(
        a_claim_is_loaded_and_listed,
        a_second_claim_is_a_conflict,
        a_stale_version_is_a_conflict_and_changes_nothing,
        a_record_written_again_is_younger_and_has_a_new_version,
        every_holder_and_target_survives,
        members_come_and_go,
        a_listing_keeps_to_its_scope,
        hubs_and_groups_that_differ_by_case_are_one,
        any_name_is_kept,
    )
}

impl Contract<dyn LeaseStore> {
    /// Runs all cases, each on a store that `fresh` makes, which is empty.
    ///
    /// # Panics
    /// Where a case does not hold.
    pub async fn hold<S: LeaseStore>(&self, mut fresh: impl AsyncFnMut() -> S) {
        for name in self.names() {
            self.hold_one(name, Arc::new(fresh().await)).await;
        }
    }
}

fn scope(group: &str) -> CheckpointScope {
    CheckpointScope {
        namespace: "Hubs.example".to_owned(),
        entity: "orders".into(),
        consumer_group: group.into(),
    }
}

fn key(partition: &str) -> CheckpointKey {
    CheckpointKey { scope: scope("$Default"), partition: partition.into() }
}

/// What was written a moment ago, on a busy machine.
const RECENT: Duration = Duration::from_secs(60);

fn ours(owner: &str) -> Ownership {
    Ownership::of(owner.into())
}

fn member(owner: &str) -> Member {
    Member { owner: owner.into(), wants: BTreeSet::new(), leaving: false }
}

async fn claim(store: &dyn LeaseStore, partition: &str, ownership: &Ownership) -> VersionToken {
    store.store(&key(partition), ownership, &Expected::Absent).await.expect("claimed")
}

async fn a_claim_is_loaded_and_listed(store: Arc<dyn LeaseStore>) {
    assert_eq!(store.load(&key("0")).await.expect("read"), None);
    assert_eq!(store.list(&scope("$Default")).await.expect("listed").ownerships, []);
    let version = claim(&*store, "0", &ours("a")).await;
    let loaded = store.load(&key("0")).await.expect("read").expect("there");
    assert_eq!((&loaded.ownership, &loaded.version), (&ours("a"), &version));
    let listing = store.list(&scope("$Default")).await.expect("listed");
    assert_eq!(listing.ownerships, [("0".into(), loaded.clone())]);
    let age = listing.now.duration_since(loaded.modified).expect("the past");
    assert!(age < RECENT, "{age:?}");
}

async fn a_second_claim_is_a_conflict(store: Arc<dyn LeaseStore>) {
    claim(&*store, "0", &ours("a")).await;
    let again = store.store(&key("0"), &ours("b"), &Expected::Absent).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    let missing = Expected::Version(VersionToken("0x1".to_owned()));
    let absent = store.store(&key("1"), &ours("b"), &missing).await;
    assert!(matches!(absent, Err(StoreError::Conflict)), "{absent:?}");
}

async fn a_stale_version_is_a_conflict_and_changes_nothing(store: Arc<dyn LeaseStore>) {
    let first = claim(&*store, "0", &ours("a")).await;
    let second = Expected::Version(first.clone());
    store.store(&key("0"), &ours("b"), &second).await.expect("stored");
    let stale = store.store(&key("0"), &ours("c"), &Expected::Version(first)).await;
    assert!(matches!(stale, Err(StoreError::Conflict)), "{stale:?}");
    let loaded = store.load(&key("0")).await.expect("read").expect("there");
    assert_eq!(loaded.ownership, ours("b"));
}

async fn a_record_written_again_is_younger_and_has_a_new_version(store: Arc<dyn LeaseStore>) {
    let first = claim(&*store, "0", &ours("a")).await;
    let before = store.load(&key("0")).await.expect("read").expect("there");
    // The clock of Blob Storage has seconds.
    sleep(Duration::from_millis(1_100)).await;
    let expected = Expected::Version(first.clone());
    let second = store.store(&key("0"), &ours("a"), &expected).await.expect("stored");
    assert_ne!(first, second);
    let after = store.load(&key("0")).await.expect("read").expect("there");
    assert!(after.modified > before.modified);
}

async fn every_holder_and_target_survives(store: Arc<dyn LeaseStore>) {
    let target = Some("b".into());
    let records = [
        ours("a"),
        Ownership { target: target.clone(), ..ours("A-%41;target=x") },
        Ownership { holder: Holder::Nobody, target: None },
        Ownership { holder: Holder::Foreign("0ad9-python".into()), target: None },
    ];
    for (number, record) in records.iter().enumerate() {
        let partition = number.to_string();
        claim(&*store, &partition, record).await;
        let loaded = store.load(&key(&partition)).await.expect("read").expect("there");
        assert_eq!(loaded.ownership, *record);
    }
    let listing = store.list(&scope("$Default")).await.expect("listed");
    let listed: Vec<_> = listing.ownerships.iter().map(|(_, stored)| &stored.ownership).collect();
    assert_eq!(listed, records.iter().collect::<Vec<_>>());
}

async fn members_come_and_go(store: Arc<dyn LeaseStore>) {
    let scope = scope("$Default");
    let wants = ["1", "a,b", "Ä"].map(Into::into).into();
    let asking = Member { wants, ..member("a") };
    let leaving = Member { leaving: true, ..member("b") };
    store.write_member(&scope, &member("a")).await.expect("written");
    store.write_member(&scope, &asking).await.expect("written again");
    store.write_member(&scope, &leaving).await.expect("written");
    let listing = store.list(&scope).await.expect("listed");
    let mut members: Vec<_> = listing.members.iter().map(|stored| stored.member.clone()).collect();
    members.sort_by(|left, right| left.owner.cmp(&right.owner));
    assert_eq!(members, [asking, leaving]);
    for stored in &listing.members {
        let age = listing.now.duration_since(stored.modified).expect("the past");
        assert!(age < RECENT, "{age:?}");
    }
    store.remove_member(&scope, &"a".into()).await.expect("removed");
    store.remove_member(&scope, &"a".into()).await.expect("nothing to remove");
    assert_eq!(store.list(&scope).await.expect("listed").members.len(), 1);
}

async fn a_listing_keeps_to_its_scope(store: Arc<dyn LeaseStore>) {
    claim(&*store, "0", &ours("a")).await;
    store.write_member(&scope("$Default"), &member("a")).await.expect("written");
    let other = store.list(&scope("other")).await.expect("listed");
    assert_eq!((other.ownerships.len(), other.members.len()), (0, 0));
}

async fn hubs_and_groups_that_differ_by_case_are_one(store: Arc<dyn LeaseStore>) {
    let spelled = |namespace: &str, entity: &str, group: &str| CheckpointScope {
        namespace: namespace.to_owned(),
        entity: entity.into(),
        consumer_group: group.into(),
    };
    let (one, other) = (
        spelled("Hubs.example", "Orders", "$Default"),
        spelled("hubs.example", "orders", "$default"),
    );
    let key =
        |scope: &CheckpointScope| CheckpointKey { scope: scope.clone(), partition: "0".into() };
    let ours = Ownership::of("worker-1".into());
    store.store(&key(&one), &ours, &Expected::Absent).await.expect("free");
    let again = store.store(&key(&other), &ours, &Expected::Absent).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    let stored = store.load(&key(&other)).await.expect("loads").expect("there");
    assert_eq!(stored.ownership, ours);
    let member = Member { owner: "worker-1".into(), wants: BTreeSet::new(), leaving: false };
    store.write_member(&one, &member).await.expect("written");
    store.write_member(&other, &member).await.expect("written");
    for scope in [&one, &other] {
        let listing = store.list(scope).await.expect("lists");
        assert_eq!((listing.ownerships.len(), listing.members.len()), (1, 1), "{listing:?}");
    }
    store.remove_member(&other, &member.owner).await.expect("removed");
    assert!(store.list(&one).await.expect("lists").members.is_empty());
}

async fn any_name_is_kept(store: Arc<dyn LeaseStore>) {
    let names = ["..", "a/b", "a\\b", "%", "ä", "a\nb", " "];
    for name in names {
        claim(&*store, name, &ours(name)).await;
        store.write_member(&scope("$Default"), &member(name)).await.expect("written");
    }
    let listing = store.list(&scope("$Default")).await.expect("listed");
    for (partition, stored) in &listing.ownerships {
        assert_eq!(stored.ownership, ours(partition.as_str()));
    }
    assert_eq!((listing.ownerships.len(), listing.members.len()), (names.len(), names.len()));
}
