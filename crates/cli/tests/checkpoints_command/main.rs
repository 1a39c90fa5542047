//! `longshore checkpoints` as a user runs it: over the file store and over Azurite, which
//! scripts/test installs, with the broker as the hub.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]

#[path = "../../../../tests/azurite/mod.rs"]
mod azurite;
#[path = "../../../../tests/support/broker.rs"]
mod broker;
#[path = "../command/mod.rs"]
mod command;
#[path = "../../../../tests/support/mod.rs"]
mod support;

mod beside_a_worker;
mod dry_run;
mod go_on;
mod kept_aside;
mod list;
mod many;
mod owned;
mod reset;
mod stage;
