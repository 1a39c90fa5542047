//! How a handler ends an event.
//!
//! A handler ends each event with an [`Outcome`]. [`Outcome::Done`] and [`Outcome::Skip`] settle the event at
//! once. [`Outcome::DeadLetter`] settles it when the dead letter is written and acknowledged. [`Outcome::Retry`]
//! does not settle it. [`Outcome::Abort`] leaves it unsettled and stops the consumer.

use std::time::Duration;

use crate::error::{Error, ErrorClass, OneLine, error_chain};
use crate::event::SequenceNumber;

/// How a handler ends an event.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
#[must_use]
pub enum Outcome {
    /// Finished.
    Done,
    /// Not for this consumer, or finished before. It counts as finished. The text is the reason.
    Skip(String),
    /// Failed in a way that may pass: run the handler again later.
    Retry(RetryRequest),
    /// Failed for good: write it to the dead-letter sink.
    DeadLetter(Failure),
    /// The environment is broken (a full disk, a missing folder): drain and stop the consumer. The next run
    /// delivers the event again.
    Abort(Failure),
    /// The work goes on elsewhere, and a [`Settler`](crate::consumer::Settler) ends the event.
    /// [`EventContext::defer`](crate::consumer::EventContext::defer) gives both. This outcome is valid only for
    /// the event and the attempt that it was made for.
    Deferred(Deferred),
}

/// Proof that an event's [`Settler`](crate::consumer::Settler) was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deferred {
    event: SequenceNumber,
    attempt: u32,
}

impl Deferred {
    pub(crate) fn new(event: SequenceNumber, attempt: u32) -> Self {
        Self { event, attempt }
    }
}

impl Outcome {
    /// The event is not for this consumer, or was finished before.
    pub fn skip(reason: impl Into<String>) -> Self {
        Outcome::Skip(reason.into())
    }

    /// Try the event again after the configured back-off.
    pub fn retry(failure: impl Into<Failure>) -> Self {
        Outcome::Retry(RetryRequest { delay: RetryDelay::Backoff, failure: failure.into() })
    }

    /// Try the event again as soon as a slot is free.
    pub fn retry_now(failure: impl Into<Failure>) -> Self {
        Outcome::Retry(RetryRequest { delay: RetryDelay::Now, failure: failure.into() })
    }

    /// Try the event again after `delay`. It holds no slot meanwhile.
    pub fn retry_after(delay: Duration, failure: impl Into<Failure>) -> Self {
        Outcome::Retry(RetryRequest { delay: RetryDelay::After(delay), failure: failure.into() })
    }

    /// Close the lane of the event for `wait`, and try the event again when the lane opens. No attempt of any
    /// event is used up. Use it for a destination that says when to come back. See
    /// [`RetryDelay::LaneCloses`].
    pub fn close_lane(wait: Duration, failure: impl Into<Failure>) -> Self {
        Outcome::Retry(RetryRequest {
            delay: RetryDelay::LaneCloses(wait),
            failure: failure.into(),
        })
    }

    /// Try the event again after `wait`, for a reason that is not a failure of the event. No attempt is used up.
    /// Other events of its lane do not wait for it, unless the lane is ordered.
    pub fn postpone(wait: Duration, failure: impl Into<Failure>) -> Self {
        Outcome::Retry(RetryRequest { delay: RetryDelay::Postponed(wait), failure: failure.into() })
    }

    /// The handler stopped early because the partition is about to leave
    /// ([`EventContext::handing_off`](crate::consumer::EventContext::handing_off)). The event is not settled, no
    /// attempt is used up, and the next owner of the partition gets it again. If the hand-off is called back,
    /// the event is tried again here after the configured back-off.
    pub fn put_back(reason: impl Into<String>) -> Self {
        let failure = Failure::transient(reason);
        Outcome::Retry(RetryRequest { delay: RetryDelay::PutBack, failure })
    }

    /// The event failed, and the class of the failure decides: try again if it may pass
    /// ([`ErrorClass::is_retryable`]), otherwise make a dead letter.
    pub fn failed(failure: impl Into<Failure>) -> Self {
        let failure = failure.into();
        match failure.class.is_retryable() {
            true => Outcome::retry(failure),
            false => Outcome::DeadLetter(failure),
        }
    }

    /// Write the event to the dead-letter sink.
    pub fn dead_letter(failure: impl Into<Failure>) -> Self {
        Outcome::DeadLetter(failure.into())
    }

    /// Drain and stop the consumer.
    pub fn abort(failure: impl Into<Failure>) -> Self {
        Outcome::Abort(failure.into())
    }

    /// The outcome of an event whose handler published something as its last step.
    ///
    /// | published | outcome |
    /// | --- | --- |
    /// | yes | done |
    /// | no: it is too large, or holds what cannot be sent | a dead letter: it is made of the event |
    /// | no, and it may pass | try again |
    /// | no, for another reason: the hub does not exist, the key has no right | the consumer stops: every event would fail |
    ///
    /// With `?` in place of this, a hub that does not exist would make a dead letter of each event.
    ///
    /// ```
    /// # use longshore::{Event, Failure, Outcome};
    /// # use longshore::producer::Producer;
    /// async fn handle(event: Event, producer: Producer) -> Result<Outcome, Failure> {
    ///     let result = String::from_utf8(event.body().to_vec())?; // `?` for what is the event's
    ///     let sent = producer.send("results", event.key(), result, Default::default()).await;
    ///     Ok(Outcome::of_publish(sent))
    /// }
    /// ```
    pub fn of_publish<T>(published: Result<T, Error>) -> Self {
        let error = match published {
            Ok(_) => return Outcome::Done,
            Err(error) => error,
        };
        match error.class() {
            ErrorClass::TooLarge | ErrorClass::BadData => Outcome::dead_letter(error),
            class if class.is_retryable() => Outcome::retry(error),
            _ => Outcome::abort(error),
        }
    }

    /// Changes the failure of this outcome, if it has one.
    pub fn with_failure(mut self, change: impl FnOnce(&mut Failure)) -> Self {
        match &mut self {
            Outcome::Retry(request) => change(&mut request.failure),
            Outcome::DeadLetter(failure) | Outcome::Abort(failure) => change(failure),
            Outcome::Done | Outcome::Skip(_) | Outcome::Deferred(_) => {}
        }
        self
    }

    /// The outcome as one lower-case word, as metrics spell it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Skip(_) => "skip",
            Outcome::Retry(_) => "retry",
            Outcome::DeadLetter(_) => "dead_letter",
            Outcome::Abort(_) => "abort",
            Outcome::Deferred(_) => "deferred",
        }
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Outcome::Done
    }
}

/// The class of an error decides: see [`Outcome::failed`].
impl<F: Into<Failure>> From<Result<(), F>> for Outcome {
    fn from(result: Result<(), F>) -> Self {
        match result {
            Ok(()) => Outcome::Done,
            Err(failure) => Outcome::failed(failure),
        }
    }
}

/// For handlers that use `?` and return other outcomes than "done". The class of an error decides: see
/// [`Outcome::failed`].
impl<F: Into<Failure>> From<Result<Outcome, F>> for Outcome {
    fn from(result: Result<Outcome, F>) -> Self {
        result.unwrap_or_else(Outcome::failed)
    }
}

/// A request to try the event again.
#[derive(Clone, PartialEq, Debug)]
pub struct RetryRequest {
    /// When.
    pub delay: RetryDelay,
    /// Why.
    pub failure: Failure,
}

/// When a retry is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RetryDelay {
    /// As soon as a slot is free.
    Now,
    /// After the configured back-off for this attempt.
    Backoff,
    /// After this time.
    After(Duration),
    /// After this time. The attempt is not counted.
    Postponed(Duration),
    /// By the next owner of the partition. The attempt is not counted. If the partition stays here, after the
    /// configured back-off. See [`Outcome::put_back`].
    PutBack,
    /// After this time, and no event of the same lane begins before that: the event goes back to the front of
    /// its lane, and the lane is closed. The attempt is not counted. An event without a lane waits alone. A
    /// time longer than [`MAX_LANE_CLOSING`](crate::lanes::MAX_LANE_CLOSING) is shortened to it.
    LaneCloses(Duration),
}

/// What is to blame for a failure that may pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Blame {
    /// Where the event goes to.
    Destination,
    /// The code that handles it: most likely for this event alone, but maybe for all.
    Code,
    /// The event.
    Event,
}

/// Why an event did not finish.
///
/// It is made of any error, so `?` works in a handler; an [`Error`] of this library keeps its class, and any other
/// is `Unknown` and tried again. Rust allows no `From` of your own error type beside that. So say the class of
/// yours where it leaves the handler:
///
/// ```
/// use longshore::Failure;
///
/// # #[derive(Debug)] enum OrderError { Unreadable(String), Busy }
/// fn failure(error: OrderError) -> Failure {
///     match error {
///         OrderError::Unreadable(why) => Failure::permanent(why),
///         OrderError::Busy => Failure::transient("the shop is busy"),
///     }
/// }
///
/// # async fn place(_: &[u8]) -> Result<(), OrderError> { Ok(()) }
/// async fn handle(body: &[u8]) -> Result<(), Failure> {
///     place(body).await.map_err(failure)
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The class: it decides what happens to the event.
    pub class: ErrorClass,
    /// One line for the person who reads the dead letter.
    pub message: String,
    /// The causes, outermost first, without the message itself.
    pub causes: Vec<String>,
    /// What is to blame, if it is known: a service, a host, a database. See [`Failure::at`].
    pub destination: Option<String>,
    pub(crate) blames: Blame,
}

impl Failure {
    /// A failure of this class, described in one line.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            causes: Vec::new(),
            destination: None,
            blames: Blame::Destination,
        }
    }

    /// A failure that stays the same however often the event is tried.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Permanent, message)
    }

    /// A failure that may pass.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Transient, message)
    }

    /// A failure of this class with the whole chain of `error`.
    pub fn from_error(class: ErrorClass, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut chain = error_chain(error);
        let message = chain.remove(0);
        Self { causes: chain, ..Self::new(class, message) }
    }

    /// Says that the event is at fault, and not its destination: for example, a file arrived whole with another
    /// checksum. The event is tried as often as its attempts allow and then given up. The failure does not
    /// count against the destination.
    #[must_use]
    pub fn of_event(mut self) -> Self {
        self.blames = Blame::Event;
        self
    }

    /// What a panic over an event says.
    pub(crate) fn of_panic(message: impl Into<String>) -> Self {
        Self { blames: Blame::Code, ..Self::new(ErrorClass::Unknown, message) }
    }

    /// Names what is to blame: a service, a host, a database. Failures that may pass and name the same
    /// destination count together. When most of the last attempts there fail, only probes begin until they
    /// succeed. Without a name, the limited lane of the event is to blame, or else the handler.
    #[must_use]
    pub fn at(mut self, destination: impl Into<String>) -> Self {
        self.destination = Some(destination.into());
        self
    }

    /// Adds the chain of `error` as causes.
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.causes.extend(error_chain(error));
        self
    }
}

/// Any error that `?` takes becomes a failure: each type of error that may go to another thread, `Box<dyn Error +
/// Send + Sync>`, `anyhow::Error` and others like it, and plain text. An [`Error`] of this library keeps its class.
/// Any other has the class unknown, and so it is retried.
///
/// ```
/// use longshore::{ErrorClass, Failure};
///
/// fn parse(text: &str) -> Result<u64, Failure> {
///     let number: u64 = text.parse()?;
///     if number == 0 {
///         Err("0 is no number of an order")?;
///     }
///     Ok(number)
/// }
///
/// assert_eq!(parse("no number").unwrap_err().class, ErrorClass::Unknown);
/// assert_eq!(parse("0").unwrap_err().message, "0 is no number of an order");
/// ```
impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let any: &(dyn std::error::Error + 'static) = &*error;
        let class = any.downcast_ref::<Error>().map_or(ErrorClass::Unknown, Error::class);
        Failure::from_error(class, any)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It quotes ids, paths and answers.
        std::fmt::Display::fmt(&OneLine(&self.message), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_quotes_is_in_its_line() {
        let quoted = "task 7\n2026-01-01 INFO all is well\r\u{1b}[2J\u{2028}: 404 – é";
        let shown = r"task 7\n2026-01-01 INFO all is well\r\u{1b}[2J\u{2028}: 404 – é";
        assert_eq!(Failure::permanent(quoted).to_string(), shown);
        let error = Error::new(ErrorClass::Permanent, "do it", quoted);
        assert_eq!(error.to_string(), format!("could not do it: {shown}"));
    }

    #[test]
    fn a_result_becomes_done_retry_or_dead_letter_by_its_class() {
        assert_eq!(Outcome::from(Ok::<(), Failure>(())), Outcome::Done);
        let transient = Failure::transient("timed out");
        assert_eq!(Outcome::from(Err::<(), _>(transient.clone())), Outcome::retry(transient));
        let permanent = Failure::permanent("404");
        let dead = Outcome::DeadLetter(permanent.clone());
        assert_eq!(Outcome::from(Err::<Outcome, _>(permanent)), dead);
        assert_eq!(Outcome::from(Ok::<_, Failure>(dead.clone())), dead);
    }

    type Boxed = Box<dyn std::error::Error + Send + Sync>;

    #[test]
    fn whatever_the_question_mark_takes_becomes_a_failure() {
        fn asked<E>(error: E) -> Result<(), Failure>
        where
            Failure: From<E>,
        {
            Err(error)?;
            Ok(())
        }
        let failed = |failure: Result<(), Failure>| failure.expect_err("failed");
        let number = "7 apples".parse::<u32>().expect_err("no number");
        let said = Failure::new(ErrorClass::Unknown, number.to_string());
        assert_eq!(failed(asked(number.clone())), said);
        assert_eq!(failed(asked(Boxed::from(number.clone()))), said);
        assert_eq!(failed(asked(number.to_string())), said);

        let away = Error::new(ErrorClass::Auth, "open it", "no").with_source(number);
        let failure = failed(asked(Boxed::from(away)));
        assert_eq!(
            (failure.class, failure.message.as_str()),
            (ErrorClass::Auth, "could not open it: no")
        );
        assert_eq!(failure.causes, [said.message]);
    }

    #[test]
    fn anyhow_errors_become_failures_with_their_causes() {
        fn handle() -> Result<(), Failure> {
            let number = "7 apples".parse::<u32>();
            anyhow::Context::context(number, "the order is odd")?;
            Ok(())
        }
        let failure = handle().expect_err("failed");
        assert_eq!(failure.message, "the order is odd");
        assert_eq!(failure.causes, ["invalid digit found in string"]);
        let outcome = Outcome::from(Err::<(), _>(anyhow::anyhow!("away")));
        assert_eq!(outcome, Outcome::retry("away"));
    }
}
