//! Every start position, in every state of a log: it begins where its words say, a restart repeats
//! nothing, and the first checkpoint has the offset that processors of other SDKs go on from.
#![allow(clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, LeaseEpoch,
};
use longshore::clock::Clock;
use longshore::config::PositionLost;
use longshore::event::{Incarnation, Position, SequenceNumber, StartPosition};
use longshore::state::offset_search::BEFORE_ALL;
use longshore::transport::memory::MemoryHub;
use longshore::transport::{LinkStart, OpenLink, Transport};
use longshore::{
    BatchConsumer, ConsumerHandle, ConsumerOptions, ErrorClass, Event, EventContext, OutgoingEvent,
};
use support::{Seen, drained, until};

/// A clock that says a second of 1970.
#[derive(Debug, Default)]
struct Seconds(AtomicI64);

impl Clock for Seconds {
    fn now(&self) -> SystemTime {
        at(self.0.load(Ordering::SeqCst))
    }
}

fn at(second: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second.unsigned_abs())
}

struct Ground {
    clock: Arc<Seconds>,
    hub: MemoryHub,
    checkpoints: Arc<MemoryCheckpointStore>,
}

impl Ground {
    /// A partition with an event for each of these seconds.
    fn new(seconds: impl IntoIterator<Item = i64>) -> Self {
        let clock = Arc::new(Seconds::default());
        let hub = MemoryHub::with_clock("files", 1, clock.clone());
        let ground = Self { clock, hub, checkpoints: Arc::default() };
        ground.publish(seconds);
        ground
    }

    fn publish(&self, seconds: impl IntoIterator<Item = i64>) {
        for second in seconds {
            self.clock.0.store(second, Ordering::SeqCst);
            self.hub.publish(0, OutgoingEvent::new("x"));
        }
    }

    fn start(
        &self,
        start: StartPosition,
        lost: PositionLost,
        settles: Settles,
    ) -> (ConsumerHandle, Seen) {
        let mut options = ConsumerOptions::default();
        options.start_position = start;
        options.position_lost = lost;
        let seen = Seen::default();
        let record = seen.clone();
        let handle = BatchConsumer::builder(
            Arc::new(self.hub.transport("$Default")),
            self.checkpoints.clone(),
        )
        .options(options)
        .seed(7)
        .clock(self.clock.clone())
        .event_handler(move |event: Event, _: EventContext| {
            record.record(&event);
            async move {
                if settles == Settles::Nothing {
                    std::future::pending::<()>().await;
                }
            }
        })
        .expect("valid")
        .start();
        (handle, seen)
    }

    /// Under another spelling of the names.
    fn key(&self) -> CheckpointKey {
        let scope = CheckpointScope {
            namespace: "memory".to_owned(),
            entity: "FILES".into(),
            consumer_group: "$default".into(),
        };
        CheckpointKey { scope, partition: "0".into() }
    }

    async fn stored(&self) -> Option<Checkpoint> {
        let stored = self.checkpoints.load(&self.key()).await.expect("in memory");
        stored.map(|stored| stored.checkpoint)
    }

    async fn write(&self, checkpoint: &Checkpoint) {
        let written = self.checkpoints.store(&self.key(), checkpoint, &Expected::Absent).await;
        written.expect("in memory");
    }

    /// The checkpoint of the owner that runs.
    async fn claimed(&self) -> Checkpoint {
        self.found(|checkpoint| checkpoint.lease_epoch > LeaseEpoch(0)).await
    }

    /// The first checkpoint.
    async fn first_checkpoint(&self) -> Checkpoint {
        self.found(|_| true).await
    }

    async fn found(&self, is_it: impl Fn(&Checkpoint) -> bool) -> Checkpoint {
        let give_up = tokio::time::Instant::now() + Duration::from_secs(3_600);
        loop {
            if let Some(checkpoint) = self.stored().await.filter(&is_it) {
                return checkpoint;
            }
            assert!(tokio::time::Instant::now() < give_up, "it never came");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What the handler does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settles {
    Everything,
    Nothing,
}

/// What a processor that goes by offsets would receive of these events.
fn by_offset(checkpoint: &Checkpoint, events: &[i64]) -> Vec<i64> {
    let behind = match &checkpoint.watermark {
        None => i64::MIN,
        Some(Position { offset: Some(offset), .. }) if offset.as_str() == BEFORE_ALL => i64::MIN,
        // As the hub in memory has them.
        Some(position) => {
            position.offset.as_ref().expect("an offset").as_str().parse().expect("one")
        }
    };
    events.iter().copied().filter(|number| *number > behind).collect()
}

const TO_COME: [i64; 2] = [5_000, 5_001];

#[tokio::test(start_paused = true)]
async fn every_start_in_every_state_of_a_log_begins_where_its_words_say() {
    use StartPosition::{Earliest, Latest};
    let number = |number| StartPosition::SequenceNumber(SequenceNumber(number));
    let time = |second| StartPosition::EnqueuedAt(at(second));
    // Events 0 to 9 of the seconds 100 to 109, of which the first are gone; and a gap.
    type State = (&'static str, fn() -> Ground);
    let states: [State; 5] = [
        ("full", || Ground::new(100..110)),
        ("trimmed", || {
            let ground = Ground::new(100..110);
            ground.hub.trim(0, 4);
            ground
        }),
        ("never used", || Ground::new([])),
        ("emptied", || {
            let ground = Ground::new(100..110);
            ground.hub.trim(0, 10);
            ground
        }),
        ("gaps", || {
            let ground = Ground::new(100..104);
            ground.hub.skip_numbers(0, 4);
            ground.publish(108..110);
            ground
        }),
    ];
    let all = |range: std::ops::Range<i64>| range.collect::<Vec<_>>();
    let none = Vec::new;
    // What is handled of what is there, by state; what comes later is handled in any case.
    let starts = [
        (Earliest, [all(0..10), all(4..10), none(), none(), vec![0, 1, 2, 3, 8, 9]]),
        (Latest, [none(), none(), none(), none(), none()]),
        (number(0), [all(0..10), all(4..10), none(), none(), vec![0, 1, 2, 3, 8, 9]]),
        (number(2), [all(2..10), all(4..10), none(), none(), vec![2, 3, 8, 9]]),
        // In the gap: the first one after it.
        (number(6), [all(6..10), all(6..10), none(), none(), vec![8, 9]]),
        (number(10), [none(), none(), none(), none(), none()]),
        // Not there yet.
        (number(11), [none(), none(), none(), none(), none()]),
        (number(1_000), [none(), none(), none(), none(), none()]),
        // Before the first, in the middle, at the last, after it, and yet to come.
        (time(1), [all(0..10), all(4..10), none(), none(), vec![0, 1, 2, 3, 8, 9]]),
        (time(105), [all(5..10), all(5..10), none(), none(), vec![8, 9]]),
        (time(109), [vec![9], vec![9], none(), none(), vec![9]]),
        (time(110), [none(), none(), none(), none(), none()]),
        (time(9_999), [none(), none(), none(), none(), none()]),
    ];
    for (start, handled) in starts {
        for ((state, make), handled) in states.iter().zip(handled) {
            let what = format!("{start:?} in a log that is {state}");
            let ground = make();
            let (handle, seen) = ground.start(start, PositionLost::Earliest, Settles::Everything);
            let first = ground.first_checkpoint().await;
            ground.publish(TO_COME);
            let end = if *state == "never used" { 0 } else { 10 };
            let to_come = [end, end + 1];
            let expected: Vec<i64> = handled.iter().copied().chain(to_come).collect();
            until(&what, || seen.numbers().ends_with(&to_come)).await;
            let there: Vec<i64> = match *state {
                "full" => all(0..10),
                "trimmed" => all(4..10),
                "gaps" => vec![0, 1, 2, 3, 8, 9],
                _ => none(),
            };
            let events: Vec<i64> = there.into_iter().chain(to_come).collect();
            // Written before, or after some of it: then what is left.
            let others = by_offset(&first, &events);
            assert!(expected.ends_with(&others), "{what}: {first:?}");
            assert!(drained(handle).await.is_clean(), "{what}");
            assert_eq!(seen.numbers(), expected, "{what}");

            let (handle, seen) = ground.start(start, PositionLost::Earliest, Settles::Everything);
            ground.publish([6_000]);
            until(&what, || seen.len() > 0).await;
            assert!(drained(handle).await.is_clean(), "{what}");
            assert_eq!(seen.numbers(), [end + 2], "{what}, again");
        }
    }
}

/// The first checkpoint is what the next owner goes by, whoever that is: here nothing is settled, so
/// it is all that is left.
#[tokio::test(start_paused = true)]
async fn the_first_checkpoint_leads_any_owner_to_the_same_events() {
    let number = |number| StartPosition::SequenceNumber(SequenceNumber(number));
    let time = |second| StartPosition::EnqueuedAt(at(second));
    for (start, trimmed, next) in [
        (StartPosition::Earliest, 0, 0),
        (StartPosition::Earliest, 4, 4),
        (StartPosition::Earliest, 10, 20),
        (StartPosition::Latest, 0, 20),
        (StartPosition::Latest, 10, 20),
        (number(7), 0, 7),
        (number(7), 4, 7),
        (number(2), 4, 4),
        (number(13), 0, 20),
        (number(99), 0, 20),
        (time(105), 0, 5),
        (time(105), 4, 5),
        (time(1), 4, 4),
        (time(700), 0, 20),
        (time(700), 10, 20),
    ] {
        // 0 to 9, and then a gap.
        let ground = Ground::new(100..110);
        ground.hub.skip_numbers(0, 10);
        ground.hub.trim(0, trimmed);
        let (handle, _) = ground.start(start, PositionLost::Stop, Settles::Nothing);
        let first = ground.first_checkpoint().await;
        let what = format!("{start:?}, {trimmed} trimmed: {first:?}");
        ground.publish(TO_COME);
        let begin = i64::try_from(trimmed).expect("small");
        let events: Vec<i64> = (begin..10).chain([20, 21]).collect();
        let expected: Vec<i64> = events.iter().copied().filter(|it| *it >= next).collect();
        assert_eq!(by_offset(&first, &events), expected, "{what}");
        drained(handle).await;

        let (handle, seen) = ground.start(start, PositionLost::Stop, Settles::Everything);
        until(&what, || seen.numbers().ends_with(&[21])).await;
        drained(handle).await;
        assert_eq!(seen.numbers(), expected, "{what}");
    }
}

/// As another SDK, or a release before this one, left it.
#[tokio::test(start_paused = true)]
async fn a_claim_adds_the_offset_that_a_checkpoint_lacks() {
    for (settled, trimmed, next) in [(6, 0, 7), (9, 0, 20), (2, 4, 4), (-1, 0, 0), (14, 0, 20)] {
        let ground = Ground::new(100..110);
        ground.hub.skip_numbers(0, 10);
        ground.publish([200]);
        ground.hub.trim(0, trimmed);
        let watermark = Some(Position::at(settled));
        ground.write(&Checkpoint { watermark, ..Checkpoint::default() }).await;
        let (handle, _) = ground.start(StartPosition::Latest, PositionLost::Stop, Settles::Nothing);
        let claimed = ground.claimed().await;
        let position = claimed.watermark.clone().expect("a position");
        assert_eq!(position.sequence_number, SequenceNumber(settled));
        let begin = i64::try_from(trimmed).expect("small");
        let events: Vec<i64> = (begin..10).chain([20]).collect();
        let expected: Vec<i64> = events.iter().copied().filter(|it| *it >= next).collect();
        assert_eq!(by_offset(&claimed, &events), expected, "{settled}: {claimed:?}");
        drained(handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_for_lost_positions_writes_an_offset_too() {
    for (lost, next) in [(PositionLost::Latest, 10), (PositionLost::Earliest, 0)] {
        for is_recreated in [false, true] {
            let ground = Ground::new(100..110);
            let watermark = Some(Position::at(50));
            // It is the hub's first creation.
            let incarnation = Some(Incarnation(1));
            let checkpoint = Checkpoint { watermark, incarnation, ..Checkpoint::default() };
            ground.write(&checkpoint).await;
            if is_recreated {
                ground.hub.recreate();
                ground.publish(200..210);
            }
            let (handle, _) = ground.start(StartPosition::Latest, lost, Settles::Nothing);
            let claimed = ground.claimed().await;
            let others = by_offset(&claimed, &[0, 1, 9, 10, 11]);
            assert_eq!(others.first(), Some(&next), "{lost:?}: {claimed:?}");
            drained(handle).await;
        }
    }
}

/// Another owner has the log for itself, or the hub is out of reach for a while.
#[tokio::test(start_paused = true)]
async fn a_place_that_cannot_be_looked_up_holds_no_partition_up() {
    let ground = Ground::new(100..110);
    let start = StartPosition::SequenceNumber(SequenceNumber(5));
    // The claim's look-up, in every attempt, and the first link.
    ground.hub.fail_opens(4, ErrorClass::Transient);
    let (handle, seen) = ground.start(start, PositionLost::Stop, Settles::Everything);
    until("handled", || seen.len() == 5).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(seen.numbers(), [5, 6, 7, 8, 9]);
    let left = ground.stored().await.expect("a checkpoint");
    assert_eq!(left.watermark.and_then(|at| at.offset), Some("9".into()));

    let ground = Ground::new(100..110);
    let other = OpenLink::new("0".into(), LinkStart::FirstEvent, 1).with_owner_level(Some(1));
    let _link = ground.hub.transport("$Default").open(other).await.expect("free");
    let (handle, seen) = ground.start(start, PositionLost::Stop, Settles::Everything);
    until("handled", || seen.len() == 5).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(seen.numbers(), [5, 6, 7, 8, 9]);
}
