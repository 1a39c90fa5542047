//! The workers of a run: started, hurt, drained, buried and replaced as the plan says.

use std::sync::Arc;
use std::time::Duration;

use longshore::consumer::{ConsumerExit, ExitReason, PartitionPhase, StopReason};
use longshore::{BatchConsumer, ConsumerHandle, ErrorClass};
use tokio::time::{Instant, sleep_until, timeout};

use super::foreign;
use super::handler::SimHandler;
use super::lanes::{Choice, LaneId};
use super::lease_port::SimLeases;
use super::operator;
use super::parking::SimFailures;
use super::plan::{Fault, MAX_WORKERS};
use super::ports::{SimSink, SimStore, SimTransport};
use super::results::Results;
use super::worker::Worker;
use super::world::{World, index};

/// How long everything may take once the faults have stopped.
pub const PATIENCE: Duration = Duration::from_secs(2 * 3_600);

/// Longer than any run.
const FOR_GOOD: Duration = Duration::from_secs(365 * 86_400);

/// What follows when a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Nothing,
    /// Another one is started this much later.
    Replace(Duration),
}

struct Process {
    worker: Arc<Worker>,
    handle: ConsumerHandle,
    then: Then,
    /// It was told to stop.
    leaving: bool,
}

pub struct Fleet {
    world: Arc<World>,
    started: u64,
    foreigners: u64,
    replays: u64,
    processes: Vec<Process>,
    /// When further workers are to be started.
    starts: Vec<Instant>,
}

/// The one place where a worker is assembled.
fn assemble(world: &Arc<World>, number: u64) -> (Arc<Worker>, ConsumerHandle) {
    let worker = Worker::new(world, number);
    let transport =
        SimTransport { worker: Arc::clone(&worker), inner: world.hub.transport("$Default") };
    let mut builder =
        BatchConsumer::builder(Arc::new(transport), Arc::new(SimStore(Arc::clone(&worker))))
            .dead_letters(Arc::new(SimSink(Arc::clone(&worker))))
            .options(world.plan.options.clone())
            .worker(worker.name.clone())
            .clock(Arc::new(worker.clock()))
            .seed(worker.seed);
    if world.plan.parks {
        builder = builder.failure_store(Arc::new(SimFailures(Arc::clone(&worker))));
    }
    if let Some(options) = &world.plan.leases {
        builder = builder.leases_with(Arc::new(SimLeases(Arc::clone(&worker))), options.clone());
    }
    match world.plan.lanes.map(|lanes| lanes.choice(&worker)) {
        Some(Choice::Rule(rule)) => builder = builder.lanes(rule),
        Some(Choice::Setting(ordering)) => {
            let mut options = world.plan.options.clone();
            options.ordering = ordering;
            builder = builder.options(options);
        }
        None => {}
    }
    let results = worker.world.plan.results.map(|plan| Results::new(&worker, plan));
    let handler = SimHandler(Arc::clone(&worker), results);
    let consumer = if world.plan.batches {
        builder.batch_handler(handler)
    } else {
        builder.event_handler(handler)
    };
    world.trace(|| format!("{} starts", worker.name));
    (worker, consumer.expect("valid options").start())
}

impl Fleet {
    pub fn new(world: &Arc<World>) -> Self {
        let mut this = Self {
            world: Arc::clone(world),
            started: 0,
            foreigners: 0,
            replays: 0,
            processes: Vec::new(),
            starts: Vec::new(),
        };
        (0..world.plan.workers).for_each(|_| this.start());
        this
    }

    fn has_leases(&self) -> bool {
        self.world.plan.leases.is_some()
    }

    pub fn start(&mut self) {
        let worker = self.start_one(Then::Nothing);
        // A process that crashed comes back after a while; without leases nobody else is there.
        let wait = if self.has_leases() { worker.random(0..=60) } else { 0 };
        if let Some(process) = self.processes.last_mut() {
            process.then = Then::Replace(Duration::from_secs(wait));
        }
    }

    fn start_one(&mut self, then: Then) -> Arc<Worker> {
        let (worker, handle) = assemble(&self.world, self.started);
        self.started += 1;
        self.processes.push(Process { worker: Arc::clone(&worker), handle, then, leaving: false });
        worker
    }

    /// Those that are to stay.
    fn staying(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| !process.leaving)
    }

    /// The staying worker that a fault means.
    fn nth(&mut self, number: usize) -> Option<&mut Process> {
        let count = self.staying().count().max(1);
        self.processes.iter_mut().filter(|process| !process.leaving).nth(number % count)
    }

    // What goes on by itself.

    /// Looks after the workers until `until`.
    pub async fn tend(&mut self, until: Instant) {
        let world = Arc::clone(&self.world);
        loop {
            self.bury_the_dead();
            self.take_exits().await;
            self.restart_what_stopped();
            let now = Instant::now();
            let due = self.starts.iter().filter(|at| **at <= now).count();
            self.starts.retain(|at| *at > now);
            (0..due).for_each(|_| self.start());
            if now >= until {
                return;
            }
            if world.has_failed() {
                // Nothing is started again: where processes die at once, that takes no time.
                return sleep_until(until).await;
            }
            let next = self.starts.iter().copied().chain([until, now + Duration::from_secs(1)]);
            let next = next.min().unwrap_or(until);
            tokio::select! {
                biased;
                () = world.death.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    fn then(&mut self, then: Then) {
        if let Then::Replace(after) = then {
            self.starts.push(Instant::now() + after);
        }
    }

    fn bury_the_dead(&mut self) {
        while let Some(at) = self.processes.iter().position(|process| process.worker.is_dead()) {
            let dead = self.processes.remove(at);
            self.world.oracle(|oracle| oracle.count("died"));
            dead.handle.abort();
            // One that was to come and go may be the last.
            let is_last =
                self.has_leases() && self.starts.is_empty() && self.staying().count() == 0;
            self.then(if is_last { Then::Replace(Duration::ZERO) } else { dead.then });
        }
    }

    async fn take_exits(&mut self) {
        let mut at = 0;
        while let Some(process) = self.processes.get_mut(at) {
            if timeout(Duration::ZERO, process.handle.ended()).await.is_err() {
                at += 1;
                continue;
            }
            let exit = process.handle.join().await;
            let process = self.processes.remove(at);
            self.on_exit(&process, &exit);
            self.then(process.then);
        }
    }

    /// A partition that stopped for good needs an operator.
    fn restart_what_stopped(&mut self) {
        let world = Arc::clone(&self.world);
        for process in self.processes.iter_mut().filter(|process| !process.leaving) {
            let snapshot = process.handle.snapshot();
            if snapshot.partitions.iter().any(|one| one.phase == PartitionPhase::Stopped) {
                world.trace(|| format!("{} has a partition that stopped", process.worker.name));
                process.leave(process.then);
            }
        }
    }

    /// Takes in how a process ended by itself.
    fn on_exit(&self, process: &Process, exit: &ConsumerExit) {
        let name = &process.worker.name;
        self.world.trace(|| format!("{name} ended: {:?}", exit.reason));
        let is_alone = !self.processes.iter().any(|other| other.then == Then::Nothing);
        let is_behind = exit.partitions.iter().any(|partition| partition.checkpoint_behind);
        self.world.oracle(|oracle| {
            if matches!(exit.reason, ExitReason::Failed(_)) {
                oracle.violations.push(format!("{name} failed: {:?}", exit.reason));
            }
            for partition in &exit.partitions {
                oracle.count(match &partition.reason {
                    StopReason::Drained if partition.cut_handlers > 0 => "exit: drain cut",
                    StopReason::Drained => "exit: drained",
                    StopReason::HandedOff => "exit: handed off",
                    StopReason::Lost(_) => "exit: lost at the broker",
                    StopReason::LeaseLost => "exit: lease lost",
                    StopReason::Superseded(_) => "exit: superseded",
                    StopReason::PositionLost(_) => "exit: position lost",
                    StopReason::Failed(_) => "exit: refused for good",
                    StopReason::Aborted(_) => "exit: aborted",
                    _ => "exit: other",
                });
                let at = index(&partition.partition);
                if matches!(partition.reason, StopReason::Drained) && partition.checkpoint_behind {
                    oracle.on_drained_behind(name, at);
                }
                let clean = matches!(partition.reason, StopReason::Drained)
                    && partition.cut_handlers == 0
                    && !partition.checkpoint_behind;
                if clean && !self.has_leases() && is_alone {
                    oracle.on_ended_clean(at, name, 0);
                }
            }
            oracle.on_ended(name, is_behind);
        });
        let snapshot = process.handle.snapshot();
        if snapshot.memory_used_bytes + snapshot.slots_in_use > 0 {
            let (bytes, slots) = (snapshot.memory_used_bytes, snapshot.slots_in_use);
            self.world.violation(format!("{name} ended and holds {bytes} bytes, {slots} slots"));
        }
    }

    // Faults.

    pub fn suffer(&mut self, fault: Fault) {
        let (world, now) = (Arc::clone(&self.world), Instant::now());
        world.trace(|| format!("{fault:?}"));
        world.oracle(|oracle| oracle.count(fault.name()));
        match fault {
            Fault::Crash { worker, steps } => {
                if let Some(process) = self.nth(worker) {
                    process.worker.die_in(steps);
                }
            }
            Fault::Join if self.processes.len() < MAX_WORKERS => self.start(),
            Fault::Visit { lasts } if self.processes.len() < MAX_WORKERS => {
                let worker = self.start_one(Then::Nothing);
                tokio::spawn(async move {
                    sleep_until(now + lasts).await;
                    if !worker.world.is_calm() {
                        worker.die();
                    }
                });
            }
            Fault::Doze { step, lasts } if self.processes.len() < MAX_WORKERS => {
                self.start();
                if let Some(process) = self.processes.last() {
                    process.worker.doze_in_claim(step, lasts);
                }
            }
            Fault::Join | Fault::Visit { .. } | Fault::Doze { .. } => {}
            Fault::Leave { worker } if self.staying().count() > 1 => {
                if let Some(process) = self.nth(worker) {
                    process.leave(Then::Nothing);
                }
            }
            Fault::Leave { worker } | Fault::Restart { worker } => self.restart(worker),
            Fault::Cut { worker, from, lasts } => {
                if let Some(process) = self.nth(worker) {
                    process.worker.cut(from, now + lasts);
                }
            }
            Fault::Zombie { from } => {
                // Two that know nothing of each other may take partitions in turns.
                world.oracle(|oracle| oracle.on_rough());
                if let Some(process) = self.nth(0) {
                    process.worker.cut(from, now + FOR_GOOD);
                    process.then = Then::Nothing;
                    process.leaving = true;
                    self.start();
                }
            }
            Fault::StoreDown { lasts, hangs } => {
                world.oracle(|oracle| oracle.on_stores_down());
                world.close_stores(lasts, hangs);
            }
            Fault::EndLinks { partition, class } => {
                match class {
                    ErrorClass::BadPosition | ErrorClass::PartitionLost => {
                        world.oracle(|oracle| oracle.on_refused(partition));
                    }
                    // It ends for good, and its last checkpoint has the time of a drain.
                    ErrorClass::Permanent => {
                        world.oracle(|oracle| oracle.on_stopped(partition));
                    }
                    _ => {}
                }
                world.oracle(|oracle| oracle.on_links_ended(partition));
                world.hub.end_links(partition, class);
            }
            Fault::HangLinks { partition } => world.hub.hang_links(partition),
            Fault::FailOpens { times, class } => world.hub.fail_opens(times, class),
            Fault::FailReads { times, class } => world.hub.fail_reads(times, class),
            Fault::Recreate => {
                world.oracle(|oracle| oracle.on_recreated());
                world.hub.recreate();
            }
            Fault::Trim { partition, events } => {
                world.oracle(|oracle| oracle.on_trimmed(partition, events));
                world.hub.trim(partition, events);
            }
            Fault::Replay { canary, is_killed } => {
                self.replays += 1;
                operator::replay(&world, self.replays, canary, is_killed);
            }
            Fault::SinkDown { lasts } => world.close_sink(lasts),
            Fault::Overwrite { partition, back } => {
                world.overwrite(partition, |number| (number - back).max(0));
            }
            Fault::Foreign { partition, lasts, dies } => {
                self.foreigners += 1;
                let number = self.foreigners;
                let until = now + lasts;
                tokio::spawn(async move {
                    let (processor, held) =
                        foreign::process(&world, partition, number, until).await;
                    if held && !dies {
                        foreign::release(&world, &processor, partition);
                    }
                });
            }
            Fault::Reset { partition, place } => world.reset(partition, place),
            Fault::CloseLane { worker, lane, lasts } => {
                if let Some(process) = self.nth(worker) {
                    process.close_lane(lane, lasts);
                }
            }
            Fault::OpenLane { worker, lane } => {
                if let Some(process) = self.nth(worker) {
                    process.open_lane(lane);
                }
            }
            Fault::CapLanes { worker, cap } => {
                if let Some(process) = self.nth(worker) {
                    process.cap_lanes(cap);
                }
            }
        }
    }

    /// Closes a lane of every worker.
    pub fn close_lane(&self, lane: LaneId, lasts: Duration) {
        self.processes.iter().for_each(|process| process.close_lane(lane, lasts));
    }

    /// Opens a lane of every worker.
    pub fn open_lane(&self, lane: LaneId) {
        self.processes.iter().for_each(|process| process.open_lane(lane));
    }

    fn restart(&mut self, worker: usize) {
        let leases = self.has_leases();
        if let Some(process) = self.nth(worker) {
            // With leases its successor starts at once, and the two share meanwhile.
            process.leave(if leases { Then::Nothing } else { Then::Replace(Duration::ZERO) });
            if leases {
                self.start();
            }
        }
    }

    // The end.

    /// Whether something is in flight, or not settled.
    pub fn is_busy(&self) -> bool {
        self.processes.iter().any(|process| {
            let snapshot = process.handle.snapshot();
            snapshot.partitions.iter().any(|one| one.in_flight + one.unsettled_events > 0)
        })
    }

    /// How many partitions run on each worker that stays; `None` while some worker is about to
    /// stop, or to start.
    pub fn shares(&self) -> Option<Vec<usize>> {
        let all_stay = self.processes.iter().all(|process| !process.leaving);
        let running = |process: &Process| {
            let snapshot = process.handle.snapshot();
            let running =
                snapshot.partitions.iter().filter(|one| one.phase == PartitionPhase::Running);
            running.count()
        };
        (all_stay && self.starts.is_empty()).then(|| self.processes.iter().map(running).collect())
    }

    /// Ends those that were cut off for good.
    pub fn end_zombies(&mut self) {
        if self.has_leases() {
            return;
        }
        for process in self.processes.iter_mut().filter(|one| one.then == Then::Nothing) {
            process.leave(Then::Nothing);
        }
    }

    /// Drains all, and expects clean exits.
    pub async fn drain(&mut self) {
        for process in &mut self.processes {
            process.leave(Then::Nothing);
        }
        for mut process in std::mem::take(&mut self.processes) {
            let name = process.worker.name.clone();
            match timeout(PATIENCE, process.handle.join()).await {
                Ok(exit) => {
                    self.on_exit(&process, &exit);
                    if !exit.is_clean() {
                        self.world.violation(format!("the last drain was not clean: {exit:?}"));
                    }
                }
                Err(_elapsed) => self.world.violation(format!("{name} did not end")),
            }
        }
    }

    pub fn describe(&self) -> String {
        let one = |process: &Process| {
            let (name, leaving) = (&process.worker.name, process.leaving);
            format!("{name} leaving {leaving}: {:?}", process.handle.snapshot().partitions)
        };
        self.processes.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

impl Process {
    fn leave(&mut self, then: Then) {
        self.then = then;
        if !std::mem::replace(&mut self.leaving, true) {
            let world = &self.worker.world;
            world.trace(|| format!("{} is told to stop", self.worker.name));
            world.oracle(|oracle| oracle.on_leaving(&self.worker.name));
        }
        self.handle.drain();
    }

    fn close_lane(&self, lane: LaneId, lasts: Duration) {
        let (world, name) = (&self.worker.world, &self.worker.name);
        let now = world.begun().elapsed();
        world.oracle(|oracle| oracle.on_lane_closed(name, lane, now, lasts));
        self.handle.close_lane(&lane.lane(), lasts).expect("shorter than the longest");
    }

    fn open_lane(&self, lane: LaneId) {
        self.worker.world.oracle(|oracle| oracle.on_lane_opened(&self.worker.name, lane));
        self.handle.open_lane(&lane.lane());
    }

    fn cap_lanes(&self, cap: usize) {
        let (world, name) = (&self.worker.world, &self.worker.name);
        let now = world.begun().elapsed();
        world.oracle(|oracle| oracle.on_lanes_capped(name, cap, now));
        self.handle.set_lane_cap(cap).expect("limited lanes");
    }
}
