//! `$management`: what a hub and its partitions look like.

use serde_amqp::Value;
use serde_amqp::primitives::{Array, OrderedMap, Timestamp};

use super::address;
use super::context::Context;
use super::hub::Hub;
use super::injection::FaultPoint;
use super::refusal::{NOT_FOUND, Refusal};
use super::request::{Answer, Request};
use super::settings::TokenCheck;

const HUB_TYPE: &str = "com.microsoft:eventhub";
const PARTITION_TYPE: &str = "com.microsoft:partition";

pub(super) fn answer(request: &Request, context: &Context) -> Answer {
    let broker = &context.broker;
    let operation = request.text("operation").unwrap_or_default();
    if operation != "READ" {
        return Answer::failed(501, format!("the operation '{operation}' is not offered; READ is"));
    }
    if let Some(refusal) = broker.injections.take(FaultPoint::Management) {
        return Answer::refused(refusal);
    }
    let Some(name) = request.text("name") else {
        return Answer::failed(400, "READ needs a 'name', the event hub");
    };
    if broker.settings.tokens == TokenCheck::Required
        && let Err(refusal) = context.grants.admit_properties(name)
    {
        return Answer::refused(refusal);
    }
    let read = broker.hub(name).and_then(|hub| match request.text("type") {
        Some(HUB_TYPE) => Ok(hub_properties(&hub)),
        Some(PARTITION_TYPE) => partition_properties(&hub, request.text("partition")),
        other => Err(Refusal::new(
            NOT_FOUND,
            format!(
                "the type '{}' is not known; there are {HUB_TYPE} and {PARTITION_TYPE}",
                other.unwrap_or_default()
            ),
        )),
    });
    match read {
        Ok(properties) => Answer {
            status: 200,
            description: "OK".to_owned(),
            condition: None,
            body: Value::Map(
                properties
                    .into_iter()
                    .map(|(name, value)| (Value::String(name.to_owned()), value))
                    .collect::<OrderedMap<Value, Value>>(),
            ),
        },
        Err(refusal) => Answer::failed(404, refusal.description),
    }
}

fn timestamp(unix_millis: i64) -> Value {
    Value::Timestamp(Timestamp::from_milliseconds(unix_millis))
}

fn hub_properties(hub: &Hub) -> Vec<(&'static str, Value)> {
    let ids = (0..hub.partition_count()).map(|id| Value::String(id.to_string())).collect();
    vec![
        ("name", Value::String(hub.name.clone())),
        ("type", Value::String(HUB_TYPE.to_owned())),
        ("created_at", timestamp(hub.created_at_ms)),
        ("partition_count", Value::Int(hub.partition_count() as i32)),
        ("partition_ids", Value::Array(Array(ids))),
    ]
}

fn partition_properties(
    hub: &Hub,
    id: Option<&str>,
) -> Result<Vec<(&'static str, Value)>, Refusal> {
    let id = address::parse_partition(id.unwrap_or_default())?;
    let ends = hub.partition(id)?.log.ends();
    Ok(vec![
        ("name", Value::String(hub.name.clone())),
        ("type", Value::String(PARTITION_TYPE.to_owned())),
        ("partition", Value::String(id.to_string())),
        ("begin_sequence_number", Value::Long(ends.begin_sequence)),
        ("last_enqueued_sequence_number", Value::Long(ends.last_sequence)),
        ("last_enqueued_offset", Value::String(ends.last_offset.to_string())),
        ("last_enqueued_time_utc", timestamp(ends.last_enqueued_ms)),
        ("is_partition_empty", Value::Bool(ends.is_empty())),
        ("last_enqueued_sequence_number_epoch", Value::Long(0)),
    ])
}
