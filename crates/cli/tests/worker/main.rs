//! `longshore worker` as a service manager runs it: settings from a file, tasks and results over brokers,
//! files from a web server that does as it is told.
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
#[path = "../../../../tests/support/waiting.rs"]
mod waiting;
#[path = "../../../../tests/web/mod.rs"]
mod web;

mod chain;
mod configuration;
mod downloads;
#[cfg(target_os = "linux")]
mod full_disk;
mod killed;
mod several;
mod stage;
mod uploads;
