//! What the library tells the outside: metrics, through the `metrics` facade, and a log, through `tracing`.
//!
//! Both are silent until the program installs a receiver. For [`metrics`], its page shows how. For the log, take
//! `tracing-subscriber` with its feature `env-filter`:
//!
//! ```no_run
//! use std::io::{IsTerminal, stderr};
//!
//! use tracing_subscriber::EnvFilter;
//!
//! /// To stderr. `RUST_LOG` says what, otherwise all but the Azure SDK, whose problems longshore tells itself.
//! fn log() {
//!     let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
//!         "info,azure_messaging_eventhubs=off,azure_core_amqp=off,azure_core=off,fe2o3_amqp=off".into()
//!     });
//!     let colours = stderr().is_terminal();
//!     tracing_subscriber::fmt().with_writer(stderr).with_ansi(colours).with_env_filter(filter).init();
//! }
//! ```
//!
//! Every line and span about an event carries `message_topic`, `message_partition`, `message_offset` (the sequence
//! number) and `message_consumer_group`. At `info` there is a line when a partition begins and ends, at `warn` when
//! something fails that is tried again (for attempts of events: one line a minute, with their number), at `error` when
//! something is given up. `debug` has the life of each event.

pub mod metrics;
pub(crate) mod unheard;
