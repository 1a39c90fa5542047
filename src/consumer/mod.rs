//! The consumers. [`BatchConsumer`] receives, buffers, dispatches, settles and checkpoints, for every partition of an
//! entity, under shared slots and one memory budget.
//!
//! ```text
//!  link ──> PartitionStream ──> watermark (window W) ──> buffer ──> slots ──> handler
//!           exact resume        tickets                  batches    shared      │
//!                                  ^                                            │ outcomes
//!  checkpoint store <── fence <────┴──── settled <── done, skip ────────────────┤
//!                                           ^                                   │
//!                        dead-letter sink ──┘ acknowledged <── dead letter ─────┤
//!                                             retry queue  <── retry ───────────┘
//! ```
//!
//! [`BatchConsumer`] handles many events at once, [`EventConsumer`] one after the other, and [`ConsumerSet`] several
//! entities. A [`ConsumerHandle`] controls a consumer that runs; a [`ConsumerExit`] says how it ended.

#![warn(clippy::too_many_lines)]

mod breakers;
mod budget;
mod builder;
mod checkpoint_write;
mod counts;
mod event_consumer;
mod exit;
mod handle;
mod handling;
mod lanes;
mod lock;
mod never_connected;
mod option_setters;
mod orders;
mod ownership;
mod partition;
mod set;
mod shared;
mod status;
#[cfg(feature = "testing")]
mod test_call;

pub use breakers::{BreakerSnapshot, Destination};
pub use builder::{BatchConsumer, BatchConsumerBuilder};
pub use counts::ConsumerCounts;
pub use event_consumer::{EventConsumer, EventConsumerBuilder};
pub use exit::{ConsumerExit, ExitCause, ExitReason, PartitionExit, StopReason, Unclean};
pub use handle::{ConsumerHandle, ConsumerSnapshot};
pub use handling::batch::{Batch, BatchEvents, Outcomes};
pub use handling::handler::{
    BatchContext, BatchHandler, EventContext, EventHandler, Settler, decoded,
};
pub use never_connected::{NeverConnected, Unreached};
pub use ownership::checkpoint_watch::CHECKPOINTS_INTERVAL;
pub use ownership::hub_watch::{LAG_PROBE_INTERVAL, PARTITIONS_INTERVAL};
pub use ownership::lease_loop::{BUSY_LOOK, HAND_OFF_POLL, LEAVING_SHARE, MAX_HAND_OFFS};
pub use ownership::letter_count::{LETTERS_INTERVAL, MAX_COUNTED_LETTERS};
pub use set::{
    ConsumerSet, ConsumerSetBuilder, ConsumerSetExit, ConsumerSetHandle, ConsumerSetSnapshot,
    EntityExit, EntitySnapshot,
};
pub use status::{PartitionPhase, PartitionSnapshot};
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub use test_call::TestCall;

pub use crate::state::batch_buffer::FlushReason;
pub use crate::state::fence::Superseded;
pub use crate::state::first_connection::REFUSAL_GRACE;
pub use crate::state::resume::Continuity;
pub use crate::state::tenure::CANCEL_GRACE;
