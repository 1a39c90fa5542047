//! The first look at the hub, before which nobody knows whether a run can do anything at all.

use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use crate::consumer::never_connected::{GaveUp, NeverConnected, Unreached, trying_again};
use crate::consumer::orders::Directive;
use crate::consumer::shared::Shared;
use crate::error::{Error, error_chain};
use crate::event::PartitionId;
use crate::state::first_connection::{FirstConnection, Next};
use crate::telemetry::unheard;

/// Asks the hub for its partitions, until there is an answer, or it is no use to ask on.
///
/// # Errors
/// Where it is no use, where the time for it is over, and where the consumer is told to drain.
pub(super) async fn list_partitions(shared: &Shared) -> Result<Vec<PartitionId>, NeverConnected> {
    let begun = Instant::now().into_std();
    let mut first = FirstConnection::begin(shared.options.connect_timeout, begun);
    let mut directive = shared.directive.subscribe();
    let (mut failures, mut last) = (0, None);
    let deadline = first.deadline().map(Instant::from_std);
    let gave_up =
        |ended, error| NeverConnected::new(Unreached::Hub, &*shared.transport, ended, error);
    loop {
        if matches!(*directive.borrow_and_update(), Directive::Drain(_)) {
            return Err(gave_up(GaveUp::Told, last));
        }
        let error: Error = tokio::select! {
            biased;
            _changed = directive.changed() => continue,
            () = over(deadline) => return Err(gave_up(timed_out(shared), last)),
            read = shared.transport.hub_properties() => match read {
                Ok(hub) => return Ok(hub.partitions),
                Err(error) => error,
            },
        };
        if first.on_failed(error.class(), Instant::now().into_std()) == Next::GiveUp {
            return Err(gave_up(GaveUp::Refused, Some(error)));
        }
        failures += 1;
        let delay = shared.options.reopen_backoff.delay(failures, shared.random());
        let delay = first.pause(delay);
        warn!(
            message_topic = %shared.transport.entity(),
            class = %error.class(),
            failures,
            retry_in_ms = delay.as_millis(),
            causes = ?error_chain(&error),
            "the hub cannot be read; trying again"
        );
        if failures == 1 {
            let trying = trying_again(&*shared.transport, &error);
            unheard::tell(format_args!("{trying}"));
        }
        last = Some(error);
        tokio::select! {
            biased;
            _changed = directive.changed() => {}
            () = over(deadline) => return Err(gave_up(timed_out(shared), last)),
            () = sleep(delay) => {}
        }
    }
}

/// What the end of the time for the first connection is told as.
pub(super) fn timed_out(shared: &Shared) -> GaveUp {
    GaveUp::TimedOut(shared.options.connect_timeout.unwrap_or_default())
}

async fn over(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
