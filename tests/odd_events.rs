//! Whatever the clients of Python and JavaScript can send arrives as documented, or is a dead letter
//! that names it; and what arrived and is published again reads equal at them.
//!
//! What they send is in `tests/foreign_clients/`: ten thousand events of seeded bodies, properties and
//! annotations, some of which AMQP does not allow.
#![cfg(unix)]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/waiting.rs"]
mod waiting;

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::error::ErrorClass;
use longshore::event::{AnnotationKey, Body, Event, Value};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};
use longshore::transport::{LinkStart, OpenLink, Publisher, SendTarget, Transport};
use longshore::{BatchConsumer, ConsumerOptions, EventContext, OutgoingEvent};
use longshore_emulator::Emulator;
use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use waiting::{until, within};

const EVENTS_OF_EACH: usize = 5_000;

/// What `scripts/test` installs.
fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/foreign-clients").join(path);
    assert!(path.exists(), "{} is missing: scripts/test installs it", path.display());
    path
}

#[derive(Clone, Copy)]
enum Client {
    Python,
    JavaScript,
}

impl Client {
    /// Runs the client to its end, and returns what it prints.
    async fn run(self, arguments: &[&str], input: String) -> String {
        let mut command = match self {
            Client::Python => {
                let script =
                    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign_clients/python/odd.py");
                let mut command = Command::new(installed("python/bin/python"));
                command.arg(script);
                command
            }
            Client::JavaScript => {
                let mut command = Command::new("node");
                command.arg(installed("javascript/odd.mjs"));
                command
            }
        };
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("started");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).await.expect("it reads");
        drop(stdin);
        let ended = within("a client", child.wait_with_output()).await.expect("it ends");
        let (said, complaints) = (ended.stdout, String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success(), "{}", complaints.chars().take(4_000).collect::<String>());
        String::from_utf8(said).expect("text")
    }
}

/// The event as the clients say what is to arrive.
fn shown(event: &Event) -> Json {
    let base64 = |bytes: &bytes::Bytes| Value::Binary(bytes.clone()).to_json();
    let body = match event.structured_body() {
        None => json!({ "data": [base64(event.body())] }),
        Some(Body::Data(sections)) => {
            json!({ "data": sections.iter().map(base64).collect::<Vec<_>>() })
        }
        Some(Body::Value(value)) => json!({ "value": value.to_json() }),
        Some(Body::Sequence(lists)) => {
            let list = |list: &Vec<Value>| list.iter().map(Value::to_json).collect::<Json>();
            json!({ "sequence": lists.iter().map(list).collect::<Vec<_>>() })
        }
        Some(other) => panic!("a new kind of body: {other:?}"),
    };
    let (mut annotations, mut numbered) = (serde_json::Map::new(), serde_json::Map::new());
    for (key, value) in event.annotations() {
        match key {
            AnnotationKey::Name(name) => annotations.insert(name.clone(), value.to_json()),
            AnnotationKey::Number(number) => numbered.insert(number.to_string(), value.to_json()),
        };
    }
    let properties = event.properties().iter().map(|(name, value)| (name.clone(), value.to_json()));
    json!({
        "body": body,
        "properties": properties.collect::<serde_json::Map<_, _>>(),
        "annotations": annotations,
        "numbered_annotations": numbered,
        "message": event.message_properties().map_or(json!({}), |message| json!(message)),
    })
}

/// What a client expects, with numbers as we write them: there are several ways for some.
fn as_we_write(mut expected: Json) -> Json {
    let again = |json: &mut Json| {
        let value = Value::from_json(json).unwrap_or_else(|| panic!("no value: {json}"));
        *json = value.to_json();
    };
    let each = |json: &mut Json| match json {
        Json::Array(values) => values.iter_mut().for_each(again),
        Json::Object(fields) => fields.values_mut().for_each(again),
        other => panic!("{other}"),
    };
    if let Json::Object(fields) = &mut expected {
        for name in ["properties", "annotations", "numbered_annotations"] {
            fields.get_mut(name).into_iter().for_each(each);
        }
        match fields.get_mut("body").and_then(Json::as_object_mut) {
            None => panic!("no body"),
            Some(body) => {
                body.get_mut("value").into_iter().for_each(again);
                let lists = body.get_mut("sequence").and_then(Json::as_array_mut);
                lists.into_iter().flatten().for_each(each);
            }
        }
    }
    expected
}

async fn everything_arrives(client: Client, seed: &str) {
    let emulator = broker::patient().hub("odd", 1).hub("copies", 1).start().await.expect("started");
    let connection_string = emulator.connection_string(None);
    let count = EVENTS_OF_EACH.to_string();
    let sent = client.run(&["send", &connection_string, "odd", &count, seed], String::new()).await;
    let expected: Vec<Json> =
        sent.lines().map(|line| as_we_write(serde_json::from_str(line).expect("JSON"))).collect();
    assert_eq!(expected.len(), EVENTS_OF_EACH);

    let readable = expected.iter().filter(|expected| !expected.is_null()).count();
    let (events, letters) = consume(&emulator, None, readable, expected.len()).await;
    let numbers: Vec<i64> = events.iter().map(|event| event.sequence_number().0).collect();
    assert!(numbers.is_sorted(), "in order");
    let mut copies = Vec::new();
    for event in &events {
        let number = usize::try_from(event.sequence_number().0).expect("not negative");
        assert_eq!(shown(event), expected[number], "{number}");
        copies.push(OutgoingEvent::copy_of(event));
    }
    for letter in letters.letters() {
        let number = letter.event.sequence_number();
        assert_eq!(letter.failure.class, ErrorClass::Unreadable, "{number}: {}", letter.failure);
        let unreadable = letter.event.unreadable().expect("unreadable");
        assert_eq!(
            (unreadable.first, unreadable.last),
            (number, number),
            "no gaps, so it is exact"
        );
        assert_eq!(expected[usize::try_from(number.0).expect("not negative")], Json::Null);
    }

    let namespace = broker::namespace(&emulator);
    let publisher = EventHubsPublisher::new(namespace, "copies");
    for copies in copies.chunks(500) {
        let to = SendTarget::Partition("0".into());
        publisher.send_batch(to, copies.to_vec()).await.expect("published");
    }
    // Their types, which the clients do not tell.
    let transport = EventHubsTransport::new(broker::namespace(&emulator), "copies", "$Default");
    let start = OpenLink::new("0".into(), LinkStart::FirstEvent, 300);
    let mut link = transport.open(start).await.expect("opened");
    let mut read = Vec::new();
    while read.len() < events.len() {
        let received = poll_fn(|cx| link.poll_receive(cx, 300, &mut read));
        within("the copies", received).await.expect("received");
    }
    for (copy, original) in read.iter().zip(&events) {
        let (mut copy, original) = (shown(copy), shown(original));
        if original["message"].get("message_id").is_none()
            && let Some(message) = copy["message"].as_object_mut()
        {
            message.remove("message_id");
        }
        assert_eq!(copy, original);
    }
    let pairs: String =
        numbers.iter().enumerate().map(|(copy, of)| format!("{of} {copy}\n")).collect();
    let said = client.run(&["compare", &connection_string, "odd", "copies"], pairs).await;
    assert_eq!(said.trim(), format!("{} copies are equal", numbers.len()));
}

/// Handles everything that was sent; returns the events in the order they came.
async fn consume(
    emulator: &Emulator,
    prefetch: Option<u32>,
    readable: usize,
    sent: usize,
) -> (Vec<Event>, Arc<MemoryDeadLetterSink>) {
    let handled = Arc::new(Mutex::new(Vec::new()));
    let letters = Arc::new(MemoryDeadLetterSink::new());
    let namespace = broker::namespace(emulator);
    let transport = Arc::new(EventHubsTransport::new(namespace, "odd", "$Default"));
    let seen = Arc::clone(&handled);
    let mut one_by_one = ConsumerOptions::default();
    one_by_one.max_events_in_flight = 1;
    one_by_one.prefetch_events = prefetch.unwrap_or(one_by_one.prefetch_events);
    let mut handle = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .dead_letters(letters.clone())
        .options(one_by_one)
        .event_handler(move |event: Event, _: EventContext| {
            seen.lock().expect("lock").push(event);
            async {}
        })
        .expect("valid")
        .start();
    until("all events", || {
        let handled = handled.lock().expect("lock").len();
        handled >= readable && handled + letters.letters().len() >= sent
    })
    .await;
    handle.drain();
    let exit = within("the drain", handle.join()).await;
    assert!(exit.is_clean(), "{exit:?}");
    let events = std::mem::take(&mut *handled.lock().expect("lock"));
    assert_eq!(events.len(), readable);
    assert_eq!(letters.letters().len(), sent - readable);
    (events, letters)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_python_sends_arrives_or_is_named() {
    everything_arrives(Client::Python, "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_javascript_sends_arrives_or_is_named() {
    everything_arrives(Client::JavaScript, "2").await;
}

/// Promised: half a minute for three hundred in a row, whatever the prefetch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_in_a_row_pass_in_the_middle_and_at_the_end_of_the_log() {
    for prefetch in [1, 300] {
        let emulator = broker::patient().hub("odd", 1).start().await.expect("started");
        let connection_string = emulator.connection_string(None);
        let rows = ["rows", &connection_string, "odd", "3", "300", "2", "300"];
        Client::Python.run(&rows, String::new()).await;
        let began = Instant::now();
        let (events, letters) = consume(&emulator, Some(prefetch), 5, 605).await;
        assert!(began.elapsed() < Duration::from_secs(60), "{prefetch}: {:?}", began.elapsed());
        println!("605 events, 600 of them unreadable, prefetch {prefetch}: {:?}", began.elapsed());
        let numbers = |events: &[Event]| -> Vec<i64> {
            events.iter().map(|event| event.sequence_number().0).collect()
        };
        assert_eq!(numbers(&events), [0, 1, 2, 303, 304]);
        let letters: Vec<Event> =
            letters.letters().into_iter().map(|letter| letter.event).collect();
        let mut named = numbers(&letters);
        named.sort_unstable();
        assert_eq!(named, (3..303).chain(305..605).collect::<Vec<_>>());
        assert!(letters.iter().all(|event| event.unreadable().is_some_and(|why| why.is_exact())));
    }
}
