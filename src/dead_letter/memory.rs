//! Dead letters in memory: for tests, of this crate and of its users.
//!
//! Letters are kept in the order of their writes; a repeated event is kept twice. Writes can be
//! told to fail. Nothing outlives the process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{DeadLetter, DeadLetterSink};
use crate::error::{Error, ErrorClass, Result};

/// A [`DeadLetterSink`] that keeps its letters in a vector.
#[derive(Debug, Default)]
pub struct MemoryDeadLetterSink {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    letters: Vec<DeadLetter>,
    writes_to_fail: u32,
}

impl MemoryDeadLetterSink {
    /// An empty sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written so far, oldest first.
    pub fn letters(&self) -> Vec<DeadLetter> {
        self.state().letters.clone()
    }

    /// Makes the next `writes` writes fail with a transient error.
    pub fn fail_next(&self, writes: u32) {
        self.state().writes_to_fail = writes;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeadLetterSink for MemoryDeadLetterSink {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut state = self.state();
            if let Some(left) = state.writes_to_fail.checked_sub(1) {
                state.writes_to_fail = left;
                return Err(Error::new(
                    ErrorClass::Transient,
                    "write the dead letter",
                    "the sink was told to fail",
                )
                .with_partition(letter.event.partition())
                .with_sequence_number(letter.event.sequence_number()));
            }
            state.letters.push(letter.clone());
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::event::{EventParts, Partition, SequenceNumber};
    use crate::outcome::Failure;

    #[tokio::test]
    async fn letters_are_kept_in_order_and_writes_fail_when_told() {
        let sink = MemoryDeadLetterSink::new();
        let partition = Arc::new(Partition::new("orders", "0"));
        sink.fail_next(1);
        let mut answers = Vec::new();
        for number in [5, 3, 4] {
            let letter = DeadLetter::new(
                EventParts::new(partition.clone(), number, "x").into(),
                "$Default".into(),
                "worker",
                Failure::permanent("no"),
                SystemTime::UNIX_EPOCH,
            );
            answers.push(sink.write(&letter).await.map_err(|error| error.class()));
        }
        assert_eq!(answers, [Err(ErrorClass::Transient), Ok(()), Ok(())]);
        let numbers: Vec<_> =
            sink.letters().iter().map(|letter| letter.event.sequence_number()).collect();
        assert_eq!(numbers, [SequenceNumber(3), SequenceNumber(4)]);
    }
}
