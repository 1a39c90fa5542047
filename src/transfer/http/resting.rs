//! Hosts that named a time before which nobody is to ask them.
//!
//! The lane of a host is closed as well, but an event that has its lane already, and a redirect to
//! another host, ask here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::MAX_DURATION;

/// Most hosts that are remembered. Beyond that those whose time is up are forgotten; where there are
/// none, those whose time is up first.
const MAX_HOSTS: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Resting {
    hosts: Mutex<HashMap<Arc<str>, Instant>>,
    /// Whether there is any: nobody takes the lock else.
    any: AtomicBool,
}

impl Resting {
    /// A host asks to be left alone for so long. Where it named a later time before, that holds.
    pub(super) fn on_named(&self, host: &Arc<str>, now: Instant, wait: Duration) {
        let until = now + wait.min(MAX_DURATION);
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MAX_HOSTS {
            hosts.retain(|_, until| *until > now);
        }
        if hosts.len() >= MAX_HOSTS {
            let mut all: Vec<Instant> = hosts.values().copied().collect();
            let middle = all.len() / 2;
            let (_, middle, _) = all.select_nth_unstable(middle);
            hosts.retain(|_, until| *until > *middle);
        }
        let known = hosts.entry(Arc::clone(host)).or_insert(until);
        *known = until.max(*known);
        self.any.store(true, Ordering::Release);
    }

    /// How long it is to be left alone still.
    pub(super) fn left(&self, host: &str, now: Instant) -> Option<Duration> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let left = hosts.get(host)?.saturating_duration_since(now);
        if left.is_zero() {
            hosts.remove(host);
            self.any.store(!hosts.is_empty(), Ordering::Release);
            return None;
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_left_alone_until_the_latest_time_it_named() {
        let (resting, now) = (Resting::default(), Instant::now());
        let (host, seconds) = (Arc::from("h"), Duration::from_secs);
        assert_eq!(resting.left("h", now), None);
        resting.on_named(&host, now, seconds(5));
        resting.on_named(&host, now + seconds(1), seconds(1));
        assert_eq!(resting.left("h", now + seconds(2)), Some(seconds(3)));
        assert_eq!(resting.left("other", now), None);
        assert_eq!(resting.left("h", now + seconds(5)), None);
        assert!(!resting.any.load(Ordering::Acquire), "nothing is left to ask the lock for");
    }

    #[test]
    fn hosts_without_number_are_bounded() {
        let (resting, now) = (Resting::default(), Instant::now());
        for number in 0..MAX_HOSTS as u64 + 10 {
            let host = Arc::from(format!("h{number}"));
            resting.on_named(&host, now, Duration::from_secs(number + 1));
        }
        assert!(resting.hosts.lock().expect("lock").len() <= MAX_HOSTS);
        let last = format!("h{}", MAX_HOSTS as u64 + 9);
        assert!(resting.left(&last, now).is_some(), "those that rest longest are kept");
    }
}
