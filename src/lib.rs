//! Batch-concurrent consumers for Azure Event Hubs, built for moving files.

pub mod blob_store;
pub mod checkpoint_store;
pub mod clock;
pub mod config;
pub mod consumer;
pub mod dead_letter;
pub mod error;
pub mod event;
pub mod outcome;
pub mod producer;
pub mod state;
pub mod transfer;
pub mod transport;

mod durable_folder;
mod timestamp;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "emulator")]
pub mod emulator;

pub use config::ConsumerOptions;
pub use consumer::{
    Batch, BatchConsumer, BatchContext, BatchHandler, ConsumerHandle, EventContext, EventHandler,
    HandlerError, Outcomes, Settler, decoded,
};
pub use error::{Error, ErrorClass};
pub use event::{Event, OutgoingEvent};
pub use outcome::{Failure, Outcome};
