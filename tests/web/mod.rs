//! A web server for tests that does as it is told, and counts what it is asked.
//!
//! One thread per connection, one request per connection. A path has a row of answers: each
//! request takes the next, and the last one stays.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Bounds a wait for a request that would last for ever, on a machine with ten times more work than
/// cores.
const LIMIT: Duration = Duration::from_secs(180);

/// What one request gets.
#[derive(Clone)]
pub(crate) enum Answer {
    /// 200, whole.
    File(Vec<u8>),
    /// 200 with this `Content-MD5`.
    Summed(Vec<u8>, &'static str),
    /// 200, at this many bytes a second.
    Paced(Vec<u8>, u32),
    /// 200, and so many bytes that all are zero.
    Zeros(u64),
    /// 200 without a length, and chunks for as long as somebody reads them.
    Endless,
    /// 200 with the length of the whole, and the connection closed after the first half.
    Half(Vec<u8>),
    /// 200 and the first half; the rest once [`WebServer::release`] is called.
    Held(Vec<u8>),
    /// A status without a body.
    Status(u16),
    /// 503 that asks to wait so many seconds.
    Busy(u32),
    /// 302 to there.
    Redirect(String),
}

/// A server on a port of its own of the loopback address.
pub(crate) struct WebServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, Vec<Answer>>,
    requests: HashMap<String, usize>,
    answered: HashMap<String, usize>,
    serving: usize,
    most_at_once: usize,
    holding: usize,
    released: bool,
}

impl WebServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = serving.clone();
                // A client that goes away in the midst of an answer is what some tests want.
                thread::spawn(move || drop(answer(stream, &shared)));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Serves a file from now on.
    pub(crate) fn serve(&self, path: &str, body: impl Into<Vec<u8>>) {
        self.answer(path, [Answer::File(body.into())]);
    }

    /// Gives the requests for a path these answers from now on, the last one again and again.
    pub(crate) fn answer(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        // Taken from the end.
        let mut answers: Vec<Answer> = answers.into_iter().collect();
        answers.reverse();
        self.shared.state.lock().unwrap().answers.insert(path.to_owned(), answers);
    }

    /// How often a path was asked for.
    pub(crate) fn requests(&self, path: &str) -> usize {
        self.shared.state.lock().unwrap().requests.get(path).copied().unwrap_or_default()
    }

    pub(crate) fn all_requests(&self) -> usize {
        self.shared.state.lock().unwrap().requests.values().sum()
    }

    /// The most requests that were answered at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.state.lock().unwrap().most_at_once
    }

    /// Waits until this many answers are held back at once.
    pub(crate) fn wait_until_holding(&self, count: usize) {
        self.wait_until(|state| match state.holding {
            holding if holding < count => Err(format!("only {holding} of {count} requests came")),
            _ => Ok(()),
        });
    }

    /// Waits until a path was asked for, and answered.
    pub(crate) fn wait_until_answered(&self, path: &str) {
        self.wait_until(|state| match state.answered.get(path) {
            None => Err(format!("{path} was not answered")),
            Some(_) => Ok(()),
        });
    }

    fn wait_until(&self, look: impl Fn(&State) -> Result<(), String>) {
        let deadline = Instant::now() + LIMIT;
        let mut state = self.shared.state.lock().unwrap();
        while let Err(missing) = look(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{missing}");
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Lets all that is held back go on, and holds nothing back any more.
    pub(crate) fn release(&self) {
        self.shared.state.lock().unwrap().released = true;
        self.shared.changed.notify_all();
    }
}

fn answer(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = BufReader::new(stream.try_clone()?).lines();
    // Whoever connects and goes away has asked for nothing.
    let Some(first) = request.next().transpose()? else { return Ok(()) };
    for line in request {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let path = path.trim_start_matches('/').to_owned();
    let answer = {
        let mut state = shared.state.lock().unwrap();
        *state.requests.entry(path.clone()).or_default() += 1;
        state.serving += 1;
        state.most_at_once = state.most_at_once.max(state.serving);
        match state.answers.get_mut(&path) {
            Some(answers) if answers.len() > 1 => answers.pop(),
            Some(answers) => answers.last().cloned(),
            None => None,
        }
    };
    let given = give(stream, answer.unwrap_or(Answer::Status(404)), shared);
    let mut state = shared.state.lock().unwrap();
    state.serving -= 1;
    *state.answered.entry(path).or_default() += 1;
    drop(state);
    shared.changed.notify_all();
    given
}

fn give(mut stream: TcpStream, answer: Answer, shared: &Shared) -> io::Result<()> {
    let ok = |length: u64| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n");
    let end = "Connection: close\r\n\r\n";
    match answer {
        Answer::File(body) => {
            write!(stream, "{}{end}", ok(body.len() as u64))?;
            stream.write_all(&body)
        }
        Answer::Summed(body, md5) => {
            write!(stream, "{}Content-MD5: {md5}\r\n{end}", ok(body.len() as u64))?;
            stream.write_all(&body)
        }
        Answer::Paced(body, bytes_per_second) => {
            write!(stream, "{}{end}", ok(body.len() as u64))?;
            let started = Instant::now();
            let mut sent = 0_usize;
            for part in body.chunks(4_096) {
                let due = Duration::from_secs_f64(sent as f64 / f64::from(bytes_per_second));
                thread::sleep(due.saturating_sub(started.elapsed()));
                stream.write_all(part)?;
                sent += part.len();
            }
            Ok(())
        }
        Answer::Zeros(length) => {
            write!(stream, "{}{end}", ok(length))?;
            let part = vec![0; 256 * 1024];
            let mut left = length;
            while left > 0 {
                let now = left.min(part.len() as u64);
                stream.write_all(&part[..now as usize])?;
                left -= now;
            }
            Ok(())
        }
        Answer::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{end}")?;
            let part = vec![0; 64 * 1024];
            loop {
                write!(stream, "{:x}\r\n", part.len())?;
                stream.write_all(&part)?;
                stream.write_all(b"\r\n")?;
            }
        }
        Answer::Half(body) => {
            write!(stream, "{}{end}", ok(body.len() as u64))?;
            stream.write_all(&body[..body.len() / 2])
        }
        Answer::Held(body) => {
            let (first, rest) = body.split_at(body.len() / 2);
            write!(stream, "{}{end}", ok(body.len() as u64))?;
            stream.write_all(first)?;
            let mut state = shared.state.lock().unwrap();
            state.holding += 1;
            shared.changed.notify_all();
            while !state.released {
                state = shared.changed.wait(state).unwrap();
            }
            state.holding -= 1;
            drop(state);
            stream.write_all(rest)
        }
        Answer::Status(status) => {
            write!(stream, "HTTP/1.1 {status} Told\r\nContent-Length: 0\r\n{end}")
        }
        Answer::Busy(seconds) => write!(
            stream,
            "HTTP/1.1 503 Busy\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n{end}"
        ),
        Answer::Redirect(to) => {
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n{end}")
        }
    }
}
