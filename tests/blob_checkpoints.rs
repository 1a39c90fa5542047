//! What the blob store promises beyond the contract: the format of the other SDKs, blobs that are
//! bad or not ours, containers that refuse. Over Azurite, which scripts/test installs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod azurite;
#[path = "support/closed_port.rs"]
mod closed_port;
mod support;

use std::collections::BTreeMap;
use std::future::IntoFuture as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::RawQuery;
use axum::http::StatusCode;
use azurite::{ALL, Container};
use closed_port::ClosedPort;
use longshore::checkpoint_store::blob::BlobCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, LeaseEpoch, SettledRun,
    StoreError, WriteId,
};
use longshore::consumer::{PartitionPhase, StopReason};
use longshore::error::{Error, ErrorClass, error_chain};
use longshore::event::{Position, SequenceNumber};
use longshore::secret::Secret;
use longshore::state::fence::{Fence, Verdict};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, Event, EventContext, Failure, OutgoingEvent};
use support::{Seen, drained, until};

const LOWER: &str = "ns.servicebus.windows.net/orders/$default/checkpoint";
const AS_GIVEN: &str = "NS.servicebus.windows.net/Orders/$Default/checkpoint";

fn key(partition: &str) -> CheckpointKey {
    CheckpointKey {
        scope: CheckpointScope {
            namespace: "NS.servicebus.windows.net".to_owned(),
            entity: "Orders".into(),
            consumer_group: "$Default".into(),
        },
        partition: partition.into(),
    }
}

fn at(sequence_number: i64, offset: &str) -> Option<Position> {
    Some(Position { offset: Some(offset.into()), ..Position::at(sequence_number) })
}

fn with_holes() -> Checkpoint {
    let run = |first, last| SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) };
    Checkpoint {
        watermark: at(42, "4096"),
        settled_above: vec![run(44, 50), run(60, 60)],
        lease_epoch: LeaseEpoch(9),
        write_id: WriteId(5),
        ..Checkpoint::default()
    }
}

fn pairs(metadata: &BTreeMap<String, String>) -> (&str, &str) {
    (&metadata["offset"], &metadata["sequencenumber"])
}

fn failed(result: Result<impl std::fmt::Debug, StoreError>) -> Error {
    match result {
        Err(StoreError::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

// The format.

#[tokio::test]
async fn a_checkpoint_is_an_empty_blob_that_other_sdks_read() {
    let container = Container::create().await;
    let store = container.store(ALL);
    let blob = format!("{LOWER}/3");
    let version = store.store(&key("3"), &Checkpoint::default(), &Expected::Absent).await.unwrap();
    let claimed = container.metadata(&blob).await.unwrap();
    assert_eq!(pairs(&claimed), ("-1", "-1"), "the place before the first event");

    store.store(&key("3"), &with_holes(), &Expected::Version(version)).await.unwrap();
    let metadata = container.metadata(&blob).await.unwrap();
    assert_eq!(pairs(&metadata), ("4096", "42"));
    assert_eq!(metadata.keys().collect::<Vec<_>>(), ["longshore", "offset", "sequencenumber"]);
    assert!(metadata["longshore"].starts_with("v=1;base=42;epoch=9;"), "{metadata:?}");
}

#[tokio::test]
async fn the_metadata_of_a_full_window_of_holes_is_taken() {
    let container = Container::create().await;
    let store = container.store(ALL);
    let run = |n| SettledRun { first: SequenceNumber(n), last: SequenceNumber(n) };
    let mut checkpoint = Checkpoint {
        settled_above: (0..32_768).map(|n| run(42 + n * 2)).collect(),
        ..with_holes()
    };
    checkpoint.settled_above.remove(0);
    store.store(&key("0"), &checkpoint, &Expected::Absent).await.unwrap();
    let kept = store.load(&key("0")).await.unwrap().unwrap().checkpoint.settled_above;
    assert!((20_000..32_767).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept[..], checkpoint.settled_above[..kept.len()]);
    let length: usize = container
        .metadata(&format!("{LOWER}/0"))
        .await
        .unwrap()
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    assert!((8_000..=8_192).contains(&length), "{length}");
}

#[tokio::test]
async fn what_another_sdk_writes_costs_only_the_holes() {
    let container = Container::create().await;
    let store = container.store(ALL);
    let version = store.store(&key("0"), &with_holes(), &Expected::Absent).await.unwrap();
    let python = [("offset", "8192"), ("sequencenumber", "45")];
    container.put(&format!("{LOWER}/0"), &python).await;

    let stale = store.store(&key("0"), &with_holes(), &Expected::Version(version)).await;
    assert!(matches!(stale, Err(StoreError::Conflict)), "{stale:?}");
    let stored = store.load(&key("0")).await.unwrap().unwrap();
    let expected = Checkpoint { watermark: at(45, "8192"), ..Checkpoint::default() };
    assert_eq!(stored.checkpoint, expected);
    let expected = Expected::Version(stored.version);
    store.store(&key("0"), &with_holes(), &expected).await.unwrap();
    assert_eq!(store.load(&key("0")).await.unwrap().unwrap().checkpoint, with_holes());
}

/// The fence over the real medium: a write whose answer was lost, and one of a later owner.
#[tokio::test]
async fn a_fence_knows_its_own_write_and_a_later_owner() {
    let container = Container::create().await;
    let store = container.store(ALL);
    let hub = longshore::event::Incarnation(1_000);
    let mut first = Fence::claim(None, hub, 1, WriteId(1));
    let (claim, expected) = first.pending().unwrap();
    let version = store.store(&key("0"), claim, expected).await.unwrap();
    // Its answer never came: the next attempt finds it.
    let again = store.store(&key("0"), claim, expected).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    let found = store.load(&key("0")).await.unwrap();
    assert_eq!(found.as_ref().unwrap().version, version);
    assert_eq!(first.on_conflict(found.clone()), Verdict::Written);

    let second = Fence::claim(found, hub, 2, WriteId(2));
    let (claim, expected) = second.pending().unwrap();
    store.store(&key("0"), claim, expected).await.unwrap();
    first.on_progress(at(7, "1"), Vec::new(), WriteId(3));
    let (progress, expected) = first.pending().unwrap();
    let late = store.store(&key("0"), progress, expected).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    let verdict = first.on_conflict(store.load(&key("0")).await.unwrap());
    assert!(matches!(verdict, Verdict::Superseded(_)), "{verdict:?}");
}

#[tokio::test]
async fn names_that_differ_by_case_are_one_checkpoint() {
    let container = Container::create().await;
    let store = container.store(ALL);
    store.store(&key("0"), &with_holes(), &Expected::Absent).await.unwrap();
    let mut other = key("0");
    other.scope.entity = "ORDERS".into();
    other.scope.consumer_group = "$default".into();
    assert_eq!(store.load(&other).await.unwrap().unwrap().checkpoint, with_holes());
    let again = store.store(&other, &with_holes(), &Expected::Absent).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
}

#[tokio::test]
async fn a_blob_of_an_sdk_that_keeps_case_is_where_we_begin() {
    let container = Container::create().await;
    let store = container.store(ALL);
    let go = [("Offset", "4096"), ("SequenceNumber", "42")];
    container.put(&format!("{AS_GIVEN}/0"), &go).await;
    let stored = store.load(&key("0")).await.unwrap().unwrap();
    assert_eq!(stored.checkpoint.watermark, at(42, "4096"));
    let listed = store.list(&key("0").scope).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].1.as_ref().unwrap(), &stored);

    let expected = Expected::Version(stored.version);
    let next = Checkpoint { watermark: at(43, "5000"), ..Checkpoint::default() };
    store.store(&key("0"), &next, &expected).await.unwrap();
    assert_eq!(pairs(&container.metadata(&format!("{LOWER}/0")).await.unwrap()), ("5000", "43"));
    let theirs = container.metadata(&format!("{AS_GIVEN}/0")).await.unwrap();
    assert_eq!(pairs(&theirs), ("4096", "42"), "the other SDK's blob is left alone");
    let again = store.store(&key("0"), &next, &expected).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    assert_eq!(store.load(&key("0")).await.unwrap().unwrap().checkpoint, next);
}

/// Earlier releases left the port of a local broker out of the path.
#[tokio::test]
async fn a_blob_without_the_port_of_the_broker_is_where_we_begin_and_then_a_copy() {
    let container = Container::create().await;
    let store = container.store(ALL);
    let mut local = key("0");
    local.scope.namespace = "localhost:5673".to_owned();
    let old = [("offset", "4096"), ("sequencenumber", "42"), ("longshore", "v=1;base=42;epoch=9")];
    container.put("localhost/orders/$default/checkpoint/0", &old).await;
    let stored = store.load(&local).await.unwrap().unwrap();
    assert_eq!(
        (stored.checkpoint.watermark.clone(), stored.checkpoint.lease_epoch.0),
        (at(42, "4096"), 9)
    );
    let listed = store.list(&local.scope).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].1.as_ref().unwrap(), &stored);

    let expected = Expected::Version(stored.version);
    let next = Checkpoint { watermark: at(43, "5000"), ..Checkpoint::default() };
    store.store(&local, &next, &expected).await.unwrap();
    let ours = container.metadata("localhost:5673/orders/$default/checkpoint/0").await.unwrap();
    assert_eq!(pairs(&ours), ("5000", "43"));
    let again = store.store(&local, &next, &expected).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    // Clients that leave the port out go on from a copy.
    let copied = container.metadata("localhost/orders/$default/checkpoint/0").await.unwrap();
    assert_eq!(pairs(&copied), ("5000", "43"));
    // It is nobody's checkpoint: not of a broker on another port, and not where ours was deleted.
    let mut other = local.clone();
    other.scope.namespace = "localhost:5674".to_owned();
    assert_eq!(store.load(&other).await.unwrap(), None);
    assert!(store.list(&other.scope).await.unwrap().is_empty());
    // One of them wrote there since: ours stays, and who has none begins there.
    let later = [("offset", "9999"), ("sequencenumber", "99")];
    container.put("localhost/orders/$default/checkpoint/0", &later).await;
    assert_eq!(store.load(&local).await.unwrap().unwrap().checkpoint, next);
    let listed = store.list(&local.scope).await.unwrap();
    assert_eq!(listed[0].1.as_ref().unwrap().checkpoint, next);
    let begins = store.load(&other).await.unwrap().unwrap().checkpoint;
    assert_eq!(begins.watermark, at(99, "9999"));
}

// Bad blobs.

#[tokio::test]
async fn a_bad_blob_is_written_over_by_who_says_so_and_not_where_it_changed() {
    let container = Container::create().await;
    let store = container.store(ALL);
    let bad = [("offset", "1"), ("sequencenumber", "soon")];
    // Ours, and one of an SDK that keeps case.
    for (partition, folder) in [("0", LOWER), ("1", AS_GIVEN)] {
        container.put(&format!("{folder}/{partition}"), &bad).await;
        let error = store.load(&key(partition)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("{folder}/{partition}")), "{text}");
        assert!(text.contains("longshore checkpoints set --force"), "{text}");
        store.overwrite_unreadable(&key(partition), &with_holes()).await.unwrap();
        assert_eq!(store.load(&key(partition)).await.unwrap().unwrap().checkpoint, with_holes());
        let metadata = container.metadata(&format!("{LOWER}/{partition}")).await.unwrap();
        assert_eq!(pairs(&metadata), ("4096", "42"));
        // By now somebody made it good.
        let again = store.overwrite_unreadable(&key(partition), &Checkpoint::default()).await;
        assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    }
}

#[tokio::test]
async fn a_bad_blob_is_an_error_of_its_own_and_hides_no_other() {
    let container = Container::create().await;
    let store = container.store(ALL);
    let huge = "9".repeat(4_000);
    for (file, metadata) in [
        ("0", &[("offset", "1"), ("sequencenumber", "10")][..]),
        ("1", &[("offset", ""), ("sequencenumber", "11"), ("clientidentifier", "net")]),
        ("2", &[("OFFSET", "1"), ("SEQUENCENUMBER", "12")]),
        ("3", &[("offset", ""), ("sequencenumber", "")]),
        ("4", &[]),
        ("5", &[("offset", "1"), ("sequencenumber", "")]),
        ("6", &[("offset", "1")]),
        ("7", &[("offset", "1"), ("sequencenumber", "soon")]),
        ("8", &[("offset", "1"), ("sequencenumber", &huge)]),
        ("9/copy", &[("offset", "1"), ("sequencenumber", "19")]),
    ] {
        container.put(&format!("{LOWER}/{file}"), metadata).await;
    }
    // Not a checkpoint, and none of this group.
    container.put(&LOWER.replace("/checkpoint", "/ownership/0"), &[("ownerid", "")]).await;
    let other_group = LOWER.replace("$default", "$default-2");
    container.put(&format!("{other_group}/0"), &[("sequencenumber", "x")]).await;

    let listed = store.list(&key("0").scope).await.unwrap();
    let seen: Vec<_> = listed
        .iter()
        .map(|(id, stored)| {
            let number = stored.as_ref().map(|stored| {
                stored.checkpoint.watermark.as_ref().map(|position| position.sequence_number.0)
            });
            (id.as_str(), number.map_err(Error::class))
        })
        .collect();
    let bad = Err(ErrorClass::BadData);
    assert_eq!(
        seen,
        [
            ("0", Ok(Some(10))),
            ("1", Ok(Some(11))),
            ("2", Ok(Some(12))),
            ("3", Ok(None)),
            ("4", Ok(None)),
            ("5", bad),
            ("6", bad),
            ("7", bad),
            ("8", bad),
            ("9/copy", bad),
        ]
    );
    for (id, listed) in listed.into_iter().filter(|(id, _)| !id.as_str().contains('/')) {
        match (store.load(&key(id.as_str())).await, listed) {
            (Ok(loaded), Ok(listed)) => assert_eq!(loaded, Some(listed)),
            (Err(loaded), Err(listed)) => {
                assert_eq!(loaded.class(), ErrorClass::BadData);
                for text in [loaded.to_string(), listed.to_string()] {
                    assert!(text.contains(&format!("{LOWER}/{id}")), "{text}");
                    assert!(text.len() < 400, "{text}");
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A page of a listing, as the service writes it.
fn page(numbers: std::ops::Range<i64>, next: &str) -> String {
    let blobs: String = numbers
        .map(|number| {
            format!(
                "<Blob><Name>{LOWER}/{number}</Name><Properties>\
                 <Last-Modified>Mon, 01 Jan 2024 00:00:00 GMT</Last-Modified>\
                 <Etag>0x{number}</Etag></Properties><Metadata><offset />\
                 <sequencenumber>{number}</sequencenumber></Metadata></Blob>"
            )
        })
        .collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults>\
         <Prefix>{LOWER}/</Prefix><Blobs>{blobs}</Blobs>\
         <NextMarker>{next}</NextMarker></EnumerationResults>"
    )
}

#[tokio::test]
async fn a_listing_of_many_pages_is_whole() {
    let store = answering(|query| {
        let body = match query {
            _ if !query.contains("include=metadata") => String::new(),
            _ if query.contains("%2FOrders%2F") => page(0..0, "").replace(LOWER, AS_GIVEN),
            _ if query.contains("marker=second") => page(3..5, "third"),
            _ if query.contains("marker=third") => page(5..7, ""),
            _ => page(0..3, "second"),
        };
        (200, "", body)
    })
    .await;
    let listed = store.list(&key("0").scope).await.unwrap();
    let numbers: Vec<_> = listed
        .iter()
        .map(|(_, stored)| {
            let stored = stored.as_ref().unwrap();
            stored.checkpoint.watermark.as_ref().unwrap().sequence_number.0
        })
        .collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
}

/// Something on the way that answers for the service: nobody begins anew for that, or stops.
#[tokio::test]
async fn an_answer_that_is_not_of_the_service_is_an_error() {
    let whole = page(0..2, "");
    for body in ["", "<html>sign in</html>", &whole[..90], &whole[..whole.len() - 60]] {
        let body = body.to_owned();
        let store = answering(move |_| (200, "", body.clone())).await;
        for result in errors_of(&store).await {
            let error = result.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Unknown, "{error:?}");
        }
    }
}

// Containers that refuse.

/// Every call of the store, with the errors that came of it.
async fn errors_of(store: &BlobCheckpointStore) -> [Result<(), Error>; 4] {
    let version = Expected::Version(longshore::checkpoint_store::VersionToken("0x1".to_owned()));
    let checkpoint = with_holes();
    let written = |result: Result<_, StoreError>| match result {
        Ok(_) => Ok(()),
        Err(StoreError::Failed(error)) => Err(error),
        Err(other) => panic!("{other:?}"),
    };
    [
        store.load(&key("0")).await.map(|_| ()),
        store.list(&key("0").scope).await.map(|_| ()),
        written(store.store(&key("1"), &checkpoint, &Expected::Absent).await),
        written(store.store(&key("0"), &checkpoint, &version).await),
    ]
}

fn assert_hidden(store: &BlobCheckpointStore, error: &Error, url: &str) {
    let (address, query) = url.split_once('?').unwrap();
    let signature = query.rsplit_once("sig=").unwrap().1;
    let shown = format!("{store:?} {error:?} {}", error_chain(error).join(" "));
    assert!(shown.contains(address), "{shown}");
    for secret in [query, signature, "sig="] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn a_container_that_is_missing_is_named() {
    let container = Container::absent();
    let store = container.store(ALL);
    for result in errors_of(&store).await {
        let error = result.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert!(error.to_string().contains("does not exist; create it"), "{error}");
        assert_hidden(&store, &error, &container.url(ALL));
    }
}

#[tokio::test]
async fn a_container_that_is_forbidden_is_named() {
    let container = Container::create().await;
    container.put(&format!("{LOWER}/0"), &[("sequencenumber", "1")]).await;
    // The signature is of other permissions.
    let forged = container.url("rl").replace("sp=rl", "sp=rwdlac");
    let store = BlobCheckpointStore::with_signature(&Secret::new(&forged)).unwrap();
    for result in errors_of(&store).await {
        let error = result.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Auth);
        assert!(error.to_string().contains("must be valid"), "{error}");
        assert_hidden(&store, &error, &forged);
    }
}

#[tokio::test]
async fn a_container_that_is_read_only_is_read() {
    let container = Container::create().await;
    container.put(&format!("{LOWER}/0"), &[("sequencenumber", "1")]).await;
    let store = container.store("rl");
    let [loaded, listed, created, replaced] = errors_of(&store).await;
    assert!(loaded.is_ok() && listed.is_ok(), "{loaded:?} {listed:?}");
    for result in [created, replaced] {
        let error = result.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Auth);
        assert!(error.to_string().contains("AuthorizationPermissionMismatch"), "{error}");
        assert_hidden(&store, &error, &container.url("rl"));
    }
}

#[tokio::test]
async fn an_account_that_is_away_is_transient() {
    let closed = ClosedPort::take();
    let url = format!("http://{}/devstoreaccount1/state?sv=1&sig=canary", closed.address());
    let store = BlobCheckpointStore::with_signature(&Secret::new(&url)).unwrap();
    for result in errors_of(&store).await {
        let error = result.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient);
        assert_hidden(&store, &error, &url);
    }
}

/// The store's callers wait and try again; a write tried again by itself meets its own first
/// attempt.
#[tokio::test]
async fn a_busy_account_is_asked_once_a_call() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let store = answering(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        (503, "ServerBusy", String::new())
    })
    .await;
    for result in errors_of(&store).await {
        assert_eq!(result.unwrap_err().class(), ErrorClass::Throttling);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

/// A store over a server that answers each query with a status, an error code and a body.
async fn answering(
    answer: impl Fn(&str) -> (u16, &'static str, String) + Clone + Send + Sync + 'static,
) -> BlobCheckpointStore {
    let answer = move |RawQuery(query): RawQuery| {
        let (status, code, body) = answer(&query.unwrap_or_default());
        async move { (StatusCode::from_u16(status).unwrap(), [("x-ms-error-code", code)], body) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());
    let url = format!("http://127.0.0.1:{port}/account/state?sv=1&sig=canary");
    BlobCheckpointStore::with_signature(&Secret::new(&url)).unwrap()
}

#[tokio::test]
async fn a_leased_blob_is_no_conflict() {
    let container = Container::create().await;
    let store = container.store(ALL);
    let version = store.store(&key("0"), &with_holes(), &Expected::Absent).await.unwrap();
    container.lease(&format!("{LOWER}/0")).await;
    let error = failed(store.store(&key("0"), &with_holes(), &Expected::Version(version)).await);
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert!(error.to_string().contains("remove the lease"), "{error}");
}

#[tokio::test]
async fn a_name_that_is_too_long_is_refused() {
    let store = Container::absent().store(ALL);
    let error = store.load(&key(&"7".repeat(1_024))).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert!(error.to_string().contains("may have 1024"), "{error}");
}

// A worker.

#[tokio::test]
async fn a_worker_and_another_sdk_each_resume_where_the_other_stopped() {
    let container = Container::create().await;
    let folder = "memory/orders/$default/checkpoint";
    let hub = MemoryHub::new("orders", 2);
    for number in 0..30 {
        hub.publish(0, OutgoingEvent::new(format!("{number}")));
        hub.publish(1, OutgoingEvent::new(format!("{number}")));
    }
    let python = |number: &'static str| [("offset", "4096"), ("sequencenumber", number)];
    container.put(&format!("{folder}/0"), &python("9")).await;
    container.put(&format!("{folder}/1"), &python("soon")).await;

    let run = async |expected: usize, other: PartitionPhase| {
        let seen = Seen::default();
        let record = seen.clone();
        let store = Arc::new(container.store(ALL));
        let handle = BatchConsumer::builder(Arc::new(hub.transport("$Default")), store)
            .event_handler(move |event: Event, _: EventContext| {
                record.record(&event);
                async { Ok::<(), Failure>(()) }
            })
            .unwrap()
            .start();
        until("handled", || {
            let partitions = handle.snapshot().partitions;
            let mut others = partitions.iter().filter(|it| it.partition.as_str() == "1");
            seen.len() >= expected && others.any(|partition| partition.phase == other)
        })
        .await;
        (seen, drained(handle).await)
    };
    let (seen, exit) = run(20, PartitionPhase::Stopped).await;
    assert_eq!(seen.numbers(), (10..30).collect::<Vec<_>>());
    let bad = exit.partitions.iter().find(|partition| partition.partition.as_str() == "1");
    assert!(
        matches!(&bad.unwrap().reason, StopReason::Failed(error) if error.class() == ErrorClass::BadData),
        "{exit:?}"
    );
    let left = container.metadata(&format!("{folder}/0")).await.unwrap();
    assert_eq!(left["sequencenumber"], "29");
    let bad = container.metadata(&format!("{folder}/1")).await.unwrap();
    assert_eq!(bad["sequencenumber"], "soon", "what cannot be read is not overwritten");

    for number in 30..50 {
        hub.publish(0, OutgoingEvent::new(format!("{number}")));
    }
    container.put(&format!("{folder}/0"), &python("39")).await;
    container.put(&format!("{folder}/1"), &python("29")).await;
    let (seen, exit) = run(10, PartitionPhase::Running).await;
    assert!(exit.is_clean(), "{exit:?}");
    let handled: Vec<_> = seen.counts().into_iter().collect();
    let expected: Vec<_> = (40..50).map(|number| (("0".to_owned(), number), 1)).collect();
    assert_eq!(handled, expected);
}

#[tokio::test]
async fn the_recipe_of_the_documentation_opens_a_container() {
    let page = include_str!("../docs/configuration.md");
    let address = page.split_once("export LONGSHORE_CHECKPOINT_CONTAINER='").unwrap().1;
    let address = address.split_once('\'').unwrap().0;
    // Azurite's port by default.
    let rest = address.strip_prefix("http://127.0.0.1:10000/devstoreaccount1").unwrap();
    let here = format!("{}{rest}", azurite::account_url());
    let container = Container::named("longshore");
    assert_eq!(here, container.url(ALL), "it allows everything, until 2099");
    container.make().await;
    let settings = longshore::settings::Settings::load(
        [
            ("PIPELINE_TRANSPORT", "memory"),
            ("LONGSHORE_CHECKPOINT_CONTAINER", here.as_str()),
            ("LONGSHORE_FAILURES", here.as_str()),
        ],
        None,
    );
    let stores = settings.unwrap().open_stores().unwrap();
    let key = key("0");
    assert!(stores.checkpoints.load(&key).await.unwrap().is_none());
    stores.checkpoints.store(&key, &with_holes(), &Expected::Absent).await.unwrap();
    assert!(stores.checkpoints.load(&key).await.unwrap().is_some());
}
