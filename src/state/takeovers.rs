//! An event that ends the process that handles it, found and taken out of the way.
//!
//! Such an event would go from owner to owner for ever, and end each. The claims of a partition
//! count the owners that came to an end while events waited and the watermark stood still. As
//! the count comes near the limit, fewer events are in flight beyond the checkpoint, so that
//! fewer are suspects; at last each is tried alone, which the checkpoint says before its handler
//! begins. An event that was tried alone when an owner ended, and again at the next, is accused:
//! it becomes a dead letter, unhandled.
//!
//! | takeovers | in flight beyond the checkpoint |
//! |---|---|
//! | below the limit - 4 | as configured |
//! | the limit - 4 | 256 |
//! | the limit - 3 | 16 |
//! | the limit - 2, the limit - 1 | 1, and only after the trial is stored |
//! | the limit | the event on trial is accused |
//!
//! Innocent ends count as little as may be: an owner that ends in order takes its own takeover
//! back, a process that takes back what it had before did not die, and a trial that did not
//! begin is no evidence. What remains is an event so slow that each owner ends before it does,
//! for another reason, twice while it was tried alone.

use crate::checkpoint::Checkpoint;
use crate::event::SequenceNumber;

/// Least [`TakeoverRule::limit`]: two trials, and an owner that ended before.
pub const MIN_TAKEOVERS: u32 = 3;

/// How a partition's takeovers without progress are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakeoverRule {
    /// Takeovers at which the event on trial is accused. `None`: they are only counted.
    pub limit: Option<u32>,
    /// Most events in flight where nothing is suspected.
    pub window_events: usize,
}

impl TakeoverRule {
    /// Most events in flight beyond the checkpoint. `None`: as configured.
    pub fn window(&self, takeovers: u32) -> Option<usize> {
        let limit = self.limit?;
        match limit.saturating_sub(takeovers) {
            _ if takeovers == 0 => None,
            0..=2 => Some(1),
            3 => Some(16),
            4 => Some(256),
            _ => None,
        }
    }

    /// Whether each event is tried alone.
    pub fn is_solo(&self, takeovers: u32) -> bool {
        self.window(takeovers) == Some(1)
    }

    /// Counts a takeover in the claim of a new owner. `has_died`: the checkpoint was written by
    /// another process, which left it without a word. `last_enqueued` is the end of the log.
    pub fn on_claim(
        &self,
        claim: &mut Checkpoint,
        has_died: bool,
        last_enqueued: Option<SequenceNumber>,
    ) {
        let settled_to = claim.watermark.as_ref().map(|position| position.sequence_number);
        if last_enqueued <= settled_to {
            return acquit(claim);
        }
        if has_died {
            self.count(claim, settled_to);
        }
        if self.accused(claim).is_none() {
            // The next trial is a new one: this owner may end before it begins.
            claim.on_trial = None;
        }
    }

    fn count(&self, claim: &mut Checkpoint, settled_to: Option<SequenceNumber>) {
        let takeovers = claim.takeovers_without_progress;
        if self.is_solo(takeovers) && claim.on_trial.is_none() {
            return;
        }
        claim.takeovers_without_progress = takeovers.saturating_add(1);
        if self.window(claim.takeovers_without_progress).is_some() {
            // What the owner before had in flight.
            let events = self.window(takeovers).unwrap_or(self.window_events);
            let events = i64::try_from(events).unwrap_or(i64::MAX);
            let before_first = settled_to.map_or(-1, |number| number.0);
            claim.suspects_to = Some(SequenceNumber(before_first.saturating_add(events)));
        }
    }

    /// The event that is to be a dead letter.
    pub fn accused(&self, stored: &Checkpoint) -> Option<SequenceNumber> {
        let is_over = self.limit.is_some_and(|limit| stored.takeovers_without_progress >= limit);
        stored.on_trial.filter(|_| is_over)
    }

    /// The count of an owner that ends in order: its own takeover was no death. `None` where it
    /// would change nothing for the next.
    pub fn taken_back(&self, stored: &Checkpoint) -> Option<u32> {
        let takeovers = stored.takeovers_without_progress.checked_sub(1)?;
        self.window(takeovers.saturating_add(2)).map(|_| takeovers)
    }
}

/// The watermark moved.
pub fn on_progress(checkpoint: &mut Checkpoint) {
    let settled_to = checkpoint.watermark.as_ref().map(|position| position.sequence_number);
    checkpoint.on_trial.take_if(|number| Some(*number) <= settled_to);
    if checkpoint.suspects_to <= settled_to {
        acquit(checkpoint);
    }
}

/// Nothing is suspected any more.
pub fn acquit(checkpoint: &mut Checkpoint) {
    checkpoint.takeovers_without_progress = 0;
    checkpoint.suspects_to = None;
    checkpoint.on_trial = None;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Position;

    const RULE: TakeoverRule = TakeoverRule { limit: Some(7), window_events: 4_096 };

    fn settled_to(checkpoint: &Checkpoint) -> i64 {
        checkpoint.watermark.as_ref().map_or(-1, |position| position.sequence_number.0)
    }

    /// An owner works on the log until its process dies, of the event `deadly` or after `life`
    /// steps. Returns the event it made a dead letter of.
    fn own(
        rule: &TakeoverRule,
        checkpoint: &mut Checkpoint,
        end: i64,
        deadly: Option<i64>,
        life: usize,
    ) -> Option<i64> {
        rule.on_claim(checkpoint, true, Some(SequenceNumber(end)));
        let mut letter = None;
        for _ in 0..life {
            let first = settled_to(checkpoint) + 1;
            let takeovers = checkpoint.takeovers_without_progress;
            let window = rule.window(takeovers).unwrap_or(rule.window_events);
            let last = (first + i64::try_from(window).expect("small") - 1).min(end);
            if first > end {
                break;
            }
            let accused = rule.accused(checkpoint);
            if accused == Some(SequenceNumber(first)) {
                letter = Some(first);
            } else {
                if rule.is_solo(takeovers) {
                    checkpoint.on_trial = Some(SequenceNumber(first));
                }
                if deadly.is_some_and(|deadly| (first..=last).contains(&deadly)) {
                    return letter;
                }
            }
            checkpoint.watermark = Some(Position::at(last));
            on_progress(checkpoint);
        }
        letter
    }

    proptest! {
        #[test]
        fn the_event_that_ends_its_process_is_found_and_no_other(
            deadly in 0..10_000_i64,
            limit in MIN_TAKEOVERS..12,
            window_events in 1..5_000_usize,
        ) {
            let rule = TakeoverRule { limit: Some(limit), window_events };
            let mut checkpoint = Checkpoint::default();
            let mut letters = Vec::new();
            for _owner in 0..2 * limit {
                let alive = (!letters.contains(&deadly)).then_some(deadly);
                letters.extend(own(&rule, &mut checkpoint, 10_000, alive, usize::MAX));
            }
            prop_assert_eq!(letters, [deadly]);
            prop_assert_eq!(settled_to(&checkpoint), 10_000);
            prop_assert_eq!(checkpoint.takeovers_without_progress, 0);
            prop_assert_eq!(checkpoint.suspects_to, None);
            prop_assert_eq!(checkpoint.on_trial, None);
        }

        #[test]
        fn processes_that_die_before_they_begin_accuse_nobody(
            lives in proptest::collection::vec(0..3_usize, 0..60),
        ) {
            let mut checkpoint = Checkpoint::default();
            for life in lives {
                // None of them dies while something is in flight.
                prop_assert_eq!(own(&RULE, &mut checkpoint, 10_000, None, life), None);
            }
        }
    }

    #[test]
    fn takeovers_are_not_counted_where_nothing_waits() {
        let mut checkpoint = Checkpoint {
            watermark: Some(Position::at(9)),
            takeovers_without_progress: 5,
            suspects_to: Some(SequenceNumber(20)),
            ..Checkpoint::default()
        };
        RULE.on_claim(&mut checkpoint, true, Some(SequenceNumber(9)));
        assert_eq!(checkpoint.takeovers_without_progress, 0);
        assert_eq!(checkpoint.suspects_to, None);
    }

    #[test]
    fn an_owner_that_ends_in_order_takes_its_takeover_back() {
        let mut checkpoint = Checkpoint::default();
        for _ in 0..20 {
            RULE.on_claim(&mut checkpoint, true, Some(SequenceNumber(9)));
            assert_eq!(RULE.window(checkpoint.takeovers_without_progress), None);
            if let Some(takeovers) = RULE.taken_back(&checkpoint) {
                checkpoint.takeovers_without_progress = takeovers;
            }
        }
    }

    #[test]
    fn a_process_that_takes_its_own_partition_back_did_not_die() {
        let mut checkpoint = Checkpoint::default();
        RULE.on_claim(&mut checkpoint, false, Some(SequenceNumber(9)));
        assert_eq!(checkpoint.takeovers_without_progress, 0);
    }

    #[test]
    fn without_a_limit_they_are_only_counted() {
        let rule = TakeoverRule { limit: None, window_events: 16 };
        let mut checkpoint = Checkpoint::default();
        for count in 1..50 {
            rule.on_claim(&mut checkpoint, true, Some(SequenceNumber(9)));
            assert_eq!(checkpoint.takeovers_without_progress, count);
            assert_eq!(rule.window(count), None);
            assert_eq!(rule.taken_back(&checkpoint), None);
        }
        assert_eq!(rule.accused(&checkpoint), None);
    }
}
