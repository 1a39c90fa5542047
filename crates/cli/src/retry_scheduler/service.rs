//! The scheduler in its consumers: it runs until a signal or a failure ends it, and tells how it went.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::KIND;
use super::opened::Opened;
use super::report::{Look, Report};
use super::tally::Tally;
use crate::job::fault;
use crate::service::{left, print};
use crate::signals::Signals;
use crate::terminal::{leave, tell};
use crate::watch::Watch;
use crate::{CommandError, Ending};
use longshore::ConsumerSet;
use longshore::consumer::{
    BatchConsumer, ConsumerCounts, ConsumerSetExit, ConsumerSetHandle, ExitReason, PartitionPhase,
    PartitionSnapshot,
};

/// How long connections may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The share of the slots that one target may take.
const TARGETS_AT_ONCE: usize = 4;

/// Runs a scheduler over what was opened for it, until a signal or a failure ends it.
pub(super) async fn serve(opened: Opened) -> Result<Ending, CommandError> {
    let mut signals = Signals::listen()?;
    let (scheduler, report) = (Arc::clone(&opened.scheduler), opened.report);
    let mut running = Running {
        tally: opened.tally.clone(),
        handle: consumers(opened)?.start(),
        started: Instant::now(),
    };
    let mut watch = Watch::new();
    let ended = watch.during(running.until_ended(&mut signals), || running.look()).await;
    drop(watch);
    if let Err(code) = ended {
        leave();
        let counts = running.handle.snapshot().counts;
        print(&running.figures(&counts), report)?;
        return Ok(Ending::Stopped(code));
    }
    let exit = running.handle.join().await;
    // What a drain had to cut may wait for a hub that does not answer.
    let _closed = timeout(CLOSE_WITHIN, scheduler.close()).await;
    let mut figures = running.figures(&exit.counts());
    let ending = ending(&exit);
    if let Err(CommandError(why)) = &ending {
        figures.error = Some(why.clone());
    }
    print(&figures, report)?;
    ending
}

/// A consumer for each hub, with slots, memory and lanes that all share.
fn consumers(opened: Opened) -> Result<ConsumerSet, CommandError> {
    let Opened { settings, options, sources, scheduler, stores, dead_letters, failures, .. } =
        opened;
    let slots = options.max_events_in_flight;
    let mut set = ConsumerSet::builder()
        .max_events_in_flight(slots)
        .memory_budget_bytes(options.memory_budget_bytes)
        .lanes(scheduler.lanes((slots / TARGETS_AT_ONCE).max(1)));
    for source in sources {
        let checkpoints = Arc::clone(&stores.checkpoints);
        let mut consumer = BatchConsumer::builder(source.transport, checkpoints)
            .dead_letters(Arc::clone(&dead_letters))
            .failure_store(Arc::clone(&failures))
            .worker(format!("longshore-{KIND}"))
            .options(options.clone());
        if let Some(leases) = &stores.leases {
            consumer = consumer.leases_with(Arc::clone(leases), settings.lease_options().clone());
        }
        set = set.consumer(consumer);
    }
    Ok(set.event_handler(scheduler)?)
}

struct Running {
    handle: ConsumerSetHandle,
    tally: Tally,
    started: Instant,
}

impl Running {
    /// Waits until all consumers have ended, by themselves or because a signal drained them.
    ///
    /// # Errors
    /// The exit code of a second signal, which waits for nothing.
    async fn until_ended(&self, signals: &mut Signals) -> Result<(), u8> {
        tokio::select! {
            () = self.handle.ended() => return Ok(()),
            _code = signals.next() => {}
        }
        let in_flight = self.look().running;
        tell(format_args!("finishing {in_flight} events in flight; Ctrl-C again stops at once"));
        self.handle.drain();
        tokio::select! {
            () = self.handle.ended() => Ok(()),
            code = signals.next() => Err(code),
        }
    }

    fn figures(&self, counts: &ConsumerCounts) -> Report {
        Report::new(self.tally.told(), counts, self.started.elapsed())
    }

    fn look(&self) -> Look {
        let snapshot = self.handle.snapshot();
        let all = snapshot.entities.iter().flat_map(|entity| &entity.consumer.partitions);
        let ours: Vec<&PartitionSnapshot> =
            all.filter(|one| one.phase != PartitionPhase::Stopped).collect();
        let waiting = ours.iter().map(|one| one.lag_events).sum();
        Look {
            is_ready: self.handle.is_ready(),
            partitions: ours.len(),
            published: self.tally.published(),
            running: ours.iter().map(|one| one.in_flight).sum(),
            parked: ours.iter().map(|one| one.parked_events).sum(),
            dead_letters: snapshot.counts.dead_letters,
            waiting: if ours.is_empty() { None } else { waiting },
        }
    }
}

/// What an exit comes to.
fn ending(exit: &ConsumerSetExit) -> Result<Ending, CommandError> {
    let failed =
        |one: &&longshore::consumer::EntityExit| !matches!(one.exit.reason, ExitReason::Drained);
    if let Some(one) = exit.entities.iter().find(failed) {
        let why = fault(&one.exit).unwrap_or_else(|| one.exit.to_string());
        return Err(CommandError::new(format!("stopped: {}: {why}", one.entity)));
    }
    Ok(left(exit.cause(), exit))
}
