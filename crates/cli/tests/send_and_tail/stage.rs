//! A broker with two hubs, and the commands between them.

use std::process::Command;

use longshore::hub::LinkStart;
use longshore::transport::OpenLink;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{Publisher, SendTarget, Transport};
use longshore::{Event, OutgoingEvent};
use longshore_emulator::{Emulator, HubOptions};
use serde_json::Value;

use crate::broker;
use crate::command::{Ended, Running, longshore, start, start_with_input};

/// Looked for in everything that is printed.
const KEY: &str = "Y2FuYXJ5LWtleQ==";

pub(crate) struct Stage {
    pub(crate) broker: Emulator,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) environment: Vec<(String, String)>,
    publisher: EventHubsPublisher,
}

impl Stage {
    /// The hub that the environment names is `orders`; there is `copies`, with two partitions.
    pub(crate) async fn new(partitions: u32) -> Self {
        let orders = HubOptions::new("orders", partitions).consumer_groups(["billing"]);
        let builder = broker::patient().hub_with(orders).hub("copies", 2).require_tokens();
        let broker = builder.shared_access_keys([("everything", KEY)]).start().await.unwrap();
        let string = broker.connection_string(None);
        let namespace = Namespace::from_connection_string(&string).unwrap();
        let environment = vec![
            ("EVENTHUB_CONNECTION_STRING".to_owned(), string),
            ("EVENTHUB_ENTITY_NAME".to_owned(), "orders".to_owned()),
        ];
        let publisher = EventHubsPublisher::new(namespace, "orders");
        Self { broker, dir: tempfile::tempdir().unwrap(), environment, publisher }
    }

    pub(crate) fn namespace(&self) -> Namespace {
        Namespace::from_connection_string(&self.broker.connection_string(None)).unwrap()
    }

    pub(crate) async fn publish(&self, partition: &str, events: Vec<OutgoingEvent>) {
        let target = SendTarget::Partition(partition.into());
        self.publisher.send_batch(target, events).await.unwrap();
    }

    /// Events whose bodies are these.
    pub(crate) async fn bodies(&self, partition: &str, bodies: impl IntoIterator<Item = &str>) {
        let events = bodies.into_iter().map(|body| OutgoingEvent::new(body.to_owned()));
        self.publish(partition, events.collect()).await;
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = longshore();
        command.env_clear().envs(self.environment.iter().cloned()).current_dir(self.dir.path());
        command.args(arguments);
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        start(&mut self.command(arguments))
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.start(arguments)).await
    }

    pub(crate) async fn run_with(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Ended {
        ended(start_with_input(&mut self.command(arguments), input.as_ref())).await
    }

    /// All events of a partition.
    pub(crate) async fn events(&self, hub: &str, partition: &str) -> Vec<Event> {
        let transport = EventHubsTransport::new(self.namespace(), hub, "$Default");
        let end = broker::log_end(&transport, partition).await;
        let mut events = Vec::new();
        if end > 0 {
            let open = OpenLink::new(partition.into(), LinkStart::FirstEvent, 100);
            let mut link = transport.open(open).await.unwrap();
            while events.len() < end {
                let next = std::future::poll_fn(|cx| link.poll_receive(cx, 100, &mut events));
                next.await.unwrap();
            }
            link.close().await;
        }
        transport.close().await;
        events
    }

    pub(crate) async fn stop(self) {
        self.publisher.close().await;
        self.broker.shutdown().await.unwrap();
    }
}

pub(crate) async fn ended(running: Running) -> Ended {
    let ended = tokio::task::spawn_blocking(move || running.end()).await.unwrap();
    for printed in [&ended.stdout, &ended.stderr] {
        for secret in [KEY, "SharedAccessKey=", "\u{1b}"] {
            assert!(!printed.contains(secret), "{secret} is in\n{printed}");
        }
    }
    ended
}

/// Lines of JSON.
#[track_caller]
pub(crate) fn lines(ended: &Ended) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    ended.stdout.lines().map(line).collect()
}

/// The bodies of lines that are text.
#[track_caller]
pub(crate) fn bodies(ended: &Ended) -> Vec<String> {
    let body = |line: &Value| line["body_text"].as_str().unwrap().to_owned();
    lines(ended).iter().map(body).collect()
}
