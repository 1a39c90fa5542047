#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::root::blob_error;
use super::*;
use crate::blob_store::{BlobNote, Sums};

fn name(name: &str) -> BlobName {
    BlobName::parse(name).unwrap()
}

fn store() -> (TempDir, FolderBlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = FolderBlobStore::open(dir.path().join("root")).unwrap();
    (dir, store)
}

async fn put(store: &FolderBlobStore, blob: &str, content: &[u8]) -> Result<(), BlobError> {
    let mut writer = store.open(&name(blob), Some(content.len() as u64)).await?;
    writer.write(Bytes::copy_from_slice(content)).await?;
    writer.commit(Commit::default()).await
}

async fn size(store: &FolderBlobStore, blob: &BlobName) -> Option<u64> {
    store.find(blob).await.unwrap().map(|found| found.bytes)
}

fn read(store: &FolderBlobStore, blob: &str) -> Vec<u8> {
    fs::read(store.root().join(blob)).unwrap()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn partials(store: &FolderBlobStore) -> PathBuf {
    let holder = store.root().join(".longshore");
    let mut folders: Vec<_> = fs::read_dir(holder).unwrap().map(Result::unwrap).collect();
    assert_eq!(folders.len(), 1);
    folders.remove(0).path()
}

fn partial_count(store: &FolderBlobStore) -> usize {
    // One file is the lock.
    fs::read_dir(partials(store)).unwrap().count() - 1
}

fn assert_refused(result: Result<(), BlobError>, text: &str) {
    match result {
        Err(error @ BlobError::Refused { .. }) => {
            assert!(error.to_string().contains(text), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

fn assert_unusable(result: Result<(), BlobError>, text: &str) {
    match result {
        Err(error @ BlobError::Unusable { .. }) => {
            assert!(error.to_string().contains(text), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_blob_appears_whole_at_its_commit() {
    for sync in [SyncFiles::Always, SyncFiles::AtFlush, SyncFiles::Never] {
        let (_dir, store) = store();
        let store = store.with_sync(sync);
        let blob = name("a/b/c.bin");
        assert_eq!(size(&store, &blob).await, None);
        let mut writer = store.open(&blob, None).await.unwrap();
        let mut content = Vec::new();
        for length in [1, CHUNK_BYTES - 2, 1, 0, 7, 3 * CHUNK_BYTES, CHUNK_BYTES, 5] {
            let part = vec![u8::try_from(length % 251).unwrap(); length];
            content.extend_from_slice(&part);
            writer.write(part.into()).await.unwrap();
            assert!(!store.root().join("a").exists());
        }
        writer.commit(Commit::default()).await.unwrap();
        assert_eq!(read(&store, "a/b/c.bin"), content);
        assert_eq!(size(&store, &blob).await, Some(content.len() as u64));
        assert_eq!(partial_count(&store), 0);
        store.flush().unwrap();
    }
}

#[tokio::test]
async fn a_flush_that_fails_is_said_and_made_up_for() {
    let (dir, store) = store();
    let store = store.with_sync(SyncFiles::AtFlush);
    put(&store, "a/b", b"x").await.unwrap();
    put(&store, "c/d", b"y").await.unwrap();
    let aside = dir.path().join("aside");
    fs::rename(store.root().join("a"), &aside).unwrap();
    assert!(matches!(store.flush(), Err(BlobError::Unusable { .. })));
    fs::rename(&aside, store.root().join("a")).unwrap();
    store.flush().unwrap();
}

#[tokio::test]
async fn a_commit_replaces_what_was_there_and_an_empty_blob_is_one() {
    let (_dir, store) = store();
    put(&store, "a", b"long content").await.unwrap();
    put(&store, "a", b"short").await.unwrap();
    assert_eq!(read(&store, "a"), b"short");
    let writer = store.open(&name("a"), None).await.unwrap();
    writer.commit(Commit::default()).await.unwrap();
    assert_eq!(size(&store, &name("a")).await, Some(0));
}

#[tokio::test]
async fn a_note_is_committed_with_its_blob_and_replaced_with_it() {
    let (_dir, store) = store();
    let blob = name("a/b");
    let noted = async |content: &'static [u8], note| {
        let mut writer = store.open(&blob, Some(content.len() as u64)).await.unwrap();
        writer.write(Bytes::from_static(content)).await.unwrap();
        writer.commit(Commit { note, ..Commit::default() }).await.unwrap();
        store.find(&blob).await.unwrap().unwrap()
    };
    let note = BlobNote {
        work: [1; 16],
        source: [2; 16],
        bytes: 7,
        sums: Sums::new(Some(4), Some([3; 32])),
    };
    let found = noted(b"content", Some(note)).await;
    assert_eq!((found.bytes, found.note), (7, Some(note)));
    assert!(found.modified.is_some());
    let found = noted(b"other", None).await;
    assert_eq!((found.bytes, found.note), (5, None), "the note went with what it was about");
}

#[tokio::test]
async fn the_hash_of_a_blob_is_that_of_the_bytes_that_are_there() {
    let (_dir, store) = store();
    assert_eq!(store.sha256(&name("a")).await.unwrap(), None);
    put(&store, "a", b"abc").await.unwrap();
    let first = store.sha256(&name("a")).await.unwrap().unwrap();
    assert_eq!(first[..4], [0xba, 0x78, 0x16, 0xbf]);
    fs::write(store.root().join("a"), b"abd").unwrap();
    assert_ne!(store.sha256(&name("a")).await.unwrap(), Some(first));
}

#[tokio::test]
async fn a_blob_whose_length_is_known_and_small_touches_the_disk_at_its_commit() {
    let (_dir, store) = store();
    let mut writer = store.open(&name("a"), Some(3)).await.unwrap();
    writer.write("abc".into()).await.unwrap();
    assert_eq!(partial_count(&store), 0);
    writer.commit(Commit::default()).await.unwrap();
    assert_eq!((read(&store, "a"), partial_count(&store)), (b"abc".to_vec(), 0));
    // It may become longer than was said.
    let mut writer = store.open(&name("b"), Some(3)).await.unwrap();
    writer.write("abc".into()).await.unwrap();
    writer.write(vec![7; CHUNK_BYTES].into()).await.unwrap();
    assert_eq!(partial_count(&store), 1);
    writer.commit(Commit::default()).await.unwrap();
    assert_eq!(read(&store, "b").len(), CHUNK_BYTES + 3);
}

#[tokio::test]
async fn a_writer_holds_less_than_a_chunk() {
    let (_dir, store) = store();
    let mut writer = store.open(&name("a"), None).await.unwrap();
    for _ in 0..100 {
        writer.write(vec![0; 10_000].into()).await.unwrap();
    }
    let partial = partials(&store).join("0");
    let written = fs::metadata(&partial).unwrap().len();
    assert!(1_000_000 - written < CHUNK_BYTES as u64, "{written}");
}

#[tokio::test]
async fn an_aborted_or_dropped_writer_leaves_nothing() {
    let (_dir, store) = store();
    let mut aborted = store.open(&name("a"), None).await.unwrap();
    aborted.write(vec![0; 2 * CHUNK_BYTES].into()).await.unwrap();
    let mut dropped = store.open(&name("b"), None).await.unwrap();
    dropped.write("x".into()).await.unwrap();
    assert_eq!(partial_count(&store), 2);
    aborted.abort().await;
    assert_eq!(partial_count(&store), 1);
    drop(dropped);
    assert_eq!(partial_count(&store), 0);
    assert_eq!(size(&store, &name("a")).await, None);
}

#[test]
fn a_dropped_write_spends_the_writer_and_commits_nothing() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (_dir, store) = store();
        let mut writer = store.open(&name("a"), None).await.unwrap();
        // With the only thread busy, the write is under way when it is dropped.
        let (go_on, wait) = std::sync::mpsc::channel();
        let busy = spawn_blocking(move || wait.recv());
        let write = writer.write(vec![0; CHUNK_BYTES].into()).now_or_never();
        assert!(write.is_none());
        go_on.send(()).unwrap();
        busy.await.unwrap().unwrap();
        let error = writer.write("x".into()).await.unwrap_err();
        assert!(matches!(error, BlobError::Transient { .. }), "{error:?}");
        assert!(writer.commit(Commit::default()).await.is_err());
        assert!(!store.root().join("a").exists());
        store.close().await;
        assert_eq!(fs::read_dir(store.root()).unwrap().count(), 0);
    });
}

#[tokio::test]
async fn a_finished_run_leaves_no_temporary_file() {
    let (_dir, store) = store();
    put(&store, "a/b", b"x").await.unwrap();
    let root = store.root().to_owned();
    drop(store);
    assert_eq!(files_below(&root), [root.join("a/b")]);
    assert!(!root.join(".longshore").exists());
}

#[tokio::test]
async fn a_closed_store_refuses_blobs_and_leaves_no_temporary_file() {
    let (_dir, store) = store();
    let mut writer = store.open(&name("a"), None).await.unwrap();
    writer.write("x".into()).await.unwrap();
    store.close().await;
    store.close().await;
    assert_eq!(fs::read_dir(store.root()).unwrap().count(), 0);
    assert_unusable(writer.commit(Commit::default()).await, "close it last");
    assert_unusable(put(&store, "b", b"x").await, "was closed");
    assert_eq!(fs::read_dir(store.root()).unwrap().count(), 0);
}

#[tokio::test]
async fn only_the_temporary_files_of_dead_processes_are_swept() {
    let (_dir, living) = store();
    let root = living.root().to_owned();
    let mut writer = living.open(&name("a"), None).await.unwrap();
    writer.write("x".into()).await.unwrap();
    let dead = root.join(".longshore").join("partial-dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    fs::write(dead.join("0"), "rest").unwrap();

    let second = FolderBlobStore::open(&root).unwrap();
    assert!(!dead.exists());
    put(&second, "b", b"y").await.unwrap();
    writer.commit(Commit::default()).await.unwrap();
    drop(second);
    assert_eq!(partial_count(&living), 0);
    drop(living);
    assert_eq!(files_below(&root).len(), 2);
}

#[test]
fn a_file_in_the_place_of_the_root_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("taken");
    fs::write(&file, "").unwrap();
    for root in [file.clone(), file.join("below")] {
        let opened = FolderBlobStore::open(root).map(|_| ());
        assert_unusable(opened, "taken is a file; choose a folder");
    }
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    symlink(dir.path(), root.join(".longshore")).unwrap();
    let opened = FolderBlobStore::open(&root).map(|_| ());
    assert_unusable(opened, ".longshore is");
    assert_unusable(FolderBlobStore::open("").map(|_| ()), "name a folder");
}

#[tokio::test]
async fn a_file_on_the_way_refuses_the_blob_before_any_byte() {
    let (_dir, store) = store();
    put(&store, "a/file", b"x").await.unwrap();
    for blob in ["a/file/b", "a/file/b/c"] {
        let opened = store.open(&name(blob), None).await.map(|_| ());
        assert_refused(opened, "\"file\" is a file");
    }
    let result = store.find(&name("a/file/b")).await.map(|_| ());
    assert_refused(result, "\"file\" is a file");
    put(&store, "a/other", b"x").await.unwrap();
}

#[tokio::test]
async fn what_comes_in_the_way_later_refuses_the_commit() {
    let (_dir, store) = store();
    let file_in_the_way = store.open(&name("late/b"), None).await.unwrap();
    let folder_in_the_way = store.open(&name("folder"), None).await.unwrap();
    fs::write(store.root().join("late"), "").unwrap();
    fs::create_dir(store.root().join("folder")).unwrap();
    assert_refused(file_in_the_way.commit(Commit::default()).await, "\"late\" is a file");
    assert_refused(folder_in_the_way.commit(Commit::default()).await, "a folder has its name");
    assert_eq!(partial_count(&store), 0);
}

#[tokio::test]
async fn a_folder_of_the_blobs_name_refuses_it() {
    let (_dir, store) = store();
    put(&store, "a/b", b"x").await.unwrap();
    assert_refused(put(&store, "a", b"x").await, "a folder has its name");
    assert_eq!(size(&store, &name("a")).await, None);
}

#[tokio::test]
async fn a_link_that_leads_out_is_refused_and_nothing_is_created_behind_it() {
    let (dir, store) = store();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "x").unwrap();
    symlink(&outside, store.root().join("out")).unwrap();
    symlink("../outside", store.root().join("relative")).unwrap();
    symlink(dir.path(), store.root().join("up")).unwrap();
    symlink(outside.join("secret"), store.root().join("file")).unwrap();
    for blob in ["out/a", "out/new/a", "relative/a", "up/root-2/a", "up/new/a"] {
        assert_refused(put(&store, blob, b"x").await, "leads out");
    }
    let late = store.open(&name("late/new/a"), None).await.unwrap();
    symlink(&outside, store.root().join("late")).unwrap();
    assert_refused(late.commit(Commit::default()).await, "leads out");
    let looked = store.find(&name("file")).await.map(|_| ());
    assert_refused(looked, "leads out");
    // In the blob's own place the link is replaced, and what it pointed to is left alone.
    put(&store, "file", b"new").await.unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"x");
    assert_eq!(files_below(&outside), [outside.join("secret")]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn links_within_the_root_are_followed_except_to_temporary_files_and_nowhere() {
    let (_dir, store) = store();
    put(&store, "real/a", b"x").await.unwrap();
    symlink("real", store.root().join("link")).unwrap();
    put(&store, "link/b", b"y").await.unwrap();
    assert_eq!(read(&store, "real/b"), b"y");
    symlink(".longshore", store.root().join("holder")).unwrap();
    assert_refused(put(&store, "holder/a", b"x").await, "leads out");
    symlink("nowhere", store.root().join("dangling")).unwrap();
    assert_refused(put(&store, "dangling/a", b"x").await, "leads nowhere");
    symlink("real/a", store.root().join("to-file")).unwrap();
    assert_refused(put(&store, "to-file/a", b"x").await, "is a file");
}

#[tokio::test]
async fn names_the_folder_cannot_hold_are_refused() {
    let (_dir, store) = store();
    for blob in [".longshore", ".longshore/a", ".LongShore/a"] {
        assert_refused(put(&store, blob, b"x").await, "temporary files");
    }
    put(&store, "a/.longshore", b"x").await.unwrap();
    put(&store, ".longshore-2", b"x").await.unwrap();
    for blob in ["x".repeat(256), format!("a/{}/b", "x".repeat(256)), "ä".repeat(128)] {
        assert_refused(put(&store, &blob, b"x").await, "has 256 bytes");
    }
    put(&store, &"x".repeat(255), b"x").await.unwrap();
}

#[tokio::test]
async fn a_path_too_long_for_the_file_system_is_refused_before_any_byte() {
    let dir = tempfile::tempdir().unwrap();
    let store = FolderBlobStore::open(dir.path().join("r".repeat(200))).unwrap();
    // Each part fits, and so does the whole where blobs are not files.
    let long = vec!["\u{1f6a2}".repeat(63); 16].join("/");
    let opened = store.open(&name(&long), None).await.map(|_| ());
    assert_refused(opened, "too long for the file system");
    assert_eq!(fs::read_dir(store.root()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_root_that_was_removed_is_unusable() {
    let (_dir, store) = store();
    let writer = store.open(&name("a/b"), None).await.unwrap();
    fs::remove_dir_all(store.root()).unwrap();
    assert_unusable(writer.commit(Commit::default()).await, "removed or unmounted");
    assert_unusable(put(&store, "a", b"x").await, "removed or unmounted");
}

#[tokio::test]
async fn concurrent_commits_to_new_folders_all_succeed() {
    let (_dir, store) = store();
    let puts = (0..32).map(|n| {
        let blob = format!("deep/{}/{}/f{n}", n % 3, n % 5);
        let store = &store;
        async move { put(store, &blob, b"x").await }
    });
    for result in futures::future::join_all(puts).await {
        result.unwrap();
    }
    assert_eq!(files_below(&store.root().join("deep")).len(), 32);
    assert_eq!(partial_count(&store), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn errors_of_the_disk_are_the_stores_and_others_the_blobs_or_pass() {
    let map = |code| {
        let error = io::Error::from_raw_os_error(code);
        blob_error("write", &name("a"), Path::new("/data"), error)
    };
    for (code, text) in [
        (28, "is full; free space"),
        (122, "quota"),
        (30, "read-only"),
        (27, "raise the limit"),
        (13, "may not use"),
    ] {
        assert_unusable(Err(map(code)), text);
    }
    for (code, text) in
        [(36, "too long"), (21, "is a folder"), (20, "is a file"), (18, "another file system")]
    {
        assert_refused(Err(map(code)), text);
    }
    for code in [5, 24, 4] {
        assert!(matches!(map(code), BlobError::Transient { .. }));
    }
}

#[tokio::test]
async fn a_blob_that_is_committed_is_nobody_elses_to_begin_anew() {
    const SOURCE: [u8; 16] = [7; 16];
    let (_dir, store) = store();
    let (root, is_over) = (store.root.clone(), Arc::new(AtomicBool::new(false)));
    // Another worker that has the same task, as fast as it can.
    let other = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            while !is_over.load(Ordering::Relaxed) {
                drop(root.unfinished().begin(&SOURCE, "[2]", 9));
            }
        }
    });
    let mut whole = 0;
    for round in 0..300 {
        let blob = name(&format!("{round}"));
        let made = MadeOf::new(&SOURCE, "[1]", 5, 5);
        let OpenBlocks { writer, .. } = store.open_blocks(&blob, &made).await.unwrap().unwrap();
        writer.write_at(0, vec![Bytes::from_static(b"whole")]).await.unwrap();
        writer.commit(Commit::default()).await.unwrap();
        whole += usize::from(read(&store, blob.as_str()) == b"whole");
    }
    is_over.store(true, Ordering::Relaxed);
    other.join().unwrap();
    assert_eq!(whole, 300);
}
