//! What letters have in common wherever they are shown.

use std::time::SystemTime;

use serde_json::{Value, json};

use longshore::failure_store::{EventIdentity, FailureKind, ListedFailure};
use longshore::timestamp::rfc3339;

/// A time to the minute, in UTC.
pub(crate) fn minute(time: SystemTime) -> String {
    let text = rfc3339(time).replace('T', " ");
    text.get(..16).unwrap_or_default().to_owned()
}

/// Whether a job replays it now.
pub(crate) fn is_replayed(letter: &ListedFailure) -> bool {
    match letter.key.kind {
        FailureKind::Dead => letter.meta.replaying().is_some(),
        FailureKind::Parked => letter.meta.job.is_some(),
    }
}

/// As people name its event, if they know which namespace and group they mean.
pub(crate) fn short(event: &EventIdentity) -> String {
    format!("{}/{}#{}", event.log.entity, event.log.partition, event.sequence_number)
}

/// A letter for scripts.
pub(crate) fn as_value(letter: &ListedFailure) -> Value {
    let ListedFailure { key, meta, .. } = letter;
    let log = &key.event.log;
    json!({
        "id": key.event.to_string(),
        "namespace": log.namespace,
        "entity": log.entity.as_str(),
        "incarnation": log.incarnation.0,
        "consumer_group": log.consumer_group.as_str(),
        "partition": log.partition.as_str(),
        "sequence_number": key.event.sequence_number.0,
        "class": meta.class.as_str(),
        "fingerprint": meta.fingerprint.to_string(),
        "reason": meta.reason,
        "destination": meta.destination,
        "lane": meta.lane,
        "worker": meta.worker,
        "attempts": meta.attempts,
        "parkings": meta.parkings,
        "enqueued_time": rfc3339(meta.enqueued_time),
        "first_failure": rfc3339(meta.first_failure),
        "last_failure": rfc3339(meta.last_failure),
        "body_bytes": meta.body_bytes,
        "body_omitted": meta.is_body_omitted,
        "due": meta.due.map(rfc3339),
        "job": meta.job,
        "is_replayed": is_replayed(letter),
        "generation": meta.generation,
    })
}
