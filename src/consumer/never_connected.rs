//! A run that never came to read anything: what it tried to reach, why it could not, and what to do.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorClass, OneLine, error_chain};
use crate::transport::Transport;

/// What a run never reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Unreached {
    /// The hub.
    Hub,
    /// The hub was read, and the store of the leases was not.
    Leases,
}

/// Why a run ended that never connected. `Display` says it in one line, with what was tried and
/// what to do; it holds no secret.
#[derive(Debug)]
pub struct NeverConnected {
    unreached: Unreached,
    place: String,
    ended: GaveUp,
    /// The last attempt that failed.
    error: Option<Error>,
    advice: String,
}

/// Why it was not tried any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GaveUp {
    /// It is no use.
    Refused,
    /// So much time was over.
    TimedOut(Duration),
    /// The consumer was told to stop.
    Told,
}

impl NeverConnected {
    pub(super) fn new(
        unreached: Unreached,
        transport: &dyn Transport,
        ended: GaveUp,
        error: Option<Error>,
    ) -> Self {
        let (hub, place) = (transport.entity(), transport.place());
        let advice = match unreached {
            Unreached::Hub => advice(transport, error.as_ref()),
            Unreached::Leases => "check the address of the container with the leases \
                                  (LONGSHORE_CHECKPOINT_CONTAINER), that it exists, and that \
                 the credentials open it"
                .to_owned(),
        };
        let place = match unreached {
            Unreached::Hub => format!("the hub {hub} at {place}"),
            Unreached::Leases => format!("the lease store of the hub {hub} at {place}"),
        };
        Self { unreached, place, ended, error, advice }
    }

    /// What was not reached.
    pub fn unreached(&self) -> Unreached {
        self.unreached
    }

    /// Why the last attempt failed, if one did.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether the consumer was told to stop before it had connected or given up.
    pub fn was_told_to_stop(&self) -> bool {
        self.ended == GaveUp::Told
    }
}

fn advice(transport: &dyn Transport, error: Option<&Error>) -> String {
    let (hub, namespace) = (transport.entity(), transport.namespace());
    match error.map(Error::class) {
        Some(ErrorClass::Permanent) => format!(
            "check that the namespace {namespace} has a hub {hub}, spelled like this, and that the \
             hub is active"
        ),
        Some(ErrorClass::Auth) => "check that the key or the role is valid there and has the \
             right Listen, and that the certificate on the way is one to trust"
            .to_owned(),
        Some(ErrorClass::Throttling) => {
            "try again later; if it stays so, the namespace needs more throughput units".to_owned()
        }
        Some(ErrorClass::BadData) => "check that it is an Event Hubs namespace".to_owned(),
        None => "let it run until it has connected, or has given up by itself".to_owned(),
        Some(_) => "check the name and the port, that something listens there, and the firewall \
             on the way; the protocol chooses between the ports 443 (WebSocket) and 5671 (TCP)"
            .to_owned(),
    }
}

impl fmt::Display for NeverConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "never connected to {}: ", self.place)?;
        match self.ended {
            GaveUp::Refused => {}
            GaveUp::TimedOut(limit) => write!(f, "gave up after {limit:?}")?,
            GaveUp::Told => f.write_str("told to stop before it had")?,
        }
        if let Some(error) = &self.error {
            let joint = if self.ended == GaveUp::Refused { "" } else { "; " };
            write!(f, "{joint}{}", in_one_line(error))?;
        } else if let GaveUp::TimedOut(_) = self.ended {
            f.write_str("; there was no answer")?;
        }
        write!(f, ". What to do: {}", self.advice)
    }
}

impl std::error::Error for NeverConnected {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}

/// The first attempt failed, and others follow: what is tried, why it failed and what to do, in a line.
pub(super) fn trying_again(transport: &dyn Transport, error: &Error) -> String {
    format!(
        "cannot read the hub {} at {}, trying again: {}. What to do: {}",
        transport.entity(),
        transport.place(),
        in_one_line(error),
        advice(transport, Some(error))
    )
}

/// An error, and the innermost cause where its class leaves open what it is.
fn in_one_line(error: &Error) -> String {
    let chain = error_chain(error);
    let mut text = error.to_string();
    if matches!(error.class(), ErrorClass::Transient | ErrorClass::Unknown)
        && let [_, .., cause] = chain.as_slice()
        && !text.contains(cause.as_str())
    {
        text.push_str(&format!(": {}", OneLine(cause)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::memory::MemoryHub;

    fn said(unreached: Unreached, ended: GaveUp, error: Option<Error>) -> String {
        let transport = MemoryHub::new("orders", 1).transport("$Default");
        NeverConnected::new(unreached, &transport, ended, error).to_string()
    }

    #[test]
    fn it_says_what_was_tried_why_it_failed_and_what_to_do_in_one_line() {
        let absent = Error::new(ErrorClass::Permanent, "read the hub", "refused:\n  not found");
        assert_eq!(
            said(Unreached::Hub, GaveUp::Refused, Some(absent)),
            "never connected to the hub orders at memory: could not read the hub: \
             refused:\\n  not found. What to do: check that the namespace memory has a hub orders, spelled like \
             this, and that the hub is active"
        );
        let closed = Error::new(ErrorClass::Transient, "connect", "the connection failed")
            .with_source(std::io::Error::other("connection refused"));
        let timed_out = GaveUp::TimedOut(Duration::from_secs(20));
        let text = said(Unreached::Hub, timed_out, Some(closed));
        assert!(text.contains("gave up after 20s; could not connect: the connection failed: connection refused. What to do: "), "{text}");
        let away = Error::new(ErrorClass::Transient, "connect", "nobody answers");
        let transport = MemoryHub::new("orders", 1).transport("$Default");
        let text = trying_again(&transport, &away);
        assert!(text.starts_with("cannot read the hub orders at memory, trying again: could not connect: nobody answers. What to do: check"), "{text}");
        let text = said(Unreached::Hub, timed_out, None);
        assert!(text.contains("gave up after 20s; there was no answer. What to do: "), "{text}");
        let text = said(Unreached::Hub, GaveUp::Told, None);
        assert!(text.contains(": told to stop before it had. What to do: let it run"), "{text}");
        let text = said(Unreached::Leases, GaveUp::Told, None);
        assert!(text.starts_with("never connected to the lease store of the hub orders"), "{text}");
    }
}
