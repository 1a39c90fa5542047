//! Events with every type of AMQP in properties, annotations, message properties and bodies, and how two events are
//! compared to the last bit.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub)]

use bytes::Bytes;
use longshore::event::{
    AnnotationKey, Body, Described, Descriptor, Event, MAX_NESTING, MessageId, Value,
};
use longshore::timestamp::unix_millis;
use longshore::{Failure, OutgoingEvent};
use serde_json::{Value as Json, json};

fn described(descriptor: Descriptor, value: Value) -> Value {
    Value::Described(Box::new(Described { descriptor, value }))
}

/// Values of every type that application properties may have, at their edges.
pub fn simple() -> Vec<(String, Value)> {
    let code = || Descriptor::Code(0x0000_0bad_0000_0001);
    let name = || Descriptor::Name("com.example:point".to_owned());
    let values = vec![
        Value::Null,
        Value::Bool(true),
        Value::Bool(false),
        Value::UByte(u8::MAX),
        Value::UShort(u16::MAX),
        Value::UInt(0),
        Value::UInt(u32::MAX),
        Value::ULong(0),
        Value::ULong(5),
        Value::ULong(u64::MAX),
        Value::Byte(i8::MIN),
        Value::Short(i16::MIN),
        Value::Int(i32::MIN),
        Value::Int(3),
        Value::Long(i64::MIN),
        Value::Long(3),
        Value::Long(i64::MAX),
        Value::Float(0.1),
        Value::Float(-0.0),
        Value::Float(f32::MIN_POSITIVE / 8.0),
        Value::Float(f32::INFINITY),
        Value::Float(f32::from_bits(0xffc0_0123)),
        Value::Double(0.1),
        Value::Double(-0.0),
        Value::Double(1.0),
        Value::Double(5e-324),
        Value::Double(2.225_073_858_507_201e-308),
        Value::Double(123_456_789.123_456_79),
        Value::Double(f64::MAX),
        Value::Double(f64::NEG_INFINITY),
        Value::Double(f64::NAN),
        Value::Double(f64::from_bits(0xfff8_0000_0000_0123)),
        Value::Decimal32([0x22, 0x5e, 0, 1]),
        Value::Decimal64([0xff; 8]),
        Value::Decimal128([0x7f; 16]),
        Value::Char('\u{0}'),
        Value::Char('\u{10ffff}'),
        Value::Timestamp(-1),
        Value::Timestamp(1_769_860_800_123),
        Value::Timestamp(i64::MIN),
        Value::Uuid([0xa5; 16]),
        Value::Binary(Bytes::new()),
        Value::Binary(Bytes::from_static(b"\0\xff\xfe")),
        Value::from(""),
        Value::from("{\"base64\":\"AA==\"}"),
        Value::from("\u{feff}ä\r\n\0\u{7f}\"\\\u{2028}\u{fffe}"),
        Value::from("x".repeat(300)),
        Value::Symbol("a-symbol".to_owned()),
        Value::Symbol(String::new()),
    ];
    let mut named: Vec<(String, Value)> =
        values.into_iter().map(|value| (value.type_name().to_owned(), value)).collect();
    for (at, (name, _)) in named.iter_mut().enumerate() {
        *name = format!("{at} {name}");
    }
    named.push(("described by code".to_owned(), described(code(), Value::Int(5))));
    named.push(("described by name".to_owned(), described(name(), Value::from("x"))));
    named.push((String::new(), Value::from("of no name")));
    named.push(("a \"name\"\n\u{0}ä".to_owned(), Value::from("of an odd name")));
    named
}

/// A NaN is one key whatever its bits.
fn may_be_key(value: &Value) -> bool {
    value.as_f64().is_none_or(|number| !number.is_nan())
}

/// Arrays that the client for Event Hubs writes so that nobody can read them.
pub fn unwritable() -> Vec<OutgoingEvent> {
    let lists = || Value::Array(vec![Value::List(vec![Value::Int(1)]), Value::List(Vec::new())]);
    let maps = Value::Array(vec![Value::Map(vec![(Value::Int(1), Value::Null)])]);
    let nulls = Value::Array(vec![Value::Null, Value::Null]);
    let points = Value::Array(vec![described(Descriptor::Code(1), Value::Int(1))]);
    let body = |value| OutgoingEvent::default().with_structured_body(Body::Value(value));
    vec![
        body(lists()),
        body(Value::List(vec![maps])),
        OutgoingEvent::default().with_structured_body(Body::Sequence(vec![vec![nulls]])),
        OutgoingEvent::new("x").with_annotation("a", points),
    ]
}

/// A value with as many others within each other as there may be.
fn deep(wrap: impl Fn(Value) -> Value) -> Value {
    (0..MAX_NESTING).fold(Value::from("deep"), |within, _level| wrap(within))
}

/// Values of the types that have others within, for annotations and bodies.
pub fn nested() -> Vec<(String, Value)> {
    let each: Vec<Value> = simple().into_iter().map(|(_, value)| value).collect();
    let numbers = || vec![Value::Int(1), Value::Int(-2)];
    let values = vec![
        ("list", Value::List(each.clone())),
        ("empty list", Value::List(Vec::new())),
        (
            "map",
            Value::Map(
                each.iter()
                    .filter(|it| may_be_key(it))
                    .map(|it| (it.clone(), it.clone()))
                    .collect(),
            ),
        ),
        (
            "map of an order",
            Value::Map(vec![("b".into(), 1_i64.into()), ("a".into(), 2_i64.into())]),
        ),
        ("empty map", Value::Map(Vec::new())),
        ("array", Value::Array(numbers())),
        ("array of text", Value::Array(vec![Value::from("a"), Value::from("")])),
        ("array of symbols", Value::Array(vec![Value::Symbol("a".to_owned())])),
        ("array of truths", Value::Array(vec![Value::Bool(true), Value::Bool(false)])),
        ("array of a list", Value::Array(vec![Value::List(numbers())])),
        (
            "array of unsigned",
            Value::Array(vec![Value::ULong(0), Value::ULong(5), Value::ULong(u64::MAX)]),
        ),
        (
            "array of bytes",
            Value::Array(vec![
                Value::Binary(vec![1; 3].into()),
                Value::Binary(vec![1; 300].into()),
            ]),
        ),
        ("described list", described(Descriptor::Code(u64::MAX), Value::List(numbers()))),
        ("deep list", deep(|within| Value::List(vec![within]))),
        ("deep map", deep(|within| Value::Map(vec![("k".into(), within)]))),
        ("deep keys", deep(|within| Value::Map(vec![(within, Value::Null)]))),
        ("deep described", deep(|within| described(Descriptor::Name("d".to_owned()), within))),
    ];
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The three kinds of body, with every type.
fn bodies() -> Vec<Body> {
    let all = || simple().into_iter().chain(nested()).map(|(_, value)| value);
    let mut bodies: Vec<Body> = all().map(Body::Value).collect();
    bodies.push(Body::Data(vec![
        Bytes::from_static(b"a"),
        Bytes::new(),
        Bytes::from_static(b"\xff"),
    ]));
    bodies.push(Body::Sequence(vec![all().collect()]));
    bodies.push(Body::Sequence(vec![vec![Value::from(1_i64)], Vec::new(), vec![Value::Null]]));
    bodies
}

/// Plain bodies.
fn plain() -> Vec<Bytes> {
    let all: Vec<u8> = (0..=255).collect();
    vec![
        Bytes::new(),
        Bytes::from_static(b"{}"),
        Bytes::from_static("\u{feff}ä\r\n\0\u{2028}".as_bytes()),
        Bytes::from_static(b"\xff\xfe"),
        Bytes::from(all.repeat(40)),
    ]
}

fn with_message(mut event: OutgoingEvent, ids: [MessageId; 2]) -> OutgoingEvent {
    let [id, correlation] = ids;
    event = event.with_message_id(id).with_correlation_id(correlation);
    let message = &mut event.message;
    message.content_type = Some("application/json".to_owned());
    message.content_encoding = Some("gzip".to_owned());
    message.subject = Some("s".to_owned());
    message.to = Some("t\n".to_owned());
    message.reply_to = Some(String::new());
    message.user_id = Some(Bytes::from_static(b"\0\xff"));
    message.group_id = Some("g".to_owned());
    message.group_sequence = Some(u32::MAX);
    message.reply_to_group_id = Some("r".to_owned());
    message.creation_time = Some(-1_000);
    message.absolute_expiry_time = Some(1_769_860_800_123);
    event
}

/// Events that hold every type, everywhere. Each has a message id.
pub fn events() -> Vec<OutgoingEvent> {
    let mut events: Vec<OutgoingEvent> = bodies()
        .into_iter()
        .enumerate()
        .map(|(at, body)| {
            OutgoingEvent::default().with_structured_body(body).with_message_id(format!("{at}"))
        })
        .collect();
    events
        .extend(plain().into_iter().map(|body| OutgoingEvent::new(body).with_message_id("plain")));
    let mut everything =
        OutgoingEvent::new("everything").with_key("a key, ä").with_message_id("all");
    for (name, value) in simple() {
        everything = everything.with_property(name.clone(), value.clone());
        // A symbol is plain.
        everything = everything
            .with_annotation(name.replace(|it: char| !it.is_ascii_graphic(), "-").as_str(), value);
    }
    for (name, value) in nested() {
        everything = everything.with_annotation(name.as_str(), value);
    }
    for (number, value) in (0_u64..).zip([Value::Int(1), Value::List(vec![Value::Null])]) {
        everything = everything.with_annotation(AnnotationKey::Number(u64::MAX - number), value);
    }
    events.push(everything);
    let ids = || {
        [
            MessageId::String("an id".to_owned()),
            MessageId::ULong(u64::MAX),
            MessageId::Uuid([7; 16]),
            MessageId::Binary(Bytes::from_static(b"\0\xff")),
        ]
    };
    for (id, correlation) in ids().into_iter().zip(ids().into_iter().rev()) {
        events.push(with_message(OutgoingEvent::new("of ids"), [id, correlation]));
    }
    events
}

/// The content of an event, with all types and bits.
pub fn content(event: &OutgoingEvent) -> Json {
    let body = match &event.structured_body {
        None => json!({ "plain": Value::Binary(event.body.clone()).to_json() }),
        Some(body) => json!({ "amqp": body, "bytes": Value::Binary(event.body.clone()).to_json() }),
    };
    let properties = event.properties.iter().map(|(name, value)| json!([name, value.to_json()]));
    let annotations = event.annotations.iter().map(|(key, value)| {
        let key = match key {
            AnnotationKey::Name(name) => json!(name),
            AnnotationKey::Number(number) => json!(number),
        };
        json!([key, value.to_json()])
    });
    json!({
        "key": event.key,
        "body": body,
        "properties": properties.collect::<Vec<_>>(),
        "annotations": annotations.collect::<Vec<_>>(),
        "message": event.message,
    })
}

/// All that a handler can see of an event.
pub fn seen(event: &Event) -> Json {
    json!({
        "partition": event.partition().to_string(),
        "number": event.sequence_number(),
        "offset": event.offset(),
        // What the service has, and a record keeps.
        "enqueued": unix_millis(event.enqueued_time()),
        "content": content(&OutgoingEvent::copy_of(event)),
    })
}

/// Why every event becomes a dead letter.
pub fn failure() -> Failure {
    Failure::permanent("404")
}
