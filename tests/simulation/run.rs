//! One run: workers are started, hurt and replaced as the plan says; then the faults stop, and
//! everything must come to its end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use longshore::consumer::{ConsumerExit, ExitReason, PartitionPhase, StopReason};
use longshore::{BatchConsumer, ConsumerHandle, ErrorClass};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::handler::SimHandler;
use super::plan::{Fault, Plan};
use super::ports::{SimSink, SimStore, SimTransport};
use super::world::{Worker, World};

/// How long everything may take once the faults have stopped.
const PATIENCE: Duration = Duration::from_secs(2 * 3_600);

pub struct Report {
    pub plan: Plan,
    pub violations: Vec<String>,
    pub lines: Vec<String>,
    pub hash: u64,
    pub events: usize,
    pub calls: u64,
    pub seen: BTreeMap<&'static str, u64>,
}

struct Process {
    worker: Arc<Worker>,
    handle: ConsumerHandle,
}

struct Fleet {
    world: Arc<World>,
    started: u64,
    primary: Process,
    /// Alive, and cut off from something.
    zombies: Vec<Process>,
}

/// The one place where a worker is assembled.
fn start(world: &Arc<World>, index: u64) -> Process {
    let worker = Worker::new(world, index);
    let transport =
        SimTransport { worker: Arc::clone(&worker), inner: world.hub.transport("$Default") };
    let builder =
        BatchConsumer::builder(Arc::new(transport), Arc::new(SimStore(Arc::clone(&worker))))
            .dead_letters(Arc::new(SimSink(Arc::clone(&worker))))
            .options(world.plan.options.clone())
            .worker(worker.name.clone())
            .clock(Arc::new(worker.clock()))
            .seed(worker.seed);
    let handler = SimHandler(Arc::clone(&worker));
    let consumer = if world.plan.batches {
        builder.batch_handler(handler)
    } else {
        builder.event_handler(handler)
    };
    world.trace(|| format!("{} starts", worker.name));
    Process { worker, handle: consumer.expect("valid options").start() }
}

impl Fleet {
    fn replace(&mut self) -> Process {
        self.started += 1;
        let next = start(&self.world, self.started);
        std::mem::replace(&mut self.primary, next)
    }

    /// Takes in how a process ended by itself.
    fn on_exit(&self, name: &str, exit: &ConsumerExit) {
        self.world.trace(|| format!("{name} ended: {:?}", exit.reason));
        self.world.oracle(|oracle| {
            if matches!(exit.reason, ExitReason::Failed(_)) {
                oracle.violations.push(format!("{name} failed: {:?}", exit.reason));
            }
            for partition in &exit.partitions {
                oracle.count(match &partition.reason {
                    StopReason::Drained if partition.cut_handlers > 0 => "exit: drain cut",
                    StopReason::Drained => "exit: drained",
                    StopReason::Lost(_) => "exit: lost at the broker",
                    StopReason::Superseded(_) => "exit: superseded",
                    StopReason::PositionLost(_) => "exit: position lost",
                    StopReason::Failed(_) => "exit: refused for good",
                    _ => "exit: other",
                });
                let clean = matches!(partition.reason, StopReason::Drained)
                    && partition.cut_handlers == 0
                    && !partition.checkpoint_behind;
                if clean && self.zombies.is_empty() {
                    let index = partition.partition.as_str().parse().expect("a number");
                    oracle.on_ended_clean(index, name);
                }
            }
        });
    }

    /// Drains the worker and starts another one; a worker that dies meanwhile is dead.
    async fn restart(&mut self) {
        self.primary.handle.drain();
        let mut ended = false;
        tokio::select! {
            biased;
            () = self.primary.worker.died.notified() => {}
            () = self.primary.handle.ended() => ended = true,
        }
        if ended {
            let exit = self.primary.handle.join().await;
            self.on_exit(&self.primary.worker.name, &exit);
            self.replace();
        } else {
            self.bury();
        }
    }

    /// The worker died: its tasks go, and another one is started.
    fn bury(&mut self) {
        self.world.oracle(|oracle| oracle.count("died"));
        let dead = self.replace();
        dead.handle.abort();
    }

    /// Looks after the workers until `until`.
    async fn tend(&mut self, until: Instant) {
        while Instant::now() < until {
            tokio::select! {
                biased;
                () = self.primary.worker.died.notified() => { self.bury(); continue; }
                () = sleep_until(until.min(Instant::now() + Duration::from_millis(500))) => {}
            }
            self.reap().await;
            let snapshot = self.primary.handle.snapshot();
            let stopped =
                snapshot.partitions.iter().any(|one| one.phase == PartitionPhase::Stopped);
            let ended = timeout(Duration::ZERO, self.primary.handle.ended()).await.is_ok();
            if stopped || ended {
                self.restart().await;
            }
        }
    }

    async fn reap(&mut self) {
        for mut zombie in std::mem::take(&mut self.zombies) {
            if timeout(Duration::ZERO, zombie.handle.ended()).await.is_ok() {
                let exit = zombie.handle.join().await;
                let name = zombie.worker.name.clone();
                self.zombies.push(zombie);
                self.on_exit(&name, &exit);
                self.zombies.pop();
            } else {
                self.zombies.push(zombie);
            }
        }
    }

    async fn suffer(&mut self, fault: Fault) {
        let (world, hub) = (Arc::clone(&self.world), &self.world.hub);
        world.trace(|| format!("{fault:?}"));
        world.oracle(|oracle| oracle.count(fault.name()));
        match fault {
            Fault::Crash { steps } => self.primary.worker.die_in(steps),
            Fault::Restart => self.restart().await,
            Fault::Zombie { cut_store } => {
                self.primary.worker.cut(cut_store);
                let zombie = self.replace();
                self.zombies.push(zombie);
            }
            Fault::EndLinks { partition, class } => {
                if class == ErrorClass::BadPosition {
                    world.oracle(|oracle| oracle.on_refused(partition));
                }
                hub.end_links(partition, class);
            }
            Fault::HangLinks { partition } => hub.hang_links(partition),
            Fault::FailOpens { times, class } => hub.fail_opens(times, class),
            Fault::FailReads { times, class } => hub.fail_reads(times, class),
            Fault::Recreate => {
                world.oracle(|oracle| oracle.on_recreated());
                hub.recreate();
            }
            Fault::Trim { partition, events } => {
                world.oracle(|oracle| oracle.on_trimmed(partition, events));
                hub.trim(partition, events);
            }
            Fault::SinkDown { lasts } => world.close_sink(lasts),
            Fault::Overwrite { partition, back } => world.overwrite(partition, back),
        }
    }

    /// Waits until everything is settled and checkpointed.
    async fn finish(&mut self) {
        let world = Arc::clone(&self.world);
        world.calm_down();
        world.hub.fail_opens(0, ErrorClass::Transient);
        world.hub.fail_reads(0, ErrorClass::Transient);
        self.tend(Instant::now() + Duration::from_secs(60)).await;
        // Whoever hears nothing of its partition's loss is harmless, and ends when it is told to.
        for mut zombie in std::mem::take(&mut self.zombies) {
            zombie.handle.drain();
            let exit = timeout(PATIENCE, zombie.handle.join()).await;
            world.trace(|| format!("{} ended at last: {}", zombie.worker.name, exit.is_ok()));
            if exit.is_err() {
                let line = format!("{} did not end", zombie.worker.name);
                world.oracle(|oracle| oracle.violations.push(line));
            }
        }
        let give_up = Instant::now() + PATIENCE;
        loop {
            self.tend(Instant::now() + Duration::from_secs(1)).await;
            let (unsettled, behind) = world.oracle(|oracle| (oracle.unsettled(), oracle.behind()));
            let snapshot = self.primary.handle.snapshot();
            let busy =
                snapshot.partitions.iter().any(|one| one.in_flight + one.unsettled_events > 0);
            if unsettled.is_empty() && behind.is_empty() && !busy {
                break;
            }
            if Instant::now() > give_up {
                let zombies: Vec<_> = self.zombies.iter().map(|one| &one.worker.name).collect();
                let few: Vec<_> = unsettled.iter().take(5).collect();
                let line = format!(
                    "not done in {PATIENCE:?}: {} unsettled, first {few:?}; checkpoints behind \
                     {behind:?}; zombies {zombies:?}; {snapshot:?}",
                    unsettled.len(),
                );
                return world.oracle(|oracle| oracle.violations.push(line));
            }
        }
        let before = world.oracle(|oracle| oracle.calls());
        self.primary.handle.drain();
        let exit = self.primary.handle.join().await;
        self.on_exit(&self.primary.worker.name, &exit);
        let held = self.primary.handle.snapshot().memory_used_bytes;
        if held > 0 {
            world.oracle(|oracle| {
                oracle.violations.push(format!("{held} bytes are held at the end"))
            });
        }
        if !exit.is_clean() {
            let line = format!("the last drain was not clean: {exit:?}");
            world.oracle(|oracle| oracle.violations.push(line));
        }
        self.replace();
        self.tend(Instant::now() + Duration::from_secs(10)).await;
        world.oracle(|oracle| {
            let after = oracle.calls();
            // A worker that starts again may find what a writer without fences left.
            if after != before && !oracle.was_overwritten() {
                oracle.violations.push(format!("{} calls after a clean end", after - before));
            }
        });
    }
}

/// What happens at a time.
enum Step {
    Publish(super::plan::Publish),
    Fault(Fault),
}

pub fn run(plan: Plan, kept_lines: usize) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let (world, events) = runtime.block_on(async {
        let world = World::new(plan, kept_lines);
        let begun = Instant::now();
        let mut steps: Vec<(Duration, Step)> = Vec::new();
        steps.extend(world.plan.publishes.iter().map(|(at, one)| (*at, Step::Publish(*one))));
        steps.extend(world.plan.faults.iter().map(|(at, one)| (*at, Step::Fault(*one))));
        steps.sort_by_key(|(at, _)| *at);
        let mut steps = VecDeque::from(steps);
        let primary = start(&world, 0);
        let mut fleet =
            Fleet { world: Arc::clone(&world), started: 0, primary, zombies: Vec::new() };
        while let Some((at, step)) = steps.pop_front() {
            fleet.tend(begun + at).await;
            match step {
                Step::Publish(publish) => world.publish(publish),
                Step::Fault(fault) => fleet.suffer(fault).await,
            }
        }
        fleet.tend(begun + world.plan.calm_at).await;
        fleet.finish().await;
        sleep(Duration::ZERO).await;
        let events = world.oracle(|oracle| oracle.events());
        (world, events)
    });
    runtime.shutdown_background();
    let (violations, calls, seen) =
        world.oracle(|oracle| (oracle.violations.clone(), oracle.calls(), oracle.seen.clone()));
    Report {
        plan: world.plan.clone(),
        violations,
        lines: world.lines(),
        hash: world.hash(),
        events,
        calls,
        seen,
    }
}
