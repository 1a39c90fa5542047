use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_secs(60);

fn ids(count: usize) -> Vec<PartitionId> {
    (0..count).map(|id| PartitionId::from(id.to_string())).collect()
}

fn lane(id: usize) -> Lane {
    Lane::Partition(id.to_string().as_str().into())
}

fn known(partitions: usize) -> SendLanes<u32> {
    let mut lanes = SendLanes::new(KeyPlacement::Service);
    let now = Instant::now();
    assert!(lanes.take_look(now));
    assert_eq!(lanes.on_partitions(ids(partitions), now, INTERVAL), []);
    lanes
}

fn items(batch: &[Queued<u32>]) -> Vec<u32> {
    batch.iter().map(|send| send.item).collect()
}

#[test]
fn a_batch_is_bounded_by_events_and_bytes_and_a_large_event_goes_alone() {
    let mut lanes = known(1);
    assert_eq!(lanes.on_addressed(lane(0), 0, 10), Some(lane(0)));
    for (item, bytes) in [(1, 10), (2, 10), (3, 500), (4, 90), (5, 10), (6, 1)] {
        assert_eq!(lanes.on_addressed(lane(0), item, bytes), None);
    }
    for expected in [vec![0, 1], vec![2], vec![3], vec![4, 5], vec![6], vec![]] {
        assert_eq!(items(&lanes.take_batch(&lane(0), 2, 100)), expected);
    }
    // At rest, so the next one starts it again.
    assert_eq!(lanes.on_addressed(lane(0), 7, 1), Some(lane(0)));
}

#[test]
fn keyed_sends_wait_for_the_first_look_and_keep_their_order() {
    let mut lanes = SendLanes::new(KeyPlacement::Service);
    let now = Instant::now();
    for item in 0..4 {
        assert_eq!(lanes.on_keyed(["7", "131"][item as usize % 2], item, 1), None);
    }
    // Those without a key wait for nothing.
    assert_eq!(lanes.on_addressed(Lane::Service, 9, 1), Some(Lane::Service));
    assert!(lanes.take_look(now));
    assert!(!lanes.take_look(now), "one is under way");
    // "7" is of partition 7, "131" of partition 2.
    assert_eq!(lanes.on_partitions(ids(8), now, INTERVAL), [lane(7), lane(2)]);
    assert_eq!(items(&lanes.take_batch(&lane(7), 9, 9)), [0, 2]);
    assert_eq!(items(&lanes.take_batch(&lane(2), 9, 9)), [1, 3]);
    assert!(!lanes.take_look(now + INTERVAL / 2));
    assert!(lanes.take_look(now + INTERVAL));
}

#[test]
fn where_the_partitions_cannot_be_known_the_service_chooses() {
    let mut lanes = SendLanes::new(KeyPlacement::Service);
    let now = Instant::now();
    assert_eq!(lanes.on_keyed("7", 0, 1), None);
    assert!(lanes.take_look(now));
    assert_eq!(lanes.on_partitions(Vec::new(), now, INTERVAL), [Lane::Service]);
    let first = lanes.take_batch(&Lane::Service, 9, 9);
    assert_eq!(items(&first), [0]);
    // They are known now: the key moves when what the service placed is answered.
    assert!(lanes.take_look(now + INTERVAL));
    assert_eq!(lanes.on_partitions(ids(8), now, INTERVAL), []);
    assert_eq!(lanes.on_keyed("7", 1, 1), None);
    assert_eq!(lanes.on_answered(first[0].key.as_ref().expect("keyed")), Some(lane(7)));
    assert_eq!(items(&lanes.take_batch(&lane(7), 9, 9)), [1]);
    // A look that fails later changes nothing.
    assert_eq!(lanes.on_partitions(Vec::new(), now, INTERVAL), []);
    assert_eq!(lanes.on_keyed("131", 2, 1), Some(lane(2)));
}

#[test]
fn a_key_of_a_hub_that_grew_moves_when_its_last_event_in_the_old_lane_is_answered() {
    let mut lanes = known(4);
    // "7" goes from partition 3 to 7, "131" stays in 2.
    for (key, item) in [("7", 0), ("131", 1), ("7", 2)] {
        let _started = lanes.on_keyed(key, item, 1);
    }
    let first = lanes.take_batch(&lane(3), 1, 9);
    assert_eq!(lanes.on_partitions(ids(8), Instant::now(), INTERVAL), []);
    assert_eq!(lanes.on_keyed("7", 3, 1), None, "held");
    assert_eq!(lanes.on_keyed("131", 4, 1), None, "behind the other one");
    assert_eq!(lanes.on_answered(first[0].key.as_ref().expect("keyed")), None);
    assert_eq!(lanes.on_keyed("7", 5, 1), None, "held, though its lane goes on");
    let second = lanes.take_batch(&lane(3), 9, 9);
    assert_eq!(items(&second), [2]);
    assert_eq!(lanes.on_answered(second[0].key.as_ref().expect("keyed")), Some(lane(7)));
    assert!(lanes.take_batch(&lane(3), 9, 9).is_empty());
    assert_eq!(items(&lanes.take_batch(&lane(7), 9, 9)), [3, 5]);
    assert_eq!(items(&lanes.take_batch(&lane(2), 9, 9)), [1, 4]);
}

#[test]
fn what_a_vanished_partition_refused_goes_where_its_key_belongs_now() {
    let mut lanes = known(8);
    for item in 0..3 {
        let _started = lanes.on_keyed("7", item, 1);
    }
    assert_eq!(lanes.on_addressed(lane(7), 3, 1), None);
    let refused = lanes.take_batch(&lane(7), 2, 9);
    assert_eq!(lanes.on_partitions(ids(4), Instant::now(), INTERVAL), []);
    assert!(lanes.is_gone(&lane(7)) && !lanes.is_gone(&lane(3)));
    let (addressed, started) = lanes.on_gone(&lane(7), refused);
    assert_eq!((items(&addressed), started), (vec![], vec![lane(3)]));
    assert_eq!(items(&lanes.take_batch(&lane(3), 9, 9)), [0, 1, 2]);
    // Who named the partition is answered by it.
    assert_eq!(items(&lanes.take_batch(&lane(7), 9, 9)), [3]);
}

#[derive(Clone, Debug)]
enum Step {
    Keyed(usize),
    Addressed(usize),
    Partitions(usize),
    /// The lane of this turn is answered, and asked for its next batch.
    Answer(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..KEYS.len()).prop_map(Step::Keyed),
        1 => (0..4_usize).prop_map(Step::Addressed),
        1 => prop_oneof![Just(0), Just(3), Just(4), Just(8)].prop_map(Step::Partitions),
        6 => (0..8_usize).prop_map(Step::Answer),
    ]
}

const KEYS: [&str; 6] = ["7", "131", "FWfAT", "$0cb", "", "Grün"];

/// Sends as a shell does, and what came of it.
struct Shell {
    lanes: SendLanes<u32>,
    under_way: BTreeMap<Lane, Vec<Queued<u32>>>,
    /// Of each key, what went out, in order.
    sent: BTreeMap<Arc<str>, Vec<u32>>,
    answered: usize,
}

impl Shell {
    fn start(&mut self, lane: Lane) {
        let batch = self.lanes.take_batch(&lane, 3, 100);
        for send in &batch {
            if let Some(key) = &send.key {
                for (other, batch) in &self.under_way {
                    let together = batch.iter().any(|one| one.key.as_ref() == Some(key));
                    assert!(!together, "{key} is under way in {other:?} and {lane:?}");
                }
                self.sent.entry(Arc::clone(key)).or_default().push(send.item);
            }
        }
        if !batch.is_empty() {
            assert!(self.under_way.insert(lane, batch).is_none(), "two batches in a lane");
        }
    }

    fn answer(&mut self, lane: Lane) {
        for send in self.under_way.remove(&lane).unwrap_or_default() {
            self.answered += 1;
            let started = send.key.and_then(|key| self.lanes.on_answered(&key));
            if let Some(started) = started {
                self.start(started);
            }
        }
        self.start(lane);
    }
}

proptest! {
    #[test]
    fn every_send_goes_out_once_and_those_of_a_key_in_order_and_one_lane(
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let now = Instant::now();
        let mut shell = Shell {
            lanes: SendLanes::new(KeyPlacement::Service),
            under_way: BTreeMap::new(),
            sent: BTreeMap::new(),
            answered: 0,
        };
        let mut expected: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        let mut sends = 0;
        for step in steps.into_iter().chain([Step::Partitions(4)]) {
            let started = match step {
                Step::Keyed(key) => {
                    expected.entry(KEYS[key]).or_default().push(sends);
                    sends += 1;
                    shell.lanes.on_keyed(KEYS[key], sends - 1, 40).into_iter().collect()
                }
                Step::Addressed(id) => {
                    sends += 1;
                    shell.lanes.on_addressed(lane(id), sends - 1, 40).into_iter().collect()
                }
                Step::Partitions(count) => shell.lanes.on_partitions(ids(count), now, INTERVAL),
                Step::Answer(turn) => {
                    let lane = shell.under_way.keys().nth(turn).cloned();
                    if let Some(lane) = lane {
                        shell.answer(lane);
                    }
                    Vec::new()
                }
            };
            for lane in started {
                shell.start(lane);
            }
        }
        while let Some(lane) = shell.under_way.keys().next().cloned() {
            shell.answer(lane);
        }
        prop_assert_eq!(shell.answered, sends as usize);
        for (key, items) in expected {
            prop_assert_eq!(&shell.sent[key], &items, "{}", key);
        }
        prop_assert!(shell.lanes.keys.is_empty() && shell.lanes.lanes.is_empty());
    }
}
