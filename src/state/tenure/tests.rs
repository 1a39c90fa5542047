//! Properties of an ownership and of trials, over any order of inputs and any passing of time.

use proptest::prelude::*;

use super::*;

const STORE_TIMEOUT: Duration = Duration::from_secs(7);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Input {
    HandOff,
    CallBack,
    End(u64),
    Deadline(u64),
    Lose(u64),
    Wait(u64),
    /// Idle, handed out, stored.
    Work(bool, bool, bool),
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::HandOff),
        Just(Input::CallBack),
        (0..20_u64).prop_map(Input::End),
        (0..20_u64).prop_map(Input::Deadline),
        (0..20_u64).prop_map(Input::Lose),
        (1..10_u64).prop_map(Input::Wait),
        any::<(bool, bool, bool)>().prop_map(|(idle, out, stored)| Input::Work(idle, out, stored)),
    ]
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn work(is_idle: bool, is_handed_out: bool, is_stored: bool) -> Work {
    Work { is_idle, is_handed_out: is_handed_out || is_idle, is_stored }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Whatever comes, an end is not taken back, its deadline only comes nearer, handlers are asked
    /// once and before they are cut, and nothing of another owner's is written.
    #[test]
    fn an_end_goes_one_way(inputs in prop::collection::vec(input(), 1..40)) {
        let mut now = Instant::now();
        let mut tenure = Tenure::new(STORE_TIMEOUT);
        let mut left = work(false, false, false);
        let (mut asked, mut lost, mut was_ending) = (0, false, false);
        let mut earliest: Option<Instant> = None;
        for input in inputs {
            match input {
                Input::HandOff => prop_assert!(!tenure.on_hand_off() || !was_ending),
                Input::CallBack => {
                    let was = tenure.is_handing_off();
                    prop_assert_eq!(tenure.on_called_back(), was);
                }
                Input::End(after) => {
                    let is_news = tenure.on_end("told", now + seconds(after));
                    prop_assert_eq!(is_news, !was_ending);
                    if is_news {
                        earliest = Some(now + seconds(after));
                    }
                }
                Input::Deadline(after) => {
                    tenure.on_deadline(now + seconds(after));
                    earliest = earliest.map(|before| before.min(now + seconds(after)));
                }
                Input::Lose(after) => {
                    let until = now + seconds(after);
                    let loss = tenure.on_lost("lost", until, |_| false);
                    let expected = match (lost, was_ending) {
                        (true, _) => Loss::Known,
                        (false, true) => Loss::Joins,
                        (false, false) => Loss::Begins,
                    };
                    prop_assert_eq!(loss, expected);
                    if !lost {
                        earliest = Some(earliest.map_or(until, |before| before.min(until)));
                    }
                    lost = true;
                }
                Input::Wait(time) => now += seconds(time),
                Input::Work(idle, out, stored) => left = work(idle, out, stored),
            }
            was_ending |= tenure.is_ending();
            prop_assert_eq!(was_ending, tenure.is_ending());
            prop_assert_eq!(tenure.may_checkpoint(), !lost);
            match tenure.take_step(left, now) {
                Some(Step::HandOver) => {
                    prop_assert!(tenure.is_handing_off() && left.is_handed_out && left.is_stored);
                }
                Some(Step::AskToGiveUp) => {
                    asked += 1;
                    prop_assert!(earliest.is_some_and(|deadline| now >= deadline));
                }
                Some(Step::Cut) => {
                    prop_assert!(!left.is_idle && asked == 1);
                    prop_assert!(earliest.is_some_and(|it| now >= it + CANCEL_GRACE));
                }
                Some(Step::Over) => {
                    prop_assert!(left.is_idle);
                    let late = earliest.map(|it| it + CANCEL_GRACE + STORE_TIMEOUT);
                    prop_assert!(lost || left.is_stored || late.is_some_and(|late| now >= late));
                }
                None => {}
            }
            prop_assert!(asked <= 1);
        }
    }

    /// An end is over in bounded time, by its own deadlines alone: each one that is named lies ahead,
    /// and brings a step.
    #[test]
    fn an_end_comes_to_its_end(after in 0..20_u64, mut idle: bool, stored: bool, lost: bool) {
        let begun = Instant::now();
        let mut now = begun;
        let mut tenure = Tenure::new(STORE_TIMEOUT);
        if lost {
            tenure.on_lost("lost", now + seconds(after), |_| false);
        } else {
            tenure.on_end("told", now + seconds(after));
        }
        for _ in 0..10 {
            match tenure.take_step(work(idle, idle, stored), now) {
                Some(Step::Over) => {
                    let most = seconds(after) + CANCEL_GRACE + STORE_TIMEOUT;
                    prop_assert!(now - begun <= most);
                    return Ok(());
                }
                Some(Step::Cut) => idle = true,
                Some(_) => {}
                None => {
                    let next = tenure.next_deadline(idle).expect("an end has deadlines");
                    prop_assert!(next > now);
                    now = next;
                }
            }
        }
        prop_assert!(false, "it never ended");
    }

    /// Whatever comes, an event is on trial at most once at a time, and a trial ends.
    #[test]
    fn a_trial_ends(
        alone: bool,
        time in 0..20_u64,
        latest in 0..20_u64,
        is_settled: bool,
        is_on_trial: bool,
        ends_by_itself: bool,
    ) {
        let mut now = Instant::now();
        let mut trial = TrialState::default();
        trial.on_event(SequenceNumber(4), seconds(time));
        prop_assert!(trial.is_waiting() && trial.tried().is_none());
        let begun = trial.on_begin(alone, now);
        prop_assert_eq!(begun, alone.then_some(SequenceNumber(4)));
        prop_assert_eq!(trial.on_begin(true, now), None);
        if ends_by_itself {
            prop_assert_eq!(trial.on_end(now + seconds(latest)), begun);
            prop_assert_eq!(trial.on_end(now), None, "it is news once");
        }
        let known = Known { is_settled, is_on_trial };
        for _ in 0..5 {
            let Some(tried) = trial.tried() else { return Ok(()) };
            match trial.next_step(known, now) {
                Some(TrialStep::Release) => trial = TrialState::None,
                Some(TrialStep::End) => {
                    prop_assert!(!tried.is_over && now >= tried.until && !is_settled);
                    trial.on_end(now + seconds(latest));
                }
                None => {
                    prop_assert!(tried.until > now);
                    now = tried.until;
                }
            }
        }
        prop_assert!(false, "it never ended");
    }
}

#[test]
fn a_hand_off_is_ready_when_all_is_settled_and_stored() {
    let now = Instant::now();
    let mut tenure = Tenure::<&str>::new(STORE_TIMEOUT);
    assert_eq!(tenure.take_step(work(true, true, true), now), None, "nobody asked for it");
    assert!(tenure.on_hand_off());
    assert_eq!(tenure.take_step(work(false, true, false), now), None);
    assert_eq!(tenure.take_step(work(false, false, true), now), None);
    // What waits, and was never begun, is no reason to stay.
    assert_eq!(tenure.take_step(work(false, true, true), now), Some(Step::HandOver));
    assert!(tenure.on_called_back(), "until it ends, it can be called back");
    assert_eq!(tenure.into_reason(), None);
}

#[test]
fn a_more_important_reason_stays() {
    let now = Instant::now();
    let mut tenure = Tenure::new(STORE_TIMEOUT);
    tenure.on_end("aborted", now);
    assert_eq!(tenure.on_lost("lost", now, |why| *why == "aborted"), Loss::Joins);
    assert_eq!(tenure.into_reason(), Some("aborted"));
}
