//! What an error of the Azure SDK means for us, by type and AMQP condition, never by text.
//!
//! The whole chain of sources is walked, and an AMQP condition anywhere in it beats the kind
//! around it: the SDK wraps a refused attach several times over.

use azure_core_amqp::error::{AmqpErrorCondition as Condition, AmqpErrorKind as Kind};
use azure_core_amqp::{AmqpDescribedError, AmqpError};
use azure_messaging_eventhubs::EventHubsError;
use azure_messaging_eventhubs::error::ErrorKind;
use fe2o3_amqp::link::RecvError;

use crate::error::{Error, ErrorClass};

/// Turns an SDK error of `operation` into ours, chain kept.
pub(super) fn error(operation: &'static str, error: EventHubsError) -> Error {
    let class = class_of(&error);
    as_class(class, operation, error)
}

/// Turns an SDK error of a send into ours. A send has no position: an argument that is out of
/// range is then a partition that the hub does not have.
pub(super) fn send_error(operation: &'static str, error: EventHubsError) -> Error {
    let class = match class_of(&error) {
        ErrorClass::BadPosition => ErrorClass::Permanent,
        class => class,
    };
    as_class(class, operation, error)
}

fn as_class(class: ErrorClass, operation: &'static str, error: EventHubsError) -> Error {
    let message = match described_by(&error).and_then(|described| described.description.as_ref()) {
        Some(text) if class == ErrorClass::Transient => format!("the service failed: {text}"),
        Some(text) => format!("{}: {text}", summary(class)),
        None => summary(class).to_owned(),
    };
    Error::new(class, operation, message).with_source(error)
}

/// The class of an SDK error.
pub(super) fn class_of(error: &EventHubsError) -> ErrorClass {
    if is_undecodable(error) {
        return ErrorClass::Unreadable;
    }
    if let Some(described) = described_by(error)
        && let Some(class) = class_of_condition(&described.condition)
    {
        return class;
    }
    match &error.kind {
        ErrorKind::ConsumerDisconnected(_) => ErrorClass::PartitionLost,
        ErrorKind::InvalidBatchSize { .. } => ErrorClass::Permanent,
        ErrorKind::SendNotAccepted(_) | ErrorKind::InvalidManagementResponse => {
            ErrorClass::Transient
        }
        ErrorKind::MissingCheckpointMetadata { .. } => ErrorClass::BadData,
        ErrorKind::AzureCore(error) => class_of_azure_core(error),
        ErrorKind::AmqpError(error) => class_of_amqp(error),
        _ => ErrorClass::Unknown,
    }
}

fn summary(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Transient => "the connection failed",
        ErrorClass::Throttling => "the service is busy",
        ErrorClass::Auth => "the service refused the credentials; check the key or the role",
        ErrorClass::Permanent => "the service says that it does not exist, or is disabled",
        ErrorClass::TooLarge => "an event is larger than the hub takes",
        ErrorClass::PartitionLost => "another receiver of an equal or higher owner level has it",
        ErrorClass::BadPosition => "the position is not in the log",
        ErrorClass::BadData => "the answer cannot be understood",
        ErrorClass::Unreadable => "the client cannot decode an event",
        ErrorClass::Unknown => "it failed in a way that is not known",
    }
}

/// Whether an event arrived that the SDK cannot decode. The link took it, and goes on behind it.
fn is_undecodable(error: &EventHubsError) -> bool {
    let ErrorKind::AmqpError(error) = &error.kind else {
        return false;
    };
    let Kind::TransportImplementationError(error) = error.kind() else {
        return false;
    };
    matches!(error.downcast_ref::<RecvError>(), Some(RecvError::MessageDecode(_)))
}

/// The AMQP error with its condition, anywhere in the chain.
fn described_by(error: &EventHubsError) -> Option<&AmqpDescribedError> {
    match &error.kind {
        ErrorKind::SendRejected(Some(described))
        | ErrorKind::ConsumerDisconnected(Some(described)) => {
            return Some(described);
        }
        _ => {}
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(described) = error.downcast_ref::<AmqpError>().and_then(described) {
            return Some(described);
        }
        next = error.source();
    }
    None
}

fn described(error: &AmqpError) -> Option<&AmqpDescribedError> {
    match error.kind() {
        Kind::AmqpDescribedError(described) => Some(described),
        _ => None,
    }
}

fn class_of_condition(condition: &Condition) -> Option<ErrorClass> {
    Some(match condition {
        Condition::LinkStolen | Condition::PartitionNotOwnedError => ErrorClass::PartitionLost,
        Condition::ServerBusyError | Condition::ResourceLimitExceeded => ErrorClass::Throttling,
        Condition::ConnectionForced
        | Condition::ConnectionFramingError
        | Condition::LinkDetachForced
        | Condition::TimeoutError
        | Condition::InternalError
        | Condition::OperationCancelled
        | Condition::EntityUpdated => ErrorClass::Transient,
        Condition::UnauthorizedAccess => ErrorClass::Auth,
        Condition::NotFound
        | Condition::NotAllowed
        | Condition::NotImplemented
        | Condition::ResourceDeleted
        | Condition::EntityDisabledError => ErrorClass::Permanent,
        Condition::LinkPayloadSizeExceeded => ErrorClass::TooLarge,
        Condition::ArgumentError | Condition::ArgumentOutOfRangeError => ErrorClass::BadPosition,
        Condition::UnknownValue(value)
            if value == "com.microsoft:georeplication:invalid-offset" =>
        {
            ErrorClass::BadPosition
        }
        Condition::DecodeError | Condition::InvalidField => ErrorClass::BadData,
        _ => return None,
    })
}

fn class_of_amqp(error: &AmqpError) -> ErrorClass {
    match error.kind() {
        Kind::ManagementStatusCode(status, _) => match u16::from(*status) {
            401 | 403 => ErrorClass::Auth,
            404 => ErrorClass::Permanent,
            429 | 503 => ErrorClass::Throttling,
            408 | 500 | 502 | 504 => ErrorClass::Transient,
            _ => ErrorClass::Unknown,
        },
        Kind::AzureCore(error) => class_of_azure_core(error),
        Kind::LinkClosedByRemote(_)
        | Kind::SessionClosedByRemote(_)
        | Kind::ConnectionClosedByRemote(_)
        | Kind::LinkDetachedByRemote(_)
        | Kind::SessionDetachedByRemote(_)
        | Kind::ConnectionDetachedByRemote(_)
        | Kind::ConnectionDropped(_)
        | Kind::LinkStateError(_)
        | Kind::FramingError(_)
        | Kind::IdleTimeoutElapsed(_)
        | Kind::DetachError(_)
        | Kind::TransportImplementationError(_)
        | Kind::NonTerminalDeliveryState
        | Kind::IllegalDeliveryState => ErrorClass::Transient,
        Kind::SendRejected => ErrorClass::Permanent,
        _ => ErrorClass::Unknown,
    }
}

fn class_of_azure_core(error: &azure_core::Error) -> ErrorClass {
    use azure_core::error::ErrorKind as CoreKind;
    // The kind may wrap an AMQP error of more substance.
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        if let Some(amqp) = source.downcast_ref::<AmqpError>() {
            return class_of_amqp(amqp);
        }
        next = source.source();
    }
    match error.kind() {
        CoreKind::Credential => ErrorClass::Auth,
        CoreKind::Io => ErrorClass::Transient,
        _ => ErrorClass::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    fn wrapped(condition: &str) -> EventHubsError {
        let Ok(condition) = Condition::from_str(condition);
        let described = AmqpDescribedError::new(condition, None, Default::default());
        let inner = AmqpError::from(Kind::AmqpDescribedError(described));
        let core = azure_core::Error::with_error(
            azure_core::error::ErrorKind::Other,
            inner,
            "ensure receiver",
        );
        EventHubsError::from(core)
    }

    #[test]
    fn a_condition_is_found_under_the_wrappers_of_the_sdk() {
        for (condition, class) in [
            ("amqp:link:stolen", ErrorClass::PartitionLost),
            ("com.microsoft:partition-not-owned", ErrorClass::PartitionLost),
            ("com.microsoft:server-busy", ErrorClass::Throttling),
            ("amqp:resource-limit-exceeded", ErrorClass::Throttling),
            ("amqp:link:detach-forced", ErrorClass::Transient),
            ("amqp:connection:forced", ErrorClass::Transient),
            ("com.microsoft:timeout", ErrorClass::Transient),
            ("amqp:unauthorized-access", ErrorClass::Auth),
            ("amqp:not-found", ErrorClass::Permanent),
            ("com.microsoft:entity-disabled", ErrorClass::Permanent),
            ("amqp:link:message-size-exceeded", ErrorClass::TooLarge),
            ("com.microsoft:argument-error", ErrorClass::BadPosition),
            ("com.microsoft:argument-out-of-range", ErrorClass::BadPosition),
            ("com.microsoft:georeplication:invalid-offset", ErrorClass::BadPosition),
            ("amqp:decode-error", ErrorClass::BadData),
            ("com.example:never-heard-of", ErrorClass::Unknown),
        ] {
            assert_eq!(class_of(&wrapped(condition)), class, "{condition}");
        }
    }

    #[test]
    fn a_dropped_connection_is_transient_even_where_the_sdk_calls_it_fatal() {
        let dropped = Kind::TransportImplementationError(Box::new(std::io::Error::other("gone")));
        let error = EventHubsError::from(AmqpError::from(dropped));
        assert_eq!(class_of(&error), ErrorClass::Transient);
    }
}
