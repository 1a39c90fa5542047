//! A destination that fails is left alone and probed, and no event is given up for it. In paused time.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::config::DEFAULT_MAX_ATTEMPTS;
use longshore::consumer::Destination;
use longshore::lanes::{Lane, LaneRule};
use longshore::{
    Batch, BatchContext, ConsumerHandle, ErrorClass, Event, EventContext, Failure, Outcome,
    Outcomes, OutgoingEvent,
};
use tokio::time::{Instant, sleep};

use support::{Harness, drained, until};

const SECOND: Duration = Duration::from_secs(1);

/// Something that events are sent to.
#[derive(Clone, Default)]
struct Service(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_down: AtomicBool,
    calls_in_vain: AtomicUsize,
}

impl Service {
    fn set_down(&self, is_down: bool) {
        self.0.is_down.store(is_down, Ordering::SeqCst);
    }

    async fn call(&self) -> Result<(), Failure> {
        sleep(Duration::from_millis(20)).await;
        if self.0.is_down.load(Ordering::SeqCst) {
            self.0.calls_in_vain.fetch_add(1, Ordering::SeqCst);
            return Err(Failure::transient("503"));
        }
        Ok(())
    }

    fn calls_in_vain(&self) -> usize {
        self.0.calls_in_vain.load(Ordering::SeqCst)
    }
}

/// A thousand events a second for so long.
async fn publish(harness: &Harness, time: Duration) {
    for _ in 0..time.as_millis() / 10 {
        harness.publish(0, 10);
        sleep(Duration::from_millis(10)).await;
    }
}

/// The service is up, then down for two minutes, then up again, and nothing but time is lost.
async fn two_minutes_down(harness: &Harness, handle: ConsumerHandle, service: &Service) {
    publish(harness, SECOND * 5).await;
    service.set_down(true);
    publish(harness, SECOND * 120).await;
    let slots = 10;
    assert!(service.calls_in_vain() <= 20 + slots + 40, "{} calls", service.calls_in_vain());
    let breakers = handle.snapshot().breakers;
    assert_eq!(breakers.len(), 1);
    assert_eq!(breakers[0].destination, Destination::Handler);
    assert!(breakers[0].open_for > Some(SECOND * 110), "{breakers:?}");
    assert!(handle.is_ready());
    let done = handle.snapshot().counts.done;
    service.set_down(false);
    let begun = Instant::now();
    until("work goes on", || handle.snapshot().counts.done > done + 100).await;
    assert!(begun.elapsed() < SECOND * 10, "{:?}", begun.elapsed());
    until("all", || handle.snapshot().counts.done == 125_000).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(harness.letters.letters().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_down_for_two_minutes_costs_no_event() {
    let (harness, service) = (Harness::new(1), Service::default());
    let at = service.clone();
    let handle = harness
        .builder()
        .max_events_in_flight(10)
        .event_handler(move |_: Event, _: EventContext| {
            let at = at.clone();
            async move { at.call().await }
        })
        .expect("valid")
        .start();
    two_minutes_down(&harness, handle, &service).await;
}

#[tokio::test(start_paused = true)]
async fn batches_that_fail_whole_are_probed_one_event_at_a_time() {
    let (harness, service) = (Harness::new(1), Service::default());
    let at = service.clone();
    let longest = Arc::new(AtomicUsize::new(0));
    let most = longest.clone();
    let handle = harness
        .builder()
        .max_batches_in_flight(10)
        .batch_timeout(Duration::from_millis(50))
        .batch_handler(move |batch: Batch, _: BatchContext| {
            if at.calls_in_vain() > 40 && at.0.is_down.load(Ordering::SeqCst) {
                most.fetch_max(batch.len(), Ordering::SeqCst);
            }
            let at = at.clone();
            async move { at.call().await }
        })
        .expect("valid")
        .start();
    two_minutes_down(&harness, handle, &service).await;
    assert_eq!(longest.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_failure_names_is_its_destination() {
    let harness = Harness::new(1);
    harness.publish(0, 40);
    let handle = harness
        .builder()
        .event_handler(|_: Event, _: EventContext| async {
            Outcome::retry(Failure::transient("503").at("billing"))
        })
        .expect("valid")
        .start();
    until("open", || !handle.snapshot().breakers.is_empty()).await;
    let destination = handle.snapshot().breakers[0].destination.clone();
    assert_eq!(destination, Destination::Named("billing".to_owned()));
    drained(handle).await;
    assert_eq!(harness.letters.letters().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn permanent_failures_close_nothing() {
    let harness = Harness::new(1);
    harness.publish(0, 500);
    let handle = harness
        .builder()
        .event_handler(|event: Event, _: EventContext| async move {
            match event.sequence_number().0 % 3 {
                0 => Outcome::dead_letter(Failure::permanent("404")),
                1 => Outcome::retry(Failure::new(ErrorClass::BadData, "no task")),
                _ => Outcome::dead_letter(Failure::new(ErrorClass::TooLarge, "too large")),
            }
        })
        .expect("valid")
        .start();
    until("letters", || handle.snapshot().counts.dead_letters == 500).await;
    assert!(handle.snapshot().breakers.is_empty());
    drained(handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_down_is_left_alone_and_the_others_go_on() {
    let harness = Harness::new(2);
    for number in 0..2_000 {
        let host = number % 10;
        harness.hub.publish(number % 2, OutgoingEvent::new(format!("host-{host}")));
    }
    let is_down = Arc::new(AtomicBool::new(true));
    let calls: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let (down, count) = (is_down.clone(), calls.clone());
    let handle = harness
        .builder()
        .max_events_in_flight(20)
        .lanes(LaneRule::limited(4, |event: &Event| Some(Lane::new(event.body()))))
        .event_handler(move |event: Event, _: EventContext| {
            let (down, count) = (down.clone(), count.clone());
            async move {
                sleep(Duration::from_millis(20)).await;
                let host = String::from_utf8_lossy(event.body()).into_owned();
                *count.lock().expect("lock").entry(host.clone()).or_default() += 1;
                if host == "host-3" && down.load(Ordering::SeqCst) {
                    return Outcome::retry(Failure::transient("connection refused"));
                }
                Outcome::Done
            }
        })
        .expect("valid")
        .start();
    let begun = Instant::now();
    until("the others", || handle.snapshot().counts.done == 1_800).await;
    assert!(begun.elapsed() < SECOND * 4, "{:?}", begun.elapsed());
    sleep(SECOND * 120 - begun.elapsed()).await;
    let asked = calls.lock().expect("lock")["host-3"];
    assert!(asked <= 20 + 4 + 40, "{asked} calls");
    let snapshot = handle.snapshot();
    let destinations: Vec<&Destination> =
        snapshot.breakers.iter().map(|breaker| &breaker.destination).collect();
    assert_eq!(destinations, [&Destination::Lane(Lane::new("host-3"))]);
    is_down.store(false, Ordering::SeqCst);
    let back = Instant::now();
    until("the host's own", || handle.snapshot().counts.done == 2_000).await;
    assert!(back.elapsed() < SECOND * 12, "{:?}", back.elapsed());
    assert!(handle.snapshot().breakers.is_empty());
    drained(handle).await;
    assert_eq!(harness.letters.letters().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_not_given_up_before_its_destination_did_anything() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let handle = harness
        .builder()
        .max_age(Duration::from_secs(600))
        .event_handler(|event: Event, _: EventContext| async move {
            match event.sequence_number().0 {
                0 => Err(Failure::transient("503")),
                _ => Ok(()),
            }
        })
        .expect("valid")
        .start();
    let tried = |handle: &ConsumerHandle| handle.snapshot().counts.retried;
    until("more than its attempts", || tried(&handle) > u64::from(DEFAULT_MAX_ATTEMPTS)).await;
    assert_eq!(handle.snapshot().counts.dead_letters, 0);
    harness.publish(0, 1);
    until("a letter", || handle.snapshot().counts.dead_letters == 1).await;
    let letters = harness.letters.letters();
    assert_eq!(letters[0].attempts, DEFAULT_MAX_ATTEMPTS, "that is what counts");
    drained(handle).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_is_given_up_at_its_age() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let handle = harness
        .builder()
        .max_age(Duration::ZERO)
        .event_handler(|_: Event, _: EventContext| async {
            Err::<(), _>(Failure::transient("503"))
        })
        .expect("valid")
        .start();
    until("a letter", || handle.snapshot().counts.dead_letters == 1).await;
    drained(handle).await;
}

/// Its own failures would keep the breaker open for ever, were it probed again and again.
#[tokio::test(start_paused = true)]
async fn an_event_that_always_fails_does_not_keep_its_destination_closed() {
    let harness = Harness::new(1);
    harness.publish(0, 60);
    let is_down = Arc::new(AtomicBool::new(true));
    let down = is_down.clone();
    let handle = harness
        .builder()
        .batch_handler(move |batch: Batch, _: BatchContext| {
            let fails =
                |event: &Event| down.load(Ordering::SeqCst) || event.sequence_number().0 % 30 == 0;
            let outcomes: Vec<Outcome> = batch
                .iter()
                .map(|event| match fails(event) {
                    true => Outcome::retry(Failure::transient("503")),
                    false => Outcome::Done,
                })
                .collect();
            async move { Ok::<Outcomes, Failure>(Outcomes::each(outcomes)) }
        })
        .expect("valid")
        .start();
    until("open", || !handle.snapshot().breakers.is_empty()).await;
    is_down.store(false, Ordering::SeqCst);
    let begun = Instant::now();
    until("the others", || handle.snapshot().counts.done == 58).await;
    assert!(begun.elapsed() < SECOND * 20, "{:?}", begun.elapsed());
    until("letters", || handle.snapshot().counts.dead_letters == 2).await;
    drained(handle).await;
}
