//! Leases and checkpoints, proven with processes: workers that are added, removed and killed while
//! events flow, over the Azure SDK, the embedded broker and Azurite.
//!
//! ```text
//!  test process                                    worker process, several
//!  broker, Azurite, publisher      <── AMQP, HTTP ──  the consumer, behind ports that write
//!     │ starts, drains, kills ───────────────────────>   a trace of every call
//!     │                                                 its handler writes what it handled
//!     └── reads the journals: delivery (the contract), conformance (the memory model)
//! ```
//!
//! A worker is this test binary, started again. Journals are lines of JSON, one write each, so
//! that SIGKILL leaves whole lines; their times are of the one monotonic clock of the machine.
//!
//! `LONGSHORE_EVENTS`, `LONGSHORE_CHANGES` and `LONGSHORE_SEED` choose another run, as `scripts/soak`
//! does. Needs Azurite and the Python client,
//! which scripts/test installs.
#![cfg(unix)]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic)]

#[path = "../azurite/mod.rs"]
mod azurite;
#[path = "../support/broker.rs"]
mod broker;
mod conformance;
mod delivery;
mod evidence;
mod failing;
mod journal;
mod links;
mod order;
mod ports;
mod processes;
mod publishing;
#[path = "../support/schedule.rs"]
mod schedule;
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod worker;

mod away;
mod defaults;
mod failures;
mod keys;
mod killed;
mod planned;
mod python;
