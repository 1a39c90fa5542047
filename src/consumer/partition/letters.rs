//! Writes dead letters, for as long as it takes: until the sink acknowledges one, its event is
//! not settled and holds the watermark.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::{sleep, timeout};
use tracing::error;

use crate::consumer::handling::unit::Tracked;
use crate::consumer::shared::Shared;
use crate::dead_letter::DeadLetter;
use crate::error::{Error, ErrorClass, error_chain};
use crate::event::Incarnation;
use crate::outcome::Failure;

/// Writes the dead letter of an event; returns the event once it is acknowledged.
pub(super) async fn write(
    shared: Arc<Shared>,
    tracked: Tracked,
    failure: Failure,
    attempts: u32,
    first_failure: SystemTime,
    incarnation: Incarnation,
) -> Tracked {
    let Some(sink) = &shared.dead_letters else {
        return std::future::pending().await;
    };
    let group = shared.transport.consumer_group().clone();
    let (worker, now) = (shared.worker.clone(), shared.clock.now());
    let letter = DeadLetter::new(tracked.event.clone(), group, worker, failure, now)
        .with_history(attempts, first_failure)
        .with_origin(shared.transport.namespace(), incarnation);
    let limit = shared.options.store_timeout;
    let mut failures = 0;
    loop {
        let error = match timeout(limit, sink.write(&letter)).await {
            Ok(Ok(())) => return tracked,
            Ok(Err(error)) => error,
            Err(_elapsed) => Error::new(
                ErrorClass::Transient,
                "write the dead letter",
                format!("no answer within {limit:?}"),
            ),
        };
        failures += 1;
        let delay = shared.options.retry_backoff.delay(failures, shared.random());
        let event = &letter.event;
        error!(
            message_topic = %event.partition().entity,
            message_partition = %event.partition().id,
            message_offset = %event.sequence_number(),
            message_consumer_group = %letter.consumer_group,
            failures,
            retry_in_ms = delay.as_millis(),
            causes = ?error_chain(&error),
            "the dead letter could not be written; the checkpoint waits for it"
        );
        sleep(delay).await;
    }
}
