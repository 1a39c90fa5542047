//! Batch-concurrent consumers for Azure Event Hubs, built for moving files.

#[cfg(feature = "emulator")]
pub mod emulator;
