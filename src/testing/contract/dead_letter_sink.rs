//! What every dead-letter sink must do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};

use super::{Contract, cases};
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::event::{EventParts, Partition, SequenceNumber};
use crate::outcome::Failure;

/// A place of dead letters that a sink is tested on: new and empty.
pub trait LettersUnderTest: Send + Sync + 'static {
    /// Opens a sink there. The one before is dropped by then, and what it was given must be there still.
    fn open(&self) -> BoxFuture<'_, Arc<dyn DeadLetterSink>>;

    /// Reads all that is kept there, in any order.
    fn kept(&self) -> BoxFuture<'_, Vec<KeptLetter>>;
}

/// A letter as it is found: the least that somebody needs to know what failed and to try it again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeptLetter {
    /// The partition of the event.
    pub partition: Partition,
    /// The number of the event.
    pub sequence_number: SequenceNumber,
    /// Its body.
    pub body: Bytes,
    /// Why it failed: [`Failure::message`].
    pub message: String,
}

/// What every [`DeadLetterSink`] must do.
pub fn dead_letter_sinks() -> Contract<dyn LettersUnderTest> {
    cases!(
        what_was_acknowledged_is_kept,
        a_letter_written_again_is_kept_once_or_twice,
        letters_of_other_partitions_and_numbers_are_letters_of_their_own,
        any_body_survives,
        letters_that_are_written_at_once_are_all_kept,
        what_was_acknowledged_outlives_the_sink,
    )
}

impl Contract<dyn LettersUnderTest> {
    /// Runs all cases, each on a place that `fresh` makes.
    ///
    /// # Panics
    /// Where a case does not hold.
    pub async fn hold<L: LettersUnderTest>(&self, mut fresh: impl AsyncFnMut() -> L) {
        for name in self.names() {
            self.hold_one(name, Arc::new(fresh().await)).await;
        }
    }
}

fn kept(entity: &str, partition: &str, number: i64, body: impl Into<Bytes>) -> KeptLetter {
    KeptLetter {
        partition: Partition::new(entity, partition),
        sequence_number: SequenceNumber(number),
        body: body.into(),
        message: format!("no order {number}: \"quoted\", ä"),
    }
}

async fn write(sink: &dyn DeadLetterSink, letter: &KeptLetter) {
    let partition = Arc::new(letter.partition.clone());
    let mut parts = EventParts::new(partition, letter.sequence_number.0, letter.body.clone());
    parts.enqueued_time = UNIX_EPOCH + Duration::from_millis(1_764_080_000_123);
    let failure = Failure::permanent(letter.message.clone());
    let failed_at = UNIX_EPOCH + Duration::from_secs(1_764_090_000);
    let record = DeadLetter::new(parts.into(), "$Default".into(), "worker", failure, failed_at);
    sink.write(&record).await.expect("it is written");
}

async fn sorted(place: &dyn LettersUnderTest) -> Vec<KeptLetter> {
    let mut all = place.kept().await;
    all.sort();
    all
}

async fn what_was_acknowledged_is_kept(place: Arc<dyn LettersUnderTest>) {
    let sink = place.open().await;
    assert_eq!(place.kept().await, []);
    let letter = kept("orders", "0", 7, "{\"id\": 7}");
    write(&*sink, &letter).await;
    assert_eq!(place.kept().await, [letter]);
}

/// An answer may be lost, and the letter written again.
async fn a_letter_written_again_is_kept_once_or_twice(place: Arc<dyn LettersUnderTest>) {
    let sink = place.open().await;
    let (letter, other) = (kept("orders", "0", 7, "seven"), kept("orders", "0", 8, "eight"));
    for letter in [&letter, &other, &letter] {
        write(&*sink, letter).await;
    }
    let mut all = sorted(&*place).await;
    assert!((2..=3).contains(&all.len()), "{all:?}");
    all.dedup();
    assert_eq!(all, [letter, other]);
}

async fn letters_of_other_partitions_and_numbers_are_letters_of_their_own(
    place: Arc<dyn LettersUnderTest>,
) {
    let sink = place.open().await;
    let mut letters = Vec::new();
    for (entity, partition) in
        [("orders", "0"), ("orders", "1"), ("orders", "10"), ("results", "0")]
    {
        for number in [0, 1, 10, i64::MAX] {
            letters.push(kept(entity, partition, number, format!("{entity} {partition} {number}")));
        }
    }
    for letter in &letters {
        write(&*sink, letter).await;
    }
    letters.sort();
    assert_eq!(sorted(&*place).await, letters);
}

async fn any_body_survives(place: Arc<dyn LettersUnderTest>) {
    let sink = place.open().await;
    let all_bytes: Vec<u8> = (0..=u8::MAX).collect();
    let mut letters: Vec<_> = [
        Bytes::new(),
        Bytes::from_static(b"two\nlines\r\n"),
        Bytes::from_static("ä\u{2028}\u{1F600}".as_bytes()),
        all_bytes.clone().into(),
        all_bytes.repeat(4_096).into(),
    ]
    .into_iter()
    .zip(0..)
    .map(|(body, number)| kept("orders", "0", number, body))
    .collect();
    for letter in &letters {
        write(&*sink, letter).await;
    }
    letters.sort();
    let found = sorted(&*place).await;
    assert_eq!(found.len(), letters.len());
    for (found, letter) in found.iter().zip(&letters) {
        assert!(found == letter, "{} bytes at {}", letter.body.len(), letter.sequence_number);
    }
}

async fn letters_that_are_written_at_once_are_all_kept(place: Arc<dyn LettersUnderTest>) {
    let sink = place.open().await;
    let letters: Vec<_> =
        (0..64).map(|number| kept("orders", "0", number, vec![7; 10_000])).collect();
    join_all(letters.iter().map(|letter| write(&*sink, letter))).await;
    let found: BTreeSet<_> = place.kept().await.into_iter().collect();
    assert_eq!(found, letters.into_iter().collect());
}

/// `Ok` from a sink means that the letter is durable: the event is passed then.
async fn what_was_acknowledged_outlives_the_sink(place: Arc<dyn LettersUnderTest>) {
    let mut letters = Vec::new();
    for number in 0..3 {
        let sink = place.open().await;
        assert_eq!(sorted(&*place).await, letters);
        letters.push(kept("orders", "0", number, format!("{number}")));
        write(&*sink, letters.last().unwrap()).await;
        drop(sink);
        assert_eq!(sorted(&*place).await, letters);
    }
}
