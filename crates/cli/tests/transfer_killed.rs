//! `longshore transfer` over files of an ordinary web server, killed again and again: 1,000 small ones, and a
//! large one.
//!
//! What may be fetched twice: a file that is committed is known to the next run, by its result or by
//! what its commit noted. So a kill costs at most the files in flight, which are at most the slots.
//!
//! The large one has 12 MB, and is killed at three fifths; `LONGSHORE_KILLED_BYTES=1073741824` makes it a
//! larger one, with blocks as they are without an option, that is killed at four fifths.
#![cfg(unix)]
#![allow(missing_docs, dead_code)]

#[path = "../../../tests/azurite/mod.rs"]
mod azurite;
#[path = "../../../tests/support/closed_port.rs"]
mod closed_port;
mod command;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore::blob_store::container::DEFAULT_TRANSFER_BUDGET;
use longshore::transfer::task::hex;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::json;
use sha2::{Digest, Sha256};

use azurite::{ALL, Container};
use closed_port::ClosedPort;
use command::{Folder, LIMIT, Running, longshore, start};

const FILES: usize = 1_000;
const MAX_BYTES: f64 = 200.0 * 1024.0;
const KILLS: usize = 5;
const SLOTS: usize = 10;

/// Kills come within so many milliseconds of a start. At its rate the server needs more than twelve
/// seconds for all files, so that even late kills find work.
const MOMENTS: u64 = 2_400;

/// What the server gives each connection.
const BYTES_PER_SECOND: u64 = 400_000;

/// The length of a block in a container is a multiple of this.
const STEP: u64 = 64 << 10;

/// nginx over a folder, with a log of its requests.
struct Nginx {
    process: Child,
    folder: PathBuf,
    /// Held, so that it is nobody else's before nginx listens.
    port: ClosedPort,
}

impl Nginx {
    fn start(folder: &Path, bytes_per_second: u64) -> Self {
        let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or("nginx");
        let port = ClosedPort::to_share();
        let config = Self::config(folder, port.port(), bytes_per_second);
        fs::write(folder.join("nginx.conf"), config).unwrap();
        let process = Command::new(program)
            .arg("-p")
            .arg(folder)
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = process.unwrap_or_else(|error| {
            panic!("nginx cannot be run ({error}): run scripts/test, which installs nginx")
        });
        let mut nginx = Self { process, folder: folder.to_owned(), port };
        if !nginx.is_up() {
            let log = fs::read_to_string(folder.join("error.log")).unwrap_or_default();
            panic!("nginx does not start:\n{log}");
        }
        nginx
    }

    fn config(folder: &Path, port: u16, bytes_per_second: u64) -> String {
        let folder = folder.display();
        format!(
            "daemon off;
            master_process off;
            pid {folder}/nginx.pid;
            events {{ worker_connections 256; }}
            http {{
                client_body_temp_path {folder}/temp;
                proxy_temp_path {folder}/temp;
                fastcgi_temp_path {folder}/temp;
                uwsgi_temp_path {folder}/temp;
                scgi_temp_path {folder}/temp;
                log_format requests '$msec $request_time $status $body_bytes_sent $uri';
                access_log {folder}/access.log requests;
                limit_rate {bytes_per_second};
                server {{
                    listen 127.0.0.1:{port} reuseport;
                    root {folder}/www;
                }}
            }}"
        )
    }

    fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline && self.process.try_wait().unwrap().is_none() {
            if TcpStream::connect(self.port.address()).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// The requests that have ended, oldest first.
    fn requests(&self) -> Vec<Request> {
        let log = fs::read_to_string(self.folder.join("access.log")).unwrap();
        log.lines().map(Request::read).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Debug)]
struct Request {
    name: String,
    /// In seconds since 1970, to the millisecond.
    began: f64,
    status: u16,
    /// Of its body.
    bytes: u64,
}

impl Request {
    fn read(line: &str) -> Self {
        let mut fields = line.splitn(5, ' ');
        let mut next = || fields.next().unwrap_or_else(|| panic!("a log line is cut: {line}"));
        let ended: f64 = next().parse().unwrap();
        let took: f64 = next().parse().unwrap();
        let status = next().parse().unwrap();
        let bytes = next().parse().unwrap();
        let name = next().trim_start_matches('/').to_owned();
        Self { name, began: ended - took, status, bytes }
    }
}

/// A kill, and what was in the state after it.
struct Kill {
    /// In seconds since 1970.
    at: f64,
    /// Files whose result was published.
    published: BTreeSet<String>,
}

/// The results in the state of a run that is dead.
fn published(state: &Path) -> BTreeSet<String> {
    let results = fs::read_to_string(state.join("results")).unwrap_or_default();
    // A kill may have cut the last line.
    let whole = results.rsplit_once('\n').map_or("", |(whole, _torn)| whole);
    let lines = whole.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.splitn(5, '\t').last().unwrap().to_owned()).collect()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Files of 1 byte to 200 KiB, more small ones than large ones; gives their hashes.
fn make_files(www: &Path, random: &mut SmallRng) -> BTreeMap<String, Vec<u8>> {
    let mut hashes = BTreeMap::new();
    for number in 0..FILES {
        let name = format!("{}/{number}.bin", number % 17);
        let bytes = 1 + (random.random::<f64>().powi(3) * (MAX_BYTES - 1.0)) as usize;
        let mut body = vec![0; bytes];
        random.fill_bytes(&mut body);
        let path = www.join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &body).unwrap();
        hashes.insert(name, Sha256::digest(&body).to_vec());
    }
    hashes
}

#[test]
fn a_thousand_files_survive_five_kills() {
    let given = std::env::var("LONGSHORE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let server = tempfile::tempdir().unwrap();
    let hashes = make_files(&server.path().join("www"), &mut random);
    let nginx = Nginx::start(server.path(), BYTES_PER_SECOND);
    let folder = Folder::new();
    folder.list(hashes.keys().map(|name| format!("http://{}/{name}", nginx.port.address())));
    let begin = || -> Running {
        start(folder.transfer().args(["--allow-private", "--concurrency", &SLOTS.to_string()]))
    };

    let mut kills = Vec::new();
    for number in 0..KILLS {
        let run = begin();
        let moment = Duration::from_millis(random.random_range(0..MOMENTS));
        thread::sleep(moment);
        assert!(run.kill(), "kill {number}: the run was faster; make the server slower");
        let at = now();
        let published = published(&folder.state());
        println!("kill {number} after {moment:?}: {} results", published.len());
        kills.push(Kill { at, published });
    }
    let ended = begin().end().expect_code(0);
    println!("then: {}", ended.report());
    assert_eq!(ended.figure("files") + ended.figure("skipped"), FILES as u64);

    let names: Vec<String> = hashes.keys().cloned().collect();
    assert_eq!(folder.files(), names.iter().cloned().collect(), "files, and no temporary ones");
    for (name, hash) in &hashes {
        let arrived = Sha256::digest(folder.content(name));
        assert_eq!(arrived.as_slice(), hash, "{name}");
    }

    let requests = nginx.requests();
    let mut fetched: BTreeMap<&str, usize> = BTreeMap::new();
    for request in &requests {
        // 499: the client was gone before its answer.
        assert!(matches!(request.status, 200 | 499), "{request:?}");
        *fetched.entry(&request.name).or_default() += 1;
    }
    assert_eq!(fetched.len(), FILES);
    let again = requests.len() - FILES;
    println!("{again} fetches repeated over {KILLS} kills");
    assert!(again <= KILLS * SLOTS, "{again} fetches were repeated");
    for (number, kill) in kills.iter().enumerate() {
        for request in requests.iter().filter(|request| request.began > kill.at) {
            let known = kill.published.contains(&request.name);
            assert!(!known, "kill {number}: fetched after its result: {request:?}");
        }
    }

    let idle = begin().end().expect_code(0);
    assert_eq!((idle.figure("files"), idle.figure("skipped")), (0, FILES as u64));
    assert_eq!(nginx.requests().len(), requests.len(), "a finished run fetches nothing");
}

/// Bytes of the only blob that came in part, by its journal.
fn journaled(target: &Path) -> u64 {
    let unfinished = fs::read_dir(target.join(".longshore/unfinished")).into_iter().flatten();
    let mut journals = unfinished
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "journal"));
    let Some(journal) = journals.next() else { return 0 };
    let text = fs::read_to_string(journal).unwrap_or_default();
    // Two lines say what it is of, and a kill may have cut the last one.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _torn)| whole);
    let parts = whole.lines().skip(2).map(|line| {
        let mut fields = line.split(' ').map(|field| field.parse::<u64>().unwrap_or_default());
        let (from, to) = (fields.next().unwrap(), fields.next().unwrap());
        to - from
    });
    parts.sum()
}

/// The large file, and how it is moved.
struct Large {
    bytes: u64,
    /// Options of the command.
    blocks: Vec<&'static str>,
    /// The length of a block in a container.
    block_bytes: u64,
    /// So much of it has come when the run is killed.
    killed_at: u64,
    bytes_per_second: u64,
}

impl Large {
    fn asked_for() -> Self {
        let bytes = std::env::var("LONGSHORE_KILLED_BYTES").ok();
        match bytes.and_then(|bytes| bytes.parse::<u64>().ok()) {
            Some(bytes) => Self {
                bytes,
                blocks: Vec::new(),
                block_bytes: DEFAULT_TRANSFER_BUDGET / (2 * SLOTS as u64) / STEP * STEP,
                killed_at: bytes * 4 / 5,
                bytes_per_second: 3_000_000,
            },
            None => Self {
                bytes: 12_000_017,
                // Ten streams share the budget, half of it for blocks that are sent.
                blocks: vec!["--block-bytes", "524288", "--transfer-budget", "10485760"],
                block_bytes: 512 << 10,
                killed_at: 12_000_017 * 3 / 5,
                bytes_per_second: BYTES_PER_SECOND,
            },
        }
    }

    /// Bounds how long it takes until it is killed: at 1 MB/s, and what else takes its time.
    fn limit(&self) -> Duration {
        LIMIT + Duration::from_secs(self.bytes / 1_000_000)
    }

    /// Whether it is so large that what is under way is little of it.
    fn is_large(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Its bytes, on a server.
    fn serve(&self, folder: &Path) -> (Vec<u8>, Nginx) {
        let mut body = vec![0; self.bytes as usize];
        SmallRng::seed_from_u64(7).fill_bytes(&mut body);
        fs::create_dir_all(folder.join("www")).unwrap();
        fs::write(folder.join("www/large.bin"), &body).unwrap();
        (body, Nginx::start(folder, self.bytes_per_second))
    }

    /// Tells what the server sent twice of it, and of a large one checks that.
    fn check_sent(&self, what: &str, there: u64, nginx: &Nginx) {
        let requests = nginx.requests();
        let of_it = requests.iter().filter(|request| request.name == "large.bin");
        let sent: u64 = of_it.map(|request| request.bytes).sum();
        let twice = sent.saturating_sub(self.bytes);
        let percent = twice as f64 * 100.0 / self.bytes as f64;
        let bytes = self.bytes;
        println!(
            "{bytes} bytes {what}, killed with {there} there: {twice} sent twice, {percent:.2} %"
        );
        assert!(!self.is_large() || twice < self.bytes / 20, "{twice} bytes were sent twice");
    }
}

#[test]
fn what_came_of_a_large_file_is_not_fetched_again_after_a_kill() {
    let large = Large::asked_for();
    let server = tempfile::tempdir().unwrap();
    let (body, nginx) = large.serve(server.path());
    let folder = Folder::new();
    folder.list([format!("http://{}/large.bin", nginx.port.address())]);
    let begin =
        || -> Running { start(folder.transfer().arg("--allow-private").args(&large.blocks)) };

    let run = begin();
    let deadline = Instant::now() + large.limit();
    while journaled(&folder.target()) < large.killed_at {
        assert!(Instant::now() < deadline, "only {} bytes came", journaled(&folder.target()));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(run.kill(), "the run was faster; make the server slower");
    let (at, there) = (now(), journaled(&folder.target()));
    let ended = begin().end_within(large.limit()).expect_code(0);
    println!("{there} of {} bytes; then: {}", large.bytes, ended.report());

    assert!(folder.content("large.bin") == body);
    assert_eq!(folder.files(), ["large.bin".to_owned()].into(), "files, and no temporary ones");
    let later: Vec<Request> =
        nginx.requests().into_iter().filter(|request| request.began > at).collect();
    assert!(later.iter().all(|request| request.status == 206), "{later:?}");
    let fetched: u64 = later.iter().map(|request| request.bytes).sum();
    assert_eq!(fetched, large.bytes - there, "what was missing, once");
    large.check_sent("to a folder", there, &nginx);
}

/// A transfer of the list into a container, whose address is in the variable.
fn begin_to(container: &Container, folder: &Folder, arguments: &[&str]) -> Running {
    let mut command = longshore();
    command
        .arg("transfer")
        .current_dir(folder.path(""))
        .args(["--urls", "list", "--report", "json"]);
    command.args(["--allow-private"]).args(arguments);
    start(command.env("LONGSHORE_TRANSFER_TO", container.url(ALL)))
}

#[tokio::test]
async fn blocks_that_a_container_has_are_not_fetched_again_after_a_kill() {
    for with_sha256 in [false, true] {
        let large = Large::asked_for();
        let server = tempfile::tempdir().unwrap();
        let (body, nginx) = large.serve(server.path());
        fs::write(server.path().join("www/small.bin"), &body[..1_000]).unwrap();
        let (folder, container) = (Folder::new(), Container::create().await);
        let mut task = json!({ "url": format!("http://{}/large.bin", nginx.port.address()) });
        if with_sha256 {
            task["sha256"] = hex(&Sha256::digest(&body)).into();
        }
        let small = format!("http://{}/small.bin", nginx.port.address());
        folder.list([task.to_string(), small]);

        let run = begin_to(&container, &folder, &large.blocks);
        let deadline = Instant::now() + large.limit();
        let mut there = 0;
        while there < large.killed_at {
            assert!(Instant::now() < deadline, "only {there} bytes came");
            there = container.staged("large.bin").await as u64 * large.block_bytes;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(run.kill(), "the run was faster; make the server slower");
        let at = now();
        let there = container.staged("large.bin").await as u64 * large.block_bytes;
        let ended = begin_to(&container, &folder, &large.blocks).end_within(large.limit());
        let ended = ended.expect_code(0);
        println!("{there} of {} bytes; then: {}", large.bytes, ended.report());

        assert!(container.content("large.bin").await.as_ref() == Some(&body));
        assert!(container.content("small.bin").await.as_deref() == Some(&body[..1_000]));
        let later: Vec<Request> =
            nginx.requests().into_iter().filter(|request| request.began > at).collect();
        let fetched: u64 = later.iter().map(|request| request.bytes).sum();
        // The version is learned from an answer to a request for all of it, which is not read.
        let more = fetched.saturating_sub(large.bytes - there);
        assert!(more < large.bytes / 20, "{more} bytes more than were missing: {later:?}");
        let hashed = if with_sha256 { ", SHA-256" } else { "" };
        large.check_sent(&format!("to a container{hashed}"), there, &nginx);

        let asked = nginx.requests().len();
        let ended = begin_to(&container, &folder, &large.blocks).end().expect_code(0);
        assert_eq!((ended.figure("files"), ended.figure("skipped")), (0, 2));
        assert_eq!(nginx.requests().len(), asked, "nobody was asked");
        assert!(folder.path(&format!("{}.longshore", container.name())).is_dir(), "the state");
    }
}
