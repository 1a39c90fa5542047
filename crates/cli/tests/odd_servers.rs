//! Files from servers that do what servers do: they reset, truncate, stall, lie, send elsewhere, are busy, and
//! close connections when they are used again. Every file ends stored and right, or as a dead letter with the
//! true reason.
//!
//! `LONGSHORE_ODD_FILES=10000` moves so many; 1,000 unless said. `LONGSHORE_SEED=N` repeats a mix.
#![cfg(unix)]
#![allow(missing_docs, dead_code)]

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

use command::{Folder, start};

/// Longer than a stall that passes, and shorter than one that does not.
const READ_TIMEOUT: &str = "400ms";

/// What a server does with a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Odd {
    /// Nothing of the kind.
    Even,
    /// No length, in chunks.
    Chunked,
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

const ALL: [Odd; 26] = [
    Even,
    Chunked,
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
    let request = {
        let mut seen = seen.lock().unwrap();
        let requests = seen.requests.entry(path.to_owned()).or_default();
        *requests += 1;
        *requests
    };
    let version = u8::from(file.odd == ResetsAndChanges && request > 1);
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

#[test]
fn every_file_ends_right_or_as_a_dead_letter_with_the_true_reason() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let files = variable("LONGSHORE_ODD_FILES").unwrap_or(1_000);
    let seed = variable("LONGSHORE_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut kinds: BTreeMap<Odd, BTreeMap<String, File>> = BTreeMap::new();
    for number in 0..files {
        let at = random.random_range(0..ALL.len());
        // A busy host rests as a whole, so there are few of those.
        let odd = match ALL[at] {
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
    let folder = Folder::new();
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
    folder.list(&lines);
    let begun = Instant::now();
    let mut command = folder.transfer();
    command.args(["--allow-private", "--concurrency", "40", "--read-timeout", READ_TIMEOUT]);
    let ended = start(&mut command).end_within(Duration::from_secs(900)).expect_code(3);
    println!("{files} files in {:.1} s: {}", begun.elapsed().as_secs_f64(), ended.report());

    let mut letters: BTreeMap<String, String> = BTreeMap::new();
    for letter in folder.dead_letters() {
        let task: serde_json::Value = serde_json::from_slice(&letter.body().unwrap()).unwrap();
        let path = task["path"].as_str().unwrap().to_owned();
        let before = letters.insert(path.clone(), letter.error.message.clone());
        assert!(before.is_none(), "{path} has two letters");
    }
    let mut wrong = Vec::new();
    for server in servers.values() {
        for (name, file) in server.files.iter() {
            let arrived = std::fs::read(folder.target().join(name)).ok();
            let letter = letters.remove(name);
            let is_right = match (file.odd.reason(), &arrived, &letter) {
                (Some(reason), None, Some(told)) => told.contains(reason),
                (None, Some(arrived), None) => {
                    let version = u8::from(file.odd == ResetsAndChanges);
                    *arrived == content(name, version, file.bytes)
                }
                _ => false,
            };
            if !is_right {
                let length = arrived.map(|arrived| arrived.len());
                wrong.push(format!("{name} of {}: {length:?}, {letter:?}", file.bytes));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "seed {seed}: {} are wrong: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
    assert!(letters.is_empty(), "nobody asked for {letters:?}");
    let failed = ended.figure("failed");
    assert_eq!(ended.figure("files") + failed, files);
    assert_eq!(folder.files().len() as u64, files - failed, "no temporary file is left");
}
