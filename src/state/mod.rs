//! The decisions of the engine as pure state machines: no I/O, no clock, no randomness.
//!
//! Time and random numbers are arguments. `on_*` takes an input, `next_*` names the next
//! deadline, `take_*` gives an output. The property tests and the simulator drive these
//! directly; the async shells in [`crate::consumer`], [`crate::producer`] and
//! [`crate::transport::partition_stream`] only carry out what they say.

pub mod ages;
pub mod backoff;
pub mod batch_buffer;
pub mod bisection;
pub mod block_plan;
pub mod breaker;
pub mod byte_budget;
pub mod call_pace;
pub mod checkpoint_pace;
pub mod delay_queue;
pub mod disk_room;
pub mod earlier_letters;
pub mod fence;
pub mod fetch_plan;
pub mod first_connection;
pub mod key_placement;
pub mod lag;
pub mod lanes;
pub mod lease_table;
pub mod offset_search;
pub mod owner;
pub mod panics;
pub mod parked;
pub mod placement;
pub mod prefetch;
pub mod rarely;
pub mod replay;
pub mod reset;
pub mod resume;
pub mod send_lanes;
pub mod takeovers;
pub mod tenure;
pub mod unreadable;
pub mod verdicts;
pub mod watermark;
