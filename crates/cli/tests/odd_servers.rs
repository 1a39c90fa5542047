//! Files from servers that do what servers do: they reset, truncate, stall, lie, send elsewhere, are busy, and
//! close connections when they are used again. Every file ends stored and right, or as a dead letter with the
//! true reason: in a folder, and in a container, where runs that follow know what was left of others.
//!
//! `LONGSHORE_ODD_FILES=10000` moves so many; unless said, 1,000 into a folder and 100 into a container.
//! `LONGSHORE_SEED=N` repeats a mix.
#![cfg(unix)]
#![allow(missing_docs, dead_code)]

#[path = "../../../tests/azurite/mod.rs"]
mod azurite;
mod command;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use socket2::SockRef;

use azurite::{ALL, Container};
use command::{Ended, Folder, Running, longshore, start};

/// Longer than a stall that passes, and shorter than one that does not.
const READ_TIMEOUT: &str = "400ms";

/// More than any file has that has an end.
const MAX_BYTES: &str = "512KiB";

/// How many files are moved.
const FILES: &str = "LONGSHORE_ODD_FILES";

/// Bounds a run of thousands of files.
const MOST_TIME: Duration = Duration::from_secs(900);

/// What a server does with a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Odd {
    /// Nothing of the kind.
    Even,
    /// No length, in chunks.
    Chunked,
    /// No length, and no end.
    Endless,
    /// No length, and the end of the connection is that of the file.
    ToTheEnd,
    Empty,
    /// Resets the first connections in the midst of the body; goes on from there by range.
    ResetsAndResumes,
    /// The same, and knows no ranges: 200 and all of it.
    ResetsAndIgnoresRange,
    /// The same, and gives another part than the one that was asked for.
    ResetsAndGivesAnotherPart,
    /// Resets, and has another version of the file then.
    ResetsAndChanges,
    /// Ends the body too early once, without a validator.
    TruncatesOnce,
    /// Always.
    TruncatesAlways,
    /// Stalls in the midst of the body once.
    StallsOnce,
    /// Resets each connection that is used a second time, before any answer.
    ResetsReused,
    /// Answers 500 once, and an unknown 5xx once.
    FailsTwice,
    /// 429 with Retry-After, once.
    Busy,
    /// 503 with a date in Retry-After, once.
    BusyUntil,
    /// Sends to another path of its own.
    Redirects,
    /// Sends to where nothing may be fetched.
    RedirectsInside,
    /// Sends round and round.
    RedirectsRound,
    /// 206 where all of it was asked for, and not all of it.
    Always206,
    NotFound,
    Gone,
    NotImplemented,
    /// The task says another length.
    OtherLength,
    /// The task says another hash.
    OtherHash,
    /// Gzip that nobody asked for: the bytes as they came.
    Encoded,
    /// Headers that others shrug off.
    SloppyHeaders,
}

use Odd::*;

const ALL_KINDS: [Odd; 27] = [
    Even,
    Chunked,
    Endless,
    ToTheEnd,
    Empty,
    ResetsAndResumes,
    ResetsAndIgnoresRange,
    ResetsAndGivesAnotherPart,
    ResetsAndChanges,
    TruncatesOnce,
    TruncatesAlways,
    StallsOnce,
    ResetsReused,
    FailsTwice,
    Busy,
    BusyUntil,
    Redirects,
    RedirectsInside,
    RedirectsRound,
    Always206,
    NotFound,
    Gone,
    NotImplemented,
    OtherLength,
    OtherHash,
    Encoded,
    SloppyHeaders,
];

impl Odd {
    /// Why it is a dead letter, where it is one.
    fn reason(self) -> Option<&'static str> {
        Some(match self {
            Endless => "the body is longer than the 524288 bytes it may have",
            TruncatesAlways => "the body broke off after",
            RedirectsInside => "metadata service",
            RedirectsRound => "redirects",
            Always206 => "206 Partial Content where all of the file was asked for",
            NotFound => "the server answered 404",
            Gone => "the server answered 410",
            NotImplemented => "the server answered 501",
            OtherLength => "the task said",
            OtherHash => "the SHA-256 is",
            _ => return None,
        })
    }

    /// Which version of its file it has, when all were changed so often.
    fn version(self, changes: u8, is_asked_again: bool) -> u8 {
        2 * changes + u8::from(self == ResetsAndChanges && is_asked_again)
    }
}

/// The bytes of a version of a file.
fn content(name: &str, version: u8, bytes: usize) -> Vec<u8> {
    let mut random =
        SmallRng::seed_from_u64(name.bytes().map(u64::from).sum::<u64>() << 8 | u64::from(version));
    (0..bytes).map(|_| random.random()).collect()
}

struct File {
    odd: Odd,
    bytes: usize,
}

#[derive(Default)]
struct Seen {
    requests: HashMap<String, usize>,
    /// How often all files were changed.
    changes: u8,
}

struct Server {
    address: SocketAddr,
    files: Arc<BTreeMap<String, File>>,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    fn start(files: BTreeMap<String, File>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (files, seen) = (Arc::new(files), Arc::new(Mutex::new(Seen::default())));
        let shared = (Arc::clone(&files), Arc::clone(&seen));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (files, seen) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
                thread::spawn(move || serve(stream, &files, &seen));
            }
        });
        Self { address, files, seen }
    }
}

/// Answers the requests of a connection, until one of them ends it.
fn serve(mut stream: TcpStream, files: &BTreeMap<String, File>, seen: &Mutex<Seen>) {
    let _ = stream.set_nodelay(true);
    let (mut read, mut on_connection) = (Vec::new(), 0);
    loop {
        let mut part = [0; 4_096];
        let end = loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            match stream.read(&mut part) {
                Ok(bytes @ 1..) => read.extend_from_slice(&part[..bytes]),
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        read.drain(..end + 4);
        on_connection += 1;
        if answer(&mut stream, &head, on_connection, files, seen).is_none() {
            return;
        }
    }
}

fn reset(stream: &TcpStream) -> Option<()> {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    None
}

/// `None` ends the connection.
fn answer(
    stream: &mut TcpStream,
    head: &str,
    on_connection: usize,
    files: &BTreeMap<String, File>,
    seen: &Mutex<Seen>,
) -> Option<()> {
    let path = head.split(' ').nth(1)?.trim_start_matches('/');
    let name = path.trim_end_matches("?again");
    let Some(file) = files.get(name) else {
        return stream.write_all(b"HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n").ok();
    };
    if file.odd == ResetsReused && on_connection > 1 {
        return reset(stream);
    }
    let (request, changes) = {
        let mut seen = seen.lock().unwrap();
        let changes = seen.changes;
        let requests = seen.requests.entry(path.to_owned()).or_default();
        *requests += 1;
        (*requests, changes)
    };
    let version = file.odd.version(changes, request > 1);
    let body = content(name, version, file.bytes);
    let (half, all) = (body.len() / 2, body.len());
    let etag = format!("ETag: \"{version}\"\r\n");
    let range = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))
        .and_then(|range| range.trim_end_matches('-').parse::<usize>().ok())
        // If-Range: the version that it goes on from.
        .filter(|_| head.contains(&format!("if-range: \"{version}\"")));
    let plain = |headers: &str| {
        [format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {all}\r\n\r\n").as_bytes(), &body]
            .concat()
    };
    let status = |status: u16, headers: &str| {
        format!("HTTP/1.1 {status} Odd\r\n{headers}Content-Length: 0\r\n\r\n").into_bytes()
    };
    let rest = |from: usize| {
        let head = format!(
            "HTTP/1.1 206 Part\r\n{etag}Content-Range: bytes {from}-{}/{all}\r\nContent-Length: {}\r\n\r\n",
            all - 1,
            all - from
        );
        [head.as_bytes(), &body[from..]].concat()
    };
    let broken = |mut stream: &TcpStream, headers: &str| {
        let whole = plain(headers);
        stream.write_all(&whole[..whole.len() - all + half]).ok()?;
        // What was sent is to arrive before the reset.
        thread::sleep(Duration::from_millis(50));
        reset(stream)
    };
    let bytes = match file.odd {
        Even | ResetsReused | OtherLength | OtherHash => plain(&etag),
        Empty => plain(""),
        Encoded => plain("Content-Encoding: gzip\r\n"),
        SloppyHeaders => plain("X-Folded: a\r\n b\r\nX-Spaced : c\r\nno colon at all\r\n"),
        Chunked => {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in body.chunks(10_000) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            bytes
        }
        Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
            loop {
                stream.write_all(format!("{all:x}\r\n").as_bytes()).ok()?;
                stream.write_all(&body).ok()?;
                stream.write_all(b"\r\n").ok()?;
            }
        }
        ToTheEnd => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok()?;
            stream.write_all(&body).ok()?;
            return None;
        }
        ResetsAndResumes | ResetsAndIgnoresRange | ResetsAndGivesAnotherPart | ResetsAndChanges
            if request == 1 =>
        {
            return broken(stream, &etag);
        }
        ResetsAndResumes => range.map_or_else(|| plain(&etag), rest),
        ResetsAndGivesAnotherPart if request == 2 => rest(1),
        ResetsAndIgnoresRange | ResetsAndGivesAnotherPart | ResetsAndChanges => plain(&etag),
        TruncatesOnce if request > 1 => plain(""),
        TruncatesOnce | TruncatesAlways => return broken(stream, ""),
        StallsOnce if request > 1 => plain(""),
        StallsOnce => {
            let whole = plain("");
            stream.write_all(&whole[..whole.len() - all + half]).ok()?;
            thread::sleep(Duration::from_secs(3));
            return None;
        }
        FailsTwice => match request {
            1 => status(500, ""),
            2 => status(599, ""),
            _ => plain(""),
        },
        Busy if request == 1 => status(429, "Retry-After: 1\r\n"),
        BusyUntil if request == 1 => status(
            503,
            "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:38 GMT\r\n",
        ),
        Busy | BusyUntil => plain(""),
        Redirects if path == name => status(302, &format!("Location: /{name}?again\r\n")),
        Redirects => plain(""),
        RedirectsInside => status(302, "Location: http://169.254.169.254/latest\r\n"),
        RedirectsRound => status(307, &format!("Location: /{name}\r\n")),
        Always206 => rest(half),
        NotFound => status(404, ""),
        Gone => status(410, ""),
        NotImplemented => status(501, ""),
    };
    stream.write_all(&bytes).ok()
}

/// Files of all kinds, and the tasks to fetch them.
struct Mix {
    seed: u64,
    files: u64,
    random: SmallRng,
    servers: BTreeMap<Odd, Server>,
    lines: Vec<String>,
}

impl Mix {
    fn of(files: u64) -> Self {
        let variable =
            |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let files = variable(FILES).unwrap_or(files);
        let seed = variable("LONGSHORE_SEED").unwrap_or_else(rand::random);
        println!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut kinds: BTreeMap<Odd, BTreeMap<String, File>> = BTreeMap::new();
        for number in 0..files {
            let at = random.random_range(0..ALL_KINDS.len());
            // A busy host rests as a whole, so there are few of those.
            let odd = match ALL_KINDS[at] {
                Busy | BusyUntil if number > 400 => Even,
                odd => odd,
            };
            let bytes = if odd == Empty { 0 } else { random.random_range(2_000..150_000) };
            let name = format!("{odd:?}/{number}.bin").to_lowercase();
            kinds.entry(odd).or_default().insert(name, File { odd, bytes });
        }
        // A host of its own for each kind, so that none rests for another.
        let servers: BTreeMap<Odd, Server> =
            kinds.into_iter().map(|(odd, files)| (odd, Server::start(files))).collect();
        let mut lines: Vec<String> = Vec::new();
        for server in servers.values() {
            for (name, file) in server.files.iter() {
                let mut task = json!({ "url": format!("http://{}/{name}", server.address) });
                match file.odd {
                    OtherLength => task["size"] = (file.bytes + 1).into(),
                    OtherHash => task["sha256"] = "00".repeat(32).into(),
                    _ => {}
                }
                lines.push(task.to_string());
            }
        }
        // In the order of a shuffled list.
        for at in (1..lines.len()).rev() {
            lines.swap(at, random.random_range(0..=at));
        }
        Self { seed, files, random, servers, lines }
    }

    /// Every file is another one from now on, and every server does again what it does at first.
    fn change(&self) {
        for server in self.servers.values() {
            let mut seen = server.seen.lock().unwrap();
            seen.changes += 1;
            seen.requests.clear();
        }
    }

    fn files(&self) -> impl Iterator<Item = (&Server, &String, &File)> {
        self.servers
            .values()
            .flat_map(|server| server.files.iter().map(move |(name, file)| (server, name, file)))
    }

    /// Every file is right as it is by now, or a letter says why not. `arrived` are those that are there.
    fn check(&self, folder: &Folder, arrived: &BTreeMap<String, Vec<u8>>, ended: &Ended) {
        let mut letters = letters(folder);
        let mut wrong = Vec::new();
        for (server, name, file) in self.files() {
            let changes = server.seen.lock().unwrap().changes;
            let (arrived, letter) = (arrived.get(name), letters.remove(name));
            let is_right = match (file.odd.reason(), arrived, &letter) {
                (Some(reason), None, Some(told)) => told.contains(reason),
                (None, Some(arrived), None) => {
                    *arrived == content(name, file.odd.version(changes, true), file.bytes)
                }
                _ => false,
            };
            if !is_right {
                let length = arrived.map(Vec::len);
                wrong.push(format!("{name} of {}: {length:?}, {letter:?}", file.bytes));
            }
        }
        assert!(
            wrong.is_empty(),
            "seed {}: {} are wrong: {:#?}",
            self.seed,
            wrong.len(),
            &wrong[..wrong.len().min(20)]
        );
        assert!(letters.is_empty(), "nobody asked for {letters:?}");
        let failed = ended.figure("failed");
        assert_eq!(ended.figure("files") + failed, self.files);
        assert_eq!(arrived.len() as u64, self.files - failed, "nothing else is there");
    }
}

/// What dead letters say, by the paths of their tasks.
fn letters(folder: &Folder) -> BTreeMap<String, String> {
    let mut letters: BTreeMap<String, String> = BTreeMap::new();
    // They are read in a runtime of their own.
    let read = thread::scope(|scope| scope.spawn(|| folder.dead_letters()).join());
    for letter in read.expect("no panic") {
        let task: serde_json::Value = serde_json::from_slice(&letter.body().unwrap()).unwrap();
        let path = task["path"].as_str().unwrap().to_owned();
        let before = letters.insert(path.clone(), letter.error.message.clone());
        assert!(before.is_none(), "{path} has two letters");
    }
    letters
}

#[test]
fn every_file_ends_right_or_as_a_dead_letter_with_the_true_reason() {
    let mix = Mix::of(1_000);
    let folder = Folder::new();
    folder.list(&mix.lines);
    let begun = Instant::now();
    let mut command = folder.transfer();
    command.args(["--allow-private", "--concurrency", "40", "--read-timeout", READ_TIMEOUT]);
    command.args(["--max-bytes", MAX_BYTES]);
    let ended = start(&mut command).end_within(MOST_TIME).expect_code(3);
    let (files, seconds) = (mix.files, begun.elapsed().as_secs_f64());
    println!("{files} files in {seconds:.1} s: {}", ended.report());
    let arrived = folder.files().into_iter().map(|name| (name.clone(), folder.content(&name)));
    mix.check(&folder, &arrived.collect(), &ended);
}

/// A run into a container, as one that knows of no other. Most files have two blocks and more.
fn into(container: &Container) -> (Folder, impl Fn(&Mix) -> Running + use<>) {
    let folder = Folder::new();
    let (place, url) = (folder.path(""), container.url(ALL));
    let begin = move |mix: &Mix| {
        let lines: String = mix.lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(place.join("list"), lines).unwrap();
        let mut command = longshore();
        command.arg("transfer").current_dir(&place).env("LONGSHORE_TRANSFER_TO", &url);
        command.args(["--urls", "list", "--state", "files.longshore", "--report", "json"]);
        command.args(["--allow-private", "--read-timeout", READ_TIMEOUT, "--existing", "replace"]);
        command.args(["--concurrency", "40", "--transfer-budget", "5242880"]);
        command.args(["--max-bytes", MAX_BYTES]);
        start(&mut command)
    };
    (folder, begin)
}

/// What is in a container, and the blobs that have uncommitted blocks of somebody.
async fn held(container: &Container) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let (mut blobs, mut unfinished) = (BTreeMap::new(), Vec::new());
    for name in container.names().await {
        let left = container.staged_ids(&name).await;
        // Each says which upload it is of, and a later one takes none that is not its own.
        assert!(
            left.iter().all(|id| id.len() == 64 && id.starts_with(b"lsb1")),
            "{name}: {left:?}"
        );
        if !left.is_empty() {
            unfinished.push(name.clone());
        }
        if let Some(content) = container.content(&name).await {
            blobs.insert(name, content);
        }
    }
    (blobs, unfinished)
}

#[tokio::test]
async fn the_same_into_a_container_and_what_is_left_there_is_never_mistaken() {
    let mut mix = Mix::of(100);
    let container = Container::create().await;
    // Killed somewhere: blobs of every kind have blocks of a run that nobody knows any more.
    let (_killed, begin) = into(&container);
    let run = begin(&mix);
    let some = mix.random.random_range(1..=mix.files / 4);
    while container.names().await.len() < some as usize {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(run.kill(), "the run was faster");
    let (before, unfinished) = held(&container).await;
    println!("killed: {} blobs, {} with blocks left", before.len(), unfinished.len());

    // The sources are others by then; and once more over blobs that are whole, where there is time.
    for round in 1..=if std::env::var_os(FILES).is_some() { 2 } else { 1 } {
        mix.change();
        let (folder, begin) = into(&container);
        let begun = Instant::now();
        let ended = begin(&mix).end_within(MOST_TIME).expect_code(3);
        let (files, seconds) = (mix.files, begun.elapsed().as_secs_f64());
        println!("{files} files into a container in {seconds:.1} s: {}", ended.report());
        let (blobs, unfinished) = held(&container).await;
        mix.check(&folder, &blobs, &ended);
        // The commit of a file ends all blocks of its name.
        assert!(unfinished.iter().all(|name| !blobs.contains_key(name)), "{unfinished:?}");
        println!("round {round}: {} names with blocks left, all of letters", unfinished.len());
    }
}
