//! The keys of what fails: attempts, delays, parking.

use std::time::Duration;

use super::{Key, MAX_COUNT, knob};
use crate::config;
use crate::settings::knob::Knob;
use crate::settings::value;

pub(in crate::settings) const MAX_ATTEMPTS: Key = knob(
    "LONGSHORE_MAX_ATTEMPTS",
    "5",
    Knob::Count {
        least: 1,
        most: MAX_COUNT,
        set: |o, n| o.max_attempts = u32::try_from(n).unwrap_or(u32::MAX),
    },
    "How often a handler gets an event before it is parked, or becomes a dead letter where nothing is; beyond that as long as nothing succeeds where it fails.",
);

pub(in crate::settings) const MAX_AGE: Key = knob(
    "LONGSHORE_MAX_AGE",
    "24h",
    Knob::Time { least: Duration::ZERO, set: |o, time| o.max_age = time },
    "How long an event is tried while nothing succeeds where it fails; with 0s it is given up after its attempts whatever else fails.",
);

pub(in crate::settings) const PARK_AFTER: Key = knob(
    "LONGSHORE_PARK_AFTER",
    "60s",
    Knob::Time { least: Duration::ZERO, set: |o, time| o.park_after = time },
    "The longest delay that an event waits for in place; for a longer one it is parked in the failure store.",
);

pub(in crate::settings) const PARK_DELAYS: Key = knob(
    "LONGSHORE_PARK_DELAYS",
    "5m, 30m, 2h, 8h",
    Knob::Other {
        allowed: "none, where nothing is parked, or up to 64 times with commas between them",
        set: |o, text| {
            o.park_delays = value::park_delays(text)?;
            Some(())
        },
    },
    "For how long an event is parked that failed LONGSHORE_MAX_ATTEMPTS times and may succeed later: the first time, the second, and so on; then it becomes a dead letter.",
);

pub(in crate::settings) const MAX_PARKED_EVENTS: Key = knob(
    "LONGSHORE_MAX_PARKED_EVENTS",
    "100000",
    Knob::Count { least: 1, most: config::MAX_PARKED_EVENTS, set: |o, n| o.max_parked_events = n },
    "Most events of a partition that are parked; what fails beyond them is tried in place alone, and then becomes a dead letter.",
);

pub(in crate::settings) const RETRY_BACKOFF: Key = knob(
    "LONGSHORE_RETRY_BACKOFF",
    "1s..60s",
    Knob::Delays { set: |o, delays| o.retry_backoff = delays },
    "Delays between attempts; each is twice the one before. At least 4s after throttling and 10s after auth.",
);

pub(in crate::settings) const RETRY_POLICIES: Key = knob(
    "LONGSHORE_RETRY_POLICIES",
    "none",
    Knob::Other {
        allowed: "none, or for some classes of failures the attempts and the delays, such as \
                  throttling 9 4s..60s, auth 20 10s..5m, and the word dead where they are not \
                  parked after that",
        set: |o, text| {
            o.retry_policies = value::retry_policies(text)?;
            Some(())
        },
    },
    "Attempts and delays of their own, by the class of the failure: transient, throttling, auth, unknown.",
);
