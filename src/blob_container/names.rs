//! What the blobs of records are called: `{namespace host}/{hub}/{group}/{kind}/{partition}`, for
//! example `…/checkpoint/0`.
//!
//! The service's names do not differ by case, so the path is lower-cased, as most SDKs have it.
//! Some (Go, Java, Rust) keep the case they were configured with: such a blob is looked for under
//! the names as they are given here. What no name of the service holds is percent-encoded.
//!
//! A broker on this machine may have a port of its own, which is part of its name: `localhost:5673`.
//! So the clients of Python and Go have it. Others, and earlier releases of this one, leave it out;
//! what they wrote is looked for as well.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;

use crate::checkpoint::{CheckpointScope, host_of};
use crate::event::PartitionId;

/// Most characters in the name of a blob.
pub(crate) const MAX_NAME_CHARS: usize = 1_024;

/// Whose spelling of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spelling {
    /// Lower case: the only one we write.
    Lower,
    /// As configured: read where another SDK wrote it.
    AsGiven,
    /// Lower case, and without a port.
    WithoutPort,
}

/// The folder of a scope's records of a kind, with a slash at its end.
pub(crate) fn folder(scope: &CheckpointScope, kind: &str, spelling: Spelling) -> String {
    let (host, port) = match spelling {
        Spelling::WithoutPort => (scope.host(), None),
        Spelling::Lower | Spelling::AsGiven => with_port(&scope.namespace),
    };
    let mut folder = escape(host, spelling);
    if let Some(port) = port {
        let _ = write!(folder, ":{port}");
    }
    folder.push('/');
    for name in [scope.entity.as_str(), scope.consumer_group.as_str()] {
        folder.push_str(&escape(name, spelling));
        folder.push('/');
    }
    folder.push_str(kind);
    folder.push('/');
    folder
}

/// A namespace apart from its port, if it has one.
fn with_port(namespace: &str) -> (&str, Option<&str>) {
    match namespace.rsplit_once(':') {
        Some((host, port)) if host_of(namespace) != namespace && !port.ends_with(']') => {
            (host, Some(port))
        }
        _ => (namespace, None),
    }
}

/// The last part of the name of a partition's blob.
pub(crate) fn file(partition: &PartitionId, spelling: Spelling) -> String {
    escape(partition.as_str(), spelling)
}

/// The partition whose blob has this last part; `None` if it is no partition's.
pub(crate) fn partition(file: &str, spelling: Spelling) -> Option<PartitionId> {
    let name = if file == EMPTY {
        String::new()
    } else {
        percent_decode_str(file).decode_utf8().ok()?.into_owned()
    };
    (escape(&name, spelling) == file).then(|| PartitionId::from(name))
}

/// Stands for an empty name.
const EMPTY: &str = "%";

fn escape(name: &str, spelling: Spelling) -> String {
    match name {
        "" => return EMPTY.to_owned(),
        "." => return "%2e".to_owned(),
        ".." => return "%2e%2e".to_owned(),
        _ => {}
    }
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"$-._".contains(&byte);
        match (plain, spelling) {
            (true, Spelling::AsGiven) => escaped.push(char::from(byte)),
            (true, _) => escaped.push(char::from(byte.to_ascii_lowercase())),
            (false, _) => {
                let _ = write!(escaped, "%{byte:02x}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(group: &str) -> CheckpointScope {
        CheckpointScope {
            namespace: "NS.servicebus.windows.net".to_owned(),
            entity: "Orders-2_a".into(),
            consumer_group: group.into(),
        }
    }

    #[test]
    fn names_of_the_service_are_kept_and_lower_cased() {
        let scope = scope("$Default");
        assert_eq!(
            folder(&scope, "checkpoint", Spelling::Lower),
            "ns.servicebus.windows.net/orders-2_a/$default/checkpoint/"
        );
        assert_eq!(
            folder(&scope, "checkpoint", Spelling::AsGiven),
            "NS.servicebus.windows.net/Orders-2_a/$Default/checkpoint/"
        );
        assert_eq!(file(&"17".into(), Spelling::Lower), "17");
    }

    #[test]
    fn the_port_of_a_local_broker_is_part_of_its_name() {
        let local = |namespace: &str| {
            let scope = CheckpointScope { namespace: namespace.to_owned(), ..scope("$Default") };
            [Spelling::Lower, Spelling::AsGiven, Spelling::WithoutPort]
                .map(|spelling| folder(&scope, "checkpoint", spelling))
        };
        let [lower, as_given, without] = local("localhost:5673");
        assert_eq!(lower, "localhost:5673/orders-2_a/$default/checkpoint/");
        assert_eq!(as_given, "localhost:5673/Orders-2_a/$Default/checkpoint/");
        assert_eq!(without, "localhost/orders-2_a/$default/checkpoint/");
        let [lower, _, without] = local("localhost");
        assert_eq!(lower, without);
        let [lower, ..] = local("a:b/../c");
        assert_eq!(lower, "a%3ab%2f..%2fc/orders-2_a/$default/checkpoint/");
    }

    #[test]
    fn no_name_leaves_its_place() {
        for (name, escaped) in [
            ("", "%"),
            (".", "%2e"),
            ("..", "%2e%2e"),
            ("../a", "..%2fa"),
            ("a/b", "a%2fb"),
            ("a\\b", "a%5cb"),
            ("%", "%25"),
            ("ä", "%c3%a4"),
            ("a\nb", "a%0ab"),
        ] {
            assert_eq!(file(&name.into(), Spelling::Lower), escaped);
            assert_eq!(partition(escaped, Spelling::Lower), Some(name.into()));
        }
        for alien in ["0/extra", "A", "%41", "%2F", "%zz", "a b", "%ff"] {
            assert_eq!(partition(alien, Spelling::Lower), None, "{alien}");
        }
        assert_eq!(partition("A", Spelling::AsGiven), Some("A".into()));
    }
}
