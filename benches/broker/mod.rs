//! A broker in a process of its own, for benches: this program again, told so by an environment
//! variable. It ends with its standard input.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use longshore::transport::event_hubs::{Namespace, Protocol};
use longshore_emulator::EmulatorBuilder;

use super::measure::cpu_now;

/// Says that this process is the broker, and of which kind.
const KIND: &str = "LONGSHORE_BENCH_BROKER";

/// The broker's process.
pub(crate) struct Broker {
    process: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    #[allow(dead_code)]
    pub(crate) endpoint: String,
    #[allow(dead_code)]
    pub(crate) connection_string: String,
    pub(crate) namespace: Namespace,
}

impl Broker {
    /// Starts this program as a broker; what `kind` means is the bench's own matter.
    pub(crate) fn start(kind: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .env(KIND, kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let questions = process.stdin.take().expect("piped");
        let mut answers = BufReader::new(process.stdout.take().expect("piped"));
        let (endpoint, connection_string) = (line(&mut answers), line(&mut answers));
        let namespace = Namespace::from_connection_string(&connection_string)
            .expect("valid")
            .with_custom_endpoint(&endpoint)
            .expect("valid")
            .with_protocol(Protocol::Tcp);
        let pipes = Mutex::new((questions, answers));
        Self { process, pipes, endpoint, connection_string, namespace }
    }

    /// CPU time of the broker so far.
    #[allow(dead_code)]
    pub(crate) fn cpu(&self) -> Duration {
        let mut pipes = self.pipes.lock().expect("not poisoned");
        writeln!(pipes.0, "cpu").expect("the broker listens");
        Duration::from_nanos(line(&mut pipes.1).parse().expect("a number"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("the broker answers");
    line.trim_end().to_owned()
}

/// Of which kind of broker this process is; `None`: it is the bench.
pub(crate) fn kind() -> Option<String> {
    std::env::var(KIND).ok()
}

/// The broker's side: says where it is, then its CPU time whenever it is asked.
pub(crate) fn serve(builder: EmulatorBuilder) {
    let runtime = runtime();
    let emulator = runtime.block_on(builder.start()).expect("starts");
    println!("{}\n{}", emulator.endpoint(), emulator.connection_string(None));
    for question in std::io::stdin().lines() {
        if question.is_err() {
            return;
        }
        println!("{}", cpu_now().as_nanos());
    }
}

/// Two threads, as the bench has beside the broker.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
}
