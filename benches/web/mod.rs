//! A web server in a process of its own, for benches: this program again, told so by an environment
//! variable; or on threads of this one, for tests that measure another process. It gives files of any length
//! and takes blobs, which it throws away. In a process of its own it ends with its standard input.
// Each program uses a part of it.
#![allow(dead_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Says that this process is the server.
const IS_SERVER: &str = "LONGSHORE_BENCH_WEB";

/// What is written at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// The server.
pub(crate) struct Web {
    process: Option<Child>,
    address: String,
}

impl Web {
    pub(crate) fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .env(IS_SERVER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut address = String::new();
        let said = process.stdout.take().expect("piped");
        BufReader::new(said).read_line(&mut address).expect("it says where it is");
        Self { process: Some(process), address: address.trim_end().to_owned() }
    }

    /// The same within this process.
    pub(crate) fn within() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        thread::spawn(move || listen(&listener));
        Self { process: None, address }
    }

    /// A file of so many bytes, at so many bytes a second and connection from its first byte on; 0: as
    /// fast as it goes.
    pub(crate) fn file(&self, bytes: u64, pace: u64, number: usize) -> String {
        format!("http://{}/{bytes}/{pace}/{number}", self.address)
    }

    /// A container that takes everything.
    pub(crate) fn container(&self) -> String {
        format!("http://{}/account/container?sig=x", self.address)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _gone = process.kill();
            let _gone = process.wait();
        }
    }
}

/// Whether this process is the server; then it served until nobody needs it.
pub(crate) fn served() -> bool {
    if std::env::var_os(IS_SERVER).is_none() {
        return false;
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    thread::spawn(move || listen(&listener));
    let _ends = io::stdin().read_to_end(&mut Vec::new());
    true
}

fn listen(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // A client that has what it wanted goes away.
        thread::spawn(move || drop(serve(stream)));
    }
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(PIECE_BYTES, stream.try_clone()?);
    let mut writer = stream;
    let piece: Vec<u8> = (0..PIECE_BYTES).map(|at| (at * 31 / 7) as u8).collect();
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let request = line.trim_end().to_owned();
        let (mut length, mut part) = (0, None);
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().map_err(io::Error::other)?;
            }
            if let Some((from, to)) =
                header.strip_prefix("range: bytes=").and_then(|range| range.split_once('-'))
            {
                part = Some((from.parse().map_err(io::Error::other)?, to.parse::<u64>().ok()));
            }
        }
        io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        match request.split(' ').next() {
            Some("GET") if request.contains("comp=") => writer.write_all(NO_BLOB)?,
            Some("GET") => give(&mut writer, &request, part, &piece)?,
            Some("PUT") => writer.write_all(TAKEN)?,
            _ => writer.write_all(NO_BLOB)?,
        }
    }
}

const NO_BLOB: &[u8] =
    b"HTTP/1.1 404 Not Found\r\nx-ms-error-code: BlobNotFound\r\ncontent-length: 0\r\n\r\n";

const TAKEN: &[u8] = b"HTTP/1.1 201 Created\r\netag: \"1\"\r\n\
    last-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n";

/// `GET /BYTES/PACE/NUMBER`.
fn give(
    writer: &mut TcpStream,
    request: &str,
    part: Option<(u64, Option<u64>)>,
    piece: &[u8],
) -> io::Result<()> {
    let mut fields = request.split(['/', ' ']).filter(|field| !field.is_empty()).skip(1);
    let mut number = || fields.next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let (bytes, pace) = (number(), number());
    let range: Range<u64> = match part {
        Some((from, to)) => from..to.map_or(bytes, |last| (last + 1).min(bytes)),
        None => 0..bytes,
    };
    let status = match part {
        Some(_) => format!(
            "206 Partial Content\r\ncontent-range: bytes {}-{}/{bytes}",
            range.start,
            range.end - 1
        ),
        None => "200 OK".to_owned(),
    };
    let length = range.end - range.start;
    write!(
        writer,
        "HTTP/1.1 {status}\r\naccept-ranges: bytes\r\netag: \"1\"\r\ncontent-length: {length}\r\n\r\n"
    )?;
    let (begun, mut sent) = (Instant::now(), 0);
    while sent < length {
        // Small pieces where the pace is to be even.
        let most = if pace > 0 { 16 * 1024 } else { piece.len() as u64 };
        let now = most.min(length - sent) as usize;
        writer.write_all(&piece[..now])?;
        sent += now as u64;
        if pace > 0 {
            let due = Duration::from_secs_f64(sent as f64 / pace as f64);
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    Ok(())
}
