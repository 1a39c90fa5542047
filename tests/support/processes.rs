//! Tests of more than one process: the others are the test program again, told by its environment
//! what they are.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::waiting::within;

const ROLE: &str = "LONGSHORE_TEST_ROLE";

/// What this process is, where it is not the test.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A number that the environment may set.
pub fn number(variable: &str, otherwise: usize) -> usize {
    let number = std::env::var(variable).ok();
    number.map_or(otherwise, |number| number.parse().expect("a number"))
}

/// This program in a role, as its test `a_process_of_the_tests`; what it prints, line by line.
pub fn process(
    role: &str,
    environment: &[(&str, String)],
) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().expect("a program"))
        .args(["--exact", "a_process_of_the_tests", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    (child, lines)
}

/// The next line that begins with this word; the rest of it.
pub async fn line(lines: &mut Lines<BufReader<ChildStdout>>, word: &str) -> String {
    loop {
        let line = within("a line", lines.next_line()).await.expect("read").expect("it goes on");
        if let Some(rest) = line.split_once(word).map(|(_, rest)| rest) {
            return rest.trim().to_owned();
        }
    }
}
