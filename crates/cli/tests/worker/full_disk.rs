//! A failure store on a disk that is full: files go on, letters wait, and nothing is lost.
//!
//! The disk is a file system in memory, mounted in a mount namespace of the worker's own. The test reaches it
//! through the worker's entry in /proc.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::command::{files_below, start};
use crate::namespaces::unshare;
use crate::stage::Stage;
use crate::waiting::until;

/// A megabyte of disk where the first argument says, and then the command.
const ON_A_SMALL_DISK: &str =
    "mkdir \"$1\" && mount -t tmpfs -o size=1m tmpfs \"$1\" && shift && exec \"$@\"";

/// What the files of dead letters say. A store would look for the folder without /proc.
fn letters(folder: &Path) -> Vec<String> {
    let records = files_below(folder).into_iter().filter(|name| name.ends_with(".json"));
    records.map(|name| fs::read_to_string(folder.join(name)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_store_on_a_full_disk_holds_letters_back_and_no_file() {
    let stage = Stage::new().await;
    let files = stage.serve(40);
    let gone: BTreeSet<String> = (0..4).map(|number| format!("gone/{number}.bin")).collect();
    let disk = stage.path("disk");
    let worker = stage.command();
    let mut command = unshare();
    command.args(["sh", "-c", ON_A_SMALL_DISK, "sh"]).arg(&disk);
    command.arg(worker.get_program()).args(worker.get_args()).current_dir(stage.dir.path());
    command.env("LONGSHORE_FAILURES", &disk).env_remove("RUST_LOG");
    let worker = start(&mut command);
    worker.wait_until_said("ready, with 4 partitions");
    let root = Path::new("/proc").join(worker.id().to_string()).join("root");
    let seen = root.join(disk.strip_prefix("/").unwrap());
    let filler = seen.join("filler");
    let full = fs::write(&filler, vec![0; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);

    stage.publish("tasks", files.keys().chain(&gone)).await;
    stage.until_results(files.len()).await;
    worker.wait_until_said("could not write the dead letter");
    assert!(letters(&seen).is_empty());

    fs::remove_file(&filler).unwrap();
    until("the letters", || letters(&seen).len() == gone.len()).await;
    let said = letters(&seen);
    let tells = |name: &String| said.iter().any(|letter| letter.contains(name.as_str()));
    assert!(gone.iter().all(tells), "{said:?}");
    worker.terminate();
    let ended = worker.end().expect_code(0).expect_said("the checkpoint waits for it");
    let ended = ended.expect_said(disk.to_str().unwrap()).expect_said("is full");
    assert_eq!(ended.figure("files"), files.len() as u64);
    assert_eq!(ended.figure("dead_letters"), gone.len() as u64);
    stage.expect_all(&files).await;
}
