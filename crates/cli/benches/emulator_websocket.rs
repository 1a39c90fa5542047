//! The broker's CPU time per event of 1 KiB that it sends over WebSocket with TLS.
//!
//! The broker is a process of its own, `longshore emulator`, whose CPU time the system counts; the
//! client is the Azure SDK in this process. Figures go to `target/bench/emulator_websocket.json`,
//! which `scripts/bench-check` reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use azure_messaging_eventhubs::models::{AmqpTransport, EventData};
use azure_messaging_eventhubs::{
    ConsumerClient, EventDataBatchOptions, OpenReceiverOptions, ProducerClient, StartLocation,
    StartPosition,
};
use futures::StreamExt;
use serde_json::Value;

const EVENTS: usize = 200_000;
const EVENT_BYTES: usize = 1024;
/// Says that this process is the one that trusts the authority.
const READY: &str = "LONGSHORE_BENCH_REPORT";

struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    // Only on demand: `cargo test --benches` builds and starts every bench.
    if std::env::var(READY).is_err() && !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    if !cfg!(target_os = "linux") {
        return eprintln!("the CPU time of another process is only known on Linux");
    }
    match std::env::var(READY) {
        Ok(report) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(run(&serde_json::from_str(&report).unwrap())),
        Err(_) => start(),
    }
}

/// Starts the broker, and this program again with its authority in the environment.
fn start() {
    let mut broker = Command::new(env!("CARGO_BIN_EXE_longshore"))
        .args(["emulator", "--report", "json", "--hub", "orders:1"])
        .args(["--port", "0", "--wss-port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut report = String::new();
    BufReader::new(broker.stdout.take().unwrap()).read_line(&mut report).unwrap();
    let broker = Broker(broker);
    let mut parsed: Value = serde_json::from_str(&report).unwrap();
    parsed["pid"] = broker.0.id().into();
    let status = Command::new(std::env::current_exe().unwrap())
        .env("SSL_CERT_FILE", parsed["certificate_authority"].as_str().unwrap())
        .env(READY, parsed.to_string())
        .status()
        .unwrap();
    assert!(status.success());
}

async fn run(report: &Value) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pid = report["pid"].as_u64().unwrap();
    publish(&text(&report["endpoint"]), &text(&report["hubs"][0]["connection_string"])).await;
    let wss = format!("amqps://localhost:{}", report["ports"]["wss"]);
    let string = text(&report["hubs"][0]["wss_connection_string"]);
    let mut lines = Vec::new();
    for (name, transport, endpoint) in [
        ("TCP", AmqpTransport::Tcp, text(&report["endpoint"])),
        ("WebSocket and TLS", AmqpTransport::WebSocket, wss),
    ] {
        let consumer = ConsumerClient::builder()
            .with_transport(transport)
            .with_custom_endpoint(endpoint)
            .open_with_connection_string(&string, None)
            .await
            .unwrap();
        let (cpu, started) = (cpu_seconds(pid), Instant::now());
        receive(&consumer).await;
        let (cpu, elapsed) = (cpu_seconds(pid) - cpu, started.elapsed().as_secs_f64());
        let (cpu_us, rate) = (cpu * 1e6 / EVENTS as f64, EVENTS as f64 / elapsed);
        println!("{name}: {cpu_us:.2} us of broker CPU an event, {rate:.0} events/s");
        lines.push(format!(r#"{{"name":"{name}","cpu_us":{cpu_us:.3},"rate":{rate:.0}}}"#));
    }
    // A bench runs in the folder of its package; the figures of all are in that of the workspace.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(
        format!("{folder}/emulator_websocket.json"),
        format!("[{}]\n", lines.join(",\n")),
    )
    .unwrap();
}

async fn publish(endpoint: &str, connection_string: &str) {
    let producer = ProducerClient::builder()
        .with_custom_endpoint(endpoint.to_owned())
        .open_with_connection_string(connection_string, None)
        .await
        .unwrap();
    let mut left = EVENTS;
    while left > 0 {
        let options =
            EventDataBatchOptions { partition_id: Some("0".into()), ..Default::default() };
        let batch = producer.create_batch(Some(options)).await.unwrap();
        while left > 0 {
            let event = EventData::builder().with_body(vec![7; EVENT_BYTES]).build();
            if !batch.try_add_event_data(event, None).unwrap() {
                break;
            }
            left -= 1;
        }
        producer.send_batch(batch, None).await.unwrap();
    }
}

async fn receive(consumer: &ConsumerClient) {
    let position = StartPosition { location: StartLocation::Earliest, ..Default::default() };
    let options = OpenReceiverOptions {
        start_position: Some(position),
        prefetch: Some(5000),
        ..Default::default()
    };
    let receiver =
        consumer.open_receiver_on_partition("0".to_owned(), Some(options)).await.unwrap();
    let mut events = receiver.stream_events();
    for _ in 0..EVENTS {
        events.next().await.unwrap().unwrap();
    }
}

/// User and system time of a process so far.
fn cpu_seconds(pid: u64) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
