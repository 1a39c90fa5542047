//! `longshore emulator` as a process of its own, met by the Rust SDK.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use azure_messaging_eventhubs::models::AmqpTransport;
use azure_messaging_eventhubs::{
    ConsumerClient, OpenReceiverOptions, ProducerClient, SendEventOptions, StartLocation,
    StartPosition,
};
use futures::StreamExt;
use longshore::OutgoingEvent;
use longshore::transport::event_hubs::{EventHubsPublisher, Namespace};
use longshore::transport::{Publisher, SendTarget};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

fn emulator(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "0");
    command.arg("emulator").args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running broker. Dropped, it is killed.
struct Running(Child);

impl Running {
    /// Starts it and waits for the lines up to the one that `is_last`.
    fn start(arguments: &[&str], is_last: impl Fn(&str) -> bool) -> (Self, Vec<String>) {
        let mut child = emulator(arguments).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self(child);
        let mut lines = Vec::new();
        for line in stdout.lines() {
            lines.push(line.unwrap());
            if is_last(lines.last().unwrap()) {
                return (running, lines);
            }
        }
        let mut said = String::new();
        running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        panic!("it ended: {said} {lines:?}");
    }

    fn with_report(arguments: &[&str]) -> (Self, Value) {
        let arguments = [arguments, &["--report", "json"]].concat();
        let (running, lines) = Self::start(&arguments, |_| true);
        (running, serde_json::from_str(&lines[0]).unwrap())
    }

    /// Sends a signal, and gives the exit code.
    fn stop(mut self, signal: &str) -> Option<i32> {
        let kill = format!("kill -{signal} {}", self.0.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where it has ended there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends an event to partition 1 and gets it back.
async fn round_trip(transport: AmqpTransport, endpoint: &str, connection_string: &str) {
    let producer = ProducerClient::builder()
        .with_transport(transport)
        .with_custom_endpoint(endpoint.to_owned())
        .open_with_connection_string(connection_string, None)
        .await
        .unwrap();
    let options = SendEventOptions { partition_id: Some("1".to_owned()) };
    producer.send_event("hello", Some(options)).await.unwrap();
    let consumer = ConsumerClient::builder()
        .with_transport(transport)
        .with_custom_endpoint(endpoint.to_owned())
        .open_with_connection_string(connection_string, None)
        .await
        .unwrap();
    let earliest = StartPosition { location: StartLocation::Earliest, ..StartPosition::default() };
    let options =
        OpenReceiverOptions { start_position: Some(earliest), ..OpenReceiverOptions::default() };
    let receiver =
        consumer.open_receiver_on_partition("1".to_owned(), Some(options)).await.unwrap();
    let event = receiver.stream_events().next().await.unwrap().unwrap();
    assert_eq!(event.event_data().body(), Some(&b"hello"[..]));
}

#[tokio::test]
async fn it_serves_tells_and_stops_at_sigterm() {
    let data = tempfile::tempdir().unwrap();
    let arguments = ["--port", "0", "--hub", "orders:2", "--data", data.path().to_str().unwrap()];
    let (running, report) = Running::with_report(&arguments);
    assert_eq!(report["hubs"][0]["name"], "orders");
    assert_eq!(report["hubs"][0]["partitions"], 2);
    assert_eq!(report["ports"]["wss"], Value::Null);
    assert_eq!(report["open_to_anyone"], false);
    let connection_string = report["hubs"][0]["connection_string"].as_str().unwrap();
    assert_eq!(report["environment"]["EVENTHUB_CONNECTION_STRING"], connection_string);
    let endpoint = report["endpoint"].as_str().unwrap();
    let served = round_trip(AmqpTransport::Tcp, endpoint, connection_string);
    tokio::time::timeout(LIMIT, served).await.expect("a round trip");
    assert_eq!(running.stop("TERM"), Some(0));

    // What was sent is there when it starts again, for people this time.
    let (running, lines) = Running::start(&arguments, |line| line == "ready");
    assert!(lines[0].starts_with("export EVENTHUB_CONNECTION_STRING='Endpoint=sb://localhost:"));
    assert!(lines[0].ends_with(";EntityPath=orders'"), "{lines:#?}");
    for client in ["Rust", "Python", "JavaScript", ".NET"] {
        let at = lines.iter().position(|line| line.starts_with(client)).expect(client);
        assert!(lines[at + 1].starts_with("  "), "{lines:#?}");
    }
    assert_eq!(running.stop("INT"), Some(0));
}

/// `longshore test --send` in a shell where what the broker printed first was pasted.
fn test_with(exports: &[String]) -> Output {
    let script = format!("{}\nexec \"$LONGSHORE\" test --send", exports.join("\n"));
    let mut command = Command::new("sh");
    for (name, _) in std::env::vars() {
        if name.starts_with("EVENTHUB_") || name.starts_with("LONGSHORE_") {
            command.env_remove(name);
        }
    }
    command.args(["-c", &script]).env("LONGSHORE", env!("CARGO_BIN_EXE_longshore"));
    command.stdin(Stdio::null()).output().unwrap()
}

/// The lines for longshore, which are the first.
fn exports(lines: &[String]) -> &[String] {
    let end = lines.iter().position(String::is_empty).unwrap();
    assert!(lines[0].starts_with("export EVENTHUB_CONNECTION_STRING="), "{lines:#?}");
    &lines[..end]
}

#[test]
fn what_it_prints_first_is_all_that_longshore_needs() {
    let is_ready = |line: &str| line == "ready";
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("broker.toml");
    std::fs::write(&config, "[[keys]]\nname = \"n\"\nkey = \"it's a key\"\n").unwrap();
    let config = config.to_str().unwrap();
    let here = ["--port", "0", "--hub", "orders:2", "--config", config];
    let two = [&here[..], &["--hub", "bills:1"]].concat();
    // An address that leads to this machine and is none of its loopback stands for another machine:
    // longshore sends it no plain text.
    let tls = [&here[..], &["--advertise", "0.0.0.0", "--tls-port", "0"]].concat();
    let wss = [&tls[..], &["--wss-port", "0"]].concat();
    for (arguments, variables) in [(&here[..], 1), (&two, 2), (&tls, 3), (&wss, 3)] {
        let (running, lines) = Running::start(arguments, is_ready);
        let exports = exports(&lines);
        let count = exports.iter().filter(|line| line.starts_with("export ")).count();
        assert_eq!(count, variables, "{exports:#?}");
        let tested = test_with(exports);
        assert!(tested.status.success(), "{exports:#?} {tested:?}");
        // Tokens are checked.
        let wrong: Vec<_> = exports.iter().map(|line| line.replace("a key", "no key")).collect();
        assert_eq!(test_with(&wrong).status.code(), Some(1));
        assert_eq!(running.stop("TERM"), Some(0));
    }
    // Any hub may be named where there are several.
    let (running, lines) = Running::start(&two, is_ready);
    let exports = exports(&lines);
    assert!(exports.iter().any(|line| line.ends_with("may also be: bills")), "{exports:#?}");
    let bills = [exports, &["export EVENTHUB_ENTITY_NAME=bills".to_owned()]].concat();
    let tested = test_with(&bills);
    assert!(String::from_utf8_lossy(&tested.stdout).contains("hub bills at"), "{tested:?}");
    assert_eq!(running.stop("TERM"), Some(0));
    // Where there is no way it says so, in place of variables that do not work.
    let elsewhere = [&here[..], &["--advertise", "broker"]].concat();
    let (running, lines) = Running::start(&elsewhere, is_ready);
    assert!(lines[0].starts_with("# longshore sends no plain text"), "{lines:#?}");
    assert_eq!(running.stop("TERM"), Some(0));
}

/// What a broker said on stderr until it was stopped.
fn said(arguments: &[&str]) -> String {
    let (mut running, _) = Running::start(arguments, |line| line == "ready");
    let mut stderr = running.0.stderr.take().unwrap();
    assert_eq!(running.stop("TERM"), Some(0));
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn it_says_what_is_open_to_whom() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("broker.toml");
    let file = |text: &str| std::fs::write(&config, text).unwrap();
    let keys = "[[keys]]\nname = \"n\"\nkey = \"canary\"\n";
    let hub = ["--port", "0", "--hub", "orders:2"];
    let with_file = [&hub[..], &["--config", config.to_str().unwrap()]].concat();
    let everywhere = ["--listen", "0.0.0.0"];

    let quiet = said(&hub);
    assert!(quiet.contains("(plain text): only this machine reaches it"), "{quiet}");
    assert!(quiet.contains("tokens are not checked"), "{quiet}");

    let open = said(&[&hub[..], &everywhere, &["--allow-anyone"]].concat());
    assert!(open.contains("OPEN TO EVERY MACHINE"), "{open}");
    assert!(open.contains("TOKENS ARE NOT CHECKED"), "{open}");
    assert!(open.contains("--advertise HOST"), "{open}");

    file(keys);
    let advertised = [&with_file[..], &everywhere, &["--advertise", "broker"]].concat();
    let guarded = said(&advertised);
    assert!(guarded.contains("OPEN TO EVERY MACHINE"), "{guarded}");
    assert!(guarded.contains("tokens are checked; in plain text"), "{guarded}");
    assert!(!guarded.contains("--advertise") && !guarded.contains("canary"), "{guarded}");

    file(&format!("listen = \"0.0.0.0\"\n{keys}"));
    assert!(said(&with_file).contains("tokens are checked; in plain text"));
    // The command line comes before the file.
    let inside = said(&[&with_file[..], &["--listen", "127.0.0.1"]].concat());
    assert!(inside.contains("only this machine reaches it"), "{inside}");

    file("listen = \"0.0.0.0\"\nallow_anyone = true\n");
    assert!(said(&with_file).contains("TOKENS ARE NOT CHECKED"));
    file("listen = \"0.0.0.0\"\n");
    refused(&with_file, 2, "--allow-anyone");
    refused(&[&hub[..], &everywhere].concat(), 2, "0.0.0.0:0");
    refused(&[&hub[..], &["--bind", "::"]].concat(), 2, "[[keys]]");
}

const SECURE_ENDPOINT: &str = "LONGSHORE_TEST_ENDPOINT";
const SECURE_STRING: &str = "LONGSHORE_TEST_CONNECTION_STRING";

#[test]
fn the_sdk_needs_the_authority_only_over_secure_websockets() {
    let (running, report) =
        Running::with_report(&["--port", "0", "--wss-port", "0", "--hub", "orders:2"]);
    let authority = report["certificate_authority"].as_str().unwrap().to_owned();
    let port = report["ports"]["wss"].as_u64().unwrap();
    // The SDK takes its authorities from the environment of the process.
    let client = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "secure_client"])
        .env("SSL_CERT_FILE", &authority)
        .env(SECURE_ENDPOINT, format!("amqps://localhost:{port}"))
        .env(SECURE_STRING, report["hubs"][0]["wss_connection_string"].as_str().unwrap())
        .output()
        .unwrap();
    assert!(client.status.success(), "{client:?}");
    assert!(String::from_utf8_lossy(&client.stdout).contains("1 passed"), "{client:?}");
    assert_eq!(running.stop("TERM"), Some(0));
    assert!(!std::fs::exists(authority).unwrap(), "what was temporary stays");
}

#[tokio::test]
#[ignore = "runs inside the_sdk_needs_the_authority_only_over_secure_websockets"]
async fn secure_client() {
    let (endpoint, connection_string) =
        (std::env::var(SECURE_ENDPOINT).unwrap(), std::env::var(SECURE_STRING).unwrap());
    let served = round_trip(AmqpTransport::WebSocket, &endpoint, &connection_string);
    tokio::time::timeout(LIMIT, served).await.expect("a round trip");
}

#[track_caller]
fn refused(arguments: &[&str], code: i32, said: &str) {
    let Output { status, stdout, stderr } = emulator(arguments).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(said), "{said:?} is not in {stderr}");
    assert!(stdout.is_empty());
}

/// Publishes 1,000 events to a broker on `data`, and ends it with a signal.
async fn publish_and_stop(data: &str, signal: &str) {
    let arguments = ["--hub", "orders:1", "--port", "0", "--data", data];
    let (running, report) = Running::with_report(&arguments);
    let string = report["hubs"][0]["connection_string"].as_str().unwrap();
    let namespace = Namespace::from_connection_string(string)
        .unwrap()
        .with_custom_endpoint(report["endpoint"].as_str().unwrap())
        .unwrap();
    let publisher = EventHubsPublisher::new(namespace, "orders");
    let event = OutgoingEvent::new("an event of a few bytes");
    for _ in 0..5 {
        publisher.send_batch(SendTarget::Any, vec![event.clone(); 200]).await.unwrap();
    }
    publisher.close().await;
    running.stop(signal);
}

#[tokio::test]
async fn what_is_wrong_with_a_data_folder_is_said_and_nothing_is_lost_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let arguments = ["--hub", "orders:1", "--port", "0", "--data", data];
    publish_and_stop(data, "TERM").await;
    let log = dir.path().join("data/hubs/orders/0/00000000000000000000.log");
    let whole = std::fs::read(&log).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 3] ^= 1;
    std::fs::write(&log, &damaged).unwrap();
    refused(&arguments, 1, "00000000000000000000.log is damaged at byte");
    assert_eq!(std::fs::read(&log).unwrap(), damaged);
    std::fs::remove_file(&log).unwrap();
    refused(&arguments, 1, "holds events 0 to 0, and held 0 to 1000");
    std::fs::write(&log, &whole).unwrap();
    assert!(!said(&arguments).contains("did not close"));

    publish_and_stop(data, "KILL").await;
    let killed = std::fs::read(&log).unwrap();
    std::fs::write(&log, &killed[..killed.len() - 3]).unwrap();
    let text = said(&arguments);
    assert!(text.contains("bytes behind event 1998 were cut off"), "{text}");
    assert!(text.contains("did not close the event hub 'orders'; its files hold 1999"), "{text}");
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let hub = ["--hub", "orders:2", "--port"];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    refused(&["--hub", "orders:0"], 2, "from 1 to 1024");
    refused(&["--hub", "orders"], 2, "a colon");
    refused(&["--port", "0"], 2, "--hub");
    refused(&[&hub[..], &["70000"]].concat(), 2, "70000");
    let in_use = format!("cannot listen on 127.0.0.1:{port}");
    refused(&[&hub[..], &[&port]].concat(), 1, &in_use);
    refused(&[&hub[..], &["0", "--wss-port", &port]].concat(), 1, &in_use);
    refused(&[&hub[..], &["0", "--data", file]].concat(), 1, file);
    refused(&[&hub[..], &["0", "--wss-port", "0", "--cert-dir", file]].concat(), 1, file);
    let config = dir.path().join("broker.toml");
    std::fs::write(&config, "[[hubs]]\nname = \"a\"\npartitions = 0\n").unwrap();
    let config = config.to_str().unwrap();
    refused(
        &["--port", "0", "--config", config],
        2,
        "hubs[0].partitions = 0: it must be from 1 to",
    );
    refused(&["--port", "0", "--config", "/none.toml"], 2, "/none.toml: No such file");
    std::fs::write(config, "").unwrap();
    refused(&["--port", "0", "--config", config], 2, "there is no event hub");
    refused(&[&hub[..], &["0", "--advertise", "sb://broker"]].concat(), 2, "a host name or an IP");
    let twice = [&hub[..], &["0", "--hub", "orders:3"]].concat();
    refused(&twice, 1, "exists with 2 partitions, not 3");
}
