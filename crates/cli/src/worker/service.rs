//! A worker in its consumer: it runs until a signal or a failure ends it, and tells how it went.

use std::sync::Arc;

use tokio::time::Instant;

use super::opened::Opened;
use super::report::Report;
use super::tally::Tally;
use super::watch::Look;
use crate::job::fault;
use crate::service::{left, print};
use crate::signals::Signals;
use crate::terminal::{leave, tell};
use crate::watch::Watch;
use crate::{CommandError, Ending};
use longshore::config::Ordering;
use longshore::consumer::{
    BatchConsumer, ConsumerCounts, ConsumerExit, ConsumerHandle, EventHandler, ExitReason,
    PartitionPhase,
};
use longshore::lanes::LaneRule;
use longshore::transfer::progress::Progress;

/// Runs a worker over what was opened for it, until a signal or a failure ends it. `lanes` are those of
/// its consumer, if it has any, where events have no order.
pub(super) async fn serve(
    opened: Opened,
    worker: impl EventHandler,
    progress: &Progress,
    lanes: Option<LaneRule>,
) -> Result<Ending, CommandError> {
    let mut signals = Signals::listen()?;
    let Opened { kind, settings, transport, stores, tally, dead_letters, failures, report, .. } =
        opened;
    let options = settings.transfer_options();
    let mut builder = BatchConsumer::builder(transport, stores.checkpoints)
        .dead_letters(dead_letters)
        .failure_store(failures)
        .worker(format!("longshore-{kind}"));
    if let Some(lanes) = lanes.filter(|_| options.ordering == Ordering::Unordered) {
        builder = builder.lanes(lanes);
    }
    if let Some(leases) = stores.leases {
        builder = builder.leases_with(leases, settings.lease_options().clone());
    }
    let mut running = Running {
        handle: builder.options(options).event_handler(worker)?.start(),
        tally,
        started: Instant::now(),
    };
    let mut watch = Watch::new();
    let ended = watch.during(running.until_ended(&mut signals), || running.look()).await;
    drop(watch);
    let figures = |running: &Running, counts: &ConsumerCounts| {
        Report::new(&running.tally.told(), counts, progress.skipped(), running.started.elapsed())
    };
    if let Err(code) = ended {
        leave();
        let counts = running.handle.snapshot().counts;
        print(&figures(&running, &counts), report)?;
        return Ok(Ending::Stopped(code));
    }
    let exit = running.handle.join().await;
    let mut figures = figures(&running, &exit.counts);
    let ending = ending(&exit);
    if let Err(CommandError(why)) = &ending {
        figures.error = Some(why.clone());
    }
    print(&figures, report)?;
    ending
}

struct Running {
    handle: ConsumerHandle,
    tally: Arc<Tally>,
    started: Instant,
}

impl Running {
    /// Waits until the consumer has ended, by itself or because a signal drained it.
    ///
    /// # Errors
    /// The exit code of a second signal, which waits for nothing.
    async fn until_ended(&self, signals: &mut Signals) -> Result<(), u8> {
        tokio::select! {
            () = self.handle.ended() => return Ok(()),
            _code = signals.next() => {}
        }
        let in_flight = self.look().running;
        tell(format_args!("finishing {in_flight} files in flight; Ctrl-C again stops at once"));
        self.handle.drain();
        tokio::select! {
            () = self.handle.ended() => Ok(()),
            code = signals.next() => Err(code),
        }
    }

    fn look(&self) -> Look {
        let snapshot = self.handle.snapshot();
        let (files, bytes) = self.tally.moved();
        let ours = || snapshot.partitions.iter().filter(|one| one.phase != PartitionPhase::Stopped);
        Look {
            is_ready: self.handle.is_ready(),
            partitions: ours().count(),
            files,
            bytes,
            running: ours().map(|one| one.in_flight).sum(),
            dead_letters: snapshot.counts.dead_letters,
            parked: ours().map(|one| one.parked_events).sum(),
            waiting: ours().next().and_then(|_| ours().map(|one| one.lag_events).sum()),
        }
    }
}

/// What an exit comes to.
fn ending(exit: &ConsumerExit) -> Result<Ending, CommandError> {
    if !matches!(exit.reason, ExitReason::Drained) {
        let why = fault(exit).unwrap_or_else(|| exit.to_string());
        return Err(CommandError::new(format!("stopped: {why}")));
    }
    Ok(left(exit.cause(), exit))
}
