//! How long a run tries to connect for the first time.
//!
//! Once connected, a worker reconnects for ever: what worked before works again. Before that, nobody
//! knows whether it ever can, and a run that says nothing of it looks like one that has nothing to do.
//!
//! ```text
//!  an answer that will not change ── gives up at once
//!  credentials refused            ── gives up after REFUSAL_GRACE: a role or a key may be on its way
//!  anything else                  ── gives up at the deadline
//! ```

use std::time::{Duration, Instant};

use crate::error::ErrorClass;

/// How long credentials may be refused: what was granted just now takes a moment to be known
/// everywhere.
pub const REFUSAL_GRACE: Duration = Duration::from_secs(5);

/// The longest pause between two attempts where there is a deadline: a service that comes back shortly
/// before it is found.
pub const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The first connection of a run, while it is not there.
#[derive(Clone, Debug)]
pub struct FirstConnection {
    deadline: Option<Instant>,
    refused_since: Option<Instant>,
}

/// What to do after an attempt that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Try again, after a back-off.
    Again,
    /// It is no use.
    GiveUp,
}

impl FirstConnection {
    /// Begins to try, for so long at most; `None`: for as long as it may help.
    pub fn begin(limit: Option<Duration>, now: Instant) -> Self {
        Self { deadline: limit.map(|limit| now + limit), refused_since: None }
    }

    /// When to give up, whatever is under way.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long to wait before the next attempt, by this back-off.
    pub fn pause(&self, delay: Duration) -> Duration {
        if self.deadline.is_some() { delay.min(MAX_PAUSE) } else { delay }
    }

    /// An attempt failed.
    pub fn on_failed(&mut self, class: ErrorClass, now: Instant) -> Next {
        if !class.is_retryable() || self.deadline.is_some_and(|deadline| now >= deadline) {
            return Next::GiveUp;
        }
        if class != ErrorClass::Auth {
            self.refused_since = None;
            return Next::Again;
        }
        let since = *self.refused_since.get_or_insert(now);
        let is_over = self.deadline.is_some() && now - since >= REFUSAL_GRACE;
        if is_over { Next::GiveUp } else { Next::Again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn pauses_are_short_only_where_there_is_a_deadline() {
        let (now, long) = (Instant::now(), Duration::from_secs(30));
        assert_eq!(FirstConnection::begin(Some(LIMIT), now).pause(long), MAX_PAUSE);
        assert_eq!(FirstConnection::begin(Some(LIMIT), now).pause(MAX_PAUSE / 4), MAX_PAUSE / 4);
        assert_eq!(FirstConnection::begin(None, now).pause(long), long);
    }

    #[test]
    fn what_will_not_change_is_given_up_at_once() {
        let now = Instant::now();
        for limit in [Some(LIMIT), None] {
            let mut first = FirstConnection::begin(limit, now);
            assert_eq!(first.on_failed(ErrorClass::Permanent, now), Next::GiveUp);
        }
    }

    #[test]
    fn refused_credentials_have_a_short_grace() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut first = FirstConnection::begin(Some(LIMIT), begun);
        assert_eq!(first.on_failed(ErrorClass::Auth, at(1)), Next::Again);
        assert_eq!(first.on_failed(ErrorClass::Auth, at(5)), Next::Again);
        assert_eq!(first.on_failed(ErrorClass::Transient, at(6)), Next::Again);
        assert_eq!(first.on_failed(ErrorClass::Auth, at(7)), Next::Again, "refused anew");
        assert_eq!(first.on_failed(ErrorClass::Auth, at(12)), Next::GiveUp);
    }

    #[test]
    fn what_may_pass_is_tried_until_the_deadline_and_without_one_for_ever() {
        let begun = Instant::now();
        for class in [ErrorClass::Transient, ErrorClass::Throttling, ErrorClass::Unknown] {
            let mut first = FirstConnection::begin(Some(LIMIT), begun);
            assert_eq!(first.deadline(), Some(begun + LIMIT));
            assert_eq!(first.on_failed(class, begun + LIMIT / 2), Next::Again);
            assert_eq!(first.on_failed(class, begun + LIMIT), Next::GiveUp);
        }
        let mut first = FirstConnection::begin(None, begun);
        for class in [ErrorClass::Transient, ErrorClass::Auth, ErrorClass::Auth] {
            assert_eq!(first.on_failed(class, begun + LIMIT * 100), Next::Again);
        }
        assert_eq!(first.on_failed(ErrorClass::Auth, begun + LIMIT * 200), Next::Again);
    }
}
