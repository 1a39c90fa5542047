//! What every lease store must do, run against each, and what the blob store adds: the other
//! SDKs' processors beside it. Needs Azurite, which scripts/test installs.

mod azurite;

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use longshore::ErrorClass;
use longshore::lease_store::blob::BlobLeaseStore;
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::lease_store::{
    CheckpointKey, CheckpointScope, Expected, Holder, LeaseStore, Member, Ownership, StoreError,
    VersionToken,
};
use longshore::secret::Secret;
use longshore::testing::contract::lease_stores;

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

/// Each case of the contract as a test of its own.
macro_rules! contract {
    ($($case:ident,)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let fixture = super::memory_store().await;
                super::lease_stores().hold_one(stringify!($case), fixture.store).await;
            })*
        }
        mod blob {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let fixture = super::blob_store().await;
                super::lease_stores().hold_one(stringify!($case), fixture.store).await;
            })*
        }

        #[test]
        fn the_whole_contract_is_run() {
            let run = [$(stringify!($case)),*];
            assert_eq!(lease_stores().names().collect::<Vec<_>>(), run);
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

fn ours(owner: &str) -> Ownership {
    Ownership::of(owner.into())
}

fn member(owner: &str) -> Member {
    Member { owner: owner.into(), wants: BTreeSet::new(), leaving: false }
}

async fn claim(store: &dyn LeaseStore, partition: &str, ownership: &Ownership) -> VersionToken {
    store.store(&key(partition), ownership, &Expected::Absent).await.expect("claimed")
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
