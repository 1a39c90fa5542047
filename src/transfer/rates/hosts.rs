//! What is used up of the rates of each host, for as long as it matters.
//!
//! A host is forgotten when nobody uses it and its rates have recovered: then it is as good as
//! never seen. At most [`MAX_HOSTS`] are remembered, and those in use: beyond that the ones used
//! longest ago are forgotten as they are, and may be asked sooner than their rate says. Each use
//! costs constant time on average.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::pace::Pace;
use crate::config::{Rate, RateLimits, Unit};

/// Most hosts remembered that nobody uses.
pub(super) const MAX_HOSTS: usize = 65_536;

/// Fewer are not looked through.
const MIN_SWEEP_HOSTS: usize = 1_024;

/// What is known of a host. `L` is where its requests and streams stand in line; who stands there
/// has a clone.
#[derive(Debug)]
pub(super) struct Host<L> {
    pub(super) requests: Option<Pace>,
    pub(super) bytes: Option<Pace>,
    /// Requests that stand in line.
    pub(super) waiting: usize,
    pub(super) line: Arc<L>,
    used_at: Duration,
}

impl<L> Host<L> {
    fn is_in_use(&self) -> bool {
        self.waiting > 0 || Arc::strong_count(&self.line) > 1
    }

    fn is_fresh(&self, now: Duration) -> bool {
        [&self.requests, &self.bytes].into_iter().flatten().all(|pace| pace.is_fresh(now))
    }
}

#[derive(Debug)]
pub(super) struct Hosts<L> {
    known: HashMap<Arc<str>, Host<L>>,
    /// How many may be known before they are looked through.
    sweep_hosts: usize,
}

impl<L> Default for Hosts<L> {
    fn default() -> Self {
        Self { known: HashMap::new(), sweep_hosts: MIN_SWEEP_HOSTS }
    }
}

impl<L: Default> Hosts<L> {
    /// The host of this name, remembered from now on.
    pub(super) fn of(
        &mut self,
        name: &Arc<str>,
        limits: &RateLimits,
        now: Duration,
    ) -> &mut Host<L> {
        if self.known.len() >= self.sweep_hosts && !self.known.contains_key(name) {
            self.forget(now);
        }
        let pace = |rate: Option<Rate>, unit| rate.map(|rate| Pace::new(rate, unit, now));
        let host = self.known.entry(Arc::clone(name)).or_insert_with(|| Host {
            requests: pace(limits.requests_per_second_per_host, Unit::Requests),
            bytes: pace(limits.bytes_per_second_per_host, Unit::Bytes),
            waiting: 0,
            line: Arc::default(),
            used_at: now,
        });
        host.used_at = now;
        host
    }

    /// The host of this name, if it is remembered.
    pub(super) fn get(&mut self, name: &str) -> Option<&mut Host<L>> {
        self.known.get_mut(name)
    }

    /// Goes on with other rates; hosts that are known keep what they used up.
    pub(super) fn change(&mut self, limits: &RateLimits, now: Duration) {
        for host in self.known.values_mut() {
            change(&mut host.requests, limits.requests_per_second_per_host, Unit::Requests, now);
            change(&mut host.bytes, limits.bytes_per_second_per_host, Unit::Bytes, now);
        }
    }

    /// Forgets whom nobody uses and whose rates have recovered; where too many are left, also
    /// those used longest ago.
    fn forget(&mut self, now: Duration) {
        self.known.retain(|_, host| host.is_in_use() || !host.is_fresh(now));
        if self.known.len() >= MAX_HOSTS {
            let mut times: Vec<_> = self.known.values().map(|host| host.used_at).collect();
            let (_, median, _) = times.select_nth_unstable(MAX_HOSTS / 2);
            let median = *median;
            self.known.retain(|_, host| host.is_in_use() || host.used_at > median);
        }
        self.sweep_hosts = (2 * self.known.len()).clamp(MIN_SWEEP_HOSTS, MAX_HOSTS);
        if self.known.len() * 4 >= self.sweep_hosts * 3 {
            // All of them are in use: so many more before the next look.
            self.sweep_hosts = 2 * self.known.len();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

/// Goes on with another rate, or with none.
pub(super) fn change(pace: &mut Option<Pace>, rate: Option<Rate>, unit: Unit, now: Duration) {
    match (pace.as_mut(), rate) {
        (Some(pace), Some(rate)) => pace.change(rate, unit, now),
        (_, rate) => *pace = rate.map(|rate| Pace::new(rate, unit, now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(per_second: f64) -> RateLimits {
        let mut limits = RateLimits::default();
        limits.requests_per_second_per_host = Some(Rate::new(per_second));
        limits
    }

    fn name(number: usize) -> Arc<str> {
        format!("host-{number}").into()
    }

    #[test]
    fn a_host_is_forgotten_when_its_rate_has_recovered_and_not_before() {
        let limits = limits(1.0);
        let mut hosts = Hosts::<()>::default();
        let slow = name(usize::MAX);
        let now = Duration::from_secs(100);
        let pace = &mut hosts.of(&slow, &limits, now).requests;
        assert_eq!(pace.as_mut().expect("limited").take(1, now), Ok(()));
        let seen = (0..3 * MIN_SWEEP_HOSTS).map(name);
        for other in seen.clone() {
            hosts.of(&other, &limits, now);
        }
        let pace = &mut hosts.get(&slow).expect("remembered").requests;
        assert!(pace.as_mut().expect("limited").take(1, now).is_err());
        assert!(hosts.len() <= 2 * MIN_SWEEP_HOSTS, "{} hosts", hosts.len());
        for other in seen {
            hosts.of(&other, &limits, now + Duration::from_secs(2));
        }
        assert!(hosts.get(&slow).is_none());
    }

    #[test]
    fn of_many_hosts_few_are_remembered_and_none_in_use_is_forgotten() {
        let limits = limits(0.001);
        let mut hosts = Hosts::<()>::default();
        let line = Arc::clone(&hosts.of(&name(0), &limits, Duration::ZERO).line);
        let mut most = 0;
        for number in 1..200_000 {
            let now = Duration::from_micros(number as u64);
            let pace = &mut hosts.of(&name(number), &limits, now).requests;
            assert_eq!(pace.as_mut().expect("limited").take(1, now), Ok(()));
            most = most.max(hosts.len());
        }
        assert!(most <= MAX_HOSTS + 1, "{most} hosts");
        let host = hosts.get(&name(0)).expect("in use");
        assert!(Arc::ptr_eq(&line, &host.line));
        assert!(hosts.get(&name(199_999)).is_some(), "the newest was forgotten");
    }
}
