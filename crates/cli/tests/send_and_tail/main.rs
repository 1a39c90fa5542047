//! `longshore send` and `longshore tail` as a user runs them, with the broker as the hub.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]

#[path = "../../../../tests/support/broker.rs"]
mod broker;
#[path = "../command/mod.rs"]
mod command;

mod exact;
mod send;
mod stage;
mod tail;
