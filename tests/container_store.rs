//! Files in a container: short ones in one request, long ones in blocks, which a later attempt finds again;
//! what replaces what; and what is refused. Needs Azurite, which scripts/test installs.
#![allow(clippy::panic, missing_docs)]

mod azurite;
mod support;

use std::ops::Range;

use azurite::{ALL, Container};
use bytes::Bytes;
use futures::TryStreamExt;
use longshore::blob_store::container::ContainerBlobStore;
use longshore::blob_store::{
    BlobError, BlobName, BlobNote, BlobSource, BlobStore, BlockWriter, Commit, ExpectedBlob,
    MadeOf, OpenBlocks, Sums,
};
use longshore::error::error_chain;
use longshore::secret::Secret;
use sha2::{Digest, Sha256};
use support::within;

/// With this budget and two streams, blocks have 256 KiB.
const BUDGET: u64 = 1 << 20;
const BLOCK: u64 = BUDGET / 4;
const SOURCE: [u8; 16] = [7; 16];

fn store(container: &Container, permissions: &str) -> ContainerBlobStore {
    let url = Secret::new(container.url(permissions));
    ContainerBlobStore::with_signature(&url).expect("valid").with_budget(BUDGET, 2)
}

fn name(text: &str) -> BlobName {
    BlobName::parse(text).expect("a name")
}

fn content(bytes: u64) -> Bytes {
    (0..bytes).map(|at| (at * 31 / 7) as u8 ^ (at >> 9) as u8).collect::<Vec<u8>>().into()
}

fn note(work: u8) -> BlobNote {
    BlobNote { work: [work; 16], source: SOURCE, bytes: 3, sums: Sums::new(Some(1), None) }
}

async fn put(
    store: &ContainerBlobStore,
    path: &str,
    content: &Bytes,
    size_hint: Option<u64>,
    commit: Commit,
) -> Result<(), BlobError> {
    let mut writer = store.open(&name(path), size_hint).await?;
    for part in content.chunks(50_000) {
        writer.write(content.slice_ref(part)).await?;
    }
    within("the commit", writer.commit(commit)).await
}

/// Writes the blocks of these bytes in pieces, as streams do.
async fn write(writer: &dyn BlockWriter, content: &Bytes, range: Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        writer.reserve(at).await;
        let end = range.end.min(at / BLOCK * BLOCK + BLOCK).min(at + 100_000);
        let part = content.slice(at as usize..end as usize);
        writer.write_at(at, vec![part]).await.expect("written");
        at = end;
    }
}

async fn open(
    store: &ContainerBlobStore,
    path: &str,
    made: &MadeOf<'_>,
) -> (Box<dyn BlockWriter>, Vec<Range<u64>>) {
    let opened = store.open_blocks(&name(path), made).await.expect("opened").expect("blocks");
    let OpenBlocks { writer, mut there } = opened;
    there.sort_by_key(|range| range.start);
    (writer, there)
}

#[tokio::test]
async fn files_of_every_length_arrive_and_say_what_they_are() {
    let container = Container::create().await;
    let store = store(&container, ALL);
    for (number, bytes) in
        [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 8 * BLOCK].into_iter().enumerate()
    {
        for hint in [None, Some(bytes)] {
            let path = format!("a/b {number} ü");
            let content = content(bytes);
            let commit =
                Commit::new(note(number as u8)).with_content_type(Some("image/jpeg".to_owned()));
            put(&store, &path, &content, hint, commit).await.expect("stored");
            assert!(container.content(&path).await == Some(content.to_vec()), "{bytes} {hint:?}");
            assert_eq!(
                container.header(&path, "content-type").await.as_deref(),
                Some("image/jpeg")
            );
            let found = store.find(&name(&path)).await.expect("looked up").expect("there");
            assert_eq!((found.bytes, found.note), (bytes, Some(note(number as u8))));
            assert!(found.modified.is_some() && found.version.is_some());
        }
    }
    assert_eq!(store.find(&name("none")).await.expect("looked up"), None);
}

#[tokio::test]
async fn blocks_of_any_order_become_one_file_with_the_right_sums() {
    let container = Container::create().await;
    let store = store(&container, ALL);
    let content = content(5 * BLOCK + 77);
    let total = content.len() as u64;
    let mut sums = Vec::new();
    for with_sha256 in [true, false] {
        let made = MadeOf::new(&SOURCE, "v", total, BLOCK).with_sha256(with_sha256);
        let (writer, there) = open(&store, "blocks", &made).await;
        assert!(there.is_empty());
        // Two streams: the second block is there before the first.
        for range in [BLOCK..2 * BLOCK, 0..BLOCK, 3 * BLOCK..4 * BLOCK, 2 * BLOCK..3 * BLOCK] {
            let frontier = if range.start % (2 * BLOCK) == 0 { range.start + 2 * BLOCK } else { 0 };
            write(&*writer, &content, range).await;
            writer.on_written_to(frontier).await.expect("hashed");
        }
        write(&*writer, &content, 4 * BLOCK..total).await;
        writer.on_written_to(total).await.expect("hashed");
        sums.push(writer.sums());
        within("the commit", writer.commit(Commit::new(note(1)))).await.expect("stored");
        assert!(container.content("blocks").await == Some(content.to_vec()), "{with_sha256}");
        assert_eq!(container.staged("blocks").await, 0);
    }
    assert_eq!(sums[0].sha256, Some(Sha256::digest(&content).into()));
    assert_eq!((sums[0].crc64, sums[1].sha256), (sums[1].crc64, None));
}

#[tokio::test]
async fn an_attempt_that_was_cut_is_gone_on_with_and_only_by_its_own_kind() {
    let container = Container::create().await;
    let store = store(&container, ALL);
    let content = content(6 * BLOCK + 1);
    let total = content.len() as u64;
    for with_sha256 in [true, false] {
        let path = format!("cut {with_sha256}");
        let made = MadeOf::new(&SOURCE, "v", total, BLOCK).with_sha256(with_sha256);
        let (writer, _) = open(&store, &path, &made).await;
        write(&*writer, &content, 0..2 * BLOCK).await;
        write(&*writer, &content, 3 * BLOCK..4 * BLOCK).await;
        writer.on_written_to(2 * BLOCK).await.expect("hashed");
        // A block that is not whole is lost.
        write(&*writer, &content, 2 * BLOCK..2 * BLOCK + 10).await;
        let staged = if with_sha256 { 2 } else { 3 };
        within("the blocks", async {
            while container.staged(&path).await < staged {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(writer);

        let other = [8; 16];
        for another in [
            MadeOf::new(&SOURCE, "w", total, BLOCK).with_sha256(with_sha256),
            MadeOf::new(&other, "v", total, BLOCK).with_sha256(with_sha256),
            MadeOf::new(&SOURCE, "v", total, BLOCK).with_sha256(!with_sha256),
        ] {
            assert_eq!(open(&store, &path, &another).await.1, [], "{another:?}");
        }
        let (writer, there) = open(&store, &path, &made).await;
        let mut expected = vec![0..BLOCK, BLOCK..2 * BLOCK];
        let mut missing = vec![2 * BLOCK..3 * BLOCK, 4 * BLOCK..total];
        if with_sha256 {
            // What waited for the hash was nowhere.
            missing.insert(1, 3 * BLOCK..4 * BLOCK);
        } else {
            expected.push(3 * BLOCK..4 * BLOCK);
        }
        assert_eq!(there, expected);
        for range in missing {
            let end = range.end;
            write(&*writer, &content, range).await;
            writer.on_written_to(end).await.expect("hashed");
        }
        let sha256 = writer.sums().sha256;
        assert_eq!(sha256, with_sha256.then(|| Sha256::digest(&content).into()));
        within("the commit", writer.commit(Commit::new(note(1)))).await.expect("stored");
        assert!(container.content(&path).await == Some(content.to_vec()));
    }
}

#[tokio::test]
async fn no_file_has_more_blocks_than_the_service_takes() {
    const STEP: u64 = 64 << 10;
    let container = Container::absent();
    for (budget, streams) in [(BUDGET, 2), (1 << 20, 1_000), (64 << 20, 10), (8 << 30, 1)] {
        let store = store(&container, ALL).with_budget(budget, streams);
        for wanted in [1, STEP, 8 << 20, u64::MAX] {
            for power in 0..=43 {
                for bytes in [(1_u64 << power) - 1, 1 << power, (1 << power) + 1, 3 << power] {
                    let block = store.block_bytes(bytes, wanted);
                    assert!(block >= STEP && block.is_multiple_of(STEP), "{bytes}: {block}");
                    assert!(bytes.div_ceil(block) <= 50_000, "{bytes}: {block}");
                    // No longer than it must be, or may be for the budget.
                    let least = bytes.div_ceil(50_000).next_multiple_of(STEP);
                    let share = budget / (streams as u64 * 2) / STEP * STEP;
                    assert!(block <= share.max(least).max(STEP), "{bytes}: {block}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_commit_replaces_what_was_seen_and_nothing_else() {
    let container = Container::create().await;
    let store = store(&container, ALL);
    let commit = |expected| Commit::new(note(1)).with_expected(expected);
    let (first, second) = (content(10), content(2 * BLOCK));
    for (path, content) in [("short", &first), ("long", &second)] {
        let put = |expected| put(&store, path, content, None, commit(expected));
        put(ExpectedBlob::Absent).await.expect("stored");
        let seen = store.find(&name(path)).await.expect("looked up").and_then(|it| it.version);
        let seen = ExpectedBlob::Version(seen.expect("a version"));
        container.put(path, &[("by", "somebody")]).await;
        for expected in [ExpectedBlob::Absent, seen] {
            let refused = put(expected).await.expect_err("changed");
            assert!(matches!(refused, BlobError::Changed { .. }), "{refused}");
        }
        assert_eq!(container.content(path).await, Some(Vec::new()), "theirs");
        put(ExpectedBlob::Anything).await.expect("stored");
        assert!(container.content(path).await == Some(content.to_vec()));
        // Our own commit, whose answer was lost, is no change.
        put(ExpectedBlob::Absent).await.expect("it is there");
    }
}

#[tokio::test]
async fn a_file_is_read_as_a_whole_and_in_parts() {
    let container = Container::create().await;
    let store = store(&container, ALL);
    let content = content(300_000);
    put(&store, "a b", &content, None, Commit::default()).await.expect("stored");
    let read = async |part| {
        let read = store.read(&name("a b"), part).await.expect("read").expect("there");
        let (part, total) = (read.part.clone(), read.bytes);
        let pieces: Vec<Bytes> = read.body.try_collect().await.expect("a body");
        assert!(pieces.concat() == content[part.start as usize..part.end as usize]);
        (part, total)
    };
    assert_eq!(read(None).await, (0..300_000, 300_000));
    assert_eq!(read(Some(100..200_000)).await, (100..200_000, 300_000));
    assert_eq!(read(Some(299_999..u64::MAX)).await, (299_999..300_000, 300_000));
    let behind = store.read(&name("a b"), Some(300_000..300_001)).await;
    // Azurite answers with nothing where the service refuses (416).
    let is_empty = matches!(&behind, Ok(Some(read)) if read.part.is_empty());
    assert!(is_empty || matches!(behind, Err(BlobError::Changed { .. })), "{behind:?}");
    assert!(store.read(&name("none"), None).await.expect("read").is_none());
    assert!(!store.shown(&name("a b")).contains("sig"));
}

#[tokio::test]
async fn a_signature_that_lets_us_write_only_is_enough() {
    let container = Container::create().await;
    let store = store(&container, "cw");
    let path = name("a");
    for bytes in [10, 3 * BLOCK] {
        let content = content(bytes);
        assert_eq!(store.find(&path).await.expect("nothing is known"), None);
        let commit = Commit::new(note(1)).with_expected(ExpectedBlob::Absent);
        put(&store, "a", &content, Some(bytes), commit).await.expect("stored");
        assert!(container.content("a").await == Some(content.to_vec()));
        let made = MadeOf::new(&SOURCE, "v", bytes, BLOCK);
        assert_eq!(open(&store, "a", &made).await.1, []);
    }
}

#[tokio::test]
async fn a_container_is_checked_with_the_rights_that_the_work_needs_and_nothing_is_left_in_it() {
    let container = Container::create().await;
    for (rights, may_write, may_read) in
        [(ALL, true, true), ("cw", true, false), ("w", true, false), ("r", false, true)]
    {
        let store = store(&container, rights);
        for (checked, may) in
            [(store.check_writable().await, may_write), (store.check_readable().await, may_read)]
        {
            match checked {
                Ok(()) => assert!(may, "{rights}"),
                Err(BlobError::Unusable { reason, .. }) => {
                    assert!(!may && reason.contains("(403 "), "{rights}: {reason}");
                }
                Err(error) => panic!("{rights}: {error}"),
            }
        }
    }
    assert_eq!(container.names().await, Vec::<String>::new());
    let absent = store(&Container::absent(), ALL);
    let forged = container.url(ALL).replace("sig=", "sig=AAAA");
    let forged = ContainerBlobStore::with_signature(&Secret::new(&forged)).expect("valid");
    for (store, why) in [(absent, "does not exist; create it"), (forged, "refused (403 ")] {
        for checked in [store.check_writable().await, store.check_readable().await] {
            let Err(BlobError::Unusable { reason, .. }) = checked else { panic!("{checked:?}") };
            assert!(reason.contains(why) && reason.contains(store.container_url()), "{reason}");
            assert!(!reason.contains("sig=") && !reason.contains("AAAA"), "{reason}");
        }
    }
}

#[tokio::test]
async fn what_stands_in_the_way_is_said() {
    let container = Container::create().await;
    let here = store(&container, ALL);
    container.append_blob("log").await;
    let refused = here.find(&name("log")).await.expect_err("another type").to_string();
    assert!(refused.contains("cannot store log: a page blob or an append blob"), "{refused}");

    container.put("leased", &[]).await;
    container.lease("leased").await;
    let refused = put(&here, "leased", &content(3), None, Commit::default()).await;
    let refused = refused.expect_err("leased");
    // It may end by itself.
    assert!(matches!(refused, BlobError::Transient { .. }), "{refused}");
    let causes = error_chain(&refused).join(": ");
    assert!(causes.contains("remove the lease"), "{causes}");

    let absent = Container::absent();
    let nowhere = store(&absent, ALL);
    for failed in [
        put(&nowhere, "a", &content(3), None, Commit::default()).await,
        put(&nowhere, "a", &content(3 * BLOCK), None, Commit::default()).await,
    ] {
        let failed = failed.expect_err("no container");
        assert!(matches!(failed, BlobError::Unusable { .. }), "{failed:?}");
        assert!(failed.to_string().contains("does not exist; create it"), "{failed}");
    }

    let url = container.url(ALL).replace("sig=", "sig=AAAA");
    let forged = ContainerBlobStore::with_signature(&Secret::new(&url)).expect("valid");
    let failed = put(&forged, "a", &content(3), None, Commit::default()).await;
    let failed = failed.expect_err("a forged signature");
    assert!(matches!(failed, BlobError::Unusable { .. }), "{failed:?}");
    for shown in [format!("{failed:?} {failed}"), format!("{forged:?}")] {
        assert!(!shown.contains("sig=") && !shown.contains("AAAA"), "{shown}");
    }

    // 4.7 TiB in 50,000 blocks.
    let huge = MadeOf::new(&SOURCE, "v", 47 << 40, here.block_bytes(47 << 40, BLOCK));
    let refused = here.open_blocks(&name("huge"), &huge).await.expect_err("too long").to_string();
    assert!(refused.contains("more than the transfer budget of 1048576; raise it"), "{refused}");
}

#[tokio::test]
async fn blocks_of_other_programs_are_no_part_of_ours() {
    let container = Container::create().await;
    let store = store(&container, ALL);
    let content = content(3 * BLOCK);
    // As wide as ours, and anything but ours.
    container.stage("a", &"x".repeat(64)).await;
    put(&store, "a", &content, None, Commit::default()).await.expect("stored");
    assert!(container.content("a").await == Some(content.to_vec()));
    // Of another width: the service takes none beside them.
    container.stage("b", "short").await;
    let refused = put(&store, "b", &content, None, Commit::default()).await;
    let refused = refused.expect_err("ids of two widths");
    assert!(matches!(refused, BlobError::Refused { .. }), "{refused:?}");
    // What is short needs no blocks.
    put(&store, "b", &content.slice(..10), None, Commit::default()).await.expect("stored");
}
