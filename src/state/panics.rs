//! How often the task of a partition panicked without getting any further: a defect, of ours or of
//! what is plugged in, that no new beginning mends.

use crate::event::SequenceNumber;

/// Most panics in a row that are taken for an accident. One more, and the partition stops.
pub const MAX_PANICS: u32 = 3;

/// The panics of one partition since it last got further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Panics {
    in_a_row: u32,
    /// Up to where everything was settled at the last of them.
    settled_to: Option<SequenceNumber>,
}

impl Panics {
    /// Takes in a panic, with everything settled up to `settled_to`. Returns how many there were in
    /// a row where that is too often.
    pub fn on_panic(&mut self, settled_to: Option<SequenceNumber>) -> Option<u32> {
        let further = settled_to > self.settled_to;
        self.in_a_row = if further { 1 } else { self.in_a_row + 1 };
        self.settled_to = settled_to.max(self.settled_to);
        (self.in_a_row > MAX_PANICS).then_some(self.in_a_row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_panics_without_progress_are_counted() {
        let mut panics = Panics::default();
        for number in 0..10 {
            assert_eq!(panics.on_panic(Some(SequenceNumber(number))), None, "it got further");
        }
        for _ in 1..MAX_PANICS {
            // One that panics before it knows where it is got no further either.
            assert_eq!(panics.on_panic(None), None);
        }
        assert_eq!(panics.on_panic(Some(SequenceNumber(9))), Some(MAX_PANICS + 1));
    }
}
