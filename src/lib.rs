//! Batch-concurrent consumers for Azure Event Hubs, built for moving files.

pub mod blob_store;
pub mod checkpoint_store;
pub mod dead_letter;
pub mod error;
pub mod event;
pub mod outcome;
pub mod state;
pub mod transport;

mod timestamp;

#[cfg(feature = "emulator")]
pub mod emulator;
