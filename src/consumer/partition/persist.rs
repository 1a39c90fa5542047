//! Calls of a store that are made again until they succeed: what waits for them is not settled before.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::error;

use crate::consumer::shared::Shared;
use crate::error::{Error, ErrorClass, error_chain};
use crate::event::Event;

/// What is written of an event, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// As an error says it: "write the dead letter".
    pub(super) operation: &'static str,
    /// What waits for it, in words.
    pub(super) waits: &'static str,
}

/// Makes a call until it succeeds, with the delays of retries in between.
pub(super) async fn until_done<T, F>(
    shared: &Shared,
    event: &Event,
    written: Written,
    call: impl Fn() -> F,
) -> T
where
    F: Future<Output = Result<T, Error>>,
{
    let mut failures = 0;
    loop {
        let error = match in_time(shared, written.operation, call()).await {
            Ok(value) => return value,
            Err(error) => error,
        };
        failures += 1;
        let delay = shared.options.retry_backoff.delay(failures, shared.random());
        error!(
            message_topic = %event.partition().entity,
            message_partition = %event.partition().id,
            message_offset = %event.sequence_number(),
            message_consumer_group = %shared.transport.consumer_group(),
            failures,
            retry_in_ms = delay.as_millis(),
            causes = ?error_chain(&error),
            "could not {}; {}", written.operation, written.waits
        );
        sleep(delay).await;
    }
}

/// Makes a call, which fails where it takes longer than a store may.
pub(super) async fn in_time<T>(
    shared: &Shared,
    operation: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let limit: Duration = shared.options.store_timeout;
    timeout(limit, call).await.unwrap_or_else(|_elapsed| {
        Err(Error::new(ErrorClass::Transient, operation, format!("no answer within {limit:?}")))
    })
}
