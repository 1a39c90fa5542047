//! An event that ends the process that handles it, found and taken out of the way.
//!
//! Such an event would go from owner to owner for ever, and end each. The claims of a partition
//! count the owners that came to an end without progress while events waited. As the count comes
//! near the limit, fewer events are in flight beyond the checkpoint, so that fewer are suspects;
//! at last each is tried: it is handled while nothing else of its process is, and the checkpoint
//! says so before its handler begins. An event that was on trial when two owners ended is
//! accused: it becomes a dead letter, unhandled.
//!
//! | takeovers | in flight beyond the checkpoint |
//! |---|---|
//! | below the limit - 4 | as configured |
//! | the limit - 4 | 256 |
//! | the limit - 3 | 16 |
//! | from the limit - 2 on | 1, and tried |
//!
//! The count takes every end in, and costs no more than fewer events at once; what accuses is a
//! death on trial. A trial is over when the handler returns, or after [`TRIAL_TIME`], twice as
//! long with each further takeover; whatever ends the process then is no evidence.

use std::time::Duration;

use crate::checkpoint::{Checkpoint, Trial};
use crate::event::SequenceNumber;

/// The least value of `max_takeovers`: 6. Two orderly ends in a row, which may count, change nothing.
pub const MIN_TAKEOVERS: u32 = 6;

/// How long the first trial of an event may last: everything else of its process rests meanwhile.
pub const TRIAL_TIME: Duration = Duration::from_secs(60);

/// Longest of [`TakeoverRule::longest_trial`].
pub const LONGEST_TRIAL: Duration = Duration::from_secs(15 * 60);

/// Deaths on trial from which on an event is accused.
const CONVINCING_DEATHS: u32 = 2;

/// How a partition's takeovers without progress are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakeoverRule {
    /// Takeovers from which on, two trials later, an event is accused. `None`: they are only
    /// counted.
    pub limit: Option<u32>,
    /// Most events in flight where nothing is suspected.
    pub window_events: usize,
    /// Longest trial.
    pub longest_trial: Duration,
}

impl TakeoverRule {
    /// Most events in flight beyond the checkpoint. `None`: as configured.
    pub fn window(&self, takeovers: u32) -> Option<usize> {
        let window = match self.limit?.saturating_sub(takeovers) {
            _ if takeovers == 0 => return None,
            0..=2 => 1,
            3 => 16,
            4 => 256,
            _ => return None,
        };
        Some(window.min(self.window_events))
    }

    /// How long each event is tried, where they are.
    pub fn trial_time(&self, takeovers: u32) -> Option<Duration> {
        let beyond =
            takeovers.saturating_add(2).checked_sub(self.limit?).filter(|_| takeovers > 0)?;
        let time = TRIAL_TIME.saturating_mul(2_u32.saturating_pow(beyond));
        Some(time.min(self.longest_trial))
    }

    /// Counts a takeover in the claim of a new owner. `is_anothers`: another process wrote the
    /// checkpoint. `last_enqueued` is the end of the log.
    pub fn on_claim(
        &self,
        claim: &mut Checkpoint,
        is_anothers: bool,
        last_enqueued: Option<SequenceNumber>,
    ) {
        let settled_to = claim.watermark.as_ref().map(|position| position.sequence_number);
        if last_enqueued <= settled_to {
            return acquit(claim);
        }
        if let Some(trial) = &mut claim.trial {
            let has_died = std::mem::take(&mut trial.is_on) && is_anothers;
            trial.deaths = trial.deaths.saturating_add(u32::from(has_died));
        }
        if !is_anothers {
            return;
        }
        let mut takeovers = claim.takeovers_without_progress;
        if let (Some(limit), None) = (self.limit, claim.suspects_to) {
            // However far it was counted under another rule: one step after the other.
            takeovers = takeovers.min(limit.saturating_sub(5));
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
    pub fn accused(&self, stored: &Checkpoint) -> Option<Trial> {
        let trial = stored.trial.filter(|trial| trial.deaths >= CONVINCING_DEATHS);
        trial.filter(|_| self.limit.is_some())
    }

    /// The count that an owner leaves that ends in order: its own takeover led to no death.
    /// `None` where it would change nothing for the next.
    pub fn taken_back(&self, stored: &Checkpoint) -> Option<u32> {
        let takeovers = stored.takeovers_without_progress.checked_sub(1)?;
        self.window(takeovers.saturating_add(2)).map(|_| takeovers)
    }
}

/// A trial begins, or is over.
pub fn on_trial(checkpoint: &mut Checkpoint, event: SequenceNumber, is_on: bool) {
    let before = checkpoint.trial.filter(|before| before.event == event);
    let deaths = before.map_or(0, |before| before.deaths);
    checkpoint.trial = Some(Trial { event, is_on, deaths });
}

/// The watermark moved.
pub fn on_progress(checkpoint: &mut Checkpoint) {
    let settled_to = checkpoint.watermark.as_ref().map(|position| position.sequence_number);
    checkpoint.trial.take_if(|trial| Some(trial.event) <= settled_to);
    if checkpoint.suspects_to <= settled_to {
        acquit(checkpoint);
    }
}

/// Nothing is suspected any more.
pub fn acquit(checkpoint: &mut Checkpoint) {
    checkpoint.takeovers_without_progress = 0;
    checkpoint.suspects_to = None;
    checkpoint.trial = None;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Position;

    const RULE: TakeoverRule = TakeoverRule {
        limit: Some(7),
        window_events: 4_096,
        longest_trial: Duration::from_secs(900),
    };
    const END: i64 = 10_000;

    fn settled_to(checkpoint: &Checkpoint) -> i64 {
        checkpoint.watermark.as_ref().map_or(-1, |position| position.sequence_number.0)
    }

    /// How an owner ends.
    #[derive(Clone, Copy, Debug)]
    enum End {
        /// Before anything of its next round is begun.
        Between,
        /// While its events are handled, of something else than one of them.
        Handling,
        /// As `Handling`, after the trial was over.
        LongAfter,
        Orderly,
    }

    /// An owner works on the log until it dies of `deadly`, or comes to its end after so many
    /// rounds. Returns the event that it made a dead letter of.
    fn own(
        rule: &TakeoverRule,
        checkpoint: &mut Checkpoint,
        deadly: Option<i64>,
        (rounds, end): (usize, End),
    ) -> Option<i64> {
        rule.on_claim(checkpoint, true, Some(SequenceNumber(END)));
        let mut letter = None;
        for round in 0..=rounds {
            let first = settled_to(checkpoint) + 1;
            let takeovers = checkpoint.takeovers_without_progress;
            let window = rule.window(takeovers).unwrap_or(rule.window_events);
            let last = (first + i64::try_from(window).expect("small") - 1).min(END);
            if first > END || round == rounds && matches!(end, End::Between) {
                break;
            }
            if rule.accused(checkpoint).is_some_and(|trial| trial.event.0 == first) {
                letter = Some(first);
            } else {
                if rule.trial_time(takeovers).is_some() {
                    on_trial(checkpoint, SequenceNumber(first), true);
                }
                if deadly.is_some_and(|deadly| (first..=last).contains(&deadly))
                    || round == rounds && matches!(end, End::Handling)
                {
                    return letter;
                }
                if round == rounds
                    && let Some(trial) = &mut checkpoint.trial
                {
                    trial.is_on = false;
                }
            }
            if round == rounds {
                break;
            }
            checkpoint.watermark = Some(Position::at(last));
            on_progress(checkpoint);
        }
        if let (End::Orderly, Some(takeovers)) = (end, rule.taken_back(checkpoint)) {
            checkpoint.takeovers_without_progress = takeovers;
        }
        letter
    }

    const FOR_GOOD: (usize, End) = (usize::MAX, End::Between);

    fn ends(among: &'static [End]) -> impl Strategy<Value = (usize, End)> {
        (0..3_usize, proptest::sample::select(among))
    }

    proptest! {
        #[test]
        fn the_event_that_ends_its_process_is_found_and_no_other(
            deadly in 0..=END,
            limit in MIN_TAKEOVERS..12,
            window_events in 1..5_000_usize,
            others in proptest::collection::vec(
                ends(&[End::Between, End::LongAfter, End::Orderly]), 0..20),
        ) {
            let rule = TakeoverRule { limit: Some(limit), window_events, ..RULE };
            let mut checkpoint = Checkpoint::default();
            let mut letters = Vec::new();
            for life in others.into_iter().chain((0..2 * limit).map(|_| FOR_GOOD)) {
                let alive = (!letters.contains(&deadly)).then_some(deadly);
                letters.extend(own(&rule, &mut checkpoint, alive, life));
            }
            // An owner may end between a letter and its checkpoint.
            letters.dedup();
            prop_assert_eq!(letters, [deadly]);
            prop_assert_eq!(settled_to(&checkpoint), END);
            prop_assert_eq!(checkpoint.takeovers_without_progress, 0);
            prop_assert_eq!((checkpoint.suspects_to, checkpoint.trial), (None, None));
        }

        #[test]
        fn ends_that_no_event_on_trial_was_there_for_accuse_nobody(
            lives in proptest::collection::vec(
                ends(&[End::Between, End::LongAfter, End::Orderly]), 0..60),
        ) {
            let mut checkpoint = Checkpoint::default();
            for life in lives {
                prop_assert_eq!(own(&RULE, &mut checkpoint, None, life), None);
            }
        }
    }

    #[test]
    fn two_deaths_on_trial_accuse_and_one_does_not() {
        let mut checkpoint = Checkpoint::default();
        let dies = (0, End::Handling);
        for owner in 0..=5 {
            assert_eq!(own(&RULE, &mut checkpoint, None, dies), None, "{owner}");
        }
        assert_eq!(checkpoint.trial.map(|trial| trial.deaths), Some(1));
        let mut other = checkpoint.clone();
        assert_eq!(own(&RULE, &mut other, None, (1, End::Between)), Some(0));
        // What was begun and not on trial, as of a previous version, is no evidence.
        checkpoint.trial = None;
        assert_eq!(own(&RULE, &mut checkpoint, None, (1, End::Between)), None);
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
    fn orderly_ends_change_nothing_at_any_limit() {
        for limit in MIN_TAKEOVERS..12 {
            let rule = TakeoverRule { limit: Some(limit), ..RULE };
            let mut checkpoint = Checkpoint::default();
            for _ in 0..20 {
                own(&rule, &mut checkpoint, None, (0, End::Orderly));
                assert_eq!(rule.window(checkpoint.takeovers_without_progress), None);
            }
        }
    }

    #[test]
    fn a_process_that_takes_its_own_partition_back_did_not_die() {
        let trial = Some(Trial { event: SequenceNumber(0), is_on: true, deaths: 1 });
        let mut checkpoint = Checkpoint { trial, ..Checkpoint::default() };
        RULE.on_claim(&mut checkpoint, false, Some(SequenceNumber(9)));
        assert_eq!(checkpoint.takeovers_without_progress, 0);
        assert_eq!(checkpoint.trial, trial.map(|trial| Trial { is_on: false, ..trial }));
    }

    #[test]
    fn trials_take_longer_with_each_takeover_up_to_the_longest() {
        let seconds: Vec<_> = [4, 5, 6, 7, 8, 9, 60]
            .map(|takeovers| RULE.trial_time(takeovers).map(|time| time.as_secs()))
            .into();
        let some = [60, 120, 240, 480, 900, 900].map(Some);
        assert_eq!(seconds, [&[None][..], &some].concat());
    }

    #[test]
    fn without_a_limit_they_are_only_counted() {
        let rule = TakeoverRule { limit: None, ..RULE };
        let mut checkpoint = Checkpoint::default();
        for count in 1..50 {
            rule.on_claim(&mut checkpoint, true, Some(SequenceNumber(9)));
            assert_eq!(checkpoint.takeovers_without_progress, count);
            assert_eq!((rule.window(count), rule.trial_time(count)), (None, None));
            assert_eq!(rule.taken_back(&checkpoint), None);
        }
        let trial = Some(Trial { event: SequenceNumber(0), is_on: false, deaths: 5 });
        assert_eq!(rule.accused(&Checkpoint { trial, ..checkpoint }), None);
    }
}
