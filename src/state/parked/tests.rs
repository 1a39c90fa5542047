use std::collections::btree_map::Entry;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const LIMITS: ParkedLimits = ParkedLimits { known: 12, out: 5, out_of_lane: 2 };

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn number(number: i64) -> SequenceNumber {
    SequenceNumber(number)
}

fn lane(index: u8) -> Option<LaneTag> {
    (index > 0).then(|| LaneTag::of(&index.to_string()))
}

fn all_due(parked: &mut ParkedEvents, now: u64) -> Vec<i64> {
    std::iter::from_fn(|| parked.take_due(at(now))).map(|number| number.0).collect()
}

#[test]
fn what_is_due_comes_out_and_a_lane_has_its_share() {
    let mut parked = ParkedEvents::new(LIMITS, false);
    for index in 0..4 {
        parked.on_parking(number(index), lane(1), at(10));
        parked.on_parked(number(index));
    }
    parked.on_parking(number(7), None, at(5));
    assert_eq!(parked.next_due(), Some(at(10)), "the one without a lane is not in the store yet");
    parked.on_parked(number(7));
    assert_eq!(all_due(&mut parked, 9), [7]);
    assert_eq!(all_due(&mut parked, 10), [0, 1]);
    assert_eq!((parked.out(), parked.len(), parked.next_due()), (3, 5, None));
    parked.on_gone(number(0));
    parked.on_back(number(1), at(20));
    assert_eq!(all_due(&mut parked, 10), [2, 3]);
    assert_eq!(all_due(&mut parked, 30), Vec::<i64>::new(), "its lane has its share");
}

#[test]
fn an_ordered_lane_comes_out_one_by_one_by_number() {
    let mut parked = ParkedEvents::new(LIMITS, true);
    parked.on_received_to(number(20));
    for (index, due) in [(5, 1), (3, 30), (4, 1)] {
        parked.on_parking(number(index), lane(1), at(due));
        parked.on_parked(number(index));
    }
    parked.on_parking(number(2), lane(2), at(1));
    parked.on_parked(number(2));
    assert_eq!(all_due(&mut parked, 20), [2], "what is behind number 3 waits for it");
    assert_eq!(all_due(&mut parked, 30), [3]);
    parked.on_parking(number(9), lane(1), at(1));
    parked.on_gone(number(3));
    assert_eq!(all_due(&mut parked, 30), [4]);
    parked.on_back(number(4), at(60));
    assert_eq!(all_due(&mut parked, 59), Vec::<i64>::new());
    assert!(LaneTag::of("1") != LaneTag::of("2") && parked.has_lane(LaneTag::of("1")));
    for (index, now) in [(4, 60), (5, 60)] {
        assert_eq!(all_due(&mut parked, now), [index]);
        parked.on_gone(number(index));
    }
    assert_eq!(all_due(&mut parked, 60), Vec::<i64>::new(), "number 9 is not in the store yet");
    parked.on_parked(number(9));
    assert_eq!(all_due(&mut parked, 60), [9]);
}

#[test]
fn an_ordered_lane_waits_for_what_may_come_before_its_first_event() {
    let mut parked = ParkedEvents::new(LIMITS, true);
    parked.begin_listing();
    for (index, tag) in [(8, lane(1)), (9, lane(2)), (4, None)] {
        parked.on_listed(number(index), tag, at(1));
    }
    parked.end_listing();
    assert_eq!(all_due(&mut parked, 9), [4], "without a lane there is no order");
    parked.on_received_to(number(6));
    parked.on_parking(number(6), lane(1), at(1));
    parked.on_parked(number(6));
    assert_eq!(all_due(&mut parked, 9), [6], "it is received again, and comes first");
    parked.on_gone(number(6));
    assert_eq!(all_due(&mut parked, 9), Vec::<i64>::new());
    parked.on_received_to(number(8));
    assert_eq!(all_due(&mut parked, 9), [8]);
    parked.on_received_to(number(30));
    assert_eq!(all_due(&mut parked, 9), [9]);
    assert!(parked.beyond.is_empty());
}

#[test]
fn of_a_dead_lane_one_event_is_out() {
    let mut parked = ParkedEvents::new(LIMITS, false);
    parked.set_dead(LaneTag::of("1"), true);
    for index in 0..4 {
        parked.on_parking(number(index), lane(1), at(index.unsigned_abs()));
        parked.on_parked(number(index));
    }
    assert_eq!(all_due(&mut parked, 10), [0]);
    parked.on_back(number(0), at(10));
    assert_eq!(all_due(&mut parked, 10), [1], "the one that was not tried yet");
    parked.set_dead(LaneTag::of("1"), false);
    assert_eq!(all_due(&mut parked, 10), [2]);
    for index in 0..4 {
        parked.on_gone(number(index));
    }
    assert!(parked.lanes.is_empty() && parked.ready.is_empty());
}

#[test]
fn a_listing_says_nothing_of_what_changed_since_it_began() {
    let mut parked = ParkedEvents::new(LIMITS, false);
    assert!(!parked.is_listed());
    for index in 0..3 {
        parked.on_parking(number(index), None, at(1));
        parked.on_parked(number(index));
    }
    assert_eq!(parked.take_due(at(1)), Some(number(0)));
    parked.begin_listing();
    parked.on_listed(number(0), None, at(1));
    parked.on_gone(number(0));
    parked.on_parking(number(8), None, at(3));
    parked.on_parked(number(8));
    parked.on_listed(number(1), None, at(7));
    parked.on_listed(number(5), None, at(4));
    assert_eq!(parked.end_listing(), 1);
    assert!(parked.is_listed());
    let known: Vec<i64> = parked.known.keys().map(|number| number.0).collect();
    assert_eq!(known, [1, 5, 8], "2 was deleted by somebody else");
    assert_eq!(all_due(&mut parked, 10), [8, 5, 1]);
    parked.begin_listing();
    parked.abort_listing();
    assert_eq!((parked.end_listing(), parked.len()), (0, 3));
}

#[test]
fn what_is_known_is_bounded_whatever_the_store_has() {
    let mut parked = ParkedEvents::new(LIMITS, false);
    parked.begin_listing();
    (0..100).for_each(|index| parked.on_listed(number(index), lane(1), at(1)));
    assert_eq!(parked.end_listing(), LIMITS.known);
    assert_eq!(parked.cut_at(), Some(number(11)), "the first ones are known");
    assert!(parked.is_full());
    parked.begin_listing();
    parked.on_listed(number(3), lane(1), at(1));
    assert_eq!((parked.end_listing(), parked.len(), parked.is_full()), (0, 1, false));
}

#[test]
fn an_ordered_lane_waits_where_the_listing_is_cut_before_its_event() {
    let mut parked = ParkedEvents::new(LIMITS, true);
    parked.on_received_to(number(100));
    parked.on_parking(number(50), lane(1), at(1));
    parked.on_parked(number(50));
    parked.begin_listing();
    (0..20).for_each(|index| parked.on_listed(number(index), lane(2), at(1)));
    parked.on_listed(number(30), lane(1), at(1));
    parked.on_listed(number(50), lane(1), at(1));
    parked.end_listing();
    assert_eq!(all_due(&mut parked, 9), [0], "of the other lane number 30 is not known");
    parked.begin_listing();
    parked.on_listed(number(30), lane(1), at(1));
    parked.on_listed(number(50), lane(1), at(1));
    parked.end_listing();
    assert_eq!(all_due(&mut parked, 9), [30]);
}

#[derive(Clone, Debug)]
enum Step {
    Park { number: i64, lane: u8, due: u64 },
    Parked(usize),
    Take { now: u64 },
    Back { pick: usize, due: u64 },
    Gone(usize),
    Dead { lane: u8, is_dead: bool },
    List,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..40_i64, 0..4_u8, 0..50_u64)
            .prop_map(|(number, lane, due)| Step::Park { number, lane, due }),
        4 => any::<usize>().prop_map(Step::Parked),
        4 => (0..50_u64).prop_map(|now| Step::Take { now }),
        2 => (any::<usize>(), 0..50_u64).prop_map(|(pick, due)| Step::Back { pick, due }),
        2 => any::<usize>().prop_map(Step::Gone),
        1 => (1..4_u8, any::<bool>()).prop_map(|(lane, is_dead)| Step::Dead { lane, is_dead }),
        1 => Just(Step::List),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// Against a plain list of events that is looked through each time.
    #[test]
    fn agrees_with_a_plain_list(
        is_ordered in any::<bool>(),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut parked = ParkedEvents::new(LIMITS, is_ordered);
        parked.on_received_to(number(40));
        let mut list: BTreeMap<i64, Known> = BTreeMap::new();
        let mut dead = BTreeSet::new();
        let of = |list: &BTreeMap<i64, Known>, phase, pick: usize| {
            let all: Vec<i64> =
                list.iter().filter(|(_, known)| known.phase == phase).map(|(n, _)| *n).collect();
            (!all.is_empty()).then(|| all[pick % all.len()])
        };
        for step in steps {
            match step {
                Step::Park { number: n, lane: index, due } => {
                    let known = Known { due: at(due), lane: lane(index), phase: Phase::Parking };
                    if let Entry::Vacant(place) = list.entry(n) {
                        place.insert(known);
                        parked.on_parking(number(n), lane(index), at(due));
                    }
                }
                Step::Parked(pick) => if let Some(n) = of(&list, Phase::Parking, pick) {
                    parked.on_parked(number(n));
                    list.get_mut(&n).expect("there").phase = Phase::Rests;
                },
                Step::Take { now } => {
                    let out = |tag: Option<LaneTag>| list.values()
                        .filter(|known| known.phase == Phase::Out && known.lane == tag).count();
                    let may = |n: i64, known: &Known| {
                        let is_lane_ordered = is_ordered && known.lane.is_some();
                        let most = match known.lane {
                            None => LIMITS.out,
                            Some(tag) if is_ordered || dead.contains(&tag) => 1,
                            Some(_) => LIMITS.out_of_lane,
                        };
                        let is_first = list.iter().filter(|(_, other)| other.lane == known.lane)
                            .all(|(other, _)| *other >= n);
                        known.phase == Phase::Rests && known.due <= at(now)
                            && out(known.lane) < most && (!is_lane_ordered || is_first)
                    };
                    let all_out = list.values().filter(|known| known.phase == Phase::Out).count();
                    let soonest = list.iter()
                        .filter(|(n, known)| all_out < LIMITS.out && may(**n, known))
                        .map(|(_, known)| known.due).min();
                    let taken = parked.take_due(at(now));
                    prop_assert_eq!(taken.map(|n| list[&n.0].due), soonest);
                    if let Some(n) = taken {
                        prop_assert!(may(n.0, &list[&n.0]));
                        list.get_mut(&n.0).expect("there").phase = Phase::Out;
                    }
                }
                Step::Back { pick, due } => if let Some(n) = of(&list, Phase::Out, pick) {
                    parked.on_back(number(n), at(due));
                    let known = list.get_mut(&n).expect("there");
                    (known.phase, known.due) = (Phase::Rests, at(due));
                },
                Step::Gone(pick) => if let Some(n) = of(&list, Phase::Out, pick) {
                    parked.on_gone(number(n));
                    list.remove(&n);
                },
                Step::Dead { lane: index, is_dead } => {
                    let tag = lane(index).expect("a lane");
                    parked.set_dead(tag, is_dead);
                    if is_dead { dead.insert(tag); } else { dead.remove(&tag); }
                }
                Step::List => if list.len() <= LIMITS.known {
                    parked.begin_listing();
                    for (n, known) in list.iter().filter(|(_, k)| k.phase != Phase::Parking) {
                        parked.on_listed(number(*n), known.lane, known.due);
                    }
                    prop_assert_eq!(parked.end_listing(), 0);
                },
            }
            prop_assert_eq!(parked.len(), list.len());
            let out = list.values().filter(|known| known.phase == Phase::Out).count();
            prop_assert_eq!(parked.out(), out);
            for index in 1..4 {
                let tag = lane(index).expect("a lane");
                let has = list.values().any(|known| known.lane == Some(tag));
                prop_assert_eq!(parked.has_lane(tag), has);
            }
        }
    }
}
