//! Events that the client cannot decode are dead letters in their place, and nothing behind them waits.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::checkpoint_store::{Checkpoint, CheckpointStore, Expected, SettledRun};
use longshore::consumer::{PartitionPhase, StopReason};
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::event::{Incarnation, Position, SequenceNumber};
use longshore::transport::memory::MemoryTransport;
use longshore::transport::{Link, OpenLink, Transport};
use longshore::{
    BatchConsumer, ConsumerOptions, Error, ErrorClass, Event, EventConsumer, EventContext,
    OutgoingEvent,
};
use support::forward::{Over, OverTransport};
use support::{Harness, drained, settled, until, within};
use tokio::time::{Instant, sleep};

fn options(prefetch_events: u32) -> ConsumerOptions {
    let mut options = ConsumerOptions::default();
    options.prefetch_events = prefetch_events;
    options
}

/// What the letters say of their events: number, first, last.
fn letters(harness: &Harness) -> Vec<(i64, i64, i64)> {
    let place = |letter: &DeadLetter| {
        assert_eq!(letter.failure.class, ErrorClass::Unreadable);
        let unreadable = letter.event.unreadable().expect("unreadable");
        (letter.event.sequence_number().0, unreadable.first.0, unreadable.last.0)
    };
    let mut places: Vec<_> = harness.letters.letters().iter().map(place).collect();
    places.sort_unstable();
    places
}

fn exactly(numbers: impl Iterator<Item = i64>) -> Vec<(i64, i64, i64)> {
    numbers.map(|number| (number, number, number)).collect()
}

#[tokio::test(start_paused = true)]
async fn many_in_a_row_pass_whatever_the_prefetch_and_each_is_named() {
    for prefetch in [1, 2, 3, 300] {
        let harness = Harness::new(1);
        harness.publish(0, 3);
        harness.publish_unreadable(0, 300);
        harness.publish(0, 2);
        harness.publish_unreadable(0, 300);
        let began = Instant::now();
        let handle = harness.start_recording(options(prefetch));
        settled(&handle, 604).await;
        assert!(began.elapsed() < Duration::from_secs(30), "{prefetch}: {:?}", began.elapsed());
        assert_eq!(harness.seen.numbers(), [0, 1, 2, 303, 304], "{prefetch}");
        assert_eq!(letters(&harness), exactly((3..303).chain(305..605)), "{prefetch}");
        // What comes later comes.
        harness.publish(0, 1);
        settled(&handle, 605).await;
        let exit = within("the drain", drained(handle)).await;
        assert!(exit.is_clean(), "{exit:?}");
        assert_eq!(harness.checkpointed_to("0").await, Some(605));
    }
}

#[tokio::test(start_paused = true)]
async fn across_gaps_a_letter_names_the_range() {
    for (prefetch, window) in [(1, 4_096), (300, 4_096), (300, 1)] {
        let harness = Harness::new(1);
        harness.publish(0, 1);
        harness.hub.skip_numbers(0, 5);
        harness.publish_unreadable(0, 2);
        harness.hub.skip_numbers(0, 1);
        harness.publish(0, 1);
        // Numbers 0, 6, 7, 9; and at the end 13, 14.
        harness.hub.skip_numbers(0, 3);
        harness.publish_unreadable(0, 2);
        let began = Instant::now();
        let mut options = options(prefetch);
        options.window_events = window;
        (options.max_batch_size, options.max_batches_in_flight) = (1, 1);
        let handle = harness.start_recording(options);
        settled(&handle, 14).await;
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        assert_eq!(harness.seen.numbers(), [0, 9]);
        assert_eq!(letters(&harness), [(7, 1, 8), (8, 1, 8), (13, 10, 14), (14, 10, 14)]);
        let letter = &harness.letters.letters()[0];
        let said = &letter.failure.message;
        assert!(said.contains("sequence number is one of 1 to 8"), "{said}");
        within("the drain", drained(handle)).await;
    }
}

/// A sink that holds one letter back for as long as it is told to.
#[derive(Debug)]
struct Holds {
    number: i64,
    is_open: tokio::sync::watch::Receiver<bool>,
    letters: Arc<MemoryDeadLetterSink>,
}

impl DeadLetterSink for Holds {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        let is_held = letter.event.sequence_number().0 == self.number;
        let mut is_open = self.is_open.clone();
        async move {
            if is_held {
                is_open.wait_for(|open| *open).await.expect("the test tells it");
            }
            self.letters.write(letter).await
        }
        .boxed()
    }
}

fn runs(checkpoint: &Checkpoint) -> Vec<(i64, i64)> {
    checkpoint.settled_above.iter().map(|run| (run.first.0, run.last.0)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_row_of_which_only_the_range_is_known_is_settled_as_one() {
    for (held, window) in [(8, 16), (7, 16), (8, 1), (7, 1)] {
        let harness = Harness::new(1);
        // Numbers 0; 6, 7; 9. Either of the two in the middle may be the one that goes by 7.
        harness.publish(0, 1);
        harness.hub.skip_numbers(0, 5);
        harness.publish_unreadable(0, 2);
        harness.hub.skip_numbers(0, 1);
        harness.publish(0, 1);
        let (open, is_open) = tokio::sync::watch::channel(false);
        let sink = Holds { number: held, is_open, letters: harness.letters.clone() };
        let seen = harness.seen.clone();
        let mut options = options(300);
        options.window_events = window;
        (options.max_batch_size, options.max_batches_in_flight) = (1, 1);
        let handle = harness
            .without_letters()
            .options(options)
            .dead_letters(Arc::new(sink))
            .event_handler(move |event: Event, _: EventContext| {
                seen.record(&event);
                async {}
            })
            .expect("valid")
            .start();
        // The row is taken in as a whole; what is behind it, where there is room.
        let behind = if window == 1 { vec![0] } else { vec![0, 9] };
        until("one letter is written, and what is there handled", || {
            harness.letters.letters().len() == 1 && harness.seen.numbers() == behind
        })
        .await;
        sleep(Duration::from_secs(60)).await;
        let checkpoint = harness.checkpoint("0").await.expect("one");
        assert_eq!(checkpoint.watermark.as_ref().map(|mark| mark.sequence_number.0), Some(0));
        let above = if window == 1 { vec![] } else { vec![(9, 9)] };
        assert_eq!(runs(&checkpoint), above, "{held} {window}");
        open.send(true).expect("the sink listens");
        settled(&handle, 9).await;
        assert_eq!(letters(&harness), [(7, 1, 8), (8, 1, 8)]);
        within("the drain", drained(handle)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_is_not_taken_for_what_an_earlier_owner_settled() {
    let harness = Harness::new(1);
    // An earlier owner saw the log end with 4, could not write the letters of 3 and 4, and wrote that
    // of 5. With 8 behind it there is one row of 1 to 8, of which the first goes by 5.
    harness.publish(0, 1);
    harness.hub.skip_numbers(0, 2);
    harness.publish_unreadable(0, 3);
    harness.hub.skip_numbers(0, 2);
    harness.publish_unreadable(0, 1);
    let settled_run =
        |first, last| SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) };
    let mut earlier = Checkpoint {
        watermark: Some(Position::at(0)),
        settled_above: vec![settled_run(5, 5)],
        incarnation: Some(Incarnation(1)),
        ..Checkpoint::default()
    };
    harness
        .checkpoints
        .store(&harness.key("0"), &earlier, &Expected::Absent)
        .await
        .expect("stores");
    let handle = harness.start_recording(options(300));
    settled(&handle, 8).await;
    assert_eq!(letters(&harness), [(5, 1, 8), (6, 1, 8), (7, 1, 8), (8, 1, 8)]);
    within("the drain", drained(handle)).await;

    // Where the earlier owner had all that may be in the row, nothing is written again.
    let whole =
        harness.checkpoints.load(&harness.key("0")).await.expect("loads").expect("is there");
    earlier.settled_above = vec![settled_run(1, 8)];
    let expected = Expected::Version(whole.version);
    harness.checkpoints.store(&harness.key("0"), &earlier, &expected).await.expect("stores");
    let handle = harness.start_recording(options(300));
    settled(&handle, 8).await;
    assert_eq!(harness.letters.letters().len(), 4);
    within("the drain", drained(handle)).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_does_not_end_is_cut_and_loses_nothing() {
    let harness = Harness::new(1);
    harness.publish_unreadable(0, 3_000);
    harness.publish(0, 1);
    let handle = harness.start_recording(options(300));
    settled(&handle, 3_000).await;
    assert_eq!(harness.seen.numbers(), [3_000]);
    let letters = letters(&harness);
    assert_eq!(letters.len(), 3_000);
    for (number, (of, first, last)) in letters.iter().enumerate() {
        let number = i64::try_from(number).expect("small");
        assert!(*of == number && (*first..=*last).contains(&number), "{of} {first} {last}");
    }
    within("the drain", drained(handle)).await;
}

#[tokio::test(start_paused = true)]
async fn lost_links_and_other_starts_change_nothing() {
    let harness = Harness::new(1);
    harness.publish_unreadable(0, 10);
    harness.publish(0, 10);
    harness.hub.trim(0, 5);
    let handle = harness.start_recording(options(4));
    for _ in 0..20 {
        sleep(Duration::from_millis(40)).await;
        harness.hub.end_links(0, ErrorClass::Transient);
    }
    settled(&handle, 19).await;
    assert_eq!(harness.seen.numbers(), (10..20).collect::<Vec<_>>());
    assert_eq!(letters(&harness), exactly(5..10));
    within("the drain", drained(handle)).await;
}

#[tokio::test(start_paused = true)]
async fn one_event_after_the_other_waits_for_the_letter() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    harness.publish_unreadable(0, 2);
    harness.publish(0, 1);
    let seen = harness.seen.clone();
    let sink = Arc::clone(&harness.letters);
    let handle = EventConsumer::builder(
        Arc::new(harness.hub.transport("$Default")),
        harness.checkpoints.clone(),
    )
    .dead_letters(harness.letters.clone())
    .handler(move |event: Event, _: EventContext| {
        seen.record(&event);
        let letters = sink.letters().len();
        let before = usize::try_from(event.sequence_number().0).expect("small").min(2);
        async move {
            assert_eq!(letters, before, "the letters before it are written");
            Ok::<(), longshore::Failure>(())
        }
    })
    .expect("valid")
    .start();
    settled(&handle, 3).await;
    assert_eq!(harness.seen.numbers(), [0, 3]);
    assert_eq!(letters(&harness), exactly(1..3));
    within("the drain", drained(handle)).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_sink_the_partition_stops_at_it() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    harness.publish_unreadable(0, 1);
    let transport = Arc::new(harness.hub.transport("$Default"));
    let mut handle = longshore::BatchConsumer::builder(transport, harness.checkpoints.clone())
        .event_handler(|_: Event, _: EventContext| async {})
        .expect("valid")
        .start();
    let exit = within("the end", handle.join()).await;
    let [partition] = exit.partitions.as_slice() else { panic!("{exit:?}") };
    let StopReason::NoDeadLetterSink { sequence_number, failure } = &partition.reason else {
        panic!("{exit:?}");
    };
    assert_eq!((sequence_number.0, failure.class), (1, ErrorClass::Unreadable));
    assert_eq!(harness.checkpointed_to("0").await, Some(0));
}

/// A sink with a defect.
#[derive(Debug)]
struct Panics;

impl DeadLetterSink for Panics {
    fn write<'a>(&'a self, _: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        async { panic!("the sink has a defect") }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_again_and_again_stops_and_says_so() {
    let harness = Harness::new(2);
    harness.publish(0, 1);
    harness.publish_unreadable(0, 1);
    harness.hub.publish(1, OutgoingEvent::new("of the other partition"));
    let seen = harness.seen.clone();
    let transport = Arc::new(harness.hub.transport("$Default"));
    let mut handle = longshore::BatchConsumer::builder(transport, harness.checkpoints.clone())
        .dead_letters(Arc::new(Panics))
        .event_handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            async {}
        })
        .expect("valid")
        .start();
    until("the partition stopped", || {
        let snapshot = handle.snapshot();
        let phase = snapshot.partitions.iter().find(|one| one.partition.as_str() == "0");
        phase.is_some_and(|one| one.phase == PartitionPhase::Stopped)
            && snapshot.partitions.len() == 2
    })
    .await;
    sleep(Duration::from_secs(600)).await;
    handle.drain();
    let exit = within("the end", handle.join()).await;
    let reasons: Vec<_> = exit.partitions.iter().map(|one| &one.reason).collect();
    let [StopReason::Panicked { times, message }, StopReason::Drained] = reasons.as_slice() else {
        panic!("{exit:?}");
    };
    assert_eq!((*times, message.as_str()), (4, "the sink has a defect"));
    assert!(!exit.is_clean());
}

/// The first links say nothing more behind an event that cannot be read.
#[derive(Debug)]
struct Stalling {
    inner: MemoryTransport,
    stalls: Arc<AtomicUsize>,
}

impl OverTransport for Stalling {
    fn below(&self) -> &dyn Transport {
        &self.inner
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        let left =
            self.stalls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        let opening = self.inner.open(options);
        async move {
            let inner = opening.await?;
            let link: Box<dyn Link> =
                if left.is_ok() { Box::new(StallingLink { inner, stalls: false }) } else { inner };
            Ok(link)
        }
        .boxed()
    }
}

struct StallingLink {
    inner: Box<dyn Link>,
    stalls: bool,
}

impl Link for StallingLink {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize, Error>> {
        if self.stalls {
            return Poll::Pending;
        }
        let polled = self.inner.poll_receive(cx, max_events, into);
        self.stalls = matches!(polled, Poll::Ready(Err(_)));
        polled
    }

    fn restart(
        self: Box<Self>,
        options: OpenLink,
    ) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        self.inner.restart(options)
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.inner.close()
    }
}

#[tokio::test(start_paused = true)]
async fn links_that_stall_at_one_event_are_not_taken_for_the_end_of_the_log() {
    for stalls in 0..6 {
        let harness = Harness::new(1);
        harness.publish(0, 1);
        harness.publish_unreadable(0, 1);
        harness.publish(0, 2);
        let transport = Over(Stalling {
            inner: harness.hub.transport("$Default"),
            stalls: Arc::new(AtomicUsize::new(stalls)),
        });
        let letters_to: Arc<dyn DeadLetterSink> = harness.letters.clone();
        let seen = harness.seen.clone();
        let handle = BatchConsumer::builder(Arc::new(transport), harness.checkpoints.clone())
            .seed(7)
            .dead_letters(letters_to)
            .event_handler(move |event: Event, _: EventContext| {
                seen.record(&event);
                async {}
            })
            .expect("valid")
            .start();
        settled(&handle, 3).await;
        assert_eq!(harness.seen.numbers(), [0, 2, 3], "{stalls}");
        assert_eq!(letters(&harness), [(1, 1, 1)], "{stalls}");
        drained(handle).await;
    }
}
