//! The command `longshore transfer`, run as a user runs it, against a web server that does as
//! it is told.
#![cfg(unix)]
#![allow(missing_docs, dead_code)]

#[path = "../../../../tests/azurite/mod.rs"]
mod azurite;
#[path = "../../../../tests/support/broker.rs"]
mod broker;
#[path = "../../../../tests/support/closed_port.rs"]
mod closed_port;
#[path = "../command/mod.rs"]
mod command;
#[path = "../command/namespaces.rs"]
mod namespaces;
#[path = "../../../../tests/support/storage_double/mod.rs"]
mod storage_double;
#[path = "../../../../tests/web/mod.rs"]
mod web;

mod again;
mod arguments;
mod bad_input;
mod container;
mod damage;
mod dry_run;
mod full_disk;
mod interrupt;
mod limits;
mod terminal;
