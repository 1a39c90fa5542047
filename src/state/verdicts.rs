//! Whether events fail for good one after the other: then most likely what reads them is wrong, and
//! not they.
//!
//! Permanent failures stop nothing, so somebody has to be told.

/// How many of the last events are remembered.
pub const REMEMBERED_EVENTS: u32 = 100;

/// So many of them failed for good: it is said.
pub const ALARMS_AT: u32 = 50;

/// So few, and it is over.
pub const ENDS_AT: u32 = 25;

/// What became of the last events of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdicts {
    /// The last one is the lowest bit; set where it failed for good.
    failed: u128,
    is_alarmed: bool,
}

/// What is to be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alarm {
    /// Half of them failed for good.
    Begins,
    /// Most of them do not any more.
    Ends,
}

impl Verdicts {
    /// So many events were handled.
    #[inline]
    pub fn on_done(&mut self, events: usize) -> Option<Alarm> {
        if self.failed == 0 {
            return None;
        }
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.failed = self.failed.checked_shl(events).unwrap_or(0) & mask();
        self.changed()
    }

    /// An event failed for good.
    pub fn on_failed_for_good(&mut self) -> Option<Alarm> {
        self.failed = (self.failed << 1 | 1) & mask();
        self.changed()
    }

    fn changed(&mut self) -> Option<Alarm> {
        let failed = self.failed.count_ones();
        let alarm = match self.is_alarmed {
            false if failed >= ALARMS_AT => Alarm::Begins,
            true if failed <= ENDS_AT => Alarm::Ends,
            _ => return None,
        };
        self.is_alarmed = alarm == Alarm::Begins;
        Some(alarm)
    }
}

const fn mask() -> u128 {
    (1 << REMEMBERED_EVENTS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_hundred_is_said_once_and_its_end_once() {
        let mut verdicts = Verdicts::default();
        let said: Vec<Alarm> = (0..300)
            .filter_map(|event| match event % 2 {
                0 => verdicts.on_failed_for_good(),
                _ => verdicts.on_done(1),
            })
            .collect();
        assert_eq!(said, [Alarm::Begins]);
        let said: Vec<Alarm> = (0..300).filter_map(|_| verdicts.on_done(1)).collect();
        assert_eq!(said, [Alarm::Ends]);
    }

    #[test]
    fn a_batch_that_is_done_counts_as_many_events_as_it_has() {
        let mut verdicts = Verdicts::default();
        for _ in 0..49 {
            assert_eq!(verdicts.on_failed_for_good(), None);
        }
        assert_eq!(verdicts.on_done(51), None);
        assert_eq!(verdicts.on_failed_for_good(), None, "the first one is forgotten");
        assert_eq!(verdicts.on_failed_for_good(), None);
        assert_eq!(verdicts.on_done(1_000_000), None);
        assert_eq!(verdicts.failed, 0);
    }
}
