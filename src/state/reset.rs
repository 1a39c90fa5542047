//! What an operator writes over a checkpoint: another place in the log, or a checkpoint that was
//! kept aside.
//!
//! Both count the reset generation up, so nothing that an owner has under way wins over them, and
//! keep the stored lease epoch: with a lower one an owner that was ended is let in again, with a
//! greater one the owner that runs is ended instead of going on from there.

use std::time::SystemTime;

use crate::checkpoint::{Checkpoint, LeaseEpoch, WriteId};
use crate::event::{Incarnation, Position, SequenceNumber, StartPosition};
use crate::hub::LogProperties;

/// Where a reset leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetTo {
    /// Where a partition without a checkpoint would begin: what is named is handled next.
    Next(StartPosition),
    /// Behind this event, which counts as settled.
    Settled(SequenceNumber),
}

/// Where that is in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetPlace {
    /// Behind this event: the new watermark. The number before the first is one too.
    After(SequenceNumber),
    /// Before the first event enqueued at this time or later, which the log holds.
    BeforeFirstSince(SystemTime),
}

impl ResetTo {
    /// The place in this log.
    pub fn place(self, log: &LogProperties) -> ResetPlace {
        ResetPlace::After(match self {
            ResetTo::Settled(number) => number,
            ResetTo::Next(StartPosition::Earliest) => before(log.begin),
            ResetTo::Next(StartPosition::Latest) => log.end(),
            ResetTo::Next(StartPosition::SequenceNumber(number)) => before(number),
            ResetTo::Next(StartPosition::EnqueuedAt(time)) => {
                let is_behind = log.last_enqueued_time.is_none_or(|last| last < time);
                if !is_behind && !log.is_empty() {
                    return ResetPlace::BeforeFirstSince(time);
                }
                log.end()
            }
        })
    }
}

/// The number before: of the first event it makes a watermark that nothing is below.
pub fn before(number: SequenceNumber) -> SequenceNumber {
    SequenceNumber(number.0.saturating_sub(1))
}

/// The checkpoint that leads behind `settled` in this creation of the hub. Its offset is what
/// processors of other SDKs go on from.
pub fn reset(
    stored: Option<&Checkpoint>,
    settled: Position,
    incarnation: Incarnation,
    write_id: WriteId,
) -> Checkpoint {
    let (generation, lease_epoch) = counters(stored);
    Checkpoint {
        watermark: Some(settled),
        settled_above: Vec::new(),
        incarnation: Some(incarnation),
        reset_generation: generation.saturating_add(1),
        lease_epoch,
        write_id,
        ..Checkpoint::default()
    }
}

/// The checkpoint `kept`, as it has to be written to win over what is stored.
pub fn restore(stored: Option<&Checkpoint>, kept: &Checkpoint, write_id: WriteId) -> Checkpoint {
    let (generation, _) = counters(stored);
    Checkpoint {
        reset_generation: generation.max(kept.reset_generation).saturating_add(1),
        lease_epoch: stored.map_or(kept.lease_epoch, |stored| stored.lease_epoch),
        write_id,
        // Whoever was handling it then did not die of it.
        trial: None,
        ..kept.clone()
    }
}

fn counters(stored: Option<&Checkpoint>) -> (u64, LeaseEpoch) {
    stored.map(|stored| (stored.reset_generation, stored.lease_epoch)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::{SettledRun, StoredCheckpoint, Trial, VersionToken};
    use crate::state::fence::{Fence, Superseded, Verdict};

    const HUB: Incarnation = Incarnation(7);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn log(begin: i64, end: Option<i64>, seconds: u64) -> LogProperties {
        let time = end.map(|_| at(seconds));
        LogProperties::new(SequenceNumber(begin), end.map(SequenceNumber), time)
    }

    fn stored() -> Checkpoint {
        Checkpoint {
            watermark: Some(Position { offset: Some("4096".into()), ..Position::at(40) }),
            settled_above: vec![SettledRun { first: SequenceNumber(42), last: SequenceNumber(44) }],
            incarnation: Some(Incarnation(6)),
            reset_generation: 3,
            lease_epoch: LeaseEpoch(900),
            write_id: WriteId(1),
            takeovers_without_progress: 5,
            suspects_to: Some(SequenceNumber(45)),
            trial: Some(Trial { event: SequenceNumber(41), is_on: true, deaths: 1 }),
        }
    }

    #[test]
    fn every_target_is_a_number_of_the_log() {
        let after = |number| ResetPlace::After(SequenceNumber(number));
        let number = |number| StartPosition::SequenceNumber(SequenceNumber(number));
        let full = log(10, Some(99), 1_000);
        let (empty, emptied) = (log(0, None, 0), log(100, Some(99), 1_000));
        for (to, log, place) in [
            (StartPosition::Earliest, &full, after(9)),
            (StartPosition::Earliest, &empty, after(-1)),
            (StartPosition::Earliest, &emptied, after(99)),
            (StartPosition::Latest, &full, after(99)),
            (StartPosition::Latest, &empty, after(-1)),
            (number(50), &full, after(49)),
            (number(0), &full, after(-1)),
            (StartPosition::EnqueuedAt(at(1_001)), &full, after(99)),
            (StartPosition::EnqueuedAt(at(0)), &empty, after(-1)),
            (StartPosition::EnqueuedAt(at(0)), &emptied, after(99)),
            (StartPosition::EnqueuedAt(at(1_000)), &full, ResetPlace::BeforeFirstSince(at(1_000))),
        ] {
            assert_eq!(ResetTo::Next(to).place(log), place, "{to:?} {log:?}");
        }
        assert_eq!(ResetTo::Settled(SequenceNumber(50)).place(&full), after(50));
    }

    #[test]
    fn a_reset_keeps_the_fence_and_forgets_the_rest() {
        let expected = Checkpoint {
            watermark: Some(Position::at(-1)),
            incarnation: Some(HUB),
            reset_generation: 4,
            lease_epoch: LeaseEpoch(900),
            write_id: WriteId(2),
            ..Checkpoint::default()
        };
        assert_eq!(reset(Some(&stored()), Position::at(-1), HUB, WriteId(2)), expected);
        let first = reset(None, Position::at(5), HUB, WriteId(2));
        assert_eq!((first.reset_generation, first.lease_epoch), (1, LeaseEpoch(0)));
    }

    #[test]
    fn a_restored_checkpoint_is_newer_than_both_and_keeps_the_fence() {
        let kept = Checkpoint { reset_generation: 8, lease_epoch: LeaseEpoch(5), ..stored() };
        let restored = restore(Some(&stored()), &kept, WriteId(2));
        assert_eq!((restored.reset_generation, restored.lease_epoch), (9, LeaseEpoch(900)));
        assert_eq!(restored.settled_above, kept.settled_above);
        assert_eq!(restored.watermark, kept.watermark);
        let kept = Checkpoint { lease_epoch: LeaseEpoch(901), ..kept };
        let restored = restore(Some(&stored()), &kept, WriteId(2));
        assert_eq!((restored.reset_generation, restored.lease_epoch), (9, LeaseEpoch(900)));
        let restored = restore(None, &kept, WriteId(2));
        assert_eq!((restored.reset_generation, restored.lease_epoch), (9, LeaseEpoch(901)));
    }

    #[test]
    fn an_owner_that_goes_on_writing_is_superseded() {
        let version = |version: &str| VersionToken(version.to_owned());
        let mut owner = Fence::claim(None, HUB, 10, WriteId(1));
        owner.on_stored(version("v1"));
        owner.on_progress(Some(Position::at(50)), Vec::new(), WriteId(2));
        let reset = reset(Some(owner.stored()), Position::at(9), HUB, WriteId(3));
        // A checkpoint that a later owner left behind, in another store.
        let kept = Checkpoint { incarnation: Some(HUB), ..stored() };
        let restored = restore(Some(owner.stored()), &kept, WriteId(3));
        for (checkpoint, generation) in [(reset, 1), (restored, 4)] {
            let found = StoredCheckpoint { checkpoint, version: version("v2") };
            let verdict = owner.clone().on_conflict(Some(found));
            assert_eq!(verdict, Verdict::Superseded(Superseded::Reset(generation)));
        }
    }
}
