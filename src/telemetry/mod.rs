//! What the library tells the outside: metrics, through the `metrics` facade.
//!
//! Log lines go through `tracing` where things happen. Every line and span about an event
//! carries `message_topic`, `message_partition`, `message_offset` (the sequence number) and
//! `message_consumer_group`.

pub mod metrics;
pub(crate) mod unheard;
