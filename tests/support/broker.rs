//! The embedded broker, and what leads to it over the Azure SDK.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::time::Duration;

use longshore::transport::Transport;
use longshore::transport::event_hubs::Namespace;
use longshore_emulator::{Emulator, EmulatorBuilder};

/// A broker that takes its time to acknowledge. The SDK loses an acknowledgement that comes before
/// the send is registered, and on a machine with more work than cores that may take a while; the
/// request then waits for its whole timeout.
pub fn patient() -> EmulatorBuilder {
    Emulator::builder().disposition_delay(Duration::from_millis(50))
}

pub fn namespace(emulator: &Emulator) -> Namespace {
    Namespace::from_connection_string(&emulator.connection_string(None))
        .expect("valid")
        .with_custom_endpoint(emulator.endpoint())
        .expect("valid")
}

/// How many events a partition's log has had: the number that the next one gets.
pub async fn log_end(transport: &dyn Transport, partition: &str) -> usize {
    let log = transport.log_properties(&partition.into()).await.expect("the log's end");
    log.last_enqueued.map_or(0, |last| usize::try_from(last.0 + 1).expect("not negative"))
}
