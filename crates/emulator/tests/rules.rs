//! The rules a broker can be given, as the Rust SDK for Event Hubs meets them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../../tests/support/waiting.rs"]
mod waiting;

use std::time::Duration;

use azure_messaging_eventhubs::models::EventData;
use azure_messaging_eventhubs::{
    ConsumerClient, EventHubsError, ProducerClient, RetryOptions, SendEventOptions,
};
use longshore_emulator::{Emulator, EmulatorBuilder, EmulatorError, HubOptions};
use waiting::within;

/// The SDK loses an acknowledgement that comes before the send is registered, on a machine with more
/// work than cores.
const PATIENT: Duration = Duration::from_millis(50);

async fn start(file: &str) -> Result<Emulator, EmulatorError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.toml");
    std::fs::write(&path, file).unwrap();
    Emulator::builder().config_file(&path)?.disposition_delay(PATIENT).start().await
}

/// Opens a producer with a key and sends one event.
async fn send(emulator: &Emulator, connection_string: &str) -> Result<(), EventHubsError> {
    let sent = async {
        let producer = ProducerClient::builder()
            .with_custom_endpoint(emulator.endpoint())
            .with_retry_options(RetryOptions { max_retries: 0, ..RetryOptions::default() })
            .open_with_connection_string(connection_string, None)
            .await?;
        let event = EventData::builder().with_body("hello".as_bytes().to_vec()).build();
        let options = SendEventOptions { partition_id: Some("0".to_owned()) };
        producer.send_event(event, Some(options)).await
    };
    within("a send", sent).await
}

#[tokio::test]
async fn the_sdk_gets_in_with_the_right_key_only() {
    let emulator = start(
        "[[keys]]\nname = \"sender\"\nkey = \"c2VjcmV0\"\n\
         [[hubs]]\nname = \"orders\"\npartitions = 1\n",
    )
    .await
    .unwrap();
    let right = emulator.connection_string(Some("orders"));
    assert!(right.contains("SharedAccessKeyName=sender;SharedAccessKey=c2VjcmV0;"), "{right}");
    send(&emulator, &right).await.unwrap();
    let wrong = right.replace("c2VjcmV0", "d3Jvbmc=");
    let error = send(&emulator, &wrong).await.unwrap_err();
    let chain = format!("{error:?}");
    assert!(chain.contains("401") || chain.contains("nauthorized"), "{chain}");
    let consumer = ConsumerClient::builder()
        .with_custom_endpoint(emulator.endpoint())
        .open_with_connection_string(&right, None)
        .await
        .unwrap();
    let properties = within("the log's end", consumer.get_partition_properties("0")).await;
    assert_eq!(properties.unwrap().last_enqueued_sequence_number, 0);
    emulator.shutdown().await.unwrap();
}

#[tokio::test]
async fn retention_moves_the_beginning_of_the_log() {
    let hub = HubOptions::new("orders", 1).retention_age(Duration::from_millis(1));
    let emulator =
        Emulator::builder().hub_with(hub).disposition_delay(PATIENT).start().await.unwrap();
    let string = emulator.connection_string(Some("orders"));
    send(&emulator, &string).await.unwrap();
    let consumer = ConsumerClient::builder()
        .with_custom_endpoint(emulator.endpoint())
        .open_with_connection_string(&string, None)
        .await
        .unwrap();
    let moved = async {
        loop {
            let properties = consumer.get_partition_properties("0").await.unwrap();
            assert_eq!(properties.last_enqueued_sequence_number, 0);
            if properties.is_empty && properties.beginning_sequence_number == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the beginning of the log", moved).await;
    emulator.shutdown().await.unwrap();
}

#[tokio::test]
async fn settings_out_of_range_do_not_start() {
    let refused = async |set: fn(EmulatorBuilder) -> EmulatorBuilder| {
        let error = set(Emulator::builder()).start().await.unwrap_err();
        assert!(matches!(error, EmulatorError::Setting { .. }), "{error:?}");
        error.to_string()
    };
    let error = refused(|builder| builder.throughput_units(0)).await;
    assert_eq!(error, "throughput_units = 0: it must be from 1 to 40");
    let error = refused(|builder| builder.max_message_bytes(10)).await;
    assert_eq!(error, "max_message_bytes = 10: it must be from 1024 to 1048576");
    let none: [(String, String); 0] = [];
    let error = Emulator::builder().shared_access_keys(none).start().await.unwrap_err();
    assert_eq!(error.to_string(), "keys = none: it must be at least one key");
}

#[tokio::test]
async fn other_machines_are_let_in_by_keys_or_by_an_explicit_word() {
    let everywhere = "0.0.0.0".parse().unwrap();
    let refused = |started: Result<Emulator, EmulatorError>| {
        let error = started.unwrap_err();
        assert!(matches!(error, EmulatorError::OpenToAnyone { .. }), "{error:?}");
        for word in ["0.0.0.0:0", "[[keys]]", "shared_access_keys", "allow_anyone"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    };
    // Another port than the first, and the key that everyone knows, are no way around it.
    refused(Emulator::builder().listen(everywhere).start().await);
    refused(Emulator::builder().bind((everywhere, 0).into()).start().await);
    refused(Emulator::builder().secure_websocket((everywhere, 0).into()).start().await);
    refused(Emulator::builder().listen(everywhere).require_tokens().start().await);
    let known = Emulator::builder().shared_access_keys([("any", "SAS_KEY_VALUE")]);
    refused(known.listen(everywhere).start().await);
    refused(start("listen = \"0.0.0.0\"").await);
    refused(start("listen = \"0.0.0.0\"\ncheck_tokens = true").await);
    let keys = "[[keys]]\nname = \"n\"\nkey = \"k\"\n";
    refused(start(&format!("listen = \"0.0.0.0\"\ncheck_tokens = false\n{keys}")).await);

    let open = Emulator::builder().listen(everywhere).allow_anyone().start().await.unwrap();
    assert!(open.is_open_to_anyone());
    assert!(open.exposure().contains("TOKENS ARE NOT CHECKED"), "{}", open.exposure());
    let open = start("listen = \"0.0.0.0\"\nallow_anyone = true").await.unwrap();
    assert!(open.is_open_to_anyone() && open.local_addr().ip().is_unspecified());
    let guarded = Emulator::builder().listen(everywhere).shared_access_keys([("n", "k")]);
    let guarded = guarded.start().await.unwrap();
    assert!(guarded.checks_tokens() && !guarded.is_open_to_anyone());
    let guarded = start(&format!("listen = \"0.0.0.0\"\n{keys}")).await.unwrap();
    assert!(guarded.checks_tokens() && !guarded.is_open_to_anyone());
}

#[tokio::test]
async fn what_is_advertised_is_in_every_connection_string() {
    let any = "127.0.0.1:0".parse().unwrap();
    let builder =
        Emulator::builder().hub("orders", 1).tls(any).websocket(any).secure_websocket(any);
    let emulator = builder.clone().advertise("broker").start().await.unwrap();
    for at in [
        Some(emulator.endpoint()),
        emulator.tls_endpoint(),
        emulator.secure_websocket_endpoint(),
        Some(emulator.connection_string(None)),
        emulator.tls_connection_string(Some("orders")),
        emulator.websocket_connection_string(None),
        emulator.secure_websocket_connection_string(None),
    ] {
        let at = at.unwrap();
        assert!(at.contains("://broker:"), "{at}");
    }
    assert!(!emulator.is_advertised_here_only());
    let here = builder.clone().start().await.unwrap();
    assert!(here.is_advertised_here_only());
    assert!(here.connection_string(None).contains("sb://localhost:"));
    // What a machine cannot be called is refused before anything listens.
    for wrong in ["sb://broker", "broker:5672", "a;b", ""] {
        let error = builder.clone().advertise(wrong).start().await.unwrap_err().to_string();
        assert!(error.starts_with("advertise = "), "{error}");
    }
    let from_file = start("advertise = \"10.1.2.3\"").await.unwrap();
    assert!(from_file.connection_string(None).contains("sb://10.1.2.3:"));
}
