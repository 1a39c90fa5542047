//! `show`: one letter, or one event that is parked, with all that is known of it.

use std::fmt::Write as _;

use serde_json::Value;

use super::letters::noun;
use super::opened::Opened;
use super::{BodyForm, ShowArgs, letters};
use crate::report::size;
use crate::terminal::{as_json, give, in_one_line};
use crate::{CommandError, Ending, ReportFormat};
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::failure_store::FailureKind;
use longshore::secret::redacted;

/// So much is shown in hexadecimal where nobody asked for it.
const HEX_BYTES: usize = 256;

/// Bytes in a line of hexadecimal.
const HEX_COLUMNS: usize = 16;

pub(crate) async fn run(args: ShowArgs, kind: FailureKind) -> Result<Ending, CommandError> {
    let ShowArgs { id, body, common } = args;
    let Some(opened) = Opened::new(&common.config, common.report)? else {
        return Ok(Ending::Unusable);
    };
    let stored = letters::one(&opened, &id, kind).await?;
    let record = stored.record().map_err(|error| {
        let what = format!("the {} cannot be shown ({})", noun(kind), opened.place);
        CommandError::caused(what, &error)
    })?;
    match common.report {
        Some(ReportFormat::Json) => give(as_json(&record)?),
        None => {
            let mut text = headers(&record, kind);
            if body != BodyForm::None {
                text.push('\n');
                text.push_str(&body_text(&record, body));
            }
            give(text.trim_end());
        }
    }
    Ok(Ending::Done)
}

/// Where it came from, what its publisher said, why it failed, and its life.
fn headers(record: &DeadLetterRecord, kind: FailureKind) -> String {
    let mut text = String::new();
    // What a name or a value holds stays in its line, and no secret in what is shown.
    let mut line = |name: &str, value: &str| {
        let shown = redacted(&format!("{name}: {value}"));
        let _ = writeln!(text, "{}", in_one_line(&shown));
    };
    let event = record.identity();
    line("id", &event.to_string());
    line("hub", &format!("{} at {}", record.topic, or_unknown(&record.namespace)));
    line("consumer group", record.consumer_group.as_str());
    line("partition", record.partition.as_str());
    line("sequence number", &record.sequence_number.to_string());
    if let Some([first, last]) = record.sequence_numbers {
        line("its number is one of", &format!("{first} to {last}"));
    }
    if let Some(offset) = &record.offset {
        line("offset", offset.as_str());
    }
    if let Some(key) = &record.key {
        line("partition key", key);
    }
    for (name, value) in message_properties(record) {
        line(&name, &value);
    }
    for (name, value) in &record.properties {
        line(&format!("property {name}"), &plain(value));
    }
    for (name, value) in &record.annotations {
        line(&format!("annotation {name}"), &plain(value));
    }
    for (number, value) in &record.numbered_annotations {
        line(&format!("annotation {number}"), &plain(value));
    }
    line("class", record.error.class.as_str());
    line("failure", &record.error.message);
    for cause in &record.error.causes {
        line("  caused by", cause);
    }
    let is_replayed = kind == FailureKind::Parked || record.due.is_some();
    let job = if is_replayed { "job that replays it" } else { "replayed last by job" };
    let due = match kind {
        FailureKind::Parked => "tried again at",
        FailureKind::Dead => "replayed since",
    };
    for (name, value) in [
        ("destination", &record.destination),
        ("lane", &record.lane),
        (job, &record.job),
        (due, &record.due),
    ] {
        if let Some(value) = value {
            line(name, value);
        }
    }
    line("enqueued", &record.enqueued_time);
    line("failed first", &record.first_failure);
    line("failed last", &record.last_failure);
    let attempts = if record.attempts == 1 { "attempt" } else { "attempts" };
    let mut life = format!("{} {attempts}", record.attempts);
    for (count, what) in [(record.parkings, "parked"), (record.generation, "replayed")] {
        if count > 0 {
            let _ = write!(life, ", {what} {count} times");
        }
    }
    line("life", &life);
    let worker = match kind {
        FailureKind::Dead => "given up by",
        FailureKind::Parked => "failed in",
    };
    line(worker, &record.worker);
    text
}

fn or_unknown(namespace: &str) -> &str {
    if namespace.is_empty() { "a namespace that is not known" } else { namespace }
}

/// Ids, media type, encoding and the like, by their names in the record.
fn message_properties(record: &DeadLetterRecord) -> Vec<(String, String)> {
    match serde_json::to_value(&record.message) {
        Ok(Value::Object(fields)) => fields
            .into_iter()
            .map(|(name, value)| (name.replace('_', " "), plain(&value)))
            .collect(),
        _ => Vec::new(),
    }
}

/// A value with its type, if that is not plain.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn body_text(record: &DeadLetterRecord, form: BodyForm) -> String {
    let body = match record.body() {
        Ok(body) => body,
        Err(error) => return format!("no body: {error}"),
    };
    let as_json = || {
        let value: Value = serde_json::from_slice(&body).ok()?;
        serde_json::to_string_pretty(&value).ok()
    };
    let (kind, text) = match (form, std::str::from_utf8(&body)) {
        (BodyForm::Json, _) => match as_json() {
            Some(json) => ("JSON", json),
            None => ("text, for it is no JSON", String::from_utf8_lossy(&body).into_owned()),
        },
        (BodyForm::Text, _) => ("text", String::from_utf8_lossy(&body).into_owned()),
        (BodyForm::Hex, _) => ("hexadecimal", hexadecimal(&body, body.len())),
        (_, Ok(text)) => match as_json().filter(|_| text.starts_with(['{', '['])) {
            Some(json) => ("JSON", json),
            None => ("text", text.to_owned()),
        },
        (_, Err(_)) => ("hexadecimal", hexadecimal(&body, HEX_BYTES)),
    };
    let mut shown = format!("body, {} of {kind}\n", size(body.len() as u64));
    for line in text.lines() {
        let _ = writeln!(shown, "  {line}");
    }
    shown
}

/// Bytes as a dump, the first so many.
fn hexadecimal(body: &[u8], most: usize) -> String {
    let mut dump = String::new();
    let shown = body.get(..most).unwrap_or(body);
    for (row, bytes) in shown.chunks(HEX_COLUMNS).enumerate() {
        let _ = write!(dump, "{:08x} ", row * HEX_COLUMNS);
        for byte in bytes {
            let _ = write!(dump, " {byte:02x}");
        }
        let gap = 3 * (HEX_COLUMNS - bytes.len()) + 2;
        let letters: String = bytes
            .iter()
            .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' })
            .collect();
        let _ = writeln!(dump, "{:gap$}{letters}", "");
    }
    if shown.len() < body.len() {
        let _ = writeln!(dump, "… {} bytes more: --body hex", body.len() - shown.len());
    }
    dump
}
