//! What a client asks for when it attaches: the node an address names and the position a filter names.

use fe2o3_amqp_types::messaging::FilterSet;
use serde_amqp::Value;

use super::refusal::{ARGUMENT_ERROR, ARGUMENT_OUT_OF_RANGE, NOT_FOUND, Refusal};

/// The node behind an address. Hub and group keep the spelling of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// `$cbs`: tokens.
    Tokens,
    /// `$management`: properties of hubs and partitions.
    Management,
    /// `hub` or `hub/Partitions/3`.
    Hub { hub: String, partition: Option<u32> },
    /// `hub/Publishers/id`. The id only names the sender; its events are spread like any others.
    Publisher { hub: String, id: String },
    /// `hub/ConsumerGroups/group/Partitions/3`.
    ConsumerGroup { hub: String, group: String, partition: u32 },
}

impl Node {
    /// The resource that a token must cover for a link here: what was understood of the address, in
    /// lower case, and not how it was written. None where no token is needed, or it depends on the
    /// request.
    pub(super) fn resource(&self) -> Option<String> {
        let path = match self {
            Self::Tokens | Self::Management => return None,
            Self::Hub { hub, partition: None } => hub.clone(),
            Self::Hub { hub, partition: Some(partition) } => {
                format!("{hub}/partitions/{partition}")
            }
            Self::Publisher { hub, id } => format!("{hub}/publishers/{id}"),
            Self::ConsumerGroup { hub, group, partition } => {
                format!("{hub}/consumergroups/{group}/partitions/{partition}")
            }
        };
        Some(path.to_ascii_lowercase())
    }
}

/// Reads an address: a path, or a URL whose host is ignored (clients name the namespace there).
pub(super) fn parse_node(address: &str) -> Result<Node, Refusal> {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => address,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is = |part: &str, name: &str| part.eq_ignore_ascii_case(name);
    let node = match parts.as_slice() {
        [.., last] if is(last, "$cbs") => Node::Tokens,
        [.., last] if is(last, "$management") => Node::Management,
        [hub] => Node::Hub { hub: (*hub).to_owned(), partition: None },
        [hub, word, id] if is(word, "Publishers") => {
            Node::Publisher { hub: (*hub).to_owned(), id: (*id).to_owned() }
        }
        [hub, word, id] if is(word, "Partitions") => {
            Node::Hub { hub: (*hub).to_owned(), partition: Some(parse_partition(id)?) }
        }
        [hub, word, group, inner, id] if is(word, "ConsumerGroups") && is(inner, "Partitions") => {
            Node::ConsumerGroup {
                hub: (*hub).to_owned(),
                group: (*group).to_owned(),
                partition: parse_partition(id)?,
            }
        }
        _ => {
            return Err(Refusal::new(
                NOT_FOUND,
                format!(
                    "the messaging entity '{path}' could not be found; an address is a hub, \
                     hub/Partitions/n, hub/ConsumerGroups/group/Partitions/n, $cbs or $management"
                ),
            ));
        }
    };
    Ok(node)
}

pub(super) fn parse_partition(id: &str) -> Result<u32, Refusal> {
    id.parse().map_err(|_| {
        Refusal::new(
            ARGUMENT_OUT_OF_RANGE,
            format!("'{id}' is not a partition id; the ids are 0, 1, 2 and so on"),
        )
    })
}

/// Where a consumer starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Earliest,
    Latest,
    /// At an event: its own, when inclusive, or the one after it.
    At {
        key: StartKey,
        value: i64,
        inclusive: bool,
    },
}

/// What a start position counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartKey {
    Offset,
    SequenceNumber,
    EnqueuedMillis,
}

/// The start position among a source's filters; the beginning of the log without one, as the
/// service does.
pub(super) fn start_of(filters: Option<&FilterSet>) -> Result<Start, Refusal> {
    let selectors = filters.into_iter().flat_map(|filters| filters.iter());
    for (_, value) in selectors {
        let value = match value {
            Value::Described(described) => &described.value,
            plain => plain,
        };
        if let Value::String(text) = value {
            return parse_selector(text);
        }
    }
    Ok(Start::Earliest)
}

/// Reads a selector such as `amqp.annotation.x-opt-offset >= '120'`.
fn parse_selector(text: &str) -> Result<Start, Refusal> {
    let refuse = |what: &str| {
        Refusal::new(
            ARGUMENT_ERROR,
            format!(
                "the filter \"{text}\" {what}; an example is amqp.annotation.x-opt-offset > '-1'"
            ),
        )
    };
    let (name, value) = text.split_once('>').ok_or_else(|| refuse("has no '>' or '>='"))?;
    let (inclusive, value) = match value.strip_prefix('=') {
        Some(value) => (true, value),
        None => (false, value),
    };
    let value = value.trim().trim_matches('\'').trim();
    let name = name.trim();
    let key = match name.strip_prefix("amqp.annotation.").unwrap_or(name) {
        "x-opt-offset" => StartKey::Offset,
        "x-opt-sequence-number" => StartKey::SequenceNumber,
        "x-opt-enqueued-time" | "x-opt-enqueuedtimeutc" => StartKey::EnqueuedMillis,
        _ => return Err(refuse("names an unknown annotation")),
    };
    match (key, value) {
        (_, "@latest") => Ok(Start::Latest),
        (StartKey::Offset | StartKey::SequenceNumber, "-1") => Ok(Start::Earliest),
        (key, number) => Ok(Start::At {
            key,
            value: number.parse().map_err(|_| refuse("has a value that is not a number"))?,
            inclusive,
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_a_host_name_the_same_node() {
        let node =
            Node::ConsumerGroup { hub: "orders".into(), group: "$Default".into(), partition: 3 };
        for address in [
            "amqps://ns.example.com/orders/ConsumerGroups/$Default/Partitions/3",
            "amqps://localhost:5672/orders/consumergroups/$Default/partitions/3",
            "orders/ConsumerGroups/$Default/Partitions/3",
        ] {
            assert_eq!(parse_node(address), Ok(node.clone()));
        }
        assert_eq!(parse_node("amqp://host/$cbs"), Ok(Node::Tokens));
        assert_eq!(parse_node("$management"), Ok(Node::Management));
        assert_eq!(parse_node("a/b").unwrap_err().condition, NOT_FOUND);
        assert_eq!(parse_node("orders/Partitions/x").unwrap_err().condition, ARGUMENT_OUT_OF_RANGE);
    }

    #[test]
    fn selectors_are_read_with_or_without_spaces_and_quotes() {
        let at = |key, value, inclusive| Ok(Start::At { key, value, inclusive });
        for (text, start) in [
            ("amqp.annotation.x-opt-offset > '-1'", Ok(Start::Earliest)),
            ("amqp.annotation.x-opt-offset > '@latest'", Ok(Start::Latest)),
            ("amqp.annotation.x-opt-offset >'5'", at(StartKey::Offset, 5, false)),
            ("amqp.annotation.x-opt-sequence-number >='7'", at(StartKey::SequenceNumber, 7, true)),
            (
                "amqp.annotation.x-opt-enqueued-time > 1700000000000",
                at(StartKey::EnqueuedMillis, 1_700_000_000_000, false),
            ),
        ] {
            assert_eq!(parse_selector(text), start, "{text}");
        }
        for text in ["", "x > ", "amqp.annotation.x-opt-offset > 'a'"] {
            assert_eq!(parse_selector(text).unwrap_err().condition, ARGUMENT_ERROR);
        }
    }
}
