//! Lines and timers, in virtual time.

use std::sync::atomic::AtomicUsize;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::config::Rate;
use crate::outcome::RetryDelay;

fn limits(set: impl FnOnce(&mut RateLimits)) -> RateLimits {
    let mut limits = RateLimits::default();
    set(&mut limits);
    limits
}

fn rates(set: impl FnOnce(&mut RateLimits)) -> Arc<Rates> {
    Arc::new(Rates::new(limits(set)).expect("usable"))
}

fn bytes(per_second: f64) -> RateLimits {
    limits(|limits| limits.bytes_per_second = Some(Rate::new(per_second)))
}

/// Reads a chunk of so many bytes, and hands it on.
async fn read_chunk(meter: &mut Meter<'_>, bytes: usize, mut on_part: impl FnMut(u64)) {
    let mut chunk = Bytes::from(vec![0; bytes]);
    meter.on_arrived(bytes);
    while !chunk.is_empty() {
        on_part(meter.next_part(&mut chunk).await.len() as u64);
    }
}

/// Streams that read chunks of their size for ever, each from its host; what each has read.
struct Streams {
    read: Vec<Arc<AtomicU64>>,
    _tasks: JoinSet<()>,
}

impl Streams {
    fn start(rates: &Arc<Rates>, streams: impl IntoIterator<Item = (&'static str, usize)>) -> Self {
        let (mut read, mut tasks) = (Vec::new(), JoinSet::new());
        for (host, chunk) in streams {
            let count = Arc::new(AtomicU64::new(0));
            read.push(Arc::clone(&count));
            let rates = Arc::clone(rates);
            tasks.spawn(async move {
                let mut meter = rates.meter(host.into());
                loop {
                    read_chunk(&mut meter, chunk, |part| {
                        count.fetch_add(part, Ordering::Relaxed);
                    })
                    .await;
                    tokio::task::yield_now().await;
                }
            });
        }
        Self { read, _tasks: tasks }
    }

    /// What each reads in so many seconds.
    async fn during(&self, seconds: u64) -> Vec<f64> {
        let count = || self.read.iter().map(|read| read.load(Ordering::Relaxed) as f64);
        let before: Vec<_> = count().collect();
        sleep(Duration::from_secs(seconds)).await;
        count().zip(before).map(|(after, before)| after - before).collect()
    }
}

#[track_caller]
fn assert_near(what: f64, is: f64, within: f64) {
    assert!((what / is - 1.0).abs() <= within, "{what} is not within {within} of {is}");
}

#[track_caller]
fn assert_alike(each: &[f64], within: f64) {
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    for read in each {
        assert_near(*read, mean, within);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_streams_share_twenty_megabytes_a_second_and_then_forty() {
    let rates = Arc::new(Rates::new(bytes(20e6)).expect("usable"));
    // Networks bring chunks of different sizes.
    let chunks = [4_096, 16_384, 16_384, 65_536, 65_536, 100_000, 100_000, 262_144, 400_000, 1_460];
    let streams = Streams::start(&rates, chunks.map(|chunk| ("host", chunk)));
    sleep(Duration::from_secs(2)).await;
    let each = streams.during(10).await;
    assert_near(each.iter().sum(), 200e6, 0.005);
    assert_alike(&each, 0.02);
    rates.set(bytes(40e6)).expect("usable");
    sleep(Duration::from_secs(2)).await;
    let each = streams.during(1).await;
    assert_near(each.iter().sum(), 40e6, 0.02);
}

#[tokio::test(start_paused = true)]
async fn a_slow_host_leaves_the_bytes_of_others_alone() {
    let rates = rates(|limits| {
        limits.bytes_per_second = Some(Rate::new(10e6));
        limits.bytes_per_second_per_host = Some(Rate::new(6e6));
    });
    // One host can have 6 MB/s, and shares 10 MB/s with another one that has one stream.
    let streams = Streams::start(&rates, [("many", 16_384), ("many", 16_384), ("one", 16_384)]);
    sleep(Duration::from_secs(2)).await;
    let each = streams.during(10).await;
    assert_near(each.iter().sum(), 100e6, 0.02);
    assert!(each[0] + each[1] <= 61e6, "{each:?}");
    assert_near(each[0], each[1], 0.02);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_for_a_slow_rate_goes_on_at_once_when_that_is_lifted() {
    let rates = Arc::new(Rates::new(bytes(1.0)).expect("usable"));
    let mut meter = rates.meter("host".into());
    let begun = Instant::now();
    let change = async {
        sleep(Duration::from_secs(10)).await;
        rates.set(RateLimits::default()).expect("usable");
    };
    let ((), ()) = tokio::join!(read_chunk(&mut meter, 1_000_000, |_| {}), change);
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(meter.waited().as_secs(), 10, "it stood in line, and nobody else is to blame");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_body_is_paid_for_and_what_was_given_up_is_counted() {
    let rates = Arc::new(Rates::new(bytes(100e3)).expect("usable"));
    let begun = Instant::now();
    for _ in 0..50 {
        // Half of a turn each, so none of them waits before its end.
        let mut meter = rates.meter("host".into());
        read_chunk(&mut meter, 1_000, |_| {}).await;
        meter.on_end().await;
    }
    assert_near(begun.elapsed().as_secs_f64(), 0.5 - 0.12, 0.1);
    for _ in 0..100 {
        read_chunk(&mut rates.meter("host".into()), 1_000, |_| {}).await;
    }
    let mut meter = rates.meter("host".into());
    read_chunk(&mut meter, 2_000, |_| {}).await;
    assert_near(begun.elapsed().as_secs_f64(), 1.5 - 0.12, 0.1);
}

/// The moments at which requests of these hosts went, over so many seconds, with so many slots each
/// that ask again when their lane opens; and how many calls ended with a closed lane.
async fn requests(
    rates: &Arc<Rates>,
    hosts: &[(&'static str, usize)],
    seconds: u64,
) -> (Vec<(&'static str, Duration)>, usize) {
    let went = Arc::new(std::sync::Mutex::new(Vec::new()));
    let closed = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for (host, slots) in hosts.iter().copied() {
        for _ in 0..slots {
            let (rates, went, closed) = (Arc::clone(rates), Arc::clone(&went), Arc::clone(&closed));
            tasks.spawn(async move {
                let name: Arc<str> = host.into();
                while begun.elapsed() < Duration::from_secs(seconds) {
                    match rates.begin(&name).await {
                        Ok(()) => went.lock().expect("lock").push((host, begun.elapsed())),
                        Err(Outcome::Retry(request)) => {
                            let RetryDelay::LaneCloses(wait) = request.delay else {
                                panic!("{request:?}");
                            };
                            closed.fetch_add(1, Ordering::Relaxed);
                            sleep(wait).await;
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        }
    }
    tasks.join_all().await;
    let went = std::mem::take(&mut *went.lock().expect("lock"));
    (went, closed.load(Ordering::Relaxed))
}

/// The most in any second.
fn most_in_a_second(times: &[Duration]) -> usize {
    let until = |from: &Duration| times.partition_point(|at| *at < *from + Duration::from_secs(1));
    times.iter().enumerate().map(|(index, from)| until(from) - index).max().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn fifty_requests_a_second_are_never_more_than_fifty_one() {
    for limits in [
        limits(|limits| limits.requests_per_second = Some(Rate::new(50.0))),
        limits(|limits| limits.requests_per_second_per_host = Some(Rate::new(50.0))),
    ] {
        let rates = Arc::new(Rates::new(limits).expect("usable"));
        let (went, _) = requests(&rates, &[("host", 100)], 20).await;
        let times: Vec<_> = went.iter().map(|(_, at)| *at).collect();
        assert!(times.is_sorted());
        assert!(most_in_a_second(&times) <= 51, "{}", most_in_a_second(&times));
        assert_near(times.iter().filter(|at| at.as_secs() < 20).count() as f64, 1_000.0, 0.02);
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_share_the_rate_of_all_and_none_gets_more_than_its_own() {
    let rates = rates(|limits| {
        limits.requests_per_second = Some(Rate::new(100.0));
        limits.requests_per_second_per_host = Some(Rate::new(40.0));
    });
    let (went, _) = requests(&rates, &[("a", 50), ("b", 3), ("c", 1)], 20).await;
    let of =
        |host| -> Vec<_> { went.iter().filter(|(of, _)| *of == host).map(|(_, at)| *at).collect() };
    let all: Vec<_> = went.iter().map(|(_, at)| *at).collect();
    assert!(most_in_a_second(&all) <= 102, "{}", most_in_a_second(&all));
    assert!(all.len() > 1_950, "{}", all.len());
    for host in ["a", "b", "c"] {
        let times = of(host);
        assert!(most_in_a_second(&times) <= 41, "{host}: {}", most_in_a_second(&times));
        assert!(times.len() > 550, "{host}: {}", times.len());
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_slow_host_holds_no_slot_for_long() {
    let rates = rates(|limits| limits.requests_per_second_per_host = Some(Rate::new(1.0)));
    let slow: Arc<str> = "slow".into();
    rates.begin(&slow).await.expect("the first goes");
    let begun = Instant::now();
    let Err(Outcome::Retry(request)) = rates.begin(&slow).await else { panic!("it went") };
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(request.failure.class, ErrorClass::Throttling);
    assert_eq!(request.failure.message, "the rate of requests to slow is used up");
    let RetryDelay::LaneCloses(wait) = request.delay else { panic!("{request:?}") };
    assert_near(wait.as_secs_f64(), 0.98, 0.001);
    rates.begin(&"other".into()).await.expect("another host is not held up");
    sleep(wait).await;
    rates.begin(&slow).await.expect("in line for the rest");
    assert!(begun.elapsed() < Duration::from_millis(995), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_line_uses_up_nothing_and_holds_nobody_up() {
    let rates = rates(|limits| limits.requests_per_second = Some(Rate::new(1.0)));
    let host: Arc<str> = "host".into();
    rates.begin(&host).await.expect("the first goes");
    let begun = Instant::now();
    for _ in 0..3 {
        // They stand in line, the first at its head, and are given up.
        let gone = (0..3).map(|_| rates.begin(&host));
        let _gone = timeout(Duration::from_millis(100), futures::future::join_all(gone)).await;
    }
    rates.begin(&host).await.expect("its turn");
    assert!(begun.elapsed() <= Duration::from_millis(1_000), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn limits_that_cannot_be_used_change_nothing() {
    let rates = Arc::new(Rates::new(bytes(20e6)).expect("usable"));
    for wrong in [bytes(0.0), bytes(f64::NAN), bytes(f64::INFINITY)] {
        assert!(rates.set(wrong).is_err());
        assert!(Rates::new(wrong).is_err());
    }
    assert_eq!(rates.limits(), bytes(20e6));
}

#[test]
fn without_limits_nothing_is_locked() {
    let rates = Rates::default();
    let _locked = rates.book.lock().expect("lock");
    let host: Arc<str> = "host".into();
    futures::executor::block_on(async {
        rates.begin(&host).await.expect("goes");
        let mut meter = rates.meter(host);
        read_chunk(&mut meter, 1_000_000, |part| assert_eq!(part, 1_000_000)).await;
        meter.on_end().await;
    });
}
