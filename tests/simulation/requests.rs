//! How many requests a fleet sends to the store in an hour: counted, and written to docs/tuning.md.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use longshore::OutgoingEvent;
use tokio::time::Instant;

use super::fleet::Fleet;
use super::plan::Plan;
use super::run::{is_placed, runtime};
use super::world::World;

/// How long is counted; the table says what that makes in an hour.
const COUNTED: Duration = Duration::from_secs(600);

const BEGIN: &str = "<!-- counted by the simulator -->\n";
const END: &str = "<!-- end -->";

/// Requests by kind, in an hour.
type Requests = BTreeMap<&'static str, u64>;

/// What a fleet sends once its partitions are placed. `busy`: every partition gets an event every
/// half second.
fn count(partitions: usize, workers: usize, busy: bool) -> Requests {
    let runtime = runtime();
    let requests = runtime.block_on(async {
        let world = World::new(Plan::quiet(partitions, workers), 0);
        world.calm_down();
        let mut fleet = Fleet::new(&world);
        let give_up = Instant::now() + Duration::from_secs(3_600);
        while !is_placed(&world, &fleet) {
            assert!(Instant::now() < give_up, "never placed: {:?}", fleet.shares());
            fleet.tend(Instant::now() + Duration::from_secs(10)).await;
        }
        // What is under way from then is over.
        fleet.tend(Instant::now() + Duration::from_secs(120)).await;
        world.take_requests();
        let until = Instant::now() + COUNTED;
        while busy && Instant::now() < until {
            for partition in 0..partitions {
                let id = world.oracle(|oracle| oracle.next_id());
                let event = OutgoingEvent::new(id.to_string());
                let number = world.hub.publish(partition, event).expect("a partition of it");
                world.oracle(|oracle| oracle.on_published(partition, number.0));
            }
            fleet.tend(Instant::now() + Duration::from_millis(500)).await;
        }
        fleet.tend(until).await;
        world.take_requests()
    });
    runtime.shutdown_background();
    let hours = COUNTED.as_secs_f64() / 3_600.0;
    requests.into_iter().map(|(kind, count)| (kind, (count as f64 / hours) as u64)).collect()
}

/// A number with a comma before every third digit.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const HEAD: &str = "
| partitions | workers | heartbeats | listings of leases | listings of checkpoints | other writes and reads | all |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: |
";

fn row(partitions: usize, workers: usize) -> String {
    let requests = count(partitions, workers, false);
    let of = |kind| requests.get(kind).copied().unwrap_or(0);
    // Ownerships and members are listed one after the other; a page has 5,000 records.
    let (heartbeats, looks) = (of("heartbeat"), 2 * of("lease list"));
    let checkpoints = of("checkpoint list");
    let all: u64 = requests.values().sum::<u64>() + of("lease list");
    let other = all - heartbeats - looks - checkpoints;
    let cells = [heartbeats, looks, checkpoints, other, all].map(grouped).join(" | ");
    format!("| {} | {workers} | {cells} |\n", grouped(partitions as u64))
}

fn writes_of_a_busy_partition() -> String {
    let written = count(4, 1, true).get("checkpoint write").copied().unwrap_or(0) / 4;
    let written = grouped(written);
    format!(
        "\nA partition that gets events all the time adds {written} writes of its checkpoint, with \
         the default\n`checkpoint_min_interval`.\n\n"
    )
}

/// The rows of a thousand partitions take minutes: they are counted when the table is written.
#[test]
fn the_documented_requests_are_those_that_are_sent() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tuning.md");
    let text = std::fs::read_to_string(&path).expect("readable");
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (documented, after) = rest.split_once(END).expect("where the table ends");
    let writes = std::env::var_os("LONGSHORE_WRITE_DOCS").is_some();
    let counts: &[usize] = if writes { &[4, 32, 1_024] } else { &[4, 32] };
    let rows: Vec<String> = counts
        .iter()
        .flat_map(|partitions| [1, 8, 64].map(|workers| row(*partitions, workers)))
        .collect();
    let busy = writes_of_a_busy_partition();
    if writes {
        let table = format!("{HEAD}{}{busy}", rows.concat());
        std::fs::write(path, format!("{before}{BEGIN}{table}{END}{after}")).expect("writable");
        return;
    }
    for line in rows.iter().chain([&busy]) {
        assert!(
            documented.contains(line.as_str()),
            "the docs say otherwise than was counted: {line}\nLONGSHORE_WRITE_DOCS=1 writes it"
        );
    }
}
