//! `longshore test` as a user runs it, against the broker and against what is not there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../../tests/azurite/mod.rs"]
mod azurite;
#[path = "../../../tests/support/broker.rs"]
mod broker;
#[path = "../../../tests/support/closed_port.rs"]
mod closed_port;
#[path = "../../../tests/support/waiting.rs"]
mod waiting;

use std::future::poll_fn;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use azurite::{ALL, Container};
use closed_port::ClosedPort;
use longshore::OutgoingEvent;
use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected,
};
use longshore::connection_test::{Cause, test_connection};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{LinkStart, OpenLink, Publisher, SendTarget, Transport};
use longshore_emulator::{Emulator, HubOptions};
use serde_json::Value;
use tokio::process::Command;
use waiting::within;

/// Looked for in everything that is printed.
const KEY: &str = "Y2FuYXJ5LWtleQ==";

async fn start() -> Emulator {
    let hub = HubOptions::new("orders", 2).consumer_groups(["billing"]);
    let builder = broker::patient().hub_with(hub).require_tokens();
    builder.shared_access_keys([("everything", KEY)]).start().await.unwrap()
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn report(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|_| panic!("{} {}", self.stdout, self.stderr))
    }

    /// Whether a key or a signature is anywhere in what was printed.
    #[track_caller]
    fn shows_no_secret(&self) {
        for printed in [&self.stdout, &self.stderr] {
            for secret in [KEY, "SharedAccessKey=", "SharedAccessSignature", "sig="] {
                assert!(!printed.contains(secret), "{secret} is in\n{printed}");
            }
        }
    }

    /// The failure of the report, which the person at the terminal is told as well.
    #[track_caller]
    fn failed(&self, step: &str, class: &str, cause: &str, said: &[&str]) {
        assert_eq!(self.code, Some(1), "{} {}", self.stdout, self.stderr);
        let report = self.report();
        let failure = &report["failure"];
        let found = ["step", "class", "cause"].map(|field| failure[field].as_str().unwrap());
        assert_eq!(found, [step, class, cause], "{failure}");
        assert!(self.stderr.contains(failure["advice"].as_str().unwrap()), "{}", self.stderr);
        for said in said {
            assert!(self.stderr.contains(said), "{said} is not in {}", self.stderr);
        }
        self.shows_no_secret();
    }
}

async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.arg("test").args(arguments).env_clear().envs(environment.iter().copied());
    let ended = within("the command", command.kill_on_drop(true).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: ended.status.code(), stdout: text(ended.stdout), stderr: text(ended.stderr) }
}

const STRING: &str = "EVENTHUB_CONNECTION_STRING";
const JSON: &[&str] = &["--report", "json"];

#[tokio::test]
async fn what_the_emulator_prints_is_all_it_needs() {
    let broker = start().await;
    let string = broker.connection_string(Some("orders"));
    let ended = run(&["--send", "--report", "json"], &[(STRING, &string)]).await;
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    let report = ended.report();
    let steps: Vec<_> = report["steps"].as_array().unwrap().iter().collect();
    let names: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["connect", "properties", "send", "receive"]);
    assert!(steps.iter().all(|step| step["seconds"].as_f64().unwrap() > 0.0));
    assert_eq!(report["partitions"], serde_json::json!(["0", "1"]));
    assert_eq!(report["failure"], Value::Null);
    assert_eq!(report["address"], format!("localhost:{}", broker.local_addr().port()));
    assert!(!Path::new("longshore-state").exists(), "a test creates nothing");
    let not_asked = report["checkpoints_not_asked"].as_str().unwrap();
    assert!(not_asked.starts_with("longshore-state/checkpoints does not exist yet"), "{report}");

    // For people, without sending.
    let ended = run(&[], &[(STRING, &string)]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert!(lines[0].starts_with("hub orders at localhost:"), "{lines:?}");
    assert!(lines[1].starts_with("  connect ") && lines[1].ends_with(" ms"), "{lines:?}");
    assert!(lines[2].starts_with("  properties ") && lines[2].ends_with(" 2 partitions"));
    assert!(lines[3].starts_with("  group ") && lines[3].ends_with(" ms"), "{lines:?}");
    assert!(lines[4].starts_with("  checkpoints    not asked  longshore-state/"), "{lines:?}");
    assert_eq!(lines[5..], ["all is well"]);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn checkpoints_in_a_folder_are_asked_and_a_worker_that_has_it_is_left_alone() {
    let broker = start().await;
    let string = broker.connection_string(Some("orders"));
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("checkpoints");
    let environment =
        [(STRING, string.as_str()), ("LONGSHORE_CHECKPOINT_FOLDER", folder.to_str().unwrap())];
    let worker = FileCheckpointStore::open(&folder).unwrap();
    let files = || std::fs::read_dir(&folder).unwrap().count();
    let before = files();
    let beside = run(&[], &environment).await;
    assert_eq!(beside.code, Some(0), "{} {}", beside.stdout, beside.stderr);
    assert!(beside.stdout.contains("is in use by a worker that runs"), "{}", beside.stdout);
    drop(worker);

    let alone = run(JSON, &environment).await;
    assert_eq!(alone.code, Some(0), "{} {}", alone.stdout, alone.stderr);
    let report = alone.report();
    assert_eq!(report["steps"].as_array().unwrap().last().unwrap()["step"], "checkpoints");
    assert_eq!(report["checkpoints"], folder.to_str().unwrap());
    assert_eq!(files(), before, "a test writes nothing");

    // A checkpoint that a worker cannot read.
    let worker = FileCheckpointStore::open(&folder).unwrap();
    let scope = CheckpointScope {
        namespace: "localhost".to_owned(),
        entity: "orders".into(),
        consumer_group: "$Default".into(),
    };
    let key = CheckpointKey { scope, partition: "0".into() };
    worker.store(&key, &Checkpoint::default(), &Expected::Absent).await.unwrap();
    drop(worker);
    let mut file = folder.clone();
    while file.is_dir() {
        let mut entries = std::fs::read_dir(&file).unwrap().map(|entry| entry.unwrap().path());
        file = entries.find(|path| !path.ends_with(".longshore.lock")).unwrap();
    }
    std::fs::write(&file, "{").unwrap();
    let refused = run(JSON, &environment).await;
    assert_eq!(refused.code, Some(1), "{} {}", refused.stdout, refused.stderr);
    refused.failed("checkpoints", "bad_data", "other", &["read the message"]);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn checkpoints_in_a_container_are_asked_with_the_right_to_write() {
    let broker = start().await;
    let string = broker.connection_string(Some("orders"));
    let container = Container::create().await;
    let absent = Container::absent();
    let (all, read) = (container.url(ALL), container.url("rl"));
    let (absent, wrong) = (absent.url(ALL), all.replace("sig=", "sig=AAAA"));
    let place = all.split('?').next().unwrap();
    let run = |url: &str| {
        let environment =
            [(STRING, string.clone()), ("LONGSHORE_CHECKPOINT_CONTAINER", url.to_owned())];
        async move {
            let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
            run(JSON, &environment).await
        }
    };
    let fine = run(&all).await;
    assert_eq!(fine.code, Some(0), "{} {}", fine.stdout, fine.stderr);
    assert_eq!(fine.report()["checkpoints"], place);
    assert!(container.names().await.is_empty(), "a test writes nothing");
    let must_allow = ["must allow to read, list, create, write and delete"];
    run(&read).await.failed("checkpoints", "auth", "credentials", &must_allow);
    run(&wrong).await.failed("checkpoints", "auth", "credentials", &must_allow);
    let must_exist = ["LONGSHORE_CHECKPOINT_CONTAINER exists"];
    run(&absent).await.failed("checkpoints", "permanent", "not_found", &must_exist);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn settings_that_a_worker_refuses_together_are_refused_here() {
    let dir = tempfile::tempdir().unwrap();
    let string = "Endpoint=sb://localhost:1;SharedAccessKeyName=n;SharedAccessKey=Y2FuYXJ5LWtleQ==;\
                  UseDevelopmentEmulator=true;EntityPath=orders";
    let batches = [(STRING, string), ("LONGSHORE_MAX_BATCH_SIZE", "5000")];
    let ended = run(&[], &batches).await;
    assert_eq!(ended.code, Some(2), "{} {}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("= 5000 x 4: the product must be at most"), "{}", ended.stderr);

    // What `longshore worker` says of a table that is not whole.
    let file = dir.path().join("worker.toml");
    std::fs::write(&file, "[worker.download]\nfiles = \"/var/lib/cache\"\n").unwrap();
    let arguments = ["--config", file.to_str().unwrap(), "--worker", "download"];
    let ended = run(&arguments, &batches).await;
    assert_eq!(ended.code, Some(2), "{} {}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("worker.download.results is not set"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("the product"), "it handles no batches: {}", ended.stderr);
    let pair = [("LONGSHORE_ORDERING", "per-key"), ("LONGSHORE_CONNECTIONS_PER_HOST", "4")];
    let ended = run(&arguments, &[&batches[..], &pair].concat()).await;
    let said =
        "LONGSHORE_CONNECTIONS_PER_HOST must not be given beside LONGSHORE_ORDERING = per-key";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    ended.shows_no_secret();
}

#[test]
fn the_documentation_has_every_cause() {
    let page = include_str!("../../../docs/troubleshooting.md");
    for cause in [
        Cause::Trust,
        Cause::Network,
        Cause::Credentials,
        Cause::NotFound,
        Cause::Throttling,
        Cause::PartitionTaken,
        Cause::Other,
    ] {
        assert!(page.contains(&format!("| `{cause}` | ")), "{cause} is not in the table");
        assert_eq!(serde_json::json!(cause), cause.to_string(), "one word for people and scripts");
    }
}

#[tokio::test]
async fn each_failure_says_what_to_do() {
    let broker = start().await;
    let string = broker.connection_string(Some("orders"));

    let wrong_key = string.replace(KEY, "d3Jvbmc=");
    let ended = run(JSON, &[(STRING, &wrong_key)]).await;
    ended.failed("properties", "auth", "credentials", &["check the key and its rights"]);

    let wrong_hub = broker.connection_string(Some("parcels"));
    let ended = run(JSON, &[(STRING, &wrong_hub)]).await;
    ended.failed("properties", "permanent", "not_found", &["hub parcels", "EVENTHUB_ENTITY_NAME"]);

    let wrong_group = [(STRING, string.as_str()), ("EVENTHUB_CONSUMER_GROUP", "nobody")];
    let ended = run(JSON, &wrong_group).await;
    ended.failed("group", "permanent", "not_found", &["consumer group nobody"]);
    let ended = run(&["--send", "--report", "json"], &wrong_group).await;
    ended.failed("receive", "permanent", "not_found", &["consumer group nobody"]);

    // A worker that has the partition: once it has an event, its link is open.
    let namespace = Namespace::from_connection_string(&string).unwrap();
    let publisher = EventHubsPublisher::new(namespace.clone(), "orders");
    let to_first = SendTarget::Partition("0".into());
    publisher.send(to_first, OutgoingEvent::new("hello")).await.unwrap();
    let worker = EventHubsTransport::new(namespace, "orders", "$Default");
    let link = OpenLink::new("0".into(), LinkStart::FirstEvent, 1).with_owner_level(Some(1));
    let mut link = worker.open(link).await.unwrap();
    let mut events = Vec::new();
    let received = poll_fn(|cx| link.poll_receive(cx, 1, &mut events));
    within("an event", received).await.unwrap();
    let ended = run(&["--send", "--report", "json"], &[(STRING, &string)]).await;
    ended.failed("receive", "partition_lost", "partition_taken", &["the way is fine"]);
    let ended = run(JSON, &[(STRING, &string)]).await;
    assert_eq!(ended.code, Some(0), "a worker that has it is proof enough: {}", ended.stderr);
    assert_eq!(ended.report()["failure"], Value::Null);
    drop(link);

    // Where no broker is: its own port may be another's as soon as it is shut down.
    let closed = ClosedPort::take();
    let address = format!("localhost:{}", closed.port());
    let string = string.replace(&format!("localhost:{}", broker.local_addr().port()), &address);
    let ended = run(JSON, &[(STRING, &string)]).await;
    let said = [address.as_str(), "EVENTHUB_PROXY", "onnection refused"];
    ended.failed("connect", "transient", "network", &said);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_authority_makes_the_difference_over_websocket_and_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let free = "127.0.0.1:0".parse().unwrap();
    let builder = broker::patient().hub("orders", 1).cert_dir(dir.path());
    let broker = builder.tls(free).secure_websocket(free).start().await.unwrap();
    let over_websocket = broker.secure_websocket_connection_string(Some("orders")).unwrap();
    let port = |address: std::net::SocketAddr| format!("localhost:{}", address.port());
    let (ws, tcp) = (broker.secure_websocket_addr().unwrap(), broker.tls_addr().unwrap());
    let over_tcp = over_websocket.replace(&port(ws), &port(tcp));
    let authority = broker.certificate_authority_path().unwrap().to_str().unwrap().to_owned();
    for (string, protocol) in [(over_websocket, "websocket"), (over_tcp, "tcp")] {
        let environment = [(STRING, string.as_str()), ("EVENTHUB_PROTOCOL", protocol)];
        let ended = run(JSON, &environment).await;
        ended.failed("connect", "auth", "trust", &["EVENTHUB_CA_FILE"]);
        let trusted = [&environment[..], &[("EVENTHUB_CA_FILE", authority.as_str())]].concat();
        let ended = run(&["--send"], &trusted).await;
        assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
        let off = [&environment[..], &[("DISABLE_SSL_VERIFY", "true")]].concat();
        let ended = run(&[], &off).await;
        assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains("CERTIFICATES ARE NOT CHECKED"), "{}", ended.stderr);
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_another_exit_code() {
    let wrong = [("EVENTHUB_PROTOCOL", "quic"), ("PIPELINE_TRANSPORT", "kafka")];
    let ended = run(&[], &wrong).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "a line for each problem: {lines:?}");
    let ended = run(JSON, &wrong).await;
    assert_eq!(ended.report()["problems"].as_array().unwrap().len(), 3);
    let memory = run(&[], &[("PIPELINE_TRANSPORT", "memory")]).await;
    assert_eq!(memory.code, Some(2));
    let unnamed = "Endpoint=sb://localhost;SharedAccessKeyName=n;SharedAccessKey=Y2FuYXJ5LWtleQ==";
    let unnamed = run(&[], &[(STRING, unnamed)]).await;
    assert_eq!(unnamed.code, Some(2));
    assert!(unnamed.stderr.contains("EVENTHUB_ENTITY_NAME is not set"), "{}", unnamed.stderr);
    unnamed.shows_no_secret();
}

#[tokio::test]
async fn no_log_shows_a_key_or_a_signature() {
    let dir = tempfile::tempdir().unwrap();
    let builder = broker::patient().hub("orders", 2).require_tokens().cert_dir(dir.path());
    let builder = builder.shared_access_keys([("everything", KEY)]);
    let builder = builder.secure_websocket("127.0.0.1:0".parse().unwrap());
    let broker = builder.start().await.unwrap();
    let authority = broker.certificate_authority_path().unwrap().to_str().unwrap().to_owned();
    let plain = broker.connection_string(Some("orders"));
    let secure = broker.secure_websocket_connection_string(Some("orders")).unwrap();
    let crates = "trace,fe2o3_amqp=trace,fe2o3_amqp::transport=trace,azure_core_amqp=trace";
    for filter in ["trace", crates] {
        for (string, works) in [
            (&plain, true),
            (&secure, true),
            (&plain.replace("EntityPath=orders", "EntityPath=parcels"), false),
            (&secure.replace("SharedAccessKeyName=everything", "SharedAccessKeyName=x"), false),
            (&plain.replace(";EntityPath=orders", ""), false),
        ] {
            let authority = ("EVENTHUB_CA_FILE", authority.as_str());
            let environment = [(STRING, string.as_str()), ("RUST_LOG", filter), authority];
            let ended = run(&["--send", "--report", "json"], &environment).await;
            assert_eq!(ended.code == Some(0), works, "{}", ended.stderr);
            let logged = ended.stderr.contains("DEBUG longshore::connection_test");
            assert!(logged || !works, "nothing was logged: {}", ended.stderr);
            ended.shows_no_secret();
        }
    }
    broker.shutdown().await.unwrap();
}

/// Gives tokens that the broker does not look at, and remembers what for.
#[derive(Debug, Default)]
struct Identity(Mutex<Vec<String>>);

#[async_trait]
impl TokenCredential for Identity {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        self.0.lock().unwrap().extend(scopes.iter().map(|scope| (*scope).to_owned()));
        Ok(AccessToken::new("token", OffsetDateTime::now_utc() + Duration::from_secs(3600)))
    }
}

#[tokio::test]
async fn tokens_of_a_credential_open_a_namespace() {
    let broker = broker::patient().hub("orders", 1).start().await.unwrap();
    let identity = Arc::new(Identity::default());
    let namespace = Namespace::with_credential("orders.servicebus.windows.net", identity.clone());
    let namespace = namespace.unwrap().with_custom_endpoint(broker.endpoint()).unwrap();
    let address = namespace.address();
    let publisher = EventHubsPublisher::new(namespace.clone(), "orders");
    let transport = EventHubsTransport::new(namespace, "orders", "$Default");
    let tested = test_connection(&transport, Some(&publisher), &address);
    let report = within("the test", tested).await;
    assert_eq!(
        (report.failure, report.steps.len()),
        (None, 4),
        "connect, properties, send, receive"
    );
    let scopes = identity.0.lock().unwrap().clone();
    assert!(!scopes.is_empty());
    assert!(
        scopes.iter().all(|scope| scope == "https://eventhubs.azure.net/.default"),
        "{scopes:?}"
    );
    assert!(Namespace::with_credential("https://orders", identity).is_err());
    broker.shutdown().await.unwrap();
}
