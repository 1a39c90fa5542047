//! Why the broker ends something: an AMQP error condition and a text for the person who reads it.
//!
//! The conditions are the ones the service uses, because clients decide by them whether to retry.

use std::borrow::Cow;

pub(super) const INTERNAL_ERROR: &str = "amqp:internal-error";
pub(super) const NOT_FOUND: &str = "amqp:not-found";
pub(super) const NOT_ALLOWED: &str = "amqp:not-allowed";
pub(super) const NOT_IMPLEMENTED: &str = "amqp:not-implemented";
pub(super) const DECODE_ERROR: &str = "amqp:decode-error";
pub(super) const RESOURCE_LIMIT_EXCEEDED: &str = "amqp:resource-limit-exceeded";
pub(super) const CONNECTION_FORCED: &str = "amqp:connection:forced";
pub(super) const FRAMING_ERROR: &str = "amqp:connection:framing-error";
pub(super) const WINDOW_VIOLATION: &str = "amqp:session:window-violation";
pub(super) const HANDLE_IN_USE: &str = "amqp:session:handle-in-use";
pub(super) const UNATTACHED_HANDLE: &str = "amqp:session:unattached-handle";
pub(super) const LINK_STOLEN: &str = "amqp:link:stolen";
pub(super) const DETACH_FORCED: &str = "amqp:link:detach-forced";
pub(super) const MESSAGE_SIZE_EXCEEDED: &str = "amqp:link:message-size-exceeded";
pub(super) const TRANSFER_LIMIT_EXCEEDED: &str = "amqp:link:transfer-limit-exceeded";
pub(super) const UNAUTHORIZED_ACCESS: &str = "amqp:unauthorized-access";
pub(super) const ENTITY_UPDATED: &str = "com.microsoft:entity-updated";
pub(super) const SERVER_BUSY: &str = "com.microsoft:server-busy";
pub(super) const ARGUMENT_ERROR: &str = "com.microsoft:argument-error";
pub(super) const ARGUMENT_OUT_OF_RANGE: &str = "com.microsoft:argument-out-of-range";

/// An error to send to the peer; how much it ends (delivery, link, session, connection) is for the
/// place that sends it to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) condition: Cow<'static, str>,
    pub(super) description: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(
        condition: impl Into<Cow<'static, str>>,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { condition: condition.into(), description: description.into() }
    }
}

impl From<super::wire::Malformed> for Refusal {
    fn from(error: super::wire::Malformed) -> Self {
        Self::new(DECODE_ERROR, error.to_string())
    }
}

impl From<serde_amqp::Error> for Refusal {
    fn from(error: serde_amqp::Error) -> Self {
        Self::new(DECODE_ERROR, format!("the value does not decode: {error}"))
    }
}
