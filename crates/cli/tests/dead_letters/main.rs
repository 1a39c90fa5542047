//! `longshore dead-letters` and `longshore parked` as a user runs them: over a folder and over Azurite, which
//! scripts/test installs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]

#[path = "../../../../tests/azurite/mod.rs"]
mod azurite;
#[path = "../../../../tests/support/broker.rs"]
mod broker;
#[path = "../command/mod.rs"]
mod command;

mod dry_run;
#[path = "../../../../tests/support/every_type.rs"]
mod every_type;
mod many;
#[path = "../../../../tests/support/waiting.rs"]
mod waiting;

mod owner;
mod parked;
mod published;
mod reading;
mod replay;
mod requests;
mod stage;
#[path = "../../../../tests/support/storage_double/mod.rs"]
mod storage_double;
