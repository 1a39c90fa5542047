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
    "How many times a handler gets an event before the event is parked. Without a failure store, the event then becomes a dead letter, but only when another event has succeeded since: until then everything may be failing, and nothing is given up.",
);

pub(in crate::settings) const MAX_AGE: Key = knob(
    "LONGSHORE_MAX_AGE",
    "24h",
    Knob::Time { least: Duration::ZERO, set: |o, time| o.max_age = time },
    "How long an event is tried while nothing succeeds at its destination. With 0s it is given up after its attempts, whatever else fails.",
);

pub(in crate::settings) const PARK_AFTER: Key = knob(
    "LONGSHORE_PARK_AFTER",
    "60s",
    Knob::Time { least: Duration::ZERO, set: |o, time| o.park_after = time },
    "The longest delay for which an event waits in place. For a longer delay it is parked in the failure store.",
);

pub(in crate::settings) const PARK_DELAYS: Key = knob(
    "LONGSHORE_PARK_DELAYS",
    "5m, 30m, 2h, 8h",
    Knob::Other {
        allowed: "none, to park nothing, or up to 64 durations with commas between them",
        set: |o, text| {
            o.park_delays = value::park_delays(text)?;
            Some(())
        },
    },
    "How long an event is parked after it failed LONGSHORE_MAX_ATTEMPTS times and may still succeed: the first time, the second time, and so on. After the last time it becomes a dead letter.",
);

pub(in crate::settings) const MAX_PARKED_EVENTS: Key = knob(
    "LONGSHORE_MAX_PARKED_EVENTS",
    "100000",
    Knob::Count { least: 1, most: config::MAX_PARKED_EVENTS, set: |o, n| o.max_parked_events = n },
    "The most parked events of a partition. An event that fails beyond that is tried in place only, and then becomes a dead letter.",
);

pub(in crate::settings) const RETRY_BACKOFF: Key = knob(
    "LONGSHORE_RETRY_BACKOFF",
    "1s..60s",
    Knob::Delays { set: |o, delays| o.retry_backoff = delays },
    "Delays between attempts. Each is twice the one before. They are at least 4s after throttling and 10s after auth.",
);

pub(in crate::settings) const RETRY_POLICIES: Key = knob(
    "LONGSHORE_RETRY_POLICIES",
    "none",
    Knob::Other {
        allowed: "none, or for each class its attempts and delays, such as throttling 9 4s..60s, auth \
                  20 10s..5m; add the word dead to a class whose events are not parked after that",
        set: |o, text| {
            o.retry_policies = value::retry_policies(text)?;
            Some(())
        },
    },
    "Other attempts and delays for some classes of failures: transient, throttling, auth, unknown.",
);
