//! What is logged, for tests of what is said.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::io;
use std::sync::{Arc, Mutex};

use tracing::Level;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens to this thread while the guard is there.
    pub fn of_this_thread(&self) -> DefaultGuard {
        tracing::subscriber::set_default(self.subscriber())
    }

    /// Listens to the whole process.
    pub fn of_the_process(&self) {
        tracing::subscriber::set_global_default(self.subscriber()).expect("nobody else listens");
    }

    /// The same, with what is said for who debugs, and each span that begins.
    pub fn of_this_thread_in_detail(&self) -> DefaultGuard {
        let log = self.clone();
        tracing::subscriber::set_default(
            tracing_subscriber::fmt()
                .with_max_level(Level::DEBUG)
                .with_span_events(FmtSpan::NEW)
                .with_writer(move || log.clone())
                .with_ansi(false)
                .finish(),
        )
    }

    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync {
        let log = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(Level::INFO)
            .with_writer(move || log.clone())
            .with_ansi(false)
            .finish()
    }

    /// Begins anew.
    pub fn forget(&self) {
        self.0.lock().expect("lock").clear();
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("lock").clone()).expect("text")
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
