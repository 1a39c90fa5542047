//! The clients of Python and JavaScript, as they are published, with `longshore emulator`: over
//! TCP and over WebSocket, with TLS and without. What they do is in `tests/foreign_clients/`.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// What `scripts/test` installs.
fn installed(path: &str) -> PathBuf {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/foreign-clients").join(path);
    assert!(path.exists(), "{} is missing: scripts/test installs it", path.display());
    path
}

struct Emulator {
    process: Child,
    report: Value,
}

impl Emulator {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args(["emulator", "--report", "json", "--hub", "files:2"])
            .args(["--port", "0", "--ws-port", "0", "--wss-port", "0"])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, report: serde_json::from_str(&line).unwrap() }
    }

    fn connection_string(&self, kind: &str) -> &str {
        self.report["hubs"][0][kind].as_str().unwrap()
    }

    fn certificate_authority(&self) -> &str {
        self.report["certificate_authority"].as_str().unwrap()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _waited = self.process.wait();
    }
}

/// Runs a client to its end; each of its waits has a limit of its own.
fn run(client: &mut Command) {
    let ended = client.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    let complaints = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{client:?}\n{said}\n{complaints}");
    // One line for each part, so that none is left out.
    assert_eq!(said.lines().count(), 5, "{said}\n{complaints}");
}

fn python(arguments: &[&str]) {
    let mut command = Command::new(installed("python/bin/python"));
    run(command.arg("../../tests/foreign_clients/python/hub.py").args(arguments));
}

fn javascript(arguments: &[&str], emulator: &Emulator) {
    let mut command = Command::new("node");
    command.arg(installed("javascript/hub.mjs"));
    command.env("NODE_EXTRA_CA_CERTS", emulator.certificate_authority());
    run(command.args(arguments));
}

#[test]
fn python_over_tcp() {
    let emulator = Emulator::start();
    python(&[emulator.connection_string("connection_string"), "tcp"]);
}

#[test]
fn python_over_websocket() {
    let emulator = Emulator::start();
    python(&[emulator.connection_string("ws_connection_string"), "websocket"]);
}

#[test]
fn python_over_websocket_with_tls() {
    let emulator = Emulator::start();
    let connection_string = emulator.connection_string("wss_connection_string");
    python(&[connection_string, "websocket", emulator.certificate_authority()]);
}

#[test]
fn javascript_over_tcp() {
    let emulator = Emulator::start();
    javascript(&[emulator.connection_string("connection_string"), "tcp"], &emulator);
}

#[test]
fn javascript_over_websocket_with_tls() {
    let emulator = Emulator::start();
    javascript(&[emulator.connection_string("wss_connection_string"), "websocket"], &emulator);
}
