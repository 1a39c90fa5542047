//! A run that never connects says so, to what, why, and what to do; one that connected once goes on for
//! ever.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/closed_port.rs"]
mod closed_port;
mod support;

use std::process::{ExitCode, Stdio, Termination};
use std::sync::Arc;
use std::time::Duration;

use closed_port::ClosedPort;
use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::config::{DEFAULT_CONNECT_TIMEOUT, LeaseOptions};
use longshore::consumer::{
    BatchConsumerBuilder, ConsumerExit, ExitCause, ExitReason, NeverConnected, Unreached,
};
use longshore::lease_store::LeaseStore;
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::state::first_connection::REFUSAL_GRACE;
use longshore::transport::event_hubs::EventHubsPublisher;
use longshore::transport::{Publisher, SendTarget};
use longshore::{
    ConsumerHandle, ConsumerSet, Error, ErrorClass, Event, EventContext, OutgoingEvent,
};
use longshore_emulator::Emulator;
use support::forward::{Over, OverLeases};
use support::{Harness, drained, until, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// The program of README.md; a test holds that it is.
mod program {
    include!("readme/program.rs");

    pub(super) fn run() -> Result<(), Box<dyn std::error::Error>> {
        main()
    }
}

const STRING: &str = "EVENTHUB_CONNECTION_STRING";
/// What the program may take to give up: a promise.
const GIVES_UP: Duration = Duration::from_secs(30);

/// Looked for in everything that is printed.
const KEY: &str = "Y2FuYXJ5LWtleQ==";

#[test]
fn the_program_is_that_of_the_readme() {
    let readme = include_str!("../README.md");
    let block = readme.split_once("```rust,no_run\n").unwrap().1.split_once("```").unwrap().0;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/readme/program.rs");
    if std::env::var_os("LONGSHORE_WRITE_DOCS").is_some() {
        std::fs::write(path, block).unwrap();
    }
    let program = std::fs::read_to_string(path).unwrap();
    assert_eq!(program, block, "run `LONGSHORE_WRITE_DOCS=1 cargo test the_program_is_that`");
}

#[test]
#[ignore = "the program of the README: the other tests of this crate start it"]
fn program_process() {
    if std::env::var_os(STRING).is_some() {
        let code = program::run().report();
        let is_success = format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS);
        std::process::exit(if is_success { 0 } else { 1 });
    }
}

/// The program of the README, against this hub.
struct Program {
    child: Child,
    begun: Instant,
    _dir: tempfile::TempDir,
}

impl Program {
    fn start(connection_string: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "program_process", "--ignored", "--nocapture", "--quiet"])
            .env(STRING, connection_string)
            .env("EVENTHUB_ENTITY_NAME", "orders")
            .env_remove("RUST_BACKTRACE")
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Self { child: command.spawn().unwrap(), begun: Instant::now(), _dir: dir }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().unwrap();
        let kill = format!("kill -{signal} {id}");
        let killed = std::process::Command::new("sh").args(["-c", &kill]).status();
        assert!(killed.unwrap().success());
    }

    /// How it failed: what `main` returned, as it is on stderr, and after what time. Where the program tried
    /// again, nobody listened to its log, and the line before that says so.
    async fn failed(self) -> (String, Duration) {
        let Self { child, begun, _dir } = self;
        let ended = within("the program", child.wait_with_output()).await.unwrap();
        let took = begun.elapsed();
        let (out, err) =
            (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap());
        println!("after {took:?}: {err}");
        assert_eq!(ended.status.code(), Some(1), "{out}{err}");
        assert!(!out.contains("ConsumerCounts"), "it did nothing that can be counted: {out}");
        assert!(!err.contains(KEY) && !err.contains("SharedAccessKey="), "{err}");
        let lines: Vec<&str> = err.lines().collect();
        let [before @ .., last] = &*lines else { panic!("nothing is on stderr") };
        for line in before {
            assert!(
                line.starts_with("longshore: cannot read the hub orders at localhost:"),
                "{line}"
            );
            assert!(line.contains(", trying again: could not "), "{line}");
            assert!(line.contains(". What to do: check "), "{line}");
        }
        assert!(before.len() <= 1, "{err}");
        assert!(!last.contains("gave up after") || before.len() == 1, "{err}");
        ((*last).to_owned(), took)
    }
}

#[track_caller]
fn says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(line.starts_with("Error: never connected to the hub orders at localhost:"), "{line}");
    assert!(
        line.contains(". What to do: check that ") || line.contains(". What to do: check the ")
    );
}

async fn broker() -> Emulator {
    let builder = broker::patient().hub("others", 1).require_tokens();
    builder.shared_access_keys([("everything", KEY)]).start().await.unwrap()
}

#[tokio::test]
async fn the_readmes_program_names_a_hub_that_is_not_there() {
    let broker = broker().await;
    let (line, took) = Program::start(&broker.connection_string(None)).failed().await;
    let place = format!("at localhost:{} with the key everything: ", broker.local_addr().port());
    let advice = format!(
        "check that the namespace localhost:{} has a hub orders",
        broker.local_addr().port()
    );
    says(&line, &[&place, &advice]);
    assert!(took < GIVES_UP, "{took:?}");
}

#[tokio::test]
async fn the_readmes_program_names_a_key_that_is_refused() {
    let broker = broker().await;
    let string = broker.connection_string(None).replace(KEY, "d3Jvbmc=");
    let (line, took) = Program::start(&string).failed().await;
    let place = format!("at localhost:{} with the key everything: ", broker.local_addr().port());
    says(&line, &[&place, "refused the credentials", "check that the key or the role is valid"]);
    assert!(took < GIVES_UP, "{took:?}");
}

#[tokio::test]
async fn the_readmes_program_names_a_port_that_is_closed() {
    let closed = ClosedPort::take();
    let (line, took) = Program::start(&string_to(closed.port())).failed().await;
    let place = format!("at localhost:{} with the key everything: ", closed.port());
    says(&line, &[&place, "gave up after 20s", "check the name and the port"]);
    assert!(took >= DEFAULT_CONNECT_TIMEOUT && took < GIVES_UP, "{took:?}");
}

fn string_to(port: u16) -> String {
    format!(
        "Endpoint=sb://localhost:{port};SharedAccessKeyName=everything;SharedAccessKey={KEY};\
         UseDevelopmentEmulator=true"
    )
}

#[tokio::test]
async fn a_signal_before_the_first_connection_ends_the_readmes_program_and_is_no_success() {
    // Takes connections, and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let program = Program::start(&string_to(silent.local_addr().unwrap().port()));
    let (mut taken, _) = within("a connection", silent.accept()).await.unwrap();
    within("its first byte", taken.read_u8()).await.unwrap();
    let told = Instant::now();
    program.signal("INT");
    let (line, _) = program.failed().await;
    assert!(line.contains(": told to stop before it had. What to do: let it run"), "{line}");
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

#[tokio::test]
async fn either_signal_ends_the_readmes_program_when_it_has_handled_its_events() {
    let builder = broker::patient().hub("orders", 1).require_tokens();
    let broker = builder.shared_access_keys([("everything", KEY)]).start().await.unwrap();
    let string = broker.connection_string(None);
    let publisher = EventHubsPublisher::new(broker::namespace(&broker), "orders");
    for signal in ["INT", "TERM"] {
        publisher.send(SendTarget::Any, OutgoingEvent::new("seven..")).await.unwrap();
        let mut program = Program::start(&string);
        let mut lines = BufReader::new(program.child.stdout.take().unwrap()).lines();
        let handled = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line == "7 bytes" {
                    return;
                }
            }
            panic!("it ended before it handled the event");
        };
        within("the event", handled).await;
        program.signal(signal);
        let status = within("its end", program.child.wait()).await.unwrap();
        assert!(status.success(), "SIG{signal}: {status}");
        let mut rest = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            rest.push_str(&line);
        }
        assert!(rest.contains("ConsumerCounts"), "{rest}");
    }
    publisher.close().await;
}

// Over ports in memory, in paused time.

fn start(builder: BatchConsumerBuilder) -> ConsumerHandle {
    builder.event_handler(|_: Event, _: EventContext| async {}).unwrap().start()
}

#[track_caller]
fn never(exit: &ConsumerExit) -> &NeverConnected {
    assert!(!exit.is_clean());
    let ExitReason::NeverConnected(never) = &exit.reason else { panic!("{exit:?}") };
    never
}

const MANY: usize = 1_000_000;

#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_is_waited_for_until_the_deadline() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    harness.hub.fail_reads(7, ErrorClass::Transient);
    let begun = Instant::now();
    let handle = start(harness.builder());
    until("it is back", || handle.snapshot().counts.done == 1).await;
    assert!(begun.elapsed() < DEFAULT_CONNECT_TIMEOUT);
    // Once connected, it is waited for as long as it takes.
    harness.hub.end_links(0, ErrorClass::Transient);
    harness.hub.fail_reads(MANY, ErrorClass::Transient);
    harness.publish(0, 1);
    sleep(DEFAULT_CONNECT_TIMEOUT * 100).await;
    harness.hub.fail_reads(0, ErrorClass::Transient);
    until("it is back again", || handle.snapshot().counts.done == 2).await;
    assert!(drained(handle).await.is_clean());

    harness.hub.fail_reads(MANY, ErrorClass::Transient);
    let begun = Instant::now();
    let exit = start(harness.builder()).join().await;
    assert_eq!(begun.elapsed().as_secs(), DEFAULT_CONNECT_TIMEOUT.as_secs());
    let never = never(&exit);
    assert_eq!((never.unreached(), never.was_told_to_stop()), (Unreached::Hub, false));
    assert_eq!(never.error().map(Error::class), Some(ErrorClass::Transient));
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_have_a_short_grace_and_without_a_limit_it_is_tried_for_ever() {
    let harness = Harness::new(1);
    harness.hub.fail_reads(MANY, ErrorClass::Auth);
    let begun = Instant::now();
    let exit = start(harness.builder()).join().await;
    assert!(begun.elapsed() >= REFUSAL_GRACE && begun.elapsed() < REFUSAL_GRACE * 3);
    assert!(never(&exit).to_string().contains("check that the key or the role"), "{exit:?}");

    harness.publish(0, 1);
    for class in [ErrorClass::Auth, ErrorClass::Transient] {
        harness.hub.fail_reads(MANY, class);
        let handle = start(harness.builder().connect_timeout(None));
        sleep(DEFAULT_CONNECT_TIMEOUT * 100).await;
        harness.hub.fail_reads(0, class);
        until("ready", || handle.is_ready()).await;
        assert!(drained(handle).await.is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_before_the_first_connection_is_prompt_and_says_that_there_was_none() {
    let harness = Harness::new(1);
    harness.hub.fail_reads(MANY, ErrorClass::Transient);
    let handle = start(harness.builder());
    sleep(Duration::from_secs(5)).await;
    let told = Instant::now();
    let exit = drained(handle).await;
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert!(never(&exit).was_told_to_stop());
    let error = exit.into_result().unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string(), "in words");
    assert!(error.to_string().starts_with("never connected to the hub files at memory: told to"));
}

#[tokio::test(start_paused = true)]
async fn a_set_goes_on_without_the_one_that_never_connected_and_says_so() {
    let (here, away) = (Harness::of("orders", 1), Harness::of("results", 1));
    here.publish(0, 1);
    away.hub.fail_reads(MANY, ErrorClass::Transient);
    let set = ConsumerSet::builder().consumer(here.builder()).consumer(away.builder());
    let set = set.event_handler(|_: Event, _: EventContext| async {}).unwrap();
    let error = set.run_until(sleep(DEFAULT_CONNECT_TIMEOUT * 10)).await.unwrap_err();
    assert_eq!(error.cause(), ExitCause::Unreachable);
    let said = error.to_string();
    let exit = error.into_exit();
    assert!(exit.entities[0].exit.is_clean() && exit.counts().done == 1, "{exit:?}");
    never(&exit.entities[1].exit);
    assert!(said.starts_with("results: never connected to the hub results at "), "{said}");

    // Where none connects, nobody has to tell it to end.
    here.hub.fail_reads(MANY, ErrorClass::Permanent);
    let set = ConsumerSet::builder().consumer(here.builder()).consumer(away.builder());
    let set = set.event_handler(|_: Event, _: EventContext| async {}).unwrap();
    let ended = timeout(DEFAULT_CONNECT_TIMEOUT * 2, set.run_until(std::future::pending::<()>()));
    let error = ended.await.expect("it ends by itself").unwrap_err();
    assert_eq!(error.cause(), ExitCause::Refused, "the graver one");
}

/// A lease store that fails, or hangs where there is no class.
#[derive(Debug)]
struct Away(MemoryLeaseStore, Option<ErrorClass>);

impl OverLeases for Away {
    fn below(&self) -> &dyn LeaseStore {
        &self.0
    }

    fn before(&self) -> BoxFuture<'_, Result<(), Error>> {
        async {
            match self.1 {
                Some(class) => Err(Error::new(class, "reach the leases", "a fault on demand")),
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn leases_that_cannot_be_seen_are_tried_until_the_same_deadline() {
    let harness = Harness::new(1);
    let worker = |class, timeout| {
        let store = Arc::new(Over(Away(MemoryLeaseStore::new(), class)));
        start(harness.builder().leases(store).connect_timeout(timeout))
    };
    // Whatever the store says, for its container may be about to be created; or nothing.
    for class in [Some(ErrorClass::Permanent), Some(ErrorClass::Transient), None] {
        let begun = Instant::now();
        let exit = worker(class, Some(DEFAULT_CONNECT_TIMEOUT)).join().await;
        let took = begun.elapsed();
        // The last word to a store that hangs has a limit of its own.
        let word = LeaseOptions::default().lease_expiry / 6 + Duration::from_secs(1);
        assert!(took >= DEFAULT_CONNECT_TIMEOUT, "{class:?} {took:?}");
        assert!(took <= DEFAULT_CONNECT_TIMEOUT + word, "{class:?} {took:?}");
        assert_eq!(never(&exit).unreached(), Unreached::Leases, "{exit:?}");
        assert_eq!(never(&exit).error().map(Error::class), class.or(Some(ErrorClass::Transient)));
    }
    // Told to stop, it does not wait for successors that it cannot have; untold, for ever.
    let handle = worker(Some(ErrorClass::Transient), None);
    sleep(DEFAULT_CONNECT_TIMEOUT * 100).await;
    let told = Instant::now();
    let exit = drained(handle).await;
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert!(never(&exit).was_told_to_stop());
}
