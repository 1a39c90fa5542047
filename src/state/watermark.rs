//! Which events of one partition are settled, and up to where all of them are.
//!
//! Events are tracked in the order received; "contiguous" means that order, never
//! sequence number + 1, because logs have gaps. The watermark is the last event of which it
//! and everything received before it are settled. What is settled above it travels with the
//! checkpoint as runs, so that a restart repeats only what was unfinished.
//!
//! Invariants: the watermark never moves backwards and never passes an unsettled event; an
//! event at or below the last received one is a repeat and is not tracked again; a settled
//! event above the watermark is in exactly one run.

use std::collections::VecDeque;
use std::time::SystemTime;

use slab::Slab;

use crate::checkpoint::SettledRun;
use crate::event::{Event, Offset, Position, SequenceNumber};

/// Names a tracked event; never reused within a [`Watermark`].
///
/// Tickets below [`Ticket::FIRST`] are of events that no watermark waits for: they were settled when they
/// were parked, and come back from the failure store. They are older than everything in the window.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

impl Ticket {
    /// The first ticket of a [`Watermark`].
    pub const FIRST: Self = Self(1 << 48);

    /// The ticket of the event that comes back from the failure store as this one, counted from 0.
    pub fn returned(count: u64) -> Self {
        Self(count.min(Self::FIRST.0 - 1))
    }

    /// Whether it is of an event that comes back from the failure store.
    #[inline]
    pub fn is_returned(self) -> bool {
        self < Self::FIRST
    }

    /// The ticket handed out `count` tickets after this one.
    pub fn after(self, count: usize) -> Self {
        Self(self.0 + count as u64)
    }

    /// How many tickets after `earlier` this one was handed out; `None` where it was before.
    pub fn since(self, earlier: Self) -> Option<usize> {
        usize::try_from(self.0.checked_sub(earlier.0)?).ok()
    }
}

/// What a received event is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// New: settle it with this ticket.
    New(Ticket),
    /// Settled by an earlier run, above its watermark: nothing to do.
    SettledBefore,
    /// Received before: nothing to do.
    Repeat,
}

/// What a position says of an event beside its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark<'a> {
    /// Its offset.
    pub offset: Option<&'a Offset>,
    /// When it was enqueued.
    pub enqueued_time: Option<SystemTime>,
}

impl<'a> From<&'a Event> for Mark<'a> {
    fn from(event: &'a Event) -> Self {
        Self { offset: event.offset(), enqueued_time: event.known_enqueued_time() }
    }
}

/// What settling an event did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// It was settled before; nothing changed.
    Before,
    /// It is settled now; an older one holds the watermark.
    Held,
    /// It is settled now, and the watermark moved.
    Advanced,
}

/// The contiguous settled position of one partition, and the holes above it.
#[derive(Debug)]
pub struct Watermark {
    settled_to: Option<Position>,
    last_received: Option<SequenceNumber>,
    /// Received and not yet below the watermark, oldest first; the front is unsettled.
    window: VecDeque<Place>,
    marks: Slab<KeptMark>,
    /// The ticket of the window's front.
    first_ticket: u64,
    /// Unsettled entries of the window.
    unsettled: usize,
    /// Settled by an earlier run and not received yet, ascending.
    settled_before: VecDeque<SettledRun>,
}

/// A mark of an event that the watermark may come to rest at.
#[derive(Debug)]
struct KeptMark {
    offset: Option<Offset>,
    enqueued_time: Option<SystemTime>,
}

/// An event of the window: two words without an owner, so that most of what happens to it is
/// a store.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: SequenceNumber,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unsettled,
    Settled,
    /// Settled, and its mark is kept under this key: the watermark may come to rest here, at the
    /// end of what was settled together.
    SettledAt(u32),
}

impl Place {
    fn is_settled(&self) -> bool {
        self.state != State::Unsettled
    }
}

impl Watermark {
    /// Begins above `settled_to`, with what an earlier run settled above that.
    pub fn from_checkpoint(settled_to: Option<Position>, settled_above: &[SettledRun]) -> Self {
        let last_received = settled_to.as_ref().map(|position| position.sequence_number);
        let begin = last_received.map_or(i64::MIN, |number| number.0.saturating_add(1));
        let mut settled_before: Vec<SettledRun> = settled_above
            .iter()
            .map(|run| SettledRun { first: SequenceNumber(run.first.0.max(begin)), last: run.last })
            .filter(|run| run.first <= run.last && Some(run.last) > last_received)
            .collect();
        settled_before.sort_by_key(|run| run.first);
        // A checkpoint that somebody edited may say twice what is settled.
        settled_before.dedup_by(|later, earlier| {
            let is_within = later.first.0 <= earlier.last.0.saturating_add(1);
            if is_within {
                earlier.last = earlier.last.max(later.last);
            }
            is_within
        });
        Self {
            settled_to,
            last_received,
            window: VecDeque::new(),
            marks: Slab::new(),
            first_ticket: Ticket::FIRST.0,
            unsettled: 0,
            settled_before: settled_before.into(),
        }
    }

    /// Takes a received event in. Its mark is asked for only where it is wanted already.
    #[inline]
    pub fn on_received<'a>(
        &mut self,
        number: SequenceNumber,
        mark: impl FnOnce() -> Mark<'a>,
    ) -> Received {
        self.on_received_within(number, number, number, mark)
    }

    /// Takes in a received event whose number is one of `first` to `last`, and which goes by
    /// `number`, one of these. What an earlier run settled says that it was among that only where it
    /// has them all: the same event may have gone by another number then.
    #[inline]
    pub fn on_received_within<'a>(
        &mut self,
        number: SequenceNumber,
        first: SequenceNumber,
        last: SequenceNumber,
        mark: impl FnOnce() -> Mark<'a>,
    ) -> Received {
        if Some(number) <= self.last_received {
            return Received::Repeat;
        }
        self.last_received = Some(number);
        while self.settled_before.front().is_some_and(|run| run.last < number) {
            self.settled_before.pop_front();
        }
        let settled =
            self.settled_before.front().is_some_and(|run| run.first <= first && last <= run.last);
        let ticket = self.next_ticket();
        if settled {
            self.window.push_back(Place { number, state: State::Settled });
            self.advance(Some((self.window.len() - 1, mark())));
            Received::SettledBefore
        } else {
            self.window.push_back(Place { number, state: State::Unsettled });
            self.unsettled += 1;
            Received::New(ticket)
        }
    }

    /// Settles an event; settling it again changes nothing.
    pub fn on_settled(&mut self, ticket: Ticket, mark: Mark<'_>) -> Settled {
        let index = ticket.0.checked_sub(self.first_ticket).map(usize::try_from);
        let Some(Ok(index)) = index else { return Settled::Before };
        match self.window.get_mut(index) {
            Some(tracked) if !tracked.is_settled() => tracked.state = State::Settled,
            _ => return Settled::Before,
        }
        self.unsettled -= 1;
        if self.advance(Some((index, mark))) { Settled::Advanced } else { Settled::Held }
    }

    /// Settles `count` events received in a row, of which `first` is the first and `mark` belongs
    /// to the last; `before` is told the index of each that was settled before: nearly always of
    /// none, so that what is done for each event of a batch is a store.
    /// Returns whether the watermark moved.
    pub fn on_settled_in_a_row(
        &mut self,
        first: Ticket,
        count: usize,
        mark: Mark<'_>,
        mut before: impl FnMut(usize),
    ) -> bool {
        // What is not in the window any more is below the watermark.
        let passed = usize::try_from(self.first_ticket.saturating_sub(first.0)).unwrap_or(count);
        let passed = passed.min(count);
        (0..passed).for_each(&mut before);
        let begin =
            usize::try_from(first.0.saturating_sub(self.first_ticket)).unwrap_or(usize::MAX);
        let begin = begin.min(self.window.len());
        let there = (count - passed).min(self.window.len() - begin);
        // Beyond it nothing was received.
        (passed + there..count).for_each(&mut before);
        let mut left = self.unsettled;
        let mut last = None;
        for (index, tracked) in self.window.range_mut(begin..begin + there).enumerate() {
            if tracked.is_settled() {
                before(passed + index);
            } else {
                tracked.state = State::Settled;
                left -= 1;
                last = Some(index);
            }
        }
        self.unsettled = left;
        let last = last.filter(|index| passed + index + 1 == count);
        self.advance(last.map(|index| (begin + index, mark)))
    }

    /// Whether a tracked event is settled.
    pub fn is_settled(&self, ticket: Ticket) -> bool {
        let Some(index) = ticket.0.checked_sub(self.first_ticket) else { return true };
        let tracked = usize::try_from(index).ok().and_then(|index| self.window.get(index));
        tracked.is_some_and(Place::is_settled)
    }

    /// The last event of which it and all before it are settled.
    pub fn settled_to(&self) -> Option<&Position> {
        self.settled_to.as_ref()
    }

    /// The newest event received.
    pub fn last_received(&self) -> Option<SequenceNumber> {
        self.last_received
    }

    /// The ticket that the next new event gets.
    pub fn next_ticket(&self) -> Ticket {
        Ticket(self.first_ticket + self.window.len() as u64)
    }

    /// The oldest unsettled event of those received.
    pub fn oldest_unsettled(&self) -> Option<Ticket> {
        (!self.window.is_empty()).then_some(Ticket(self.first_ticket))
    }

    /// Events of this life below the watermark.
    pub fn passed_events(&self) -> u64 {
        self.first_ticket - Ticket::FIRST.0
    }

    /// Events received and not yet below the watermark: what the window W bounds.
    pub fn window_events(&self) -> usize {
        self.window.len()
    }

    /// Events received and not settled.
    pub fn unsettled_events(&self) -> usize {
        self.unsettled
    }

    /// Events settled above the watermark: what a restart without runs would repeat.
    pub fn settled_above_events(&self) -> usize {
        self.window.len() - self.unsettled
    }

    /// What is settled above the watermark, as ascending runs that do not touch.
    pub fn settled_above(&self) -> Vec<SettledRun> {
        let mut runs = Vec::new();
        let mut open: Option<SettledRun> = None;
        for tracked in &self.window {
            let number = tracked.number;
            match (&mut open, tracked.is_settled()) {
                (Some(run), true) => run.last = number,
                (None, true) => {
                    open = Some(SettledRun { first: number, last: number });
                }
                (_, false) => runs.extend(open.take()),
            }
        }
        // A run of an earlier life that reaches past the last received event goes on.
        let mut before = self.settled_before.iter().copied().peekable();
        if let (Some(run), Some(first)) = (&mut open, before.peek())
            && first.first <= run.last
        {
            run.last = first.last;
            before.next();
        }
        runs.extend(open);
        // What of it was received and is below the watermark by now is cut off.
        let next = self.last_received.map_or(i64::MIN, |last| last.0.saturating_add(1));
        runs.extend(before.filter(|run| run.last.0 >= next).map(|run| SettledRun {
            first: SequenceNumber(run.first.0.max(next)),
            last: run.last,
        }));
        runs
    }

    /// Moves the watermark over what is settled. `settled` is where in the window something was
    /// settled just now, and its mark: it is kept only where the watermark may come to rest there
    /// later, and so costs nothing where events end in their order.
    fn advance(&mut self, settled: Option<(usize, Mark<'_>)>) -> bool {
        let leaving = self.window.iter().take_while(|tracked| tracked.is_settled()).count();
        if let Some((index, mark)) = settled
            && index >= leaving
            && let Some(tracked) = self.window.get_mut(index)
        {
            tracked.state = keep(&mut self.marks, mark);
        }
        let Some(rests_at) = leaving.checked_sub(1) else { return false };
        let Some(number) = self.window.get(rests_at).map(|tracked| tracked.number) else {
            return false;
        };
        let mut position = Position::at(number.0);
        if let Some((_, mark)) = settled.filter(|(index, _)| *index == rests_at) {
            position.offset = mark.offset.cloned();
            position.enqueued_time = mark.enqueued_time;
        }
        if self.marks.is_empty() {
            self.window.drain(..leaving);
        } else {
            for (index, tracked) in self.window.drain(..leaving).enumerate() {
                if let State::SettledAt(key) = tracked.state
                    && let Some(mark) = self.marks.try_remove(key as usize)
                    && index == rests_at
                {
                    position.offset = mark.offset;
                    position.enqueued_time = mark.enqueued_time;
                }
            }
        }
        self.first_ticket += leaving as u64;
        // Who goes by offsets begins behind an earlier event, rather than nowhere.
        if position.offset.is_none() {
            position.offset = self.settled_to.take().and_then(|before| before.offset);
        }
        self.settled_to = Some(position);
        true
    }
}

/// Keeps a mark, if it says anything and there is a key for it.
fn keep(marks: &mut Slab<KeptMark>, mark: Mark<'_>) -> State {
    let Mark { offset, enqueued_time } = mark;
    if offset.is_none() && enqueued_time.is_none() {
        return State::Settled;
    }
    let key = marks.insert(KeptMark { offset: offset.cloned(), enqueued_time });
    u32::try_from(key).map_or(State::Settled, State::SettledAt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[derive(Clone, Debug)]
    enum Step {
        /// Receive the event this far above the last one.
        Receive { gap: i64 },
        /// Receive an event again.
        Repeat { back: i64 },
        /// Settle one of the tickets handed out, and so many received in a row with it.
        Settle { pick: usize, more: usize },
        /// Crash and resume from the checkpoint.
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => prop_oneof![3 => Just(1i64), 1 => 2i64..5].prop_map(|gap| Step::Receive { gap }),
            1 => (0i64..4).prop_map(|back| Step::Repeat { back }),
            6 => (any::<usize>(), prop_oneof![2 => Just(0usize), 1 => 1usize..6])
                .prop_map(|(pick, more)| Step::Settle { pick, more }),
            1 => Just(Step::Restart),
        ]
    }

    #[test]
    fn an_event_without_an_offset_keeps_the_last_one_that_is_known() {
        let before = Position { offset: Some("40".into()), ..Position::at(4) };
        let mut watermark = Watermark::from_checkpoint(Some(before), &[]);
        for (number, offset, known) in
            [(5, None, Some("40")), (6, Some("60"), Some("60")), (7, None, Some("60"))]
        {
            let offset = offset.map(Offset::new);
            let mark = Mark { offset: offset.as_ref(), enqueued_time: None };
            let Received::New(ticket) = watermark.on_received(SequenceNumber(number), || mark)
            else {
                panic!("it is new");
            };
            watermark.on_settled(ticket, mark);
            let position = watermark.settled_to().expect("settled");
            assert_eq!(position.sequence_number, SequenceNumber(number));
            assert_eq!(position.offset.as_ref().map(Offset::as_str), known);
        }
    }

    #[test]
    fn an_event_whose_number_is_not_known_was_settled_before_only_with_all_it_may_be() {
        let run =
            |first, last| SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) };
        for (runs, is_settled) in [
            (vec![run(3, 8)], true),
            (vec![run(1, 20)], true),
            (vec![run(1, 1), run(3, 8)], true),
            (vec![run(7, 8)], false),
            (vec![run(3, 7)], false),
            (vec![run(3, 5), run(7, 8)], false),
        ] {
            let mut watermark = Watermark::from_checkpoint(Some(Position::at(0)), &runs);
            for number in [7, 8] {
                let [number, first, last] = [number, 3, 8].map(SequenceNumber);
                let received = watermark.on_received_within(number, first, last, Mark::default);
                assert_eq!(received == Received::SettledBefore, is_settled, "{runs:?}");
            }
        }
    }

    fn offset(number: i64) -> Offset {
        Offset::new(format!("at {number}"))
    }

    /// Events of one second each.
    fn enqueued_time(number: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(number.unsigned_abs())
    }

    fn mark(offset: &Offset, number: i64) -> Mark<'_> {
        Mark { offset: Some(offset), enqueued_time: Some(enqueued_time(number)) }
    }

    fn receive(watermark: &mut Watermark, number: i64) -> Received {
        let offset = offset(number);
        watermark.on_received(SequenceNumber(number), || mark(&offset, number))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        /// Against sets of numbers: every event of the log so far, and the settled ones.
        #[test]
        fn agrees_with_plain_sets(steps in prop::collection::vec(step(), 0..60)) {
            let mut watermark = Watermark::from_checkpoint(None, &[]);
            let mut log: Vec<i64> = Vec::new();
            let mut cursor = 0; // how much of the log this life has received
            let mut settled: BTreeSet<i64> = BTreeSet::new();
            let mut tickets: Vec<(i64, Ticket)> = Vec::new();
            let contiguous = |log: &[i64], settled: &BTreeSet<i64>| {
                log.iter().take_while(|number| settled.contains(number)).last().copied()
            };
            for step in steps {
                match step {
                    Step::Receive { gap } => {
                        if cursor == log.len() {
                            log.push(log.last().copied().unwrap_or(-1) + gap);
                        }
                        let number = log[cursor];
                        cursor += 1;
                        match receive(&mut watermark, number) {
                            Received::New(ticket) => {
                                prop_assert!(!settled.contains(&number));
                                tickets.push((number, ticket));
                            }
                            Received::SettledBefore => prop_assert!(settled.contains(&number)),
                            Received::Repeat => prop_assert!(false, "{number} is new"),
                        }
                    }
                    Step::Repeat { back } => if cursor > 0 {
                        let number = log[cursor - 1] - back;
                        prop_assert_eq!(receive(&mut watermark, number), Received::Repeat);
                    },
                    Step::Settle { pick, more } => if !tickets.is_empty() {
                        let from = pick % tickets.len();
                        let (_, first) = tickets[from];
                        let row: Vec<i64> = tickets[from..]
                            .iter()
                            .enumerate()
                            .take(more + 1)
                            .take_while(|(index, (_, ticket))| *ticket == first.after(*index))
                            .map(|(_, (number, _))| *number)
                            .collect();
                        let number = row[row.len() - 1];
                        let last = offset(number);
                        let last = mark(&last, number);
                        let before = contiguous(&log[..cursor], &settled);
                        let settled_before: Vec<usize> = (0..row.len())
                            .filter(|index| !settled.insert(row[*index]))
                            .collect();
                        let moved = contiguous(&log[..cursor], &settled) != before;
                        if row.len() == 1 {
                            let expected = match (settled_before.is_empty(), moved) {
                                (false, _) => Settled::Before,
                                (true, true) => Settled::Advanced,
                                (true, false) => Settled::Held,
                            };
                            prop_assert_eq!(watermark.on_settled(first, last), expected);
                        } else {
                            let mut told = Vec::new();
                            let advanced = watermark.on_settled_in_a_row(
                                first, row.len(), last, |index| told.push(index),
                            );
                            prop_assert_eq!((told, advanced), (settled_before, moved));
                        }
                    },
                    Step::Restart => {
                        let position = watermark.settled_to().cloned();
                        let runs = watermark.settled_above();
                        watermark = Watermark::from_checkpoint(position.clone(), &runs);
                        tickets.clear();
                        cursor = position.map_or(0, |position| {
                            log.iter().filter(|number| **number <= position.sequence_number.0).count()
                        });
                    }
                }
                let received = &log[..cursor];
                let expected = contiguous(received, &settled);
                prop_assert_eq!(
                    watermark.settled_to().cloned(),
                    expected.map(|number| Position {
                        sequence_number: SequenceNumber(number),
                        offset: Some(offset(number)),
                        enqueued_time: Some(enqueued_time(number)),
                    })
                );
                let above: Vec<i64> = log.iter().copied()
                    .filter(|number| Some(*number) > expected && settled.contains(number))
                    .collect();
                let runs = watermark.settled_above();
                let covered: Vec<i64> = log.iter().copied()
                    .filter(|number| runs.iter().any(|run| (run.first.0..=run.last.0).contains(number)))
                    .collect();
                prop_assert_eq!(covered, above);
                prop_assert!(runs.windows(2).all(|pair| pair[0].last < pair[1].first));
                let unsettled = received.iter().filter(|number| !settled.contains(number)).count();
                prop_assert_eq!(watermark.unsettled_events(), unsettled);
                let oldest = tickets.iter().find(|(number, _)| !settled.contains(number));
                prop_assert_eq!(watermark.oldest_unsettled(), oldest.map(|(_, ticket)| *ticket));
            }
        }
    }

    #[test]
    fn what_is_settled_on_both_sides_of_the_watermark_is_not_received_again() {
        let run = SettledRun { first: SequenceNumber(3), last: SequenceNumber(6) };
        let mut watermark = Watermark::from_checkpoint(Some(Position::at(4)), &[run]);
        let received = |watermark: &mut Watermark, number| {
            watermark.on_received(SequenceNumber(number), Mark::default)
        };
        assert_eq!(received(&mut watermark, 5), Received::SettledBefore);
        assert_eq!(received(&mut watermark, 6), Received::SettledBefore);
        assert!(matches!(received(&mut watermark, 7), Received::New(_)));
        assert_eq!(watermark.settled_to(), Some(&Position::at(6)));
    }

    #[test]
    fn runs_of_a_checkpoint_that_overlap_are_one() {
        let run =
            |first, last| SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) };
        let edited =
            [run(60, 50), run(8, 12), run(1, 9), run(13, 13), run(20, i64::MAX), run(30, 31)];
        let watermark = Watermark::from_checkpoint(Some(Position::at(4)), &edited);
        assert_eq!(watermark.settled_above(), [run(5, 13), run(20, i64::MAX)]);
    }

    #[test]
    fn a_hole_keeps_the_watermark_and_shows_in_the_runs() {
        let mut watermark = Watermark::from_checkpoint(Some(Position::at(4)), &[]);
        let settle =
            |watermark: &mut Watermark, ticket| watermark.on_settled(ticket, Mark::default());
        let tickets: Vec<Ticket> = [5, 7, 8, 12]
            .into_iter()
            .filter_map(|number| {
                match watermark.on_received(SequenceNumber(number), Mark::default) {
                    Received::New(ticket) => Some(ticket),
                    _ => None,
                }
            })
            .collect();
        assert_eq!(settle(&mut watermark, tickets[1]), Settled::Held);
        assert_eq!(settle(&mut watermark, tickets[2]), Settled::Held);
        assert_eq!(watermark.settled_to(), Some(&Position::at(4)));
        assert_eq!(
            watermark.settled_above(),
            [SettledRun { first: SequenceNumber(7), last: SequenceNumber(8) }]
        );
        assert_eq!(settle(&mut watermark, tickets[0]), Settled::Advanced);
        assert_eq!(settle(&mut watermark, tickets[0]), Settled::Before);
        assert_eq!(watermark.settled_to(), Some(&Position::at(8)));
        assert_eq!(watermark.unsettled_events(), 1);
    }
}
