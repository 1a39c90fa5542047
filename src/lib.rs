//! Batch-concurrent consumers for Azure Event Hubs, built for moving files.
//!
//! A [`BatchConsumer`] reads every partition of a hub and runs a handler for many events at once. It sends
//! events that fail for good to a dead-letter sink, and keeps its place in a checkpoint store. Delivery is at
//! least once; [`guarantees`] says what is repeated, and when.
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
//! - [`settings`] reads the environment and a file, and checks them. [`connection_test`] tests whether they
//!   lead to a hub.
//! - [`consumer`] has [`BatchConsumer`] for many events at once, [`EventConsumer`] for one after the other, and
//!   [`ConsumerSet`] for several entities. [`config`] has their options, each with its default.
//! - [`lanes`] says which events are handled in order, and how many of a kind at once.
//! - [`transport`] has the links to a hub, over the Azure SDK or in memory.
//! - [`checkpoint_store`], [`lease_store`], [`failure_store`], [`dead_letter`] and [`blob_store`] keep things.
//!   Each is a trait with implementations.
//! - `transfer` (feature `transfer`) has workers that move files. They are built on the consumer.
//! - [`producer`] publishes events.
//! - [`replay`] hands dead letters out again, as a job. [`retry_scheduler`] publishes the events of retry hubs
//!   when they are due.
//! - [`credential`] says who we are to Microsoft Entra ID, and where secrets are.
//!
//! # Features
//!
//! ```toml
//! [dependencies]
//! longshore = { version = "0.1", features = ["transfer", "blob"] }
//! ```
//!
//! - `event-hubs` (default): Azure Event Hubs over the Azure SDK, AMQP over TCP and over WebSocket.
//! - `blob`: checkpoints, leases and files in Azure Blob Storage. Workers share the partitions, and move files
//!   from and to containers.
//! - `transfer`: workers that download and upload files.
//! - `identity`: Microsoft Entra ID, by developer tools, managed identity or workload identity.
//! - `key-vault`: connection strings from Azure Key Vault. It includes `event-hubs`, and needs `identity` or a
//!   credential of your own to open the vault.
//! - `testing`: for your own tests of handlers, workers and stores: calls of a handler without a hub, a whole
//!   worker offline, faults of every port, contracts, a crash.
//!
//! If a setting asks for a feature that is not compiled in, the error names the feature.

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
#[doc(hidden)]
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
