//! Three download workers and three upload workers share the partitions of two hubs, and are killed at
//! random: every file arrives, every result is there, and what was complete is not moved again.
//!
//! `LONGSHORE_CHAIN_FILES`, `LONGSHORE_CHAIN_KILLS` and `LONGSHORE_SEED` make it longer and another one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore::transfer::task::TransferResult;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use crate::azurite::{ALL, Container};
use crate::command::{Running, longshore, start};
use crate::stage::{Stage, events};
use crate::waiting::LIMIT;

/// Of each kind.
const WORKERS: usize = 3;

/// Files that a worker moves at once: as many may have to be moved again after a kill.
const SLOTS: usize = 10;

/// A drain, and a lease that has to end before it.
const PROMPT: Duration = Duration::from_secs(60);

/// What a file may take of many, on a busy machine.
const TIME_OF_A_FILE: Duration = Duration::from_millis(100);

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

struct Fleet<'a> {
    stage: &'a Stage,
    files: &'a Container,
    checkpoints: &'a Container,
}

impl Fleet<'_> {
    fn start(&self, kind: &str) -> Running {
        let mut command = longshore();
        command.args(["worker", kind, "--config", "worker.toml", "--report", "json"]);
        command.current_dir(self.stage.dir.path());
        for (key, value) in [
            ("LONGSHORE_WORKER_UPLOAD_FILES", self.files.url(ALL).as_str()),
            ("LONGSHORE_CHECKPOINT_CONTAINER", self.checkpoints.url(ALL).as_str()),
            ("LONGSHORE_HEARTBEAT_INTERVAL", "200ms"),
            ("LONGSHORE_LOOK_INTERVAL", "200ms"),
            ("LONGSHORE_LEASE_EXPIRY", "2s"),
            ("LONGSHORE_MAX_EVENTS_IN_FLIGHT", SLOTS.to_string().as_str()),
        ] {
            command.env(key, value);
        }
        start(&mut command)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_lose_no_file_and_move_none_that_was_complete() {
    let (count, kills) = (number("LONGSHORE_CHAIN_FILES", 200), number("LONGSHORE_CHAIN_KILLS", 4));
    let seed = number("LONGSHORE_SEED", rand::random::<u16>().into()) as u64;
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let stage = Stage::new().await;
    stage.configure(
        "[worker.download]\n\
         input = \"pending\"\n\
         results = \"others\"\n\
         dead_letters = \"letters\"\n\
         files = \"cache\"\n\
         [worker.upload]\n\
         input = \"others\"\n\
         results = \"done\"\n\
         dead_letters = \"letters\"\n\
         source = \"cache\"\n",
    );
    let (files, checkpoints) = (Container::create().await, Container::create().await);
    let fleet = Fleet { stage: &stage, files: &files, checkpoints: &checkpoints };
    let bodies = stage.serve(count);
    let kinds = ["download", "upload"];
    let mut workers: Vec<(&str, Running)> = Vec::new();
    for kind in kinds {
        workers.extend((0..WORKERS).map(|_| (kind, fleet.start(kind))));
    }
    // In parts, so that there is work for every kill.
    let names: Vec<&String> = bodies.keys().collect();
    for part in names.chunks(names.len().div_ceil(kills + 1)) {
        stage.publish("tasks", part.iter().copied()).await;
        sleep(Duration::from_millis(random.random_range(300..1_500))).await;
        let victim = random.random_range(0..workers.len());
        let (kind, worker) = workers.remove(victim);
        assert!(worker.kill(), "it ran");
        workers.push((kind, fleet.start(kind)));
    }

    // A task that came again may have two results.
    let results = timeout(LIMIT + TIME_OF_A_FILE * count as u32, async {
        loop {
            let came = stage.count("results").await;
            if came < count {
                sleep(Duration::from_millis(500)).await;
                continue;
            }
            let events = events(&stage.broker, "results", came).await;
            let results: Vec<TransferResult> = events
                .iter()
                .map(|event| serde_json::from_slice(event.body()).expect("a result"))
                .collect();
            let ids: BTreeSet<&str> = results.iter().map(|result| result.id.as_str()).collect();
            if ids.len() == count {
                return results;
            }
            sleep(Duration::from_millis(500)).await;
        }
    });
    let Ok(results) = results.await else {
        panic!("only {} results for {count} files", stage.count("results").await)
    };
    for (_, worker) in &workers {
        worker.terminate();
    }
    for (_, worker) in workers {
        let ended = worker.end_within(PROMPT);
        // One that took the place of the last one killed may not have connected yet. It did nothing, says so, and is
        // no clean run.
        let never_connected = ended.stderr.contains("told to stop before it had");
        ended.expect_code(if never_connected { 1 } else { 0 });
    }
    assert_eq!(stage.count("dead-letters").await, 0);
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for result in &results {
        *times.entry(&result.id).or_default() += 1;
        assert_eq!(result.bytes, bodies[&result.id].len() as u64, "{result:?}");
    }
    for (name, body) in &bodies {
        assert!(files.content(name).await.as_ref() == Some(body), "{name}");
    }
    let again = times.values().filter(|times| **times > 1).count();
    let more = stage.web.all_requests() - count;
    println!("{count} files, {kills} kills: {again} results twice, {more} files fetched again");
    assert!(more <= (kills + 1) * SLOTS, "{more} files were fetched again");
}
