//! Sends with keys beside sends without, over a link that takes 25 ms to answer.
//!
//! The broker is a process of its own: this program again, told so by an environment variable. Each
//! pass has a producer and a hub of its own; the sends are made at once, or by a task for each key,
//! one after the other. Pairs of passes take turns in who goes first. Figures go to
//! `target/bench/publishing.json`, which `scripts/bench-check` reads.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use longshore::OutgoingEvent;
use longshore::producer::Producer;
use longshore::transport::SendTarget;
use longshore_emulator::Emulator;

mod broker;
mod measure;

use broker::{Broker, runtime};
use measure::{cpu_now, is_trial};

const PARTITIONS: u32 = 4;
const EVENT_BYTES: usize = 256;
const ANSWER: Duration = Duration::from_millis(25);

#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    /// Tasks, a key each where there are keys.
    tasks: usize,
    /// Sends of a task.
    each: usize,
    /// Whether a task waits for the answer before its next send.
    waits: bool,
}

/// Seconds of wall and CPU for all sends, links opened before.
async fn pass(broker: &Broker, hub: String, scenario: Scenario, keyed: bool) -> (f64, f64) {
    let producer = Arc::new(Producer::new(broker.namespace.publishers()));
    let body = Bytes::from(vec![b'x'; EVENT_BYTES]);
    for partition in 0..PARTITIONS {
        let target = SendTarget::Partition(partition.to_string().as_str().into());
        producer.send_to(hub.as_str(), target, OutgoingEvent::new("")).await.expect("taken");
    }
    producer.send_to(hub.as_str(), SendTarget::Any, OutgoingEvent::new("")).await.expect("taken");
    let (wall, cpu) = (Instant::now(), cpu_now());
    let tasks = (0..scenario.tasks).map(|task| {
        let (producer, body, hub) = (Arc::clone(&producer), body.clone(), hub.clone());
        tokio::spawn(async move {
            let send = || {
                let mut event = OutgoingEvent::new(body.clone());
                event.key = keyed.then(|| format!("customer {task}"));
                producer.send_to(hub.as_str(), SendTarget::Any, event)
            };
            if scenario.waits {
                for _ in 0..scenario.each {
                    send().await.expect("taken");
                }
            } else {
                let sends = (0..scenario.each).map(|_| send());
                join_all(sends).await.into_iter().for_each(|sent| drop(sent.expect("taken")));
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(|task| task.expect("no panic"));
    let took = (wall.elapsed().as_secs_f64(), (cpu_now() - cpu).as_secs_f64());
    producer.close().await;
    took
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn main() {
    if broker::kind().is_some() {
        let builder =
            Emulator::builder().create_on_first_use(PARTITIONS).max_memory_bytes(usize::MAX);
        return broker::serve(builder.disposition_delay(ANSWER));
    }
    let (tasks, each, pairs) = if is_trial() { (100, 3, 1) } else { (1_000, 10, 5) };
    let scenarios = [
        Scenario { name: "at-once", tasks, each, waits: false },
        Scenario { name: "one-after-the-other", tasks, each, waits: true },
    ];
    let runtime = runtime();
    let broker = Broker::start("with answers after a while");
    let mut lines = Vec::new();
    for scenario in scenarios {
        let (mut keyed_s, mut unkeyed_s, mut ratios, mut cpu_us) = (vec![], vec![], vec![], vec![]);
        for pair in 0..pairs {
            let pass = |keyed: bool| {
                let hub = format!("{}-{pair}-{keyed}", scenario.name);
                runtime.block_on(pass(&broker, hub, scenario, keyed))
            };
            let first_is_keyed = pair % 2 == 0;
            let (first, second) = (pass(first_is_keyed), pass(!first_is_keyed));
            let (keyed, unkeyed) = if first_is_keyed { (first, second) } else { (second, first) };
            keyed_s.push(keyed.0);
            unkeyed_s.push(unkeyed.0);
            ratios.push(keyed.0 / unkeyed.0);
            cpu_us.push(keyed.1 * 1e6 / (tasks * each) as f64);
        }
        let line = format!(
            concat!(
                r#"{{"name":"{}","events":{},"keys":{},"pairs":{},"keyed_seconds":{:.4},"#,
                r#""unkeyed_seconds":{:.4},"ratio":{:.3},"cpu_us":{:.1}}}"#
            ),
            scenario.name,
            tasks * each,
            tasks,
            pairs,
            median(&mut keyed_s),
            median(&mut unkeyed_s),
            median(&mut ratios),
            median(&mut cpu_us),
        );
        println!("{line}");
        lines.push(line);
    }
    fs::create_dir_all("target/bench").expect("writable");
    fs::write("target/bench/publishing.json", format!("[{}]\n", lines.join(",\n")))
        .expect("writable");
}
