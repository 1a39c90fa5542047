//! Arbitrary bytes for every parser that reads bytes from outside.
//!
//! A target is a function that panics where its property does not hold. Those of what is private are
//! beside it, in a module `fuzzing` that only the feature `testing` builds; the others are here. What each may allocate, in
//! relation to what it reads, is in [`TARGETS`].
//!
//! `seeds/TARGET/` holds valid encodings, and inputs that once broke something: `tests/seeds.rs` runs
//! them, and some changes of them, with every `cargo test`. `scripts/fuzz` runs libFuzzer over them.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

mod checkpoint_lines;
mod dead_letters;
mod event_lines;
#[path = "../../crates/cli/src/json.rs"]
#[allow(unreachable_pub, reason = "the command's own, with which it writes lines")]
mod json;
mod list_lines;
pub mod memory;
mod secrets;
mod tasks;

/// A parser, and what holds of it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of the folder of its seeds.
    pub name: &'static str,
    run: fn(&[u8]),
    /// What it may have allocated at one time, beside [`BASE_BYTES`], for each byte that it reads.
    bytes_for_each: usize,
}

/// What any target may have allocated at one time: buffers of a fixed size.
const BASE_BYTES: usize = 1024 * 1024;

const fn target(name: &'static str, run: fn(&[u8]), bytes_for_each: usize) -> Target {
    Target { name, run, bytes_for_each }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("addresses", longshore_emulator::fuzzing::addresses, 64),
    target("amqp_connections", longshore_emulator::fuzzing::connections, 512),
    target("amqp_frames", longshore_emulator::fuzzing::frames, 256),
    target("amqp_values", longshore_emulator::fuzzing::values, 256),
    target("broker_files", longshore_emulator::fuzzing::configuration, 256),
    target("checkpoint_blobs", longshore::checkpoint_store::blob::fuzzing::checkpoint_blobs, 256),
    target("checkpoint_files", longshore::checkpoint_store::file::fuzzing::checkpoint_files, 256),
    target("checkpoint_lines", checkpoint_lines::checkpoint_lines, 256),
    target("connection_strings", longshore::transport::event_hubs::fuzzing::connection_strings, 64),
    target("dead_letters", dead_letters::dead_letters, 512),
    target("event_batches", longshore_emulator::fuzzing::batches, 512),
    target("event_lines", event_lines::event_lines, 1024),
    target("event_values", longshore::transport::event_hubs::fuzzing::event_values, 512),
    target("folder_journals", longshore::blob_store::folder::fuzzing::journals, 64),
    target("http_answers", longshore::transfer::fuzzing::answers, 64),
    target("lease_blobs", longshore::lease_store::blob::fuzzing::lease_blobs, 256),
    target("list_lines", list_lines::list_lines, 256),
    target("log_records", longshore_emulator::fuzzing::records, 16),
    target("log_segments", segments, 64),
    target("settings", longshore::settings::fuzzing::settings, 1024),
    target("settled_runs", longshore::checkpoint_store::blob::fuzzing::settled_runs, 256),
    target("tasks", tasks::tasks, 256),
    target("websockets", longshore_emulator::fuzzing::websockets, 64),
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.iter().copied().find(|target| target.name == name)
    }

    /// Where its seeds are.
    pub fn seeds(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(self.name)
    }

    /// Runs it over some bytes.
    ///
    /// # Panics
    /// Where its property does not hold, or it allocates more than it may.
    pub fn check(&self, bytes: &[u8]) {
        let peak = memory::peak_of(|| (self.run)(bytes));
        let most = BASE_BYTES + bytes.len() * self.bytes_for_each;
        let (name, read) = (self.name, bytes.len());
        assert!(peak <= most, "{name} had {peak} bytes at one time for {read}; it may have {most}");
    }
}

/// A folder for one file, in memory where the machine has such.
fn segments(bytes: &[u8]) {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let in_memory = tempfile::tempdir_in("/dev/shm");
        in_memory.or_else(|_| tempfile::tempdir()).expect("a folder for temporary files")
    });
    longshore_emulator::fuzzing::segments(FOLDER.path(), bytes);
}
