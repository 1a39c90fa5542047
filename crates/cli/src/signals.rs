//! Ctrl-C, and the request to end of a service manager.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a command to end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens from now on: neither ends the process by itself any more.
    pub(super) fn listen() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next, and gives the exit code for ending on it.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _signal = self.interrupt.recv() => 130,
            _signal = self.terminate.recv() => 143,
        }
    }
}
