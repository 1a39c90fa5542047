//! A web server that allows ranges, or says so and does something else.
// Each test crate uses a part of it.
#![allow(dead_code)]

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub(crate) const BLOCK: u64 = 64 * 1024;
/// Eleven blocks and a bit.
pub(crate) const LENGTH: u64 = 11 * BLOCK + 4_321;

/// What a server does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Each request at so many bytes a second.
    Right(u32),
    /// It says nothing of ranges.
    NoAcceptRanges,
    WeakETag,
    /// The body of each request breaks after so many bytes.
    Breaks(u64),
    /// It answers a request for a part with the whole.
    IgnoresRange,
    /// A second connection is told that there are too many.
    OneAtATime,
    /// Its URL is good for one request; after that all is 403, for a while.
    OnceOnly,
    /// The parts are of another file than they say.
    WrongBytes,
    /// A part says another length of the whole.
    OtherTotal,
    /// After the third request it is another file.
    Changes,
    /// The third request has no answer but a head.
    FallsSilent,
    /// A part is shorter than what was asked for.
    ShortParts,
    /// After so many bytes, of all requests together, nobody gets any more.
    StopsAfter(u64),
    /// It says that the file has so many bytes, and gives none.
    Announces(u64),
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    length: u64,
    kind: Mutex<Kind>,
    pub(crate) seen: Mutex<Seen>,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) requests: usize,
    /// Those for a part.
    pub(crate) parts: usize,
    serving: usize,
    pub(crate) most_at_once: usize,
    /// Bytes of bodies.
    pub(crate) sent: u64,
}

/// The bytes of a version of the file.
pub(crate) fn content(version: u8) -> Vec<u8> {
    bytes_of(version, LENGTH)
}

/// The same of a file of this length.
pub(crate) fn bytes_of(version: u8, length: u64) -> Vec<u8> {
    (0..length).map(|at| (at * 31 / 7) as u8 ^ (at >> 9) as u8 ^ version).collect()
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Arc<Self> {
        Self::of(kind, LENGTH)
    }

    /// With a file of this length.
    pub(crate) fn of(kind: Kind, length: u64) -> Arc<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let server =
            Arc::new(Self { address, length, kind: Mutex::new(kind), seen: Mutex::default() });
        let serving = Arc::clone(&server);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = Arc::clone(&serving);
                // A client that has what it wanted goes away.
                thread::spawn(move || drop(server.serve(stream)));
            }
        });
        server
    }

    fn kind(&self) -> Kind {
        *self.kind.lock().expect("lock")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/a", self.address)
    }

    /// It does something else from now on, and counts anew.
    pub(crate) fn becomes(&self, kind: Kind) {
        *self.kind.lock().expect("lock") = kind;
        *self.seen.lock().expect("lock") = Seen::default();
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        loop {
            let (mut range, mut if_range, mut is_first) = (None, None, true);
            loop {
                let Some(line) = lines.next().transpose()? else { return Ok(()) };
                if line.is_empty() {
                    break;
                }
                let lower = line.to_ascii_lowercase();
                if let Some(asked) = lower.strip_prefix("range: bytes=") {
                    let (from, to) = asked.split_once('-').expect("a range");
                    let to = to.parse::<u64>().map_or(self.length, |last| last + 1);
                    range = Some(from.parse().expect("a number")..to.min(self.length));
                }
                if let Some(validator) = lower.strip_prefix("if-range: ") {
                    if_range = Some(validator.to_owned());
                }
                is_first = false;
            }
            assert!(!is_first, "a request without a line");
            let number = {
                let mut seen = self.seen.lock().expect("lock");
                seen.requests += 1;
                seen.parts += usize::from(range.is_some());
                seen.serving += 1;
                seen.most_at_once = seen.most_at_once.max(seen.serving);
                seen.requests
            };
            let goes_on = self.answer(&stream, number, range, if_range.as_deref());
            let mut seen = self.seen.lock().expect("lock");
            seen.serving = seen.serving.saturating_sub(1);
            drop(seen);
            if !goes_on? {
                return Ok(());
            }
        }
    }

    /// Answers a request; false where the connection breaks.
    fn answer(
        &self,
        mut stream: &TcpStream,
        number: usize,
        range: Option<Range<u64>>,
        if_range: Option<&str>,
    ) -> io::Result<bool> {
        let serving = self.seen.lock().expect("lock").serving;
        let refusal = match self.kind() {
            Kind::OneAtATime if serving > 1 => Some("429 Too Many"),
            Kind::OnceOnly if (2..6).contains(&number) => Some("403 Forbidden"),
            _ => None,
        };
        if let Some(refusal) = refusal {
            write!(stream, "HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(true);
        }
        let version = u8::from(self.kind() == Kind::Changes && number > 3);
        let strength = if self.kind() == Kind::WeakETag { "W/" } else { "" };
        let etag = format!("{strength}\"v{version}\"");
        let ranges = if self.kind() == Kind::NoAcceptRanges { "none" } else { "bytes" };
        let range = range
            .filter(|_| if_range.is_none_or(|validator| validator == etag))
            .filter(|_| self.kind() != Kind::IgnoresRange);
        let (status, mut given) = match &range {
            Some(range) => ("206 Part", range.clone()),
            None => ("200 All", 0..self.length),
        };
        if self.kind() == Kind::ShortParts && range.is_some() {
            given.end = given.end.min(given.start + BLOCK / 3);
        }
        let mut bytes = given.end - given.start;
        if let Kind::Announces(announced) = self.kind() {
            bytes = announced;
        }
        write!(
            stream,
            "HTTP/1.1 {status}\r\nETag: {etag}\r\nAccept-Ranges: {ranges}\r\nContent-Length: {bytes}\r\n"
        )?;
        if range.is_some() {
            let total = self.length + u64::from(self.kind() == Kind::OtherTotal);
            write!(stream, "Content-Range: bytes {}-{}/{total}\r\n", given.start, given.end - 1)?;
        }
        write!(stream, "\r\n")?;
        if self.kind() == Kind::FallsSilent && number == 3 {
            thread::sleep(Duration::from_secs(20));
            return Ok(false);
        }
        if let Kind::Announces(_) = self.kind() {
            // Nobody is to wait for it.
            return Ok(false);
        }
        let wrong = u8::from(self.kind() == Kind::WrongBytes && range.is_some()) * 0x55;
        let body: Vec<u8> = bytes_of(version, self.length)
            [given.start as usize..given.end as usize]
            .iter()
            .map(|byte| byte ^ wrong)
            .collect();
        let (mut body, mut breaks) = (&body[..], false);
        if let Kind::Breaks(after) = self.kind()
            && body.len() as u64 > after
        {
            (body, breaks) = (&body[..after as usize], true);
        }
        let pace = if let Kind::Right(pace) = self.kind() { pace } else { 4_000_000 };
        for part in body.chunks(16 * 1024) {
            thread::sleep(Duration::from_secs_f64(part.len() as f64 / f64::from(pace)));
            loop {
                let mut seen = self.seen.lock().expect("lock");
                match self.kind() {
                    Kind::StopsAfter(most) if seen.sent >= most => {}
                    _ => break seen.sent += part.len() as u64,
                }
                drop(seen);
                thread::sleep(Duration::from_millis(50));
            }
            stream.write_all(part)?;
        }
        Ok(!breaks)
    }
}
