//! `longshore demo`: the main job on this machine, on real files, over the real protocols.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use url::Url;

use super::file_server::FileServer;
use super::job::{Broker, Job, RESULTS, fault, worker};
use super::report::{Report, comparison, mib};
use super::{CommandError, DemoArgs, DurationArg, Ending, PaceArgs, give};
use crate::blob_store::BlobName;
use crate::blob_store::folder::{FolderBlobStore, SyncFiles};
use crate::checkpoint_store::memory::MemoryCheckpointStore;
use crate::dead_letter::memory::MemoryDeadLetterSink;
use crate::event::OutgoingEvent;
use crate::transfer::task::DownloadTask;
use crate::transfer::url_policy::{PrivateAddresses, UrlPolicy};

/// What the server gives each connection: the 5 MB/s that one file at a time was stuck at.
const BYTES_PER_SECOND: u32 = 5_000_000;

/// A file to move, and what it must be when it arrives.
struct Source {
    name: BlobName,
    /// How its URL spells the name.
    url_path: String,
    file: PathBuf,
    sha256: [u8; 32],
    bytes: u64,
}

pub(super) async fn run(args: DemoArgs) -> Result<Ending, CommandError> {
    let sources = tokio::task::spawn_blocking(move || collect(args.dir.as_deref()))
        .await
        .map_err(|error| CommandError::new(error.to_string()))??;
    let bytes = sources.iter().map(|source| source.bytes).sum();
    give(format_args!(
        "{} files, {:.2} MiB, from an HTTP server that gives each connection 5 MB/s,\n\
         through an Event Hubs-compatible broker and the Azure SDK, all on this machine.\n",
        sources.len(),
        mib(bytes)
    ));
    let files =
        sources.iter().map(|source| (source.url_path.clone(), source.file.clone())).collect();
    let server = FileServer::start(files, BYTES_PER_SECOND).await?;
    let single = PaceArgs {
        concurrency: 1,
        batch_size: 1,
        batch_timeout: DurationArg(Duration::from_millis(1)),
    };
    let baseline = move_files(&sources, &server, &single).await?;
    let report = move_files(&sources, &server, &args.pace).await?;
    let name = format!("{} at once", args.pace.concurrency);
    give(comparison(&name, &report, "one at a time", &baseline).trim_end());
    give(format_args!(
        "\n{:.1} times as fast. All {} files arrived twice with the right SHA-256.",
        baseline.seconds / report.seconds.max(f64::MIN_POSITIVE),
        sources.len()
    ));
    Ok(Ending::Done)
}

/// Moves the files once, through a broker of their own, and verifies them.
async fn move_files(
    sources: &[Source],
    server: &FileServer,
    pace: &PaceArgs,
) -> Result<Report, CommandError> {
    let target = tempfile::tempdir()?;
    let broker = Broker::start(None).await?;
    let tasks = sources
        .iter()
        .map(|source| {
            let url = Url::parse(&server.url(&source.url_path))?;
            let mut task = DownloadTask::new(source.name.as_str(), url, source.name.clone());
            task.sha256 = Some(source.sha256);
            task.size = Some(source.bytes);
            Ok(OutgoingEvent::new(task.to_json()).with_message_id(source.name.as_str()))
        })
        .collect::<Result<Vec<_>, CommandError>>()?;
    broker.publish(tasks).await?;
    // Not flushed to the disk: the files are thrown away.
    let store = FolderBlobStore::open(target.path())?.with_sync(SyncFiles::Never);
    let letters = Arc::new(MemoryDeadLetterSink::new());
    let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
    let worker = worker(broker.publisher(RESULTS), Arc::new(store), policy)?;
    let checkpoints = Arc::new(MemoryCheckpointStore::new());
    let progress = worker.progress();
    let mut job = Job::start(&broker, worker, progress, checkpoints, letters.clone(), pace)?;
    let ended_early = tokio::select! {
        settled = job.until_settled() => { settled?; false }
        () = job.ended() => true,
    };
    if ended_early {
        let exit = job.join().await;
        let why = fault(&exit).unwrap_or_else(|| "the consumer ended early".to_owned());
        return Err(CommandError::new(why));
    }
    let elapsed = job.moving();
    let (report, exit) = job.finish(elapsed).await;
    broker.shutdown().await?;
    if let Some(letter) = letters.letters().first() {
        return Err(CommandError::new(format!("a file did not arrive: {}", letter.failure)));
    }
    if let Some(why) = fault(&exit) {
        return Err(CommandError::new(why));
    }
    verify(sources, target.path())?;
    Ok(report)
}

fn verify(sources: &[Source], target: &Path) -> Result<(), CommandError> {
    for source in sources {
        let arrived = target.join(source.name.as_str());
        let (sha256, _) = hash(&arrived)?;
        if sha256 != source.sha256 {
            return Err(CommandError::new(format!("{} arrived damaged", source.name)));
        }
    }
    Ok(())
}

/// The files of `dir`, or those git tracks here; at least one.
fn collect(dir: Option<&Path>) -> Result<Vec<Source>, CommandError> {
    let (root, names) = match dir {
        Some(dir) => (dir.to_owned(), walk(dir)?),
        None => (PathBuf::from("."), tracked()?),
    };
    let mut sources = BTreeMap::new();
    for name in names {
        let file = root.join(&name);
        // Links are left out: what they lead to may be anywhere.
        if !std::fs::symlink_metadata(&file).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let name = BlobName::parse(&name)?;
        let (sha256, bytes) = hash(&file)?;
        let mut url = Url::parse("http://localhost/")?;
        url.set_path(name.as_str());
        let url_path = url.path().trim_start_matches('/').to_owned();
        sources.insert(name.as_str().to_owned(), Source { name, url_path, file, sha256, bytes });
    }
    if sources.is_empty() {
        return Err(CommandError::new("there is no file to move; name a folder with --dir"));
    }
    Ok(sources.into_values().collect())
}

fn tracked() -> Result<Vec<String>, CommandError> {
    let advice = "name the files to move with --dir DIR, or run it in a git checkout";
    let listed = std::process::Command::new("git")
        .args(["ls-files", "-z"])
        .output()
        .map_err(|error| CommandError::caused(format!("git cannot be run; {advice}"), &error))?;
    if !listed.status.success() {
        return Err(CommandError::new(format!("this is no git checkout; {advice}")));
    }
    let names = listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

fn walk(dir: &Path) -> Result<Vec<String>, CommandError> {
    let mut names = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = dir.join(&folder);
        let entries = std::fs::read_dir(&path).map_err(|error| {
            CommandError::caused(format!("the folder {} cannot be read", path.display()), &error)
        })?;
        for entry in entries {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(name),
                kind if kind.is_file() => names.push(name.to_string_lossy().into_owned()),
                _ => {}
            }
        }
    }
    Ok(names)
}

fn hash(path: &Path) -> Result<([u8; 32], u64), CommandError> {
    let mut hasher = Sha256::new();
    let copied =
        std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    let bytes = copied.map_err(|error| {
        CommandError::caused(format!("the file {} cannot be read", path.display()), &error)
    })?;
    Ok((hasher.finalize().into(), bytes))
}
