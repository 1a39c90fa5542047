//! Opens the SDK's clients along the route that a namespace asks for, and says why one does not
//! open.

use std::io;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use azure_core_amqp::AmqpTransport;
use azure_messaging_eventhubs::{ConsumerClient, EventHubsError, ProducerClient, RetryOptions};

use super::namespace::{Access, Namespace, Route};
use super::protocol::Protocol;
use super::within;
use crate::error::{Error, ErrorClass, Result, error_chain};
use crate::event::{ConsumerGroup, EntityName};
use crate::transport::tunnel::{CERTIFICATE_ADVICE, Tunnel, TunnelOptions};

/// How long opening a connection may take: 30 s. A connection behind a silent firewall would hang otherwise.
pub const DEFAULT_OPEN_TIMEOUT: Duration = Duration::from_secs(30);

const OPERATION: &str = "connect to the service";

/// What the SDK is told to dial.
struct Way {
    transport: AmqpTransport,
    endpoint: Option<String>,
    tunnel: Option<Arc<Tunnel>>,
}

impl Way {
    /// Waits for the SDK to connect, and gives its error the reason that it cannot know.
    async fn open<T>(&self, opening: impl Future<Output = Result<T, EventHubsError>>) -> Result<T> {
        let since = Instant::now();
        let error = match within(DEFAULT_OPEN_TIMEOUT, OPERATION, opening).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        // Any other class is an answer of the service: it was reached.
        if !matches!(error.class(), ErrorClass::Transient | ErrorClass::Unknown) {
            return Err(error);
        }
        let failure = self.tunnel.as_ref().and_then(|tunnel| tunnel.failure_since(since));
        Err(match failure {
            Some(failure) => {
                Error::new(failure.class, OPERATION, failure.reason).with_source(error)
            }
            None => with_trust_explained(error),
        })
    }
}

/// Rustls's words for any certificate it does not take. The SDK keeps these words only, so that
/// here, and nowhere else, an error is known by its text.
const UNTRUSTED: &str = "invalid peer certificate: ";

fn with_trust_explained(error: Error) -> Error {
    let causes = error_chain(&error);
    let why = causes.iter().find_map(|cause| cause.split_once(UNTRUSTED)).map(|(_, why)| why);
    match why {
        Some(why) => {
            let reason =
                format!("the service's certificate is not trusted: {why}; {CERTIFICATE_ADVICE}");
            Error::new(ErrorClass::Auth, OPERATION, reason).with_source(error)
        }
        None => error,
    }
}

impl Namespace {
    /// The way for clients of `entity`.
    async fn way(&self, entity: &EntityName) -> Result<Way> {
        if let Some(bound) = self.entity_path()
            && !bound.eq_ignore_ascii_case(entity.as_str())
        {
            let reason =
                format!("the connection string is bound to the hub {bound}, not to {entity}");
            return Err(Error::new(ErrorClass::Permanent, OPERATION, reason));
        }
        install_tls_provider();
        match self.route() {
            Route::Sdk { protocol, endpoint } => {
                let transport = match protocol {
                    Protocol::Tcp => AmqpTransport::Tcp,
                    Protocol::WebSocket => AmqpTransport::WebSocket,
                };
                Ok(Way { transport, endpoint, tunnel: None })
            }
            Route::Tunnel(options) => {
                let tunnel = self.open_tunnel(options).await?;
                let endpoint = Some(format!("amqp://{}", tunnel.address()));
                Ok(Way { transport: AmqpTransport::Tcp, endpoint, tunnel: Some(tunnel) })
            }
        }
    }

    async fn open_tunnel(&self, options: TunnelOptions) -> Result<Arc<Tunnel>> {
        let mut slot = self.tunnel.lock().await;
        if let Some(tunnel) = slot.as_ref().filter(|tunnel| tunnel.is_open()) {
            return Ok(Arc::clone(tunnel));
        }
        let started = Tunnel::start(options).await.map_err(|error| {
            let class = match error.kind() {
                io::ErrorKind::InvalidInput => ErrorClass::Permanent,
                _ => ErrorClass::Unknown,
            };
            let reason = format!("the tunnel to the service cannot be set up: {error}");
            Error::new(class, OPERATION, reason).with_source(error)
        });
        let tunnel = Arc::new(started?);
        *slot = Some(Arc::clone(&tunnel));
        Ok(tunnel)
    }

    pub(super) async fn open_consumer(
        &self,
        entity: &EntityName,
        group: &ConsumerGroup,
    ) -> Result<ConsumerClient> {
        let way = self.way(entity).await?;
        let mut builder = ConsumerClient::builder()
            .with_consumer_group(group.as_str().to_owned())
            .with_retry_options(no_retries())
            .with_transport(way.transport);
        if let Some(endpoint) = way.endpoint.clone() {
            builder = builder.with_custom_endpoint(endpoint);
        }
        let opening = async {
            match &self.access {
                Access::ConnectionString(text) => {
                    builder.open_with_connection_string(text, Some(entity.as_str())).await
                }
                Access::Tokens(credential) => {
                    builder
                        .open(self.host(), entity.as_str().to_owned(), Arc::clone(credential))
                        .await
                }
            }
        };
        way.open(opening).await
    }

    pub(super) async fn open_producer(&self, entity: &EntityName) -> Result<ProducerClient> {
        let way = self.way(entity).await?;
        let mut builder = ProducerClient::builder()
            .with_retry_options(no_retries())
            .with_transport(way.transport);
        if let Some(endpoint) = way.endpoint.clone() {
            builder = builder.with_custom_endpoint(endpoint);
        }
        let opening = async {
            match &self.access {
                Access::ConnectionString(text) => {
                    builder.open_with_connection_string(text, Some(entity.as_str())).await
                }
                Access::Tokens(credential) => {
                    builder.open(self.host(), entity.as_str(), Arc::clone(credential)).await
                }
            }
        };
        way.open(opening).await
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
