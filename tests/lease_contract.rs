//! What every lease store must do, run against each, and what the blob store adds: the other
//! SDKs' processors beside it. Needs Azurite, which scripts/test installs.

mod azurite;

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longshore::ErrorClass;
use longshore::lease_store::blob::BlobLeaseStore;
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::lease_store::{
    CheckpointKey, CheckpointScope, Expected, Holder, LeaseStore, Member, Ownership, StoreError,
    VersionToken,
};
use longshore::secret::Secret;
use tokio::time::sleep;

/// An empty store, and what must live as long as it.
struct Fixture {
    store: Arc<dyn LeaseStore>,
    _keep: Box<dyn Any + Send>,
}

async fn memory_store() -> Fixture {
    Fixture { store: Arc::new(MemoryLeaseStore::new()), _keep: Box::new(()) }
}

async fn blob_store() -> Fixture {
    let container = azurite::Container::create().await;
    Fixture { store: Arc::new(leases(&container, azurite::ALL)), _keep: Box::new(container) }
}

fn leases(container: &azurite::Container, permissions: &str) -> BlobLeaseStore {
    BlobLeaseStore::with_signature(&Secret::new(container.url(permissions))).expect("valid")
}

macro_rules! contract {
    ($($case:ident,)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let fixture = super::memory_store().await;
                super::$case(&*fixture.store).await;
            })*
        }
        mod blob {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let fixture = super::blob_store().await;
                super::$case(&*fixture.store).await;
            })*
        }
    };
}

contract!(
    a_claim_is_loaded_and_listed,
    a_second_claim_is_a_conflict,
    a_stale_version_is_a_conflict_and_changes_nothing,
    a_record_written_again_is_younger_and_has_a_new_version,
    every_holder_and_target_survives,
    members_come_and_go,
    a_listing_keeps_to_its_scope,
    hubs_and_groups_that_differ_by_case_are_one,
    any_name_is_kept,
);

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

async fn a_claim_is_loaded_and_listed(store: &dyn LeaseStore) {
    assert_eq!(store.load(&key("0")).await.expect("read"), None);
    assert_eq!(store.list(&scope("$Default")).await.expect("listed").ownerships, []);
    let version = claim(store, "0", &ours("a")).await;
    let loaded = store.load(&key("0")).await.expect("read").expect("there");
    assert_eq!((&loaded.ownership, &loaded.version), (&ours("a"), &version));
    let listing = store.list(&scope("$Default")).await.expect("listed");
    assert_eq!(listing.ownerships, [("0".into(), loaded.clone())]);
    let age = listing.now.duration_since(loaded.modified).expect("the past");
    assert!(age < RECENT, "{age:?}");
}

async fn a_second_claim_is_a_conflict(store: &dyn LeaseStore) {
    claim(store, "0", &ours("a")).await;
    let again = store.store(&key("0"), &ours("b"), &Expected::Absent).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    let missing = Expected::Version(VersionToken("0x1".to_owned()));
    let absent = store.store(&key("1"), &ours("b"), &missing).await;
    assert!(matches!(absent, Err(StoreError::Conflict)), "{absent:?}");
}

async fn a_stale_version_is_a_conflict_and_changes_nothing(store: &dyn LeaseStore) {
    let first = claim(store, "0", &ours("a")).await;
    let second = Expected::Version(first.clone());
    store.store(&key("0"), &ours("b"), &second).await.expect("stored");
    let stale = store.store(&key("0"), &ours("c"), &Expected::Version(first)).await;
    assert!(matches!(stale, Err(StoreError::Conflict)), "{stale:?}");
    let loaded = store.load(&key("0")).await.expect("read").expect("there");
    assert_eq!(loaded.ownership, ours("b"));
}

async fn a_record_written_again_is_younger_and_has_a_new_version(store: &dyn LeaseStore) {
    let first = claim(store, "0", &ours("a")).await;
    let before = store.load(&key("0")).await.expect("read").expect("there");
    // The clock of Blob Storage has seconds.
    sleep(Duration::from_millis(1_100)).await;
    let expected = Expected::Version(first.clone());
    let second = store.store(&key("0"), &ours("a"), &expected).await.expect("stored");
    assert_ne!(first, second);
    let after = store.load(&key("0")).await.expect("read").expect("there");
    assert!(after.modified > before.modified);
}

async fn every_holder_and_target_survives(store: &dyn LeaseStore) {
    let target = Some("b".into());
    let records = [
        ours("a"),
        Ownership { target: target.clone(), ..ours("A-%41;target=x") },
        Ownership { holder: Holder::Nobody, target: None },
        Ownership { holder: Holder::Foreign("0ad9-python".into()), target: None },
    ];
    for (number, record) in records.iter().enumerate() {
        let partition = number.to_string();
        claim(store, &partition, record).await;
        let loaded = store.load(&key(&partition)).await.expect("read").expect("there");
        assert_eq!(loaded.ownership, *record);
    }
    let listing = store.list(&scope("$Default")).await.expect("listed");
    let listed: Vec<_> = listing.ownerships.iter().map(|(_, stored)| &stored.ownership).collect();
    assert_eq!(listed, records.iter().collect::<Vec<_>>());
}

async fn members_come_and_go(store: &dyn LeaseStore) {
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

async fn a_listing_keeps_to_its_scope(store: &dyn LeaseStore) {
    claim(store, "0", &ours("a")).await;
    store.write_member(&scope("$Default"), &member("a")).await.expect("written");
    let other = store.list(&scope("other")).await.expect("listed");
    assert_eq!((other.ownerships.len(), other.members.len()), (0, 0));
}

async fn hubs_and_groups_that_differ_by_case_are_one(store: &dyn LeaseStore) {
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

async fn any_name_is_kept(store: &dyn LeaseStore) {
    let names = ["..", "a/b", "a\\b", "%", "ä", "a\nb", " "];
    for name in names {
        claim(store, name, &ours(name)).await;
        store.write_member(&scope("$Default"), &member(name)).await.expect("written");
    }
    let listing = store.list(&scope("$Default")).await.expect("listed");
    for (partition, stored) in &listing.ownerships {
        assert_eq!(stored.ownership, ours(partition.as_str()));
    }
    assert_eq!((listing.ownerships.len(), listing.members.len()), (names.len(), names.len()));
}

const FOLDER: &str = "hubs.example/orders/$default";

#[tokio::test(flavor = "multi_thread")]
async fn other_sdks_read_and_write_the_same_ownerships() {
    let container = azurite::Container::create().await;
    let store = leases(&container, azurite::ALL);
    claim(&store, "0", &ours("worker-1")).await;
    let blob = format!("{FOLDER}/ownership/0");
    let metadata = container.metadata(&blob).await.expect("there");
    assert_eq!(metadata["ownerid"], "worker-1");
    // A foreign owner replaces all metadata.
    for (metadata, holder) in [
        (&[("ownerid", "python-7")][..], Holder::Foreign("python-7".into())),
        (&[("OwnerId", "go/7")][..], Holder::Foreign("go/7".into())),
        (&[("ownerid", "")][..], Holder::Nobody),
        (&[("other", "x")][..], Holder::Nobody),
        (&[][..], Holder::Nobody),
        (&[("ownerid", ""), ("longshore", "v=9;target=%zz")][..], Holder::Nobody),
    ] {
        container.put(&blob, metadata).await;
        let loaded = store.load(&key("0")).await.expect("read").expect("there");
        assert_eq!(loaded.ownership.holder, holder, "{metadata:?}");
        let listing = store.list(&scope("$Default")).await.expect("listed");
        assert_eq!(listing.ownerships[0].1, loaded, "{metadata:?}");
    }
    // And is taken over by what it had.
    let loaded = store.load(&key("0")).await.expect("read").expect("there");
    let expected = Expected::Version(loaded.version);
    store.store(&key("0"), &ours("worker-1"), &expected).await.expect("claimed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_record_hides_none() {
    let container = azurite::Container::create().await;
    let store = leases(&container, azurite::ALL);
    claim(&store, "0", &ours("a")).await;
    store.write_member(&scope("$Default"), &member("a")).await.expect("written");
    container.put(&format!("{FOLDER}/ownership/0/extra"), &[("ownerid", "x")]).await;
    container.put(&format!("{FOLDER}/longshore/member/x"), &[]).await;
    container.put(&format!("{FOLDER}/longshore/member/y"), &[("ownerid", "")]).await;
    let listing = store.list(&scope("$Default")).await.expect("listed");
    assert_eq!((listing.ownerships.len(), listing.members.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_refuses_is_named_without_its_signature() {
    let absent = azurite::Container::absent();
    let there = azurite::Container::create().await;
    let reader = leases(&there, "rl");
    let store = reader.store(&key("0"), &ours("a"), &Expected::Absent).await;
    let Err(StoreError::Failed(refused)) = store else { panic!("{store:?}") };
    let heartbeat =
        reader.write_member(&scope("$Default"), &member("a")).await.expect_err("refused");
    let missing = leases(&absent, azurite::ALL).list(&scope("$Default")).await.expect_err("absent");
    for (error, class) in [
        (refused, ErrorClass::Auth),
        (heartbeat, ErrorClass::Auth),
        (missing, ErrorClass::Permanent),
    ] {
        let text = format!("{error} {error:?}");
        assert_eq!(error.class(), class, "{text}");
        assert!(text.contains("/state-") && !text.contains("sig="), "{text}");
    }
}
