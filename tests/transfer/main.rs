//! The command `longshore transfer`, run as a user runs it, against a web server that does as
//! it is told.
#![cfg(all(feature = "cli", unix))]
#![allow(missing_docs, dead_code)]

#[path = "../command/mod.rs"]
mod command;
#[path = "../web/mod.rs"]
mod web;

mod again;
mod arguments;
mod bad_input;
mod full_disk;
mod interrupt;
mod terminal;
