//! A processor of another SDK: takes a partition as those do, works on it at owner level 0, and
//! writes checkpoints without conditions.

use std::time::Duration;

use futures::FutureExt;
use longshore::checkpoint_store::Expected;
use longshore::lease_store::{Holder, LeaseStore, OwnerId, Ownership};
use longshore::transport::{Link, LinkStart, OpenLink, Transport};
use longshore::{ErrorClass, Event};
use tokio::time::{Instant, sleep, timeout};

use super::worker::identity;
use super::world::World;

/// Between two looks of the processor, at which it renews what it has.
const PACE: Duration = Duration::from_secs(5);

/// Runs until then, or until the faults have stopped; returns its name, and whether it has the
/// partition.
pub async fn process(
    world: &World,
    partition: usize,
    number: u64,
    until: Instant,
) -> (String, bool) {
    let name = format!("foreign-{number}");
    let mine = Ownership { holder: Holder::Foreign(OwnerId::new(&*name)), target: None };
    let mut link: Option<Box<dyn Link>> = None;
    let mut held = false;
    while Instant::now() < until && !world.is_calm() {
        // The others look at ages and shares before they take one; this one just takes.
        let written = write(world, &name, partition, &mine);
        if written && !held {
            world.trace(|| format!("{name} takes {partition}"));
            link = None;
        }
        held = written;
        let turn = Instant::now() + PACE;
        while held && Instant::now() < turn {
            if link.is_none() {
                link = open(world, partition).await;
            }
            let Some(open) = &mut link else {
                sleep(Duration::from_secs(1)).await;
                continue;
            };
            let mut events: Vec<Event> = Vec::new();
            let received = std::future::poll_fn(|cx| open.poll_receive(cx, 10, &mut events));
            match timeout(Duration::from_secs(1), received).await {
                Ok(Ok(_)) => {
                    let last = events.last().map(|event| event.sequence_number().0);
                    for event in &events {
                        world.oracle(|oracle| oracle.on_foreign_settled(identity(event)));
                    }
                    if let Some(last) = last {
                        world.oracle(|oracle| oracle.on_foreign_passed(partition, last));
                        world.trace(|| format!("{name} handles {partition} to {last}"));
                        world.overwrite(partition, |_| last);
                    }
                }
                // Nothing to it, until its link has no credit left.
                Ok(Err(error)) if error.class() == ErrorClass::Unreadable => {}
                Ok(Err(_)) => {
                    link = None;
                    sleep(Duration::from_secs(1)).await;
                }
                Err(_elapsed) => {}
            }
        }
    }
    (name, held)
}

pub fn release(world: &World, name: &str, partition: usize) {
    write(world, name, partition, &Ownership::default());
}

/// A compare-and-swap on what was read just before; gives up what is another's by then.
fn write(world: &World, by: &str, partition: usize, ownership: &Ownership) -> bool {
    let key = world.key(partition);
    let before = world.leases.load(&key).now_or_never().expect("at once").expect("loads");
    let expected = before.map_or(Expected::Absent, |stored| Expected::Version(stored.version));
    world.write_ownership(by, &key, ownership, &expected).is_ok()
}

async fn open(world: &World, partition: usize) -> Option<Box<dyn Link>> {
    let stored = world.stored(partition)?;
    let start = match stored.checkpoint.watermark {
        Some(position) => LinkStart::After(position.sequence_number),
        None => LinkStart::FirstEvent,
    };
    let options = OpenLink::new(world.key(partition).partition, start, 10);
    let options = options.with_owner_level(Some(0));
    world.hub.transport("$Default").open(options).await.ok()
}
