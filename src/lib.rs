//! Batch-concurrent consumers for Azure Event Hubs, built for moving files.
//!
//! A [`BatchConsumer`] reads every partition of a hub, runs a handler for many events at once,
//! sends what failed for good to a dead-letter sink, and keeps its place in a checkpoint store.
//! Delivery is at least once; what is repeated, and when, is stated in [`guarantees`].
//!
//! ```text
//!  hub ── link ──> BatchConsumer ── slots ──> your handler ──> outcome per event
//!          │         │      ^                                    │
//!          │         │      └── retries <── failed for now <─────┤
//!    exact resume    │                                           ├──> dead letters
//!                    └── checkpoints <── contiguous watermark <──┘
//! ```
//!
//! # A worker in twenty lines
//!
//! ```no_run
//! use longshore::settings::Settings;
//! use longshore::{Event, EventContext, Failure, shutdown_signal};
//!
//! async fn handle(event: Event, _: EventContext) -> Result<(), Failure> {
//!     println!("{} bytes", event.body().len());
//!     Ok(()) // an Err is retried, then becomes a dead letter
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let settings = Settings::from_process(None)?; // EVENTHUB_CONNECTION_STRING, and whatever else is set
//!     let consumer = settings.consumer()?.max_events_in_flight(50).event_handler(handle)?;
//!     // Until SIGTERM or Ctrl-C. An Err says what it could not connect to, or what it left undone.
//!     let exit = consumer.run_until(shutdown_signal()).await?;
//!     println!("{:?}", exit.counts);
//!     Ok(())
//! }
//! ```
//!
//! # The parts
//!
//! - [`settings`]: what the environment and a file say, checked. [`connection_test`]: whether it
//!   leads to a hub.
//! - [`consumer`]: the engine, and its faces: [`BatchConsumer`] for many events at once,
//!   [`EventConsumer`] for one after the other, [`ConsumerSet`] for several entities. [`config`]:
//!   its knobs.
//! - [`lanes`]: which events are handled in order, and how many of a kind at once.
//! - [`transport`]: links to a hub, over the Azure SDK or in memory.
//! - [`checkpoint_store`], [`failure_store`], [`dead_letter`], [`blob_store`]: where things are kept; each a
//!   port with adapters.
//! - `transfer` (feature `transfer`): workers that move files, built on the consumer. [`producer`]:
//!   publishing.
//! - [`replay`]: hands dead letters out again, as a job. [`retry_scheduler`]: serves hubs of events that are to be
//!   tried again later.
//! - [`state`]: the decisions, as state machines without I/O.
//! - [`credential`]: who we are to Microsoft Entra ID, and where secrets are.
//!
//! # Features
//!
//! ```toml
//! [dependencies]
//! longshore = { version = "0.1", features = ["transfer", "blob"] }
//! ```
//!
//! - `event-hubs` (default): Azure Event Hubs over the Azure SDK, AMQP over TCP and over WebSocket.
//! - `blob`: checkpoints, leases and files in Azure Blob Storage: workers share the partitions, and move
//!   files from and to containers.
//! - `transfer`: workers that download and upload files.
//! - `identity`: Microsoft Entra ID, by developer tools, managed identity or workload identity.
//! - `key-vault`: connection strings of `event-hubs`, which it includes, from Azure Key Vault;
//!   `identity` or a credential of one's own opens it.
//! - `testing`: for tests of one's own handlers, workers and stores: calls of a handler without a hub, a whole
//!   worker offline, faults of every port, contracts, a crash.
//!
//! Settings that ask for a feature that is not there name it.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod blob_store;
pub mod checkpoint;
pub mod checkpoint_store;
pub mod clock;
pub mod config;
pub mod connection_test;
pub mod consumer;
pub mod credential;
pub mod dead_letter;
pub mod error;
pub mod event;
pub mod failure_store;
pub mod hub;
pub mod lanes;
pub mod lease;
pub mod lease_store;
#[doc(hidden)]
pub mod named_file;
pub mod outcome;
#[doc(hidden)]
pub mod private_file;
pub mod producer;
pub mod replay;
pub mod retry_scheduler;
pub mod secret;
pub mod settings;
mod shutdown;
pub mod state;
pub mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
pub mod timestamp;
#[cfg(feature = "transfer")]
pub mod transfer;
pub mod transport;
#[cfg(feature = "event-hubs")]
mod wiring;

#[cfg(feature = "blob")]
mod blob_container;
mod durable_folder;
#[cfg_attr(not(feature = "transfer"), allow(unreachable_pub, dead_code, reason = "shown by tasks"))]
mod hex;

#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}

pub use config::ConsumerOptions;
pub use consumer::{
    Batch, BatchConsumer, BatchContext, BatchHandler, ConsumerHandle, ConsumerSet, EventConsumer,
    EventContext, EventHandler, Outcomes, Settler, decoded,
};
pub use error::{Error, ErrorClass};
pub use event::{Event, OutgoingEvent};
pub use lanes::{Lane, LaneRule};
pub use outcome::{Failure, Outcome};
pub use shutdown::shutdown_signal;

/// The README's example is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
