//! The limits of a transfer worker: requests and bytes a second, in total and of each host.
//!
//! ```text
//!  a request                                     a body
//!  ─────────                                     ──────
//!  line of its host ── too long ──> the lane     each piece read:
//!      │               closes, the slot is           line of its host ── rate of the host
//!      │               free                              │
//!  line of all ─────── rates of host and all         line of all ─────── rate of all
//!      │               at once                           │
//!  the request goes                              the next piece may be read
//! ```
//!
//! - **Connections** of a host are the cap of its lane: [`DownloadWorker::lane_rule`].
//! - **A wait for a host** belongs to its lane: the event goes back, and its slot is free for other hosts. Only
//!   the last 20 ms are waited for in the slot, because a lane that opens for each request would be late each
//!   time. **A wait for all hosts together** happens in the slot, for up to five seconds: no other host could
//!   begin either.
//! - **Streams take turns** of equal pieces, first come, first served. So each stream gets as much as the others,
//!   whatever the size of the chunks that its network brings. A stream reads a chunk, hands it on in pieces as
//!   they are paid for, and then reads the next one. So it is ahead of the rate by one chunk at most.
//! - **Changed while running** ([`Rates::set`]): every request and stream that waits asks again at once, under the
//!   new rates. What was used up stays used up.
//! - Without limits a request costs one load of an atomic, and so does a chunk.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use longshore::config::{Rate, RateLimits};
//! use longshore::transfer::download::DownloadWorker;
//! use longshore::transfer::rates::Rates;
//!
//! # fn wire(
//! #     worker: DownloadWorker,
//! #     builder: longshore::consumer::BatchConsumerBuilder,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let mut limits = RateLimits::default(); // or `*settings.rate_limits()`
//! limits.bytes_per_second = Some(Rate::new(20e6));
//! limits.requests_per_second_per_host = Some(Rate::new(5.0));
//! let rates = Arc::new(Rates::new(limits)?);
//! let handle = builder
//!     .lanes(DownloadWorker::lane_rule(Some(4))) // at most four connections to a host
//!     .event_handler(worker.with_rates(Arc::clone(&rates)))?
//!     .start();
//!
//! limits.bytes_per_second = Some(Rate::new(40e6));
//! rates.set(limits)?;
//! handle.set_lane_cap(8)?;
//! # Ok(())
//! # }
//! ```
//!
//! What is decided is pure (`book`, `hosts`, `pace`); this file has lines, locks and timers.
//!
//! [`DownloadWorker::lane_rule`]: super::download::DownloadWorker::lane_rule

mod book;
mod hosts;
mod pace;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout};

use self::book::{Book, Waits};
use crate::config::RateLimits;
use crate::error::{ErrorClass, InvalidConfig};
use crate::outcome::{Failure, Outcome};

/// How fast a worker, or several that share it, may ask and read. Can be changed while they run.
pub struct Rates {
    book: std::sync::Mutex<Book<Line>>,
    /// Where all hosts stand in line together.
    whole: Line,
    changed: Notify,
    /// Whether requests have any limit.
    has_requests: AtomicBool,
    /// Bytes of a turn; 0 where bytes have no limit.
    piece_bytes: AtomicU64,
    /// Times are counted from here.
    since: Instant,
}

/// Whoever holds one asks for its turn; the others wait in the order they came.
#[derive(Debug, Default)]
struct Line {
    requests: Mutex<()>,
    bytes: Mutex<()>,
}

impl Default for Rates {
    /// Without limits.
    fn default() -> Self {
        Self::of(RateLimits::default())
    }
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rates").field("limits", &self.limits()).finish_non_exhaustive()
    }
}

impl Rates {
    /// Keeps to these limits, from now on.
    ///
    /// # Errors
    /// A rate or a burst that cannot be used, by name.
    pub fn new(limits: RateLimits) -> Result<Self, InvalidConfig> {
        limits.validate()?;
        Ok(Self::of(limits))
    }

    fn of(limits: RateLimits) -> Self {
        let rates = Self {
            book: std::sync::Mutex::new(Book::new(limits, Duration::ZERO)),
            whole: Line::default(),
            changed: Notify::new(),
            has_requests: AtomicBool::new(false),
            piece_bytes: AtomicU64::new(0),
            since: Instant::now(),
        };
        rates.note(&rates.book());
        rates
    }

    /// The limits that apply.
    pub fn limits(&self) -> RateLimits {
        self.book().limits()
    }

    /// Changes the limits while workers run; streams that are under way keep to them as well. What
    /// was used up stays used up, so changing them often lets nothing more through.
    ///
    /// # Errors
    /// A rate or a burst that cannot be used, by name; then nothing is changed.
    pub fn set(&self, limits: RateLimits) -> Result<(), InvalidConfig> {
        limits.validate()?;
        let now = self.now();
        let mut book = self.book();
        book.change(limits, now);
        self.note(&book);
        drop(book);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Lets a request to a host go when it may.
    ///
    /// # Errors
    /// What becomes of its task instead where the wait is long: it goes back, and the lane of the
    /// host is closed.
    ///
    /// # Cancel safety
    /// Dropped, it used up nothing.
    pub(super) async fn begin(&self, host: &Arc<str>) -> Result<(), Outcome> {
        if !self.has_requests.load(Ordering::Relaxed) {
            return Ok(());
        }
        let joined = self.book().on_joined(host, self.now());
        joined.map_err(|waits| held_up(host, waits))?;
        let _standing = Standing { rates: self, host };
        let line = self.book().line(host, self.now());
        let _first_of_host = line.requests.lock().await;
        // The host first: who waited for it in the line of all would hold up the other hosts.
        self.when(|book, now| match book.host_wait(host, now) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        })
        .await;
        let _first_of_all = self.whole.requests.lock().await;
        self.when(|book, now| {
            book.ask(host, now).map_err(|(Waits::Host(wait) | Waits::Whole(wait))| wait)
        })
        .await;
        Ok(())
    }

    /// Counts the bytes of a body from this host.
    pub(super) fn meter(&self, host: Arc<str>) -> Meter<'_> {
        Meter { rates: self, host, owed_bytes: 0, waited: Duration::ZERO }
    }

    /// Asks until the answer is yes: after each wait that the answer is, and after each change.
    async fn when(&self, mut ask: impl FnMut(&mut Book<Line>, Duration) -> Result<(), Duration>) {
        loop {
            // Before it asks, so that no change is missed in between.
            let changed = self.changed.notified();
            let asked = ask(&mut self.book(), self.now());
            let Err(wait) = asked else { return };
            // Either way it asks again.
            let _changed = timeout(wait, changed).await;
        }
    }

    fn note(&self, book: &Book<Line>) {
        self.has_requests.store(book.has_requests(), Ordering::Relaxed);
        self.piece_bytes.store(book.piece_bytes().unwrap_or(0), Ordering::Relaxed);
    }

    fn book(&self) -> MutexGuard<'_, Book<Line>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }
}

/// A request in line. Dropped, it is out.
struct Standing<'a> {
    rates: &'a Rates,
    host: &'a str,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.rates.book().on_left(self.host);
    }
}

/// What becomes of a task whose request waits for long.
fn held_up(host: &str, waits: Waits) -> Outcome {
    let whose = match waits {
        Waits::Host(_) => format!("the rate of requests to {host}"),
        Waits::Whole(_) => "the rate of requests to all hosts".to_owned(),
    };
    let message = format!("{whose} is used up");
    Outcome::close_lane(waits.closing(), Failure::new(ErrorClass::Throttling, message))
}

/// Pays for the bytes of one body. What is not paid for when it is dropped is counted all the same.
pub(super) struct Meter<'a> {
    rates: &'a Rates,
    host: Arc<str>,
    owed_bytes: u64,
    waited: Duration,
}

impl Meter<'_> {
    /// So many bytes arrived.
    pub(super) fn on_arrived(&mut self, bytes: usize) {
        self.owed_bytes = match self.rates.piece_bytes.load(Ordering::Relaxed) {
            // What was read without a limit is nobody's debt later.
            0 => 0,
            _ => self.owed_bytes + bytes as u64,
        };
    }

    /// The next part of a chunk that arrived, when it is paid for: all of it where bytes have no
    /// limit. When the last part is paid for, the next chunk may be read.
    ///
    /// # Cancel safety
    /// Dropped, the chunk is whole, and what was not paid for is still owed.
    pub(super) async fn next_part(&mut self, chunk: &mut Bytes) -> Bytes {
        let piece = self.rates.piece_bytes.load(Ordering::Relaxed);
        if piece == 0 {
            return std::mem::take(chunk);
        }
        let part = usize::try_from(piece).unwrap_or(usize::MAX).min(chunk.len());
        if part == chunk.len() {
            self.pay(piece, piece).await;
        } else {
            // One turn for each part.
            self.pay(piece, self.owed_bytes.max(piece)).await;
        }
        chunk.split_to(part)
    }

    /// Pays what is owed at the end of a body.
    ///
    /// # Cancel safety
    /// Dropped, what was not paid for is still owed.
    pub(super) async fn on_end(&mut self) {
        let piece = self.rates.piece_bytes.load(Ordering::Relaxed).max(1);
        self.pay(piece, 1).await;
    }

    /// How long it stood in line: none of that is the other side's fault.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }

    /// Takes turns until it owes fewer than `least` bytes.
    async fn pay(&mut self, piece: u64, least: u64) {
        if self.owed_bytes < least {
            return;
        }
        let begun = Instant::now();
        while self.owed_bytes >= least {
            // The rate may have become a slower one, with smaller pieces.
            let piece = match self.rates.piece_bytes.load(Ordering::Relaxed) {
                0 => piece,
                now => now.min(piece),
            };
            let bytes = self.owed_bytes.min(piece);
            self.take_turn(bytes).await;
            self.owed_bytes -= bytes;
        }
        self.waited += begun.elapsed();
    }

    async fn take_turn(&self, bytes: u64) {
        let Self { rates, host, .. } = self;
        let line = rates.book().byte_line(host, rates.now());
        if let Some(line) = line {
            let _first_of_host = line.bytes.lock().await;
            rates.when(|book, now| book.pay_host(host, bytes, now)).await;
        }
        let _first_of_all = rates.whole.bytes.lock().await;
        rates.when(|book, now| book.pay_whole(bytes, now)).await;
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        if self.owed_bytes > 0 {
            self.rates.book().charge(&self.host, self.owed_bytes, self.rates.now());
        }
    }
}

#[cfg(test)]
mod tests;
