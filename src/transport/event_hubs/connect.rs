//! Opens the SDK's clients, along the route that a namespace asks for.

use std::sync::Once;
use std::time::Duration;

use azure_core_amqp::AmqpTransport;
use azure_messaging_eventhubs::{ConsumerClient, ProducerClient, RetryOptions};

use super::namespace::{Namespace, Protocol, Route};
use super::within;
use crate::error::{Error, ErrorClass, Result};
use crate::event::{ConsumerGroup, EntityName};

/// How long opening a connection may take. A connection behind a silent firewall hangs
/// otherwise.
pub const DEFAULT_OPEN_TIMEOUT: Duration = Duration::from_secs(30);

const OPERATION: &str = "connect to the service";

impl Namespace {
    fn way(&self) -> Result<(AmqpTransport, Option<String>)> {
        install_tls_provider();
        match self.route() {
            Route::Sdk { protocol: Protocol::Tcp, endpoint } => Ok((AmqpTransport::Tcp, endpoint)),
            Route::Sdk { protocol: Protocol::WebSocket, endpoint } => {
                Ok((AmqpTransport::WebSocket, endpoint))
            }
            Route::Tunnel(_) => Err(Error::new(
                ErrorClass::Permanent,
                OPERATION,
                "it needs a tunnel, and there is none yet",
            )),
        }
    }

    pub(super) async fn open_consumer(
        &self,
        entity: &EntityName,
        group: &ConsumerGroup,
    ) -> Result<ConsumerClient> {
        let (transport, endpoint) = self.way()?;
        let mut builder = ConsumerClient::builder()
            .with_consumer_group(group.as_str().to_owned())
            .with_retry_options(no_retries())
            .with_transport(transport);
        if let Some(endpoint) = endpoint {
            builder = builder.with_custom_endpoint(endpoint);
        }
        let opening =
            builder.open_with_connection_string(&self.connection_string, Some(entity.as_str()));
        within(DEFAULT_OPEN_TIMEOUT, OPERATION, opening).await
    }

    pub(super) async fn open_producer(&self, entity: &EntityName) -> Result<ProducerClient> {
        let (transport, endpoint) = self.way()?;
        let mut builder =
            ProducerClient::builder().with_retry_options(no_retries()).with_transport(transport);
        if let Some(endpoint) = endpoint {
            builder = builder.with_custom_endpoint(endpoint);
        }
        let opening =
            builder.open_with_connection_string(&self.connection_string, Some(entity.as_str()));
        within(DEFAULT_OPEN_TIMEOUT, OPERATION, opening).await
    }
}

/// With several providers compiled in, rustls does not choose one, and panics at the first
/// connection; the application's own choice, made before, stands.
fn install_tls_provider() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // An error means that the application chose one.
        let _chosen_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

/// The first error is ours to handle: the SDK's recovery would replay or skip events.
fn no_retries() -> RetryOptions {
    RetryOptions { max_retries: 0, ..RetryOptions::default() }
}
