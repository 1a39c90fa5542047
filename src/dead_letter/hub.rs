//! Dead letters as events of a hub: the event that failed is published as it came, with the record of its failure
//! in properties.
//!
//! Body, key, properties, annotations and message properties are published unchanged, except for the message id.
//! The record is in properties that begin with [`PREFIX`], so any client can read, filter and replay the event.
//! Times are RFC 3339 in UTC. A property of the event may already begin with the prefix, if the event is a dead
//! letter that failed again. It then gets the prefix once more, and loses it when it is read back. The message id
//! is the identity of the event, `namespace/hub/incarnation/group/partition/number` (see
//! [`EventIdentity`](crate::failure_store::EventIdentity)), or `hub/partition/number` if namespace and incarnation
//! are not known. So a letter that was written twice is recognised.
//!
//! | Property | Value |
//! | --- | --- |
//! | `dl_version` | [`DeadLetterRecord::VERSION`] |
//! | `dl_topic`, `dl_partition`, `dl_offset`, `dl_sequence_number`, `dl_enqueued_time` | the event |
//! | `dl_namespace`, `dl_incarnation` | its hub, if that is known |
//! | `dl_message_id` | the publisher's, if it gave one, of its type |
//! | `dl_first_sequence_number`, `dl_last_sequence_number` | if the event could not be read and its number is not known exactly: the first and the last number that it may have |
//! | `dl_consumer_group`, `dl_worker` | the group and the worker that gave up |
//! | `dl_error_class`, `dl_error_message`, `dl_error_causes` | why; the causes are a JSON array |
//! | `dl_attempts`, `dl_first_failure`, `dl_last_failure` | how often and since when |
//! | `dl_lane`, `dl_destination` | the lane of the event, and what the failure blames |
//! | `dl_shortened` | `true` if the causes or a part of the message had to go |
//!
//! A large event may not fit into the hub with all that. Then the record is shortened: the causes first, in the
//! end all of it, which leaves the message id. A body is never cut. If the event alone is too large, it goes to
//! the failure store that the sink may have. Without one the write fails, and the watermark waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tracing::warn;

use super::record::{DeadLetterFailure, DeadLetterRecord};
use super::store::StoreDeadLetterSink;
use super::{DeadLetter, DeadLetterSink};
use crate::error::{Error, ErrorClass, Result};
use crate::event::{
    EntityName, Event, EventParts, Incarnation, MessageId, OutgoingEvent, Partition, Properties,
    SequenceNumber, Unreadable, Value,
};
use crate::outcome::{Blame, Failure};
use crate::secret::redacted;
use crate::timestamp::rfc3339;
use crate::transport::{Publisher, SendTarget};

/// What the names of the record's properties begin with.
pub const PREFIX: &str = "dl_";

/// Most bytes that the message keeps where the record is shortened.
const SHORT_MESSAGE_BYTES: usize = 256;

/// A [`DeadLetterSink`] that publishes to a hub, or to one per entity.
///
/// The hub must not be one that the same consumer reads: its letters would come back to it.
#[derive(Debug)]
pub struct HubDeadLetterSink {
    publisher: Arc<dyn Publisher>,
    routes: BTreeMap<EntityName, Arc<dyn Publisher>>,
    /// For what the hub does not take.
    store: Option<StoreDeadLetterSink>,
}

impl HubDeadLetterSink {
    /// Publishes the dead letters of every entity with `publisher`.
    pub fn new(publisher: Arc<dyn Publisher>) -> Self {
        Self { publisher, routes: BTreeMap::new(), store: None }
    }

    /// Puts letters into a store of failures that are too large for their hub, or hold what cannot be published.
    #[must_use]
    pub fn with_store(mut self, store: StoreDeadLetterSink) -> Self {
        self.store = Some(store);
        self
    }

    /// Publishes the dead letters of events of `entity` with `publisher` instead: a hub per
    /// domain or stage.
    #[must_use]
    pub fn with_route(
        mut self,
        entity: impl Into<EntityName>,
        publisher: Arc<dyn Publisher>,
    ) -> Self {
        self.routes.insert(entity.into(), publisher);
        self
    }

    async fn publish(&self, letter: &DeadLetter) -> Result<()> {
        let event = &letter.event;
        let publisher = self.routes.get(&event.partition().entity).unwrap_or(&self.publisher);
        let mut refused = None;
        for detail in Detail::ALL {
            let outgoing = outgoing(letter, detail);
            match publisher.send(SendTarget::Any, outgoing).await {
                Ok(_receipt) => {
                    if detail != Detail::Full {
                        warn!(
                            message_topic = %event.partition().entity,
                            message_partition = %event.partition().id,
                            message_offset = %event.sequence_number(),
                            message_consumer_group = %letter.consumer_group,
                            detail = ?detail,
                            "the dead letter had to be shortened to fit"
                        );
                    }
                    return Ok(());
                }
                Err(error) if error.class() == ErrorClass::TooLarge => refused = Some(error),
                // Nothing that is left out would change that.
                Err(error) if error.class() == ErrorClass::BadData && self.store.is_some() => {
                    refused = Some(error);
                    break;
                }
                Err(error) => return Err(about(error, event)),
            }
        }
        if let Some(store) = &self.store {
            store.write(letter).await?;
            warn!(
                message_topic = %event.partition().entity,
                message_partition = %event.partition().id,
                message_offset = %event.sequence_number(),
                message_consumer_group = %letter.consumer_group,
                hub = %publisher.entity(),
                store = store.place(),
                why = refused.as_ref().map(tracing::field::display),
                "the hub does not take the dead letter: it is in the store of failures"
            );
            return Ok(());
        }
        let message = format!(
            "the event alone, with its body of {} bytes, is larger than {} takes; it is not cut, \
             and its partition waits: raise the limit of that hub, or send such events to a \
             store of failures",
            event.body().len(),
            publisher.entity()
        );
        let error = Error::new(ErrorClass::Permanent, "write the dead letter", message);
        Err(match refused {
            Some(refused) => about(error.with_source(refused), event),
            None => about(error, event),
        })
    }
}

fn about(error: Error, event: &Event) -> Error {
    error.with_partition(event.partition()).with_sequence_number(event.sequence_number())
}

impl DeadLetterSink for HubDeadLetterSink {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<()>> {
        self.publish(letter).boxed()
    }
}

/// How much of the record is published, from all of it to nothing but the message id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Detail {
    Full,
    WithoutCauses,
    ShortMessage,
    EventAlone,
}

impl Detail {
    const ALL: [Self; 4] = [Self::Full, Self::WithoutCauses, Self::ShortMessage, Self::EventAlone];
}

fn outgoing(letter: &DeadLetter, detail: Detail) -> OutgoingEvent {
    let event = &letter.event;
    let mut properties: Properties = event
        .properties()
        .iter()
        .map(|(name, value)| {
            let taken = name.starts_with(PREFIX);
            (if taken { named(name) } else { name.clone() }, value.clone())
        })
        .collect();
    if detail != Detail::EventAlone {
        add_record(&mut properties, letter, detail);
    }
    let mut outgoing = OutgoingEvent::copy_of(event);
    outgoing.properties = properties;
    outgoing.with_message_id(match letter.namespace.as_str() {
        "" => format!("{}/{}", event.partition(), event.sequence_number()),
        _ => DeadLetterRecord::identity_of(letter).to_string(),
    })
}

fn add_record(properties: &mut Properties, letter: &DeadLetter, detail: Detail) {
    let event = &letter.event;
    let failure = DeadLetterFailure::of(&letter.failure);
    let mut add = |name: &str, value: Value| properties.insert(named(name), value);
    add("version", i64::from(DeadLetterRecord::VERSION).into());
    add("topic", event.partition().entity.as_str().into());
    add("partition", event.partition().id.as_str().into());
    add("sequence_number", event.sequence_number().0.into());
    add("enqueued_time", rfc3339(event.enqueued_time()).into());
    add("consumer_group", letter.consumer_group.as_str().into());
    add("worker", letter.worker.as_str().into());
    add("error_class", failure.class.as_str().into());
    add("attempts", i64::from(letter.attempts).into());
    add("first_failure", rfc3339(letter.first_failure).into());
    add("last_failure", rfc3339(letter.last_failure).into());
    if !letter.namespace.is_empty() {
        add("namespace", letter.namespace.as_str().into());
        add("incarnation", letter.incarnation.0.into());
    }
    for (name, text) in [("lane", &letter.lane), ("destination", &letter.destination)] {
        if let Some(text) = text {
            add(name, redacted(text).into());
        }
    }
    if let Some(offset) = event.offset() {
        add("offset", offset.as_str().into());
    }
    if let Some(id) = event.message_properties().and_then(|message| message.message_id.clone()) {
        add("message_id", id.into());
    }
    if let Some(Unreadable { first, last, .. }) = event.unreadable().filter(|it| !it.is_exact()) {
        add("first_sequence_number", first.0.into());
        add("last_sequence_number", last.0.into());
    }
    let message = failure.message.as_str();
    if detail == Detail::ShortMessage {
        let end = message.floor_char_boundary(SHORT_MESSAGE_BYTES);
        add("error_message", message.get(..end).unwrap_or_default().into());
    } else {
        add("error_message", message.into());
    }
    if detail == Detail::Full {
        let causes: serde_json::Value = failure.causes.iter().map(String::as_str).collect();
        add("error_causes", causes.to_string().into());
    } else {
        add("shortened", true.into());
    }
}

fn named(name: &str) -> String {
    format!("{PREFIX}{name}")
}

impl DeadLetterRecord {
    /// Reads the record of an event that a [`HubDeadLetterSink`] published.
    ///
    /// # Errors
    /// `BadData` if the event is no dead letter, or carries no record because it was as
    /// large as the hub takes, or where the record is one of a later release.
    pub fn from_event(letter: &Event) -> Result<Self> {
        let fields = Fields(letter);
        let version = fields.number("version")?;
        if version > i64::from(Self::VERSION) {
            return Err(bad_data(format!(
                "its version is {version}, and this release reads up to {}; use a later release",
                Self::VERSION
            )));
        }
        let partition = Partition::new(fields.text("topic")?, fields.text("partition")?);
        let number = fields.number("sequence_number")?;
        let mut parts = EventParts::new(Arc::new(partition), number, letter.body().clone());
        parts.offset = fields.find("offset").map(Into::into);
        parts.key = letter.key().map(str::to_owned);
        parts.annotations = letter.annotations().clone();
        parts.structured_body = letter.structured_body().cloned().map(Box::new);
        let mut message = letter.message_properties().cloned().unwrap_or_default();
        // Version 1 had the correlation id in a property.
        if let Some(id) = fields.find("correlation_id") {
            message.correlation_id = Some(id.into());
        }
        let id = fields.value("message_id").cloned();
        message.message_id = id.and_then(|id| MessageId::try_from(id).ok());
        parts.set_message(message);
        parts.properties = letter
            .properties()
            .iter()
            .filter_map(|(name, value)| match name.strip_prefix(PREFIX) {
                None => Some((name.clone(), value.clone())),
                // The event's own, escaped.
                Some(own) if own.starts_with(PREFIX) => Some((own.to_owned(), value.clone())),
                Some(_of_the_record) => None,
            })
            .collect();
        let failure = Failure {
            // A class of a later release is not known here.
            class: serde_json::from_value(fields.text("error_class")?.into())
                .unwrap_or(ErrorClass::Unknown),
            message: fields.text("error_message")?.to_owned(),
            causes: match fields.find("error_causes") {
                Some(causes) => serde_json::from_str(causes).map_err(|error| {
                    bad_data("its dl_error_causes are no JSON array of texts").with_source(error)
                })?,
                None => Vec::new(),
            },
            destination: None,
            blames: Blame::Destination,
        };
        if failure.class == ErrorClass::Unreadable {
            let own = fields.number("sequence_number")?;
            let end = |name| fields.number(name).unwrap_or(own);
            parts.unreadable = Some(Box::new(Unreadable {
                reason: failure.message.clone(),
                first: SequenceNumber(end("first_sequence_number")),
                last: SequenceNumber(end("last_sequence_number")),
            }));
        }
        let attempts = u32::try_from(fields.number("attempts")?)
            .map_err(|error| bad_data("its dl_attempts are no count").with_source(error))?;
        let event = Event::from(parts);
        let group = fields.text("consumer_group")?.into();
        // The times come back as the text they are.
        let unset = SystemTime::UNIX_EPOCH;
        let incarnation = Incarnation(fields.number("incarnation").unwrap_or(0));
        let mut rebuilt = DeadLetter::new(event, group, fields.text("worker")?, failure, unset)
            .with_history(attempts, unset)
            .with_origin(fields.find("namespace").unwrap_or_default(), incarnation);
        rebuilt.lane = fields.find("lane").map(str::to_owned);
        rebuilt.destination = fields.find("destination").map(str::to_owned);
        let mut record = Self::new(&rebuilt);
        record.enqueued_time = fields.text("enqueued_time")?.to_owned();
        record.first_failure = fields.text("first_failure")?.to_owned();
        record.last_failure = fields.text("last_failure")?.to_owned();
        Ok(record)
    }
}

/// The properties of the record, by their names without the prefix.
struct Fields<'a>(&'a Event);

impl<'a> Fields<'a> {
    fn value(&self, name: &str) -> Option<&'a Value> {
        self.0.properties().get(&named(name))
    }

    fn find(&self, name: &str) -> Option<&'a str> {
        self.value(name).and_then(Value::as_text)
    }

    fn text(&self, name: &str) -> Result<&'a str> {
        self.find(name).ok_or_else(|| missing(name))
    }

    fn number(&self, name: &str) -> Result<i64> {
        self.value(name).and_then(Value::as_i64).ok_or_else(|| missing(name))
    }
}

fn missing(name: &str) -> Error {
    bad_data(format!("it has no property {}", named(name)))
}

fn bad_data(message: impl Into<String>) -> Error {
    Error::new(ErrorClass::BadData, "read the dead letter", message)
}
