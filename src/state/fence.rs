//! What may be written over which checkpoint: the fence of an owner.
//!
//! A new owner first rewrites the checkpoint with its own lease epoch (the claim), so that a
//! write of an older owner that is still under way fails its compare-and-swap. From then on
//! the owner writes forward only. When a compare fails, what is stored decides:
//!
//! - our own write id: the answer was lost, the write was not;
//! - a higher lease epoch, incarnation or reset generation: another owner is the rightful one;
//! - anything else, for example an SDK that writes unconditionally: merge, and write again.
//!
//! Checkpoints are ordered by (incarnation, reset generation, sequence number).

use crate::checkpoint::{
    Checkpoint, Expected, LeaseEpoch, SettledRun, StoredCheckpoint, VersionToken, WriteId,
};
use crate::event::{Incarnation, Position, SequenceNumber};
use crate::state::takeovers::{self, TakeoverRule};

/// One owner's right to write one partition's checkpoint.
#[derive(Clone, Debug)]
pub struct Fence {
    /// What the store holds, as far as we know.
    stored: Checkpoint,
    expected: Expected,
    pending: Option<Checkpoint>,
    /// Whether the claim is acknowledged. From then on the epoch is ours alone.
    claimed: bool,
    /// Whether this event is on trial, which the next write is to say.
    on_trial: Option<(SequenceNumber, bool)>,
    /// The count of takeovers that an orderly end leaves.
    taken_back: Option<u32>,
}

/// What a failed compare means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Our write is there.
    Written,
    /// Write what [`Fence::pending`] holds now.
    WriteAgain,
    /// Another owner is the rightful one: write nothing any more.
    Superseded(Superseded),
}

/// Why an owner's right ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Superseded {
    /// A later owner claimed the checkpoint.
    Epoch(LeaseEpoch),
    /// The checkpoint belongs to another creation of the hub.
    Incarnation(Incarnation),
    /// An operator reset the checkpoint.
    Reset(u64),
}

impl Fence {
    /// Prepares the claim over what is stored: same position, our epoch, our incarnation.
    ///
    /// The epoch is one more than the stored one and at least `now_millis`, so that a wiped
    /// store cannot lock out the rightful owner. A checkpoint of another incarnation is kept
    /// only as a fence: its position means nothing in this log and is dropped; the caller
    /// compares [`StoredCheckpoint::checkpoint`] first and says so.
    pub fn claim(
        stored: Option<StoredCheckpoint>,
        incarnation: Incarnation,
        now_millis: u64,
        write_id: WriteId,
    ) -> Self {
        let (before, expected) = match stored {
            Some(StoredCheckpoint { checkpoint, version }) => {
                (checkpoint, Expected::Version(version))
            }
            None => (Checkpoint::default(), Expected::Absent),
        };
        let mut claim = before.clone();
        if before.incarnation.is_some_and(|was| was != incarnation) {
            claim.watermark = None;
            claim.settled_above.clear();
            takeovers::acquit(&mut claim);
        }
        claim.incarnation = Some(incarnation);
        claim.lease_epoch = LeaseEpoch(before.lease_epoch.0.saturating_add(1).max(now_millis));
        claim.write_id = write_id;
        Self {
            stored: before,
            expected,
            pending: Some(claim),
            claimed: false,
            on_trial: None,
            taken_back: None,
        }
    }

    /// Counts the claim as a takeover, where another process had the partition.
    pub fn on_takeover(
        &mut self,
        rule: &TakeoverRule,
        is_anothers: bool,
        last_enqueued: Option<SequenceNumber>,
    ) {
        let is_anothers = is_anothers && self.stored.lease_epoch > LeaseEpoch(0);
        if let Some(claim) = &mut self.pending {
            rule.on_claim(claim, is_anothers, last_enqueued);
        }
    }

    /// Makes the claim begin at another place than the stored one: after "latest" was turned
    /// into a number, or because the stored position is not in the log. A position that was
    /// valid in this log is left behind only with a new reset generation.
    pub fn restart_at(&mut self, watermark: Option<Position>) {
        let Some(claim) = &mut self.pending else {
            return;
        };
        if claim.watermark.is_some() {
            claim.reset_generation = claim.reset_generation.saturating_add(1);
        }
        claim.watermark = watermark;
        claim.settled_above.clear();
        takeovers::acquit(claim);
    }

    /// The offset of the claimed position was looked up, so that who goes by offsets can go on from
    /// the claim.
    pub fn on_located(&mut self, located: &Position) {
        if let Some(claim) = &mut self.pending
            && let Some(watermark) = &mut claim.watermark
            && watermark.sequence_number == located.sequence_number
        {
            let Position { offset, enqueued_time, .. } = located;
            watermark.offset = watermark.offset.take().or_else(|| offset.clone());
            watermark.enqueued_time = watermark.enqueued_time.or(*enqueued_time);
        }
    }

    /// The owner's epoch.
    pub fn lease_epoch(&self) -> LeaseEpoch {
        self.pending.as_ref().unwrap_or(&self.stored).lease_epoch
    }

    /// What the store holds, as far as we know.
    pub fn stored(&self) -> &Checkpoint {
        &self.stored
    }

    /// The version of what the store holds, between writes.
    pub fn stored_version(&self) -> Option<&VersionToken> {
        match &self.expected {
            Expected::Version(version) if self.pending.is_none() => Some(version),
            _ => None,
        }
    }

    /// The write to make, and what it expects to replace; `None` between writes.
    pub fn pending(&self) -> Option<(&Checkpoint, &Expected)> {
        self.pending.as_ref().map(|pending| (pending, &self.expected))
    }

    /// Prepares a write of progress. It replaces a pending one, of which it keeps what was merged
    /// into it, and never goes below what is stored.
    pub fn on_progress(
        &mut self,
        watermark: Option<Position>,
        settled_above: Vec<SettledRun>,
        write_id: WriteId,
    ) {
        let mut next = self.pending.take().unwrap_or_else(|| self.stored.clone());
        let moved = number_of(&watermark) > number_of(&self.stored.watermark);
        next.watermark = later(watermark, next.watermark);
        next.settled_above = union(&next.settled_above, &settled_above, number_of(&next.watermark));
        next.write_id = write_id;
        if let Some((event, is_on)) = self.on_trial.take() {
            takeovers::on_trial(&mut next, event, is_on);
        }
        if let Some(takeovers) = self.taken_back {
            next.takeovers_without_progress = next.takeovers_without_progress.min(takeovers);
        }
        if moved {
            takeovers::on_progress(&mut next);
        }
        self.pending = Some(next);
    }

    /// The next write of progress is to say whether this event is on trial.
    pub fn on_trial(&mut self, event: SequenceNumber, is_on: bool) {
        self.on_trial = Some((event, is_on));
    }

    /// What is stored, and what is being written over it: of a suspicion, the graver one counts.
    pub fn known(&self) -> impl Iterator<Item = &Checkpoint> {
        [&self.stored].into_iter().chain(&self.pending)
    }

    /// The owner ends in order. Returns whether the next write has something to say of it.
    pub fn on_end(&mut self, rule: &TakeoverRule) -> bool {
        self.taken_back = rule.taken_back(&self.stored);
        let on_trial = self.known().filter_map(|known| known.trial).find(|trial| trial.is_on);
        match on_trial {
            Some(trial) => self.on_trial(trial.event, false),
            // It is said of none any more.
            None => self.on_trial = None,
        }
        self.taken_back.is_some() || on_trial.is_some()
    }

    /// The pending write is acknowledged.
    pub fn on_stored(&mut self, version: VersionToken) {
        if let Some(pending) = self.pending.take() {
            self.stored = pending;
        }
        self.expected = Expected::Version(version);
        self.claimed = true;
    }

    /// The pending write's compare failed, and this is what the store holds.
    pub fn on_conflict(&mut self, found: Option<StoredCheckpoint>) -> Verdict {
        let Some(pending) = &mut self.pending else {
            return Verdict::Written;
        };
        let Some(StoredCheckpoint { checkpoint: found, version }) = found else {
            self.expected = Expected::Absent;
            return Verdict::WriteAgain;
        };
        if found.write_id == pending.write_id && found.lease_epoch == pending.lease_epoch {
            self.on_stored(version);
            return Verdict::Written;
        }
        // First of all, whether it is still ours: a later owner may have found a new incarnation,
        // or a reset, before us.
        // Our own epoch is an earlier write of ours whose answer was lost, unless two claims met. The
        // consumer's claim begins anew after any failed compare but its own write; this holds for
        // whoever writes again instead, as the model of `lease_table` does.
        if found.lease_epoch > pending.lease_epoch
            || (found.lease_epoch == pending.lease_epoch && !self.claimed)
        {
            return Verdict::Superseded(Superseded::Epoch(found.lease_epoch));
        }
        if let Some(incarnation) = found.incarnation
            && Some(incarnation) > pending.incarnation
        {
            return Verdict::Superseded(Superseded::Incarnation(incarnation));
        }
        if found.reset_generation > pending.reset_generation {
            return Verdict::Superseded(Superseded::Reset(found.reset_generation));
        }
        // An older owner, or a writer that knows no fences: keep what it settled in this log.
        if found.incarnation.is_none() || found.incarnation == pending.incarnation {
            pending.watermark = later(pending.watermark.take(), found.watermark.clone());
            pending.settled_above =
                union(&pending.settled_above, &found.settled_above, number_of(&pending.watermark));
        }
        self.stored = found;
        self.expected = Expected::Version(version);
        Verdict::WriteAgain
    }
}

fn number_of(position: &Option<Position>) -> Option<SequenceNumber> {
    position.as_ref().map(|position| position.sequence_number)
}

fn later(one: Option<Position>, other: Option<Position>) -> Option<Position> {
    if number_of(&one) >= number_of(&other) { one } else { other }
}

/// All that either holds above the watermark, as ascending runs that do not touch.
fn union(
    one: &[SettledRun],
    other: &[SettledRun],
    watermark: Option<SequenceNumber>,
) -> Vec<SettledRun> {
    let above = one.iter().chain(other).filter(|run| Some(run.last) > watermark);
    // What the watermark has passed of a run is cut off.
    let begin = watermark.map_or(i64::MIN, |number| number.0.saturating_add(1));
    let mut runs: Vec<SettledRun> = above
        .map(|run| SettledRun { first: SequenceNumber(run.first.0.max(begin)), last: run.last })
        .collect();
    runs.sort_by_key(|run| run.first);
    let mut merged: Vec<SettledRun> = Vec::with_capacity(runs.len());
    for run in runs {
        match merged.last_mut() {
            Some(last) if run.first <= last.last => last.last = last.last.max(run.last),
            _ => merged.push(run),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::Trial;

    const HUB: Incarnation = Incarnation(1_000);
    const RULE: TakeoverRule = TakeoverRule {
        limit: Some(7),
        window_events: 4_096,
        longest_trial: Duration::from_secs(900),
    };

    fn stored(checkpoint: &Checkpoint, version: &str) -> StoredCheckpoint {
        StoredCheckpoint {
            checkpoint: checkpoint.clone(),
            version: VersionToken(version.to_owned()),
        }
    }

    #[test]
    fn a_looked_up_offset_is_that_of_the_claimed_position_and_replaces_none() {
        let position = |number, offset: Option<&str>| Position {
            offset: offset.map(Into::into),
            ..Position::at(number)
        };
        for (before, located, after) in [
            (position(7, None), position(7, Some("70")), position(7, Some("70"))),
            (position(7, Some("a")), position(7, Some("70")), position(7, Some("a"))),
            (position(7, None), position(6, Some("60")), position(7, None)),
        ] {
            let checkpoint = Checkpoint { watermark: Some(before), ..Checkpoint::default() };
            let stored = stored(&checkpoint, "v1");
            let mut fence = Fence::claim(Some(stored), HUB, 10, WriteId(1));
            fence.on_located(&located);
            let claim = fence.pending().expect("a claim").0;
            assert_eq!(claim.watermark, Some(after));
        }
    }

    fn claimed(epoch_millis: u64) -> Fence {
        let mut fence = Fence::claim(None, HUB, epoch_millis, WriteId(1));
        fence.on_stored(VersionToken("v1".to_owned()));
        fence
    }

    fn progress(fence: &mut Fence, number: i64, write_id: u64) -> Checkpoint {
        fence.on_progress(Some(Position::at(number)), Vec::new(), WriteId(write_id));
        fence.pending().map(|(pending, _)| pending.clone()).expect("pending")
    }

    #[test]
    fn a_claim_keeps_the_position_and_takes_a_higher_epoch() {
        let before = Checkpoint {
            watermark: Some(Position::at(41)),
            incarnation: Some(HUB),
            lease_epoch: LeaseEpoch(900),
            ..Checkpoint::default()
        };
        let fence = Fence::claim(Some(stored(&before, "v9")), HUB, 500, WriteId(7));
        let (claim, expected) = fence.pending().expect("pending");
        assert_eq!(claim.watermark, Some(Position::at(41)));
        assert_eq!(claim.lease_epoch, LeaseEpoch(901));
        assert_eq!(*expected, Expected::Version(VersionToken("v9".to_owned())));
    }

    /// The claim of an owner after another, of a checkpoint with these takeovers.
    fn takeover(takeovers: u32) -> Fence {
        let before = Checkpoint {
            watermark: Some(Position::at(41)),
            incarnation: Some(HUB),
            lease_epoch: LeaseEpoch(900),
            takeovers_without_progress: takeovers,
            suspects_to: Some(SequenceNumber(4_137)),
            ..Checkpoint::default()
        };
        let mut fence = Fence::claim(Some(stored(&before, "v1")), HUB, 500, WriteId(7));
        fence.on_takeover(&RULE, true, Some(SequenceNumber(99)));
        fence.on_stored(VersionToken("v2".to_owned()));
        fence
    }

    #[test]
    fn a_trial_is_said_until_it_is_over_or_its_event_is_settled() {
        let mut fence = takeover(5);
        let event = SequenceNumber(42);
        fence.on_trial(event, true);
        let on = Some(Trial { event, is_on: true, deaths: 0 });
        assert_eq!(progress(&mut fence, 41, 2).trial, on);
        fence.on_stored(VersionToken("v3".to_owned()));
        assert_eq!(progress(&mut fence, 41, 3).trial, on);
        fence.on_trial(event, false);
        let over = Some(Trial { event, is_on: false, deaths: 0 });
        assert_eq!(progress(&mut fence, 41, 4).trial, over);
        assert_eq!(progress(&mut fence, 42, 5).trial, None);
    }

    #[test]
    fn an_orderly_end_takes_its_takeover_back_and_ends_the_trial() {
        let mut fence = takeover(4);
        fence.on_trial(SequenceNumber(42), true);
        progress(&mut fence, 41, 2);
        assert!(fence.on_end(&RULE));
        let last = progress(&mut fence, 41, 3);
        assert_eq!(last.takeovers_without_progress, 4);
        assert_eq!(last.trial.map(|trial| trial.is_on), Some(false));
        // It never brings up again what was acquitted.
        assert_eq!(progress(&mut fence, 99_999, 4).takeovers_without_progress, 0);
        fence.on_stored(VersionToken("v4".to_owned()));
        assert_eq!(progress(&mut fence, 100_000, 5).takeovers_without_progress, 0);
    }

    #[test]
    fn a_position_of_another_incarnation_is_dropped() {
        let before = Checkpoint {
            watermark: Some(Position::at(41)),
            incarnation: Some(Incarnation(5)),
            ..Checkpoint::default()
        };
        let fence = Fence::claim(Some(stored(&before, "v9")), HUB, 500, WriteId(7));
        assert_eq!(fence.pending().expect("pending").0.watermark, None);
    }

    #[test]
    fn a_lost_answer_is_recognised_by_the_write_id() {
        let mut fence = claimed(10);
        let written = progress(&mut fence, 5, 2);
        assert_eq!(fence.on_conflict(Some(stored(&written, "v2"))), Verdict::Written);
        progress(&mut fence, 6, 3);
        assert_eq!(
            fence.pending().expect("pending").1,
            &Expected::Version(VersionToken("v2".to_owned()))
        );
    }

    #[test]
    fn an_older_write_of_ours_whose_answer_was_lost_is_written_over() {
        let mut fence = claimed(10);
        let lost = progress(&mut fence, 5, 2);
        progress(&mut fence, 8, 3);
        assert_eq!(fence.on_conflict(Some(stored(&lost, "v2"))), Verdict::WriteAgain);
        let (pending, expected) = fence.pending().expect("pending");
        assert_eq!(pending.watermark, Some(Position::at(8)));
        assert_eq!(*expected, Expected::Version(VersionToken("v2".to_owned())));
    }

    #[test]
    fn of_two_claims_with_one_epoch_the_second_starts_over() {
        let mut first = Fence::claim(None, HUB, 10, WriteId(1));
        let second = Fence::claim(None, HUB, 10, WriteId(2));
        let theirs = second.pending().expect("pending").0.clone();
        assert_eq!(
            first.on_conflict(Some(stored(&theirs, "v1"))),
            Verdict::Superseded(Superseded::Epoch(LeaseEpoch(10)))
        );
    }

    #[test]
    fn a_later_owner_ends_the_right_to_write() {
        let mut fence = claimed(10);
        let mut theirs = progress(&mut fence, 5, 2);
        theirs.lease_epoch = LeaseEpoch(11);
        theirs.write_id = WriteId(99);
        assert_eq!(
            fence.on_conflict(Some(stored(&theirs, "v2"))),
            Verdict::Superseded(Superseded::Epoch(LeaseEpoch(11)))
        );
    }

    #[test]
    fn a_reset_ends_the_right_to_write() {
        let mut fence = claimed(10);
        progress(&mut fence, 5, 2);
        let reset =
            Checkpoint { reset_generation: 1, incarnation: Some(HUB), ..Checkpoint::default() };
        assert_eq!(
            fence.on_conflict(Some(stored(&reset, "v2"))),
            Verdict::Superseded(Superseded::Reset(1))
        );
    }

    #[test]
    fn a_later_owner_is_one_also_where_it_found_the_hub_created_anew_or_a_reset() {
        let mut fence = claimed(10);
        let mut theirs = progress(&mut fence, 5, 2);
        theirs.lease_epoch = LeaseEpoch(11);
        theirs.write_id = WriteId(99);
        theirs.incarnation = Some(Incarnation(HUB.0 + 1));
        theirs.reset_generation = 3;
        assert_eq!(
            fence.on_conflict(Some(stored(&theirs, "v2"))),
            Verdict::Superseded(Superseded::Epoch(LeaseEpoch(11)))
        );
    }

    #[test]
    fn an_unfenced_writer_is_merged_and_never_moves_us_back() {
        let mut fence = claimed(10);
        progress(&mut fence, 5, 2);
        let foreign =
            |number| Checkpoint { watermark: Some(Position::at(number)), ..Checkpoint::default() };
        assert_eq!(fence.on_conflict(Some(stored(&foreign(3), "v2"))), Verdict::WriteAgain);
        assert_eq!(fence.pending().expect("pending").0.watermark, Some(Position::at(5)));
        assert_eq!(fence.on_conflict(Some(stored(&foreign(9), "v3"))), Verdict::WriteAgain);
        assert_eq!(fence.pending().expect("pending").0.watermark, Some(Position::at(9)));
        fence.on_stored(VersionToken("v4".to_owned()));
        assert_eq!(progress(&mut fence, 7, 3).watermark, Some(Position::at(9)), "forward only");
    }

    #[test]
    fn progress_after_a_failed_merge_stays_in_its_incarnation_and_reset() {
        let mut fence = claimed(10);
        progress(&mut fence, 5, 2);
        let foreign = Checkpoint { watermark: Some(Position::at(3)), ..Checkpoint::default() };
        assert_eq!(fence.on_conflict(Some(stored(&foreign, "v2"))), Verdict::WriteAgain);
        // That write fails, and more has settled by the next.
        let next = progress(&mut fence, 7, 3);
        assert_eq!((next.incarnation, next.lease_epoch), (Some(HUB), LeaseEpoch(10)));
        assert_eq!(next.watermark, Some(Position::at(7)));
    }

    #[test]
    fn a_claim_over_the_greatest_numbers_is_one() {
        let before = Checkpoint {
            watermark: Some(Position::at(i64::MAX)),
            incarnation: Some(HUB),
            lease_epoch: LeaseEpoch(u64::MAX),
            reset_generation: u64::MAX,
            takeovers_without_progress: u32::MAX,
            ..Checkpoint::default()
        };
        let mut fence = Fence::claim(Some(stored(&before, "v9")), HUB, 500, WriteId(7));
        fence.restart_at(None);
        assert_eq!(fence.pending().expect("pending").0.lease_epoch, LeaseEpoch(u64::MAX));
    }

    #[test]
    fn runs_of_both_are_kept_above_the_watermark() {
        let run =
            |first, last| SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) };
        assert_eq!(
            union(&[run(3, 5), run(10, 12)], &[run(1, 2), run(4, 7)], Some(SequenceNumber(2))),
            [run(3, 7), run(10, 12)]
        );
        assert_eq!(
            union(&[run(3, 9)], &[run(6, 9)], Some(SequenceNumber(5))),
            [run(6, 9)],
            "what is below the watermark is cut off"
        );
    }
}
