//! Streams that take, bring, end and break in any order, and the file that comes of it.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Take,
    /// Of the streams that there are, the one with this number: it brings so many bytes.
    Brings(usize, u64),
    GoesOn(usize),
    Ends(usize),
    Breaks(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Take),
        8 => (0_usize..8, 1_u64..40).prop_map(|(stream, bytes)| Step::Brings(stream, bytes)),
        3 => (0_usize..8).prop_map(Step::GoesOn),
        2 => (0_usize..8).prop_map(Step::Ends),
        2 => (0_usize..8).prop_map(Step::Breaks),
    ];
    proptest::collection::vec(step, 1..400)
}

/// A plan, and how often each byte came.
struct Fetch {
    plan: BlockPlan,
    came: Vec<u8>,
    streams: Vec<StreamId>,
}

impl Fetch {
    fn new(total: u64, blocks: Blocks) -> Self {
        let came = vec![0; usize::try_from(total).expect("small")];
        Self { plan: BlockPlan::new(total, blocks), came, streams: Vec::new() }
    }

    fn stream(&self, number: usize) -> Option<StreamId> {
        (!self.streams.is_empty()).then(|| self.streams[number % self.streams.len()])
    }

    fn brings(&mut self, stream: StreamId, bytes: u64) {
        let left = self.plan.left(stream);
        let bytes = bytes.min(left.end - left.start);
        for byte in left.start..left.start + bytes {
            self.came[byte as usize] += 1;
        }
        self.plan.on_bytes(stream, bytes);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Take => {
                let can_take = self.plan.can_take();
                let taken = self.plan.take();
                assert_eq!(taken.is_some(), can_take);
                self.streams.extend(taken.map(|(stream, _)| stream));
            }
            Step::Brings(number, bytes) => {
                if let Some(stream) = self.stream(number) {
                    self.brings(stream, bytes);
                }
            }
            Step::GoesOn(number) => {
                if let Some(stream) = self.stream(number) {
                    let before = self.plan.left(stream);
                    let went_on = self.plan.take_next(stream);
                    assert!(went_on.is_none() || before.is_empty(), "it left its block unfinished");
                }
            }
            Step::Ends(number) | Step::Breaks(number) => {
                if let Some(stream) = self.stream(number) {
                    self.streams.retain(|other| *other != stream);
                    match step {
                        Step::Ends(_) => self.plan.on_end(stream),
                        _ => drop(self.plan.on_break(stream)),
                    }
                }
            }
        }
    }

    fn check(&self, blocks: Blocks) {
        let frontier = self.came.iter().position(|times| *times == 0).unwrap_or(self.came.len());
        assert!(self.came.iter().all(|times| *times <= 1), "a byte came twice");
        assert_eq!(self.plan.frontier(), frontier as u64);
        let received = self.came.iter().filter(|times| **times == 1).count() as u64;
        assert_eq!(self.plan.received(), received);
        let horizon =
            (frontier as u64 / blocks.block_bytes + blocks.window_blocks) * blocks.block_bytes;
        let mut all: Vec<Range<u64>> =
            self.streams.iter().map(|stream| self.plan.left(*stream)).collect();
        all.retain(|taken| !taken.is_empty());
        for taken in &all {
            assert!(taken.end <= horizon, "{taken:?} lies behind the horizon {horizon}");
            assert_eq!(taken.start / blocks.block_bytes, (taken.end - 1) / blocks.block_bytes);
        }
        all.sort_by_key(|taken| taken.start);
        assert!(all.windows(2).all(|two| two[0].end <= two[1].start), "two have one byte: {all:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn each_byte_comes_once_whatever_breaks(
        total in 0_u64..400,
        block_bytes in 1_u64..60,
        window_blocks in 1_u64..9,
        steps in steps(),
    ) {
        let blocks = Blocks { block_bytes, window_blocks };
        let mut fetch = Fetch::new(total, blocks);
        for step in steps {
            fetch.step(step);
            fetch.check(blocks);
        }
        // Whatever happened, it can be brought to its end; and never is everybody waiting.
        for stream in std::mem::take(&mut fetch.streams) {
            fetch.plan.on_end(stream);
        }
        while !fetch.plan.is_complete() {
            let (stream, range) = fetch.plan.take().expect("something is missing, and nobody has it");
            fetch.brings(stream, range.end - range.start);
            fetch.plan.on_end(stream);
            fetch.check(blocks);
        }
        prop_assert_eq!(fetch.plan.received(), total);
        prop_assert!(fetch.plan.take().is_none());
    }
}

proptest! {
    #[test]
    fn what_is_there_already_is_not_taken(
        total in 1_u64..200,
        block_bytes in 1_u64..60,
        there in proptest::collection::vec((0_u64..220, 1_u64..80), 0..8),
    ) {
        let there: Vec<Range<u64>> =
            there.into_iter().map(|(from, bytes)| from..from + bytes).collect();
        let blocks = Blocks { block_bytes, window_blocks: 4 };
        let mut fetch = Fetch::new(total, blocks);
        fetch.plan = fetch.plan.with_there(there.clone());
        for range in there {
            for byte in range.start..range.end.min(total) {
                fetch.came[byte as usize] = 1;
            }
        }
        fetch.check(blocks);
        while let Some((stream, range)) = fetch.plan.take() {
            fetch.brings(stream, range.end - range.start);
            fetch.plan.on_end(stream);
            fetch.check(blocks);
        }
        prop_assert!(fetch.plan.is_complete());
    }
}

const BLOCKS: Blocks = Blocks { block_bytes: 10, window_blocks: 3 };

#[test]
fn the_first_body_flows_on_until_somebody_has_what_follows() {
    let mut fetch = Fetch::new(100, BLOCKS);
    let (first, range) = fetch.plan.take().expect("the first");
    assert_eq!(range, 0..10);
    assert_eq!(fetch.plan.take_next(first), None, "its block is not here yet");
    fetch.brings(first, 10);
    assert_eq!(fetch.plan.take_next(first), Some(10..20));
    let (_second, range) = fetch.plan.take().expect("another one");
    assert_eq!(range, 20..30);
    fetch.brings(first, 10);
    assert_eq!(fetch.plan.take_next(first), None, "somebody else has it");
    fetch.plan.on_end(first);
    assert_eq!(fetch.plan.take().map(|(_, range)| range), Some(30..40));
}

#[test]
fn one_slow_stream_holds_the_others_at_the_horizon() {
    let mut fetch = Fetch::new(100, BLOCKS);
    let (slow, _) = fetch.plan.take().expect("the first");
    for expected in [10..20, 20..30] {
        let (stream, range) = fetch.plan.take().expect("within the window");
        assert_eq!(range, expected);
        fetch.brings(stream, 10);
        fetch.plan.on_end(stream);
    }
    assert_eq!(fetch.plan.take(), None);
    fetch.brings(slow, 10);
    assert_eq!(fetch.plan.frontier(), 30);
    assert_eq!(fetch.plan.take().map(|(_, range)| range), Some(30..40));
}

#[test]
fn what_a_break_left_is_taken_first_and_breaks_in_vain_end_the_attempt() {
    let mut fetch = Fetch::new(100, BLOCKS);
    let (stream, _) = fetch.plan.take().expect("the first");
    let (_other, _) = fetch.plan.take().expect("the second");
    fetch.brings(stream, 3);
    assert_eq!(fetch.plan.on_break(stream), AfterBreak::GoOn(Duration::ZERO));
    for _ in 1..MAX_IDLE_BREAKS {
        let (stream, range) = fetch.plan.take().expect("the rest");
        assert_eq!(range, 3..10);
        let after = fetch.plan.on_break(stream);
        assert!(matches!(after, AfterBreak::GoOn(pause) if pause > Duration::ZERO), "{after:?}");
    }
    let (stream, _) = fetch.plan.take().expect("the rest");
    assert_eq!(fetch.plan.on_break(stream), AfterBreak::Failed);
}
