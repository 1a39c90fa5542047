//! Who may go now: the rates of all hosts together and of each, as one decision.
//!
//! A request goes when its host and the whole let it go, and then both are charged at the same
//! moment: else a request that waits for the one would have used up the other, and those that the
//! host let go in time would come to it together. Bytes are charged to the host first, a piece at a
//! time; so few that it does not matter.
//!
//! Pure: time is an argument. `L` is where requests and streams stand in line.

use std::sync::Arc;
use std::time::Duration;

use super::hosts::{Host, Hosts, change};
use super::pace::{Pace, piece_bytes};
use crate::config::{RateLimits, Unit};

/// The longest line before a host, in time, in which a request stands with its slot. A longer wait
/// is the lane's.
pub(super) const HOST_LINE: Duration = Duration::from_millis(20);

/// The longest line before the rate of all hosts together: there no other host has work that could
/// begin. It is far below the deadline of any handler.
pub(super) const WHOLE_LINE: Duration = Duration::from_secs(5);

/// Why a request must wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waits {
    /// Its host gets no more.
    Host(Duration),
    /// All hosts together get no more.
    Whole(Duration),
}

impl Waits {
    /// For how long the lane of the host closes: a little less, so that the line is not empty when
    /// the time comes.
    pub(super) fn closing(self) -> Duration {
        match self {
            Waits::Host(wait) => wait.saturating_sub(HOST_LINE / 2),
            Waits::Whole(wait) => wait.saturating_sub(WHOLE_LINE / 2),
        }
    }
}

/// The rates, and what of them is used up.
#[derive(Debug)]
pub(super) struct Book<L> {
    limits: RateLimits,
    requests: Option<Pace>,
    bytes: Option<Pace>,
    /// Requests that stand in line for the whole.
    waiting: usize,
    hosts: Hosts<L>,
}

impl<L: Default> Book<L> {
    /// Of limits that were checked.
    pub(super) fn new(limits: RateLimits, now: Duration) -> Self {
        let mut book = Self {
            limits: RateLimits::default(),
            requests: None,
            bytes: None,
            waiting: 0,
            hosts: Hosts::default(),
        };
        book.change(limits, now);
        book
    }

    pub(super) fn limits(&self) -> RateLimits {
        self.limits
    }

    /// Goes on with other limits, which were checked; what is used up stays so.
    pub(super) fn change(&mut self, limits: RateLimits, now: Duration) {
        self.limits = limits;
        change(&mut self.requests, limits.requests_per_second, Unit::Requests, now);
        change(&mut self.bytes, limits.bytes_per_second, Unit::Bytes, now);
        self.hosts.change(&limits, now);
    }

    /// Whether requests have any limit.
    pub(super) fn has_requests(&self) -> bool {
        self.limits.requests_per_second.is_some() || self.has_host_requests()
    }

    fn has_host_requests(&self) -> bool {
        self.limits.requests_per_second_per_host.is_some()
    }

    fn has_host_bytes(&self) -> bool {
        self.limits.bytes_per_second_per_host.is_some()
    }

    /// Bytes of a turn; `None` if bytes have no limit.
    pub(super) fn piece_bytes(&self) -> Option<u64> {
        let rates = [self.limits.bytes_per_second, self.limits.bytes_per_second_per_host];
        rates.into_iter().flatten().map(piece_bytes).min()
    }

    /// Where the requests of a host stand in line.
    pub(super) fn line(&mut self, host: &Arc<str>, now: Duration) -> Arc<L> {
        Arc::clone(&self.host(host, now).line)
    }

    /// Where the streams of a host stand in line, if they do.
    pub(super) fn byte_line(&mut self, host: &Arc<str>, now: Duration) -> Option<Arc<L>> {
        self.has_host_bytes().then(|| self.line(host, now))
    }

    /// A request stands in line, until [`Self::on_left`].
    ///
    /// # Errors
    /// How long the line is, if it is too long to stand there.
    pub(super) fn on_joined(&mut self, host: &Arc<str>, now: Duration) -> Result<(), Waits> {
        if let Some(pace) = &self.requests {
            let wait = pace.wait(1, now) + pace.time_of(self.waiting);
            if wait > WHOLE_LINE {
                return Err(Waits::Whole(wait));
            }
        }
        let host = self.host(host, now);
        if let Some(pace) = &host.requests {
            let wait = pace.wait(1, now) + pace.time_of(host.waiting);
            if wait > HOST_LINE {
                return Err(Waits::Host(wait));
            }
        }
        host.waiting += 1;
        self.waiting += 1;
        Ok(())
    }

    /// It went, or was given up.
    pub(super) fn on_left(&mut self, host: &str) {
        self.waiting = self.waiting.saturating_sub(1);
        if let Some(host) = self.hosts.get(host) {
            host.waiting = host.waiting.saturating_sub(1);
        }
    }

    /// How long a request of this host must wait for the host.
    pub(super) fn host_wait(&mut self, host: &Arc<str>, now: Duration) -> Duration {
        let host = self.has_host_requests().then(|| self.host(host, now));
        host.and_then(|host| host.requests.as_ref())
            .map_or(Duration::ZERO, |pace| pace.wait(1, now))
    }

    /// Lets a request go.
    ///
    /// # Errors
    /// What it must wait for, and how long at least; nothing is used up.
    pub(super) fn ask(&mut self, host: &Arc<str>, now: Duration) -> Result<(), Waits> {
        let wait = self.host_wait(host, now);
        if !wait.is_zero() {
            return Err(Waits::Host(wait));
        }
        if let Some(pace) = &mut self.requests {
            pace.take(1, now).map_err(Waits::Whole)?;
        }
        if self.has_host_requests()
            && let Some(pace) = &mut self.host(host, now).requests
        {
            // It said so just now.
            let _lets = pace.take(1, now);
        }
        Ok(())
    }

    /// Lets bytes of a host go, at most a piece, as far as the host goes.
    ///
    /// # Errors
    /// How long they must wait at least; nothing is used up.
    pub(super) fn pay_host(
        &mut self,
        host: &Arc<str>,
        bytes: u64,
        now: Duration,
    ) -> Result<(), Duration> {
        if !self.has_host_bytes() {
            return Ok(());
        }
        let pace = &mut self.host(host, now).bytes;
        pace.as_mut().map_or(Ok(()), |pace| pace.take(bytes, now))
    }

    /// Lets bytes go, at most a piece, as far as all hosts together go.
    ///
    /// # Errors
    /// How long they must wait at least; nothing is used up.
    pub(super) fn pay_whole(&mut self, bytes: u64, now: Duration) -> Result<(), Duration> {
        self.bytes.as_mut().map_or(Ok(()), |pace| pace.take(bytes, now))
    }

    /// Counts bytes that were read and that nobody waits for.
    pub(super) fn charge(&mut self, host: &Arc<str>, bytes: u64, now: Duration) {
        if let Some(pace) = &mut self.bytes {
            pace.charge(bytes, now);
        }
        if self.has_host_bytes()
            && let Some(pace) = &mut self.host(host, now).bytes
        {
            pace.charge(bytes, now);
        }
    }

    fn host(&mut self, name: &Arc<str>, now: Duration) -> &mut Host<L> {
        self.hosts.of(name, &self.limits, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rate;

    const SECOND: Duration = Duration::from_secs(1);

    fn book(set: impl FnOnce(&mut RateLimits)) -> Book<()> {
        let mut limits = RateLimits::default();
        set(&mut limits);
        assert_eq!(limits.validate(), Ok(()));
        Book::new(limits, Duration::ZERO)
    }

    fn host(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn a_request_that_must_wait_uses_up_nothing() {
        let mut book = book(|limits| {
            limits.requests_per_second = Some(Rate::new(2.0).with_burst(0.0));
            limits.requests_per_second_per_host = Some(Rate::new(1.0).with_burst(0.0));
        });
        let (one, other) = (host("one"), host("other"));
        assert_eq!(book.ask(&one, Duration::ZERO), Ok(()));
        // The host lets it, the whole does not: asked for long, it is the host's turn all the same.
        for _ in 0..100 {
            assert!(matches!(book.ask(&other, SECOND / 4), Err(Waits::Whole(_))));
        }
        let half = SECOND / 2 + Duration::from_millis(1);
        assert_eq!(book.ask(&other, half), Ok(()));
        // The whole lets it, the host does not: the whole's turn is still there for another host.
        for _ in 0..100 {
            assert!(matches!(
                book.ask(&other, SECOND + Duration::from_millis(2)),
                Err(Waits::Host(_))
            ));
        }
        assert_eq!(book.ask(&one, SECOND + Duration::from_millis(2)), Ok(()));
    }

    #[test]
    fn a_line_before_a_host_is_short_and_the_rest_is_the_lanes() {
        let mut book = book(|limits| limits.requests_per_second_per_host = Some(Rate::new(50.0)));
        let slow = host("slow");
        // One may go at once, and the next within 20 ms.
        let joined = (0..10).map(|_| book.on_joined(&slow, Duration::ZERO));
        let joined: Vec<_> = joined.collect();
        let refused = joined.iter().filter(|joined| joined.is_err()).count();
        assert_eq!(refused, 8, "{joined:?}");
        let Err(waits @ Waits::Host(wait)) = joined[9] else { panic!("{joined:?}") };
        assert_eq!(wait, Duration::from_millis(40));
        assert_eq!(waits.closing(), Duration::from_millis(30));
        assert_eq!(book.on_joined(&host("other"), Duration::ZERO), Ok(()));
        book.on_left(&slow);
        assert_eq!(book.on_joined(&slow, Duration::ZERO), Ok(()));
    }

    #[test]
    fn a_line_before_all_hosts_is_bounded_in_time() {
        let mut book = book(|limits| limits.requests_per_second = Some(Rate::new(1.0)));
        let joined = |number| book.on_joined(&host(&format!("host-{number}")), Duration::ZERO);
        let joined: Vec<_> = (0..100).map(joined).collect();
        assert_eq!(joined.iter().filter(|joined| joined.is_ok()).count(), 6);
        let Err(waits @ Waits::Whole(wait)) = joined[99] else { panic!("{joined:?}") };
        assert_eq!((wait, waits.closing()), (6 * SECOND, 3 * SECOND + SECOND / 2));
    }

    #[test]
    fn bytes_that_nobody_waits_for_are_waited_for_by_the_next() {
        let mut book = book(|limits| limits.bytes_per_second_per_host = Some(Rate::new(1e6)));
        let slow = host("slow");
        book.charge(&slow, 1_000_000, Duration::ZERO);
        let wait = book.pay_host(&slow, 1_000, Duration::ZERO).expect_err("used up");
        assert!((SECOND * 8 / 10..SECOND).contains(&wait), "{wait:?}");
        assert_eq!(book.pay_host(&host("other"), 1_000, Duration::ZERO), Ok(()));
        assert_eq!(book.pay_host(&slow, 1_000, SECOND), Ok(()));
    }

    #[test]
    fn a_slow_rate_has_small_pieces() {
        let piece = |all: Option<f64>, each: Option<f64>| {
            book(|limits| {
                limits.bytes_per_second = all.map(Rate::new);
                limits.bytes_per_second_per_host = each.map(Rate::new);
            })
            .piece_bytes()
        };
        assert_eq!(piece(None, None), None);
        assert_eq!(piece(Some(20e6), None), Some(65_536));
        assert_eq!(piece(Some(20e6), Some(100e3)), Some(2_000));
        assert_eq!(piece(Some(1.0), None), Some(1));
    }
}
