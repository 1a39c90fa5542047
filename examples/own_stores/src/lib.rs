//! Stores of one's own: what longshore asks of them, and the contract suites that hold them to it
//! (`tests/contract.rs`).
//!
//! `cargo run` runs a worker over both.

mod file;
mod sqlite;

pub use file::FileDeadLetterSink;
pub use sqlite::SqliteCheckpointStore;
