//! Events that are handled together, and what became of them.

use std::iter::FusedIterator;
use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::panics::panic_failure;
use crate::event::Event;
use crate::outcome::{Failure, Outcome};

/// Events of one partition, in order. Cloning is a reference count.
///
/// It is a slice of events, and an iterator over owned ones:
///
/// ```
/// # use longshore::{Batch, Event};
/// # fn show(batch: Batch) {
/// println!("{} events", batch.len());
/// for event in &batch {
///     println!("{} bytes", event.body().len());
/// }
/// let owned: Vec<Event> = batch.into_iter().collect(); // each is a reference count
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Batch {
    events: Arc<[Event]>,
    /// Where lanes are ordered: how each event stands in its own.
    lanes: Option<Arc<[InLane]>>,
}

/// How an event of a batch stands in its ordered lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InLane {
    /// No event of the batch is before it.
    pub(crate) is_first: bool,
    /// The place of the one behind it.
    pub(crate) next: Option<usize>,
}

impl InLane {
    /// An event that has its lane for itself, or none.
    pub(crate) const ALONE: Self = Self { is_first: true, next: None };
}

impl Batch {
    pub(crate) fn new(events: impl IntoIterator<Item = Event>) -> Self {
        Self { events: events.into_iter().collect(), lanes: None }
    }

    /// Says how each event stands in its lane. Events of a lane are handled in order.
    pub(crate) fn in_lanes(self, lanes: Arc<[InLane]>) -> Self {
        Self { lanes: Some(lanes), ..self }
    }

    fn in_lane(&self, index: usize) -> InLane {
        self.lanes.as_ref().and_then(|lanes| lanes.get(index).copied()).unwrap_or(InLane::ALONE)
    }

    /// Handles each event of the batch, `at_once` of them at the same time, and gives the outcome of
    /// each at its position. 0 counts as 1.
    ///
    /// The next event begins as soon as one ends, whichever it is. `handle` may return whatever a
    /// handler of events may: `()`, an [`Outcome`], or a `Result`, so that `?` works inside. An event
    /// whose `handle` panics is tried again; the others of its batch are not disturbed.
    ///
    /// Where lanes are ordered (`Ordering::PerKey`, `Ordering::PerPartition`, `LaneRule::ordered`), the events of a
    /// lane are handled one after the other, in their order, and events of other lanes beside them. If one of them is
    /// to be tried again, those behind it in its lane are not begun: they wait for it and use up no attempt.
    ///
    /// ```
    /// use longshore::{Batch, BatchContext, Event, Failure};
    ///
    /// async fn store(event: Event) -> Result<(), Failure> {
    ///     let number: u64 = std::str::from_utf8(event.body())?.parse()?;
    ///     println!("{number}");
    ///     Ok(())
    /// }
    ///
    /// // Ten at once of each batch.
    /// let handler = |batch: Batch, _: BatchContext| batch.for_each_concurrent(10, store);
    /// # fn check(_: impl longshore::BatchHandler) {}
    /// # check(handler);
    /// ```
    ///
    /// What every call needs is cloned twice: for each batch, and for each event.
    ///
    /// ```
    /// # use longshore::{Batch, BatchContext, Event, Failure};
    /// # #[derive(Clone)] struct Client;
    /// # impl Client { async fn put(&self, _: &[u8]) -> std::io::Result<()> { Ok(()) } }
    /// # let client = Client;
    /// let handler = move |batch: Batch, _: BatchContext| {
    ///     let client = client.clone();
    ///     batch.for_each_concurrent(10, move |event| {
    ///         let client = client.clone();
    ///         async move {
    ///             client.put(event.body()).await?;
    ///             Ok::<(), Failure>(())
    ///         }
    ///     })
    /// };
    /// # fn check(_: impl longshore::BatchHandler) {}
    /// # check(handler);
    /// ```
    ///
    /// # Cancel safety
    /// A dropped call drops what it runs. A handler that is dropped has no outcomes: its whole batch is
    /// handled again.
    pub async fn for_each_concurrent<F, Fut, O>(self, at_once: usize, mut handle: F) -> Outcomes
    where
        F: FnMut(Event) -> Fut,
        Fut: Future<Output = O>,
        O: Into<Outcome>,
    {
        let mut outcomes: Vec<Option<Outcome>> = self.iter().map(|_| None).collect();
        let mut begun = FuturesUnordered::new();
        // Those behind the first one of an ordered lane begin when the one before them has ended.
        let mut waiting = (0..self.len()).filter(|index| self.in_lane(*index).is_first);
        let mut begin = |index: usize| {
            let event = self.get(index)?.clone();
            let call = catch_unwind(AssertUnwindSafe(|| handle(event)));
            Some(async move {
                let ended = match call {
                    Ok(call) => AssertUnwindSafe(call).catch_unwind().await,
                    Err(panic) => Err(panic),
                };
                let outcome = match ended {
                    Ok(returned) => returned.into(),
                    Err(panic) => Outcome::retry(panic_failure(&*panic)),
                };
                (index, outcome)
            })
        };
        begun.extend(waiting.by_ref().take(at_once.max(1)).filter_map(&mut begin));
        while let Some((index, outcome)) = begun.next().await {
            let is_over =
                matches!(outcome, Outcome::Done | Outcome::Skip(_) | Outcome::DeadLetter(_));
            if let Some(place) = outcomes.get_mut(index) {
                *place = Some(outcome);
            }
            let behind = self.in_lane(index).next.filter(|_| is_over);
            begun.extend(behind.or_else(|| waiting.next()).and_then(&mut begin));
        }
        let behind = || {
            Outcome::postpone(Duration::ZERO, "an event before it in its lane is to be tried again")
        };
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(behind)).collect()
    }
}

impl Deref for Batch {
    type Target = [Event];

    fn deref(&self) -> &[Event] {
        &self.events
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Event;
    type IntoIter = std::slice::Iter<'a, Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.iter()
    }
}

impl IntoIterator for Batch {
    type Item = Event;
    type IntoIter = BatchEvents;

    fn into_iter(self) -> BatchEvents {
        BatchEvents { left: 0..self.events.len(), events: self.events }
    }
}

/// The events of a [`Batch`], in order, each owned.
#[derive(Clone, Debug)]
pub struct BatchEvents {
    events: Arc<[Event]>,
    left: Range<usize>,
}

impl Iterator for BatchEvents {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.events.get(self.left.next()?).cloned()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl DoubleEndedIterator for BatchEvents {
    fn next_back(&mut self) -> Option<Event> {
        self.events.get(self.left.next_back()?).cloned()
    }
}

impl ExactSizeIterator for BatchEvents {}

impl FusedIterator for BatchEvents {}

/// One outcome for each event of a batch.
///
/// A handler of batches returns whatever can be made into it:
///
/// | returned | what becomes of the batch |
/// | --- | --- |
/// | `()` | every event is done |
/// | `Outcomes`, `Vec<Outcome>` | an outcome for each event, by position |
/// | `Err` of a `Result` of these | the whole batch failed, see [`Outcomes::failed`] |
///
/// It is collected from outcomes, and from all that [`Outcome`] is made of; from a stream too:
///
/// ```
/// use futures::{StreamExt, stream};
/// use longshore::{Batch, BatchContext, Event, Failure, Outcomes};
///
/// async fn store(event: Event) -> Result<(), Failure> {
///     println!("{} bytes", event.body().len());
///     Ok(())
/// }
///
/// let handler = |batch: Batch, _: BatchContext| async move {
///     stream::iter(batch).map(store).buffered(10).collect::<Outcomes>().await
/// };
/// # fn check(_: impl longshore::BatchHandler) {}
/// # check(handler);
/// ```
///
/// [`Batch::for_each_concurrent`] does the same, and does not wait for a slow event before it begins the
/// next one.
#[derive(Clone, PartialEq, Debug)]
#[must_use]
pub struct Outcomes(pub(crate) Ended);

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Ended {
    AllDone,
    /// Of the only event, or of the batch as a whole.
    One(Outcome),
    Each(Vec<Outcome>),
}

impl Outcomes {
    /// Every event of the batch is done.
    pub fn all_done() -> Self {
        Self(Ended::AllDone)
    }

    /// An outcome for each event, by position; as many as the batch has events. With another number of
    /// them the whole batch counts as failed, and is handled again.
    pub fn each(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self(Ended::Each(outcomes.into_iter().collect()))
    }

    /// Fails the whole batch. Its halves are handled again, each as a batch, until the event at fault is alone. No
    /// attempt counts until then. That event is retried, or becomes a dead letter if the class of the failure is
    /// not retryable.
    pub fn failed(failure: impl Into<Failure>) -> Self {
        Self(Ended::One(Outcome::failed(failure)))
    }
}

/// No outcome yet, for a batch without events; made to be extended.
impl Default for Outcomes {
    fn default() -> Self {
        Self(Ended::Each(Vec::new()))
    }
}

impl From<()> for Outcomes {
    fn from((): ()) -> Self {
        Outcomes::all_done()
    }
}

impl From<Vec<Outcome>> for Outcomes {
    fn from(outcomes: Vec<Outcome>) -> Self {
        Self(Ended::Each(outcomes))
    }
}

/// An error means that the whole batch failed: see [`Outcomes::failed`].
impl<O: Into<Outcomes>, F: Into<Failure>> From<Result<O, F>> for Outcomes {
    fn from(result: Result<O, F>) -> Self {
        match result {
            Ok(outcomes) => outcomes.into(),
            Err(failure) => Outcomes::failed(failure),
        }
    }
}

impl<O: Into<Outcome>> FromIterator<O> for Outcomes {
    fn from_iter<I: IntoIterator<Item = O>>(outcomes: I) -> Self {
        Self::each(outcomes.into_iter().map(Into::into))
    }
}

/// Adds outcomes behind those that are there. What was said of the batch as a whole is gone.
impl<O: Into<Outcome>> Extend<O> for Outcomes {
    fn extend<I: IntoIterator<Item = O>>(&mut self, outcomes: I) {
        let more = outcomes.into_iter().map(Into::into);
        match &mut self.0 {
            Ended::Each(each) => each.extend(more),
            Ended::AllDone | Ended::One(_) => self.0 = Ended::Each(more.collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::stream;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::event::{EventParts, Partition};

    fn batch(events: i64) -> Batch {
        let partition = Arc::new(Partition::new("orders", "0"));
        Batch::new((0..events).map(|number| {
            EventParts::new(Arc::clone(&partition), number, number.to_string()).into()
        }))
    }

    fn number(event: &Event) -> i64 {
        event.sequence_number().0
    }

    #[test]
    fn an_owned_iterator_gives_each_event_once_from_both_ends() {
        let mut events = batch(5).into_iter();
        assert_eq!(events.len(), 5);
        assert_eq!(events.next().as_ref().map(number), Some(0));
        assert_eq!(events.next_back().as_ref().map(number), Some(4));
        assert_eq!(events.by_ref().map(|event| number(&event)).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(events.next().is_none() && events.next_back().is_none());
        assert_eq!(batch(0).into_iter().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn outcomes_keep_their_positions_whichever_event_ends_first() {
        let begun = Instant::now();
        let outcomes = batch(6)
            .for_each_concurrent(3, |event| async move {
                sleep(Duration::from_secs(10 - number(&event).unsigned_abs())).await;
                match number(&event) {
                    1 => Err(Failure::permanent("404")),
                    4 => Ok(Outcome::skip("known")),
                    _ => Ok(Outcome::Done),
                }
            })
            .await;
        let expected = [
            Outcome::Done,
            Outcome::dead_letter(Failure::permanent("404")),
            Outcome::Done,
            Outcome::Done,
            Outcome::skip("known"),
            Outcome::Done,
        ];
        assert_eq!(outcomes, Outcomes::each(expected));
        // 2 (8 s) and 3 (7 s), one after the other: no wave waits for its slowest.
        assert_eq!(begun.elapsed(), Duration::from_secs(15));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_run_at_once_and_no_more() {
        for (at_once, expected) in [(0, 1), (1, 1), (4, 4), (100, 20)] {
            let (now, most) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
            let outcomes = batch(20).for_each_concurrent(at_once, |_| async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
            });
            assert_eq!(outcomes.await, Outcomes::each(vec![Outcome::Done; 20]));
            assert_eq!(most.load(Ordering::SeqCst), expected, "{at_once} at once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_of_an_ordered_lane_go_one_after_the_other_and_none_passes_one_that_failed() {
        let place = |is_first, next| InLane { is_first, next };
        let (first, behind) = (true, false);
        let lanes: Arc<[InLane]> = Arc::new([
            place(first, Some(2)),
            place(first, Some(3)),
            place(behind, Some(4)),
            place(behind, Some(6)),
            place(behind, None),
            InLane::ALONE,
            place(behind, None),
        ]);
        let begun = Mutex::new(Vec::new());
        let outcomes = batch(7).in_lanes(lanes).for_each_concurrent(10, |event| {
            begun.lock().expect("lock").push(number(&event));
            async move {
                sleep(Duration::from_secs(1)).await;
                match number(&event) {
                    2 => Err(Failure::transient("503")),
                    3 => Err(Failure::permanent("404")),
                    _ => Ok(()),
                }
            }
        });
        let outcomes = outcomes.await;
        assert_eq!(*begun.lock().expect("lock"), [0, 1, 5, 2, 3, 6]);
        let behind = "an event before it in its lane is to be tried again";
        let expected = [
            Outcome::Done,
            Outcome::Done,
            Outcome::retry(Failure::transient("503")),
            Outcome::dead_letter(Failure::permanent("404")),
            Outcome::postpone(Duration::ZERO, behind),
            Outcome::Done,
            Outcome::Done,
        ];
        assert_eq!(outcomes, Outcomes::each(expected));
    }

    #[tokio::test]
    async fn a_panic_is_one_events_and_the_others_go_on() {
        let seen = Mutex::new(BTreeMap::new());
        let outcomes = batch(4)
            .for_each_concurrent(2, |event| {
                assert!(number(&event) != 0, "boom before its future");
                let seen = &seen;
                async move {
                    assert!(number(&event) != 2, "boom");
                    *seen.lock().expect("lock").entry(number(&event)).or_insert(0) += 1;
                }
            })
            .await;
        let panicked = |what: &str| Outcome::retry(panic_failure(&what.to_owned()));
        let [before, boom] = ["boom before its future", "boom"].map(panicked);
        assert_eq!(outcomes, Outcomes::each([before, Outcome::Done, boom, Outcome::Done]));
        assert_eq!(seen.into_inner().expect("lock"), BTreeMap::from([(1, 1), (3, 1)]));
    }

    #[tokio::test]
    async fn outcomes_are_collected_from_iterators_and_streams() {
        let ended = |event: Event| match number(&event) {
            1 => Err(Failure::permanent("404")),
            _ => Ok(()),
        };
        let expected = Outcomes::each([
            Outcome::Done,
            Outcome::dead_letter(Failure::permanent("404")),
            Outcome::Done,
        ]);
        assert_eq!(batch(3).into_iter().map(ended).collect::<Outcomes>(), expected);
        let stream = stream::iter(batch(3)).map(|event| async move { ended(event) });
        assert_eq!(stream.buffered(2).collect::<Outcomes>().await, expected);
        let mut all = Outcomes::all_done();
        all.extend([()]);
        assert_eq!(all, Outcomes::each([Outcome::Done]));
    }

    #[test]
    fn an_error_fails_the_whole_batch() {
        let failed = Outcomes::from(Err::<Outcomes, _>(Failure::permanent("away")));
        assert_eq!(failed, Outcomes::failed(Failure::permanent("away")));
        assert_eq!(failed.0, Ended::One(Outcome::dead_letter(Failure::permanent("away"))));
        let text = Outcomes::from(Err::<(), _>("away"));
        assert_eq!(text.0, Ended::One(Outcome::retry("away")));
        assert_eq!(Outcomes::from(Ok::<_, Failure>(())), Outcomes::all_done());
    }
}
