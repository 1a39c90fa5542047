//! The ways to the service.

/// How the connection reaches the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Protocol {
    /// AMQP over TCP with TLS, port 5671.
    Tcp,
    /// AMQP over WebSocket with TLS, port 443: what firewalls and private endpoints let through.
    #[default]
    WebSocket,
}
