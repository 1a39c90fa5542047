//! Batch-concurrent consumers for Azure Event Hubs, built for moving files.

pub mod blob_store;
pub mod checkpoint_store;
pub mod dead_letter;
pub mod error;
pub mod event;
pub mod outcome;
pub mod transfer;
pub mod transport;

mod durable_folder;
mod timestamp;

#[cfg(feature = "emulator")]
pub mod emulator;
