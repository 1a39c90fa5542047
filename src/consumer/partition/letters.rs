//! Writes dead letters, for as long as it takes: until the sink acknowledges one, its event is
//! not settled and holds the watermark.

use std::sync::Arc;

use tracing::debug;

use super::persist::{Written, until_done};
use crate::consumer::handling::unit::Tracked;
use crate::consumer::shared::Shared;
use crate::dead_letter::DeadLetter;

const LETTER: Written =
    Written { operation: "write the dead letter", waits: "the checkpoint waits for it" };

/// Writes the dead letter of an event; returns the event once it is acknowledged.
pub(super) async fn write(shared: Arc<Shared>, tracked: Tracked, letter: DeadLetter) -> Tracked {
    let Some(sink) = &shared.dead_letters else {
        return std::future::pending().await;
    };
    until_done(&shared, &letter.event, LETTER, || sink.write(&letter)).await;
    debug!(
        message_topic = %letter.event.partition().entity,
        message_partition = %letter.event.partition().id,
        message_offset = %letter.event.sequence_number(),
        message_consumer_group = %shared.transport.consumer_group(),
        "the dead letter is written"
    );
    tracked
}
