//! What `tail --json` prints is what `send --json` sends: the same events, type and value.

use longshore::OutgoingEvent;
use longshore::event::{
    AnnotationKey, Body, Described, Descriptor, Event, MessageId, MessageProperties, Value,
};

use crate::stage::Stage;

fn values() -> Vec<Value> {
    vec![
        Value::Null,
        Value::Bool(true),
        Value::UByte(u8::MAX),
        Value::UShort(u16::MAX),
        Value::UInt(u32::MAX),
        Value::ULong(u64::MAX),
        Value::Byte(i8::MIN),
        Value::Short(i16::MIN),
        Value::Int(i32::MIN),
        Value::Long(i64::MIN),
        Value::Float(0.1),
        Value::Float(f32::NEG_INFINITY),
        Value::Double(0.1),
        Value::Double(f64::INFINITY),
        Value::Decimal32([0x22, 0x5e, 0, 1]),
        Value::Decimal64([1; 8]),
        Value::Decimal128([2; 16]),
        Value::Char('ä'),
        Value::Timestamp(-1),
        Value::Uuid([7; 16]),
        Value::Binary(vec![0, 0xff].into()),
        Value::String("text \u{1b}[2J\u{202e}\r\n".to_owned()),
        Value::Symbol("symbol".to_owned()),
        Value::Described(Box::new(Described {
            descriptor: Descriptor::Name("com.example:point".to_owned()),
            value: Value::Int(1),
        })),
    ]
}

fn events() -> Vec<OutgoingEvent> {
    let mut message = MessageProperties::default();
    message.message_id = Some(MessageId::Uuid([9; 16]));
    message.correlation_id = Some(MessageId::ULong(7));
    message.content_type = Some("application/json".to_owned());
    message.content_encoding = Some("gzip".to_owned());
    message.subject = Some("s".to_owned());
    message.to = Some("t".to_owned());
    message.reply_to = Some("r".to_owned());
    message.user_id = Some(vec![0xff].into());
    message.group_id = Some("g".to_owned());
    message.group_sequence = Some(3);
    message.reply_to_group_id = Some("rg".to_owned());
    message.creation_time = Some(1_764_080_000_123);
    message.absolute_expiry_time = Some(1);
    let mut full = OutgoingEvent::new("{\"a\": 1}").with_key("key \u{202e}\n");
    full.message = message;
    let mut annotated = OutgoingEvent::new("annotated").with_key("a");
    for (index, value) in values().into_iter().enumerate() {
        full.properties.insert(format!("property {index}"), value.clone());
        annotated.annotations.insert(AnnotationKey::from(format!("x-{index}").as_str()), value);
    }
    let of_body = |body: Body| OutgoingEvent::default().with_structured_body(body).with_key("b");
    let map = Value::Map(vec![
        (Value::Int(1), Value::List(values())),
        (Value::from("array"), Value::Array(vec![Value::Int(1), Value::Int(2)])),
    ]);
    vec![
        full,
        annotated,
        OutgoingEvent::new("").with_key("empty"),
        OutgoingEvent::new(vec![0, 0xff, b'\n', 0x1b]).with_key("binary"),
        OutgoingEvent::new("line\r\nline\n").with_key("lines"),
        OutgoingEvent::new("\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}").with_key("hostile"),
        of_body(Body::Value(map)),
        of_body(Body::Value(Value::Null)),
        of_body(Body::Data(vec![vec![1].into(), vec![0xff].into()])),
        of_body(Body::Sequence(vec![vec![Value::from(1_i64)], vec![]])),
    ]
}

/// What the event holds, but for the message id that the SDK gives one that has none.
fn content(event: &Event) -> OutgoingEvent {
    OutgoingEvent::copy_of(event)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_printed_and_sent_are_equal_in_every_type_and_value() {
    let stage = Stage::new(1).await;
    for event in events() {
        stage.publish("0", vec![event]).await;
    }
    let printed = stage.run(&["tail", "--json", "--from", "earliest"]).await.expect_code(0);
    assert!(printed.stdout.is_ascii(), "{printed:#?}");
    assert_eq!(printed.stdout.lines().count(), events().len());
    let send = ["send", "--json", "--hub", "copies", "--partition", "1"];
    let sent = stage.run_with(&send, &printed.stdout).await.expect_code(0);
    let said = format!("{} events sent to hub copies: {0} to partition 1\n", events().len());
    assert_eq!(sent.stdout, said);

    let (before, after) = (stage.events("orders", "0").await, stage.events("copies", "1").await);
    assert_eq!(before.len(), after.len());
    for (one, other) in before.iter().zip(&after) {
        let (one, other) = (content(one), content(other));
        assert_eq!((&one.key, &one.body), (&other.key, &other.body));
        assert_eq!(one.structured_body, other.structured_body);
        assert_eq!(one.properties, other.properties);
        assert_eq!(one.annotations, other.annotations);
        assert_eq!(one.message, other.message);
    }

    // Text is one line for each, in eighty columns, and steers no terminal.
    let text = stage.run(&["tail", "--from", "earliest"]).await.expect_code(0).stdout;
    assert_eq!(text.lines().count(), events().len() + 1, "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(
            !line.contains(|letter: char| letter.is_control() || letter == '\u{202e}'),
            "{line}"
        );
    }
    stage.stop().await;
}
