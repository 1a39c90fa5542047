//! What ends a run in good order: a state that cannot be used.
//!
//! A consumer waits out a store that fails, because in a fleet somebody repairs it. At a
//! terminal that would be a command that hangs on a full disk: here a failure that will not
//! pass by itself, or does not pass soon, ends the run with its reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::error::{Error, ErrorClass, error_chain};

/// So many failures in a row are no accident.
const MAX_FAILURES: u32 = 3;

/// Where the first reason to stop is kept.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<watch::Sender<Option<String>>>);

impl Stop {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Waits for a reason to stop.
    pub(super) async fn reason(&self) -> String {
        let mut reason = self.0.subscribe();
        loop {
            if let Some(reason) = &*reason.borrow_and_update() {
                return reason.clone();
            }
            if reason.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Something that ends the run; the first one counts.
    pub(super) fn on_reason(&self, why: String) {
        self.0.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                *reason = Some(why);
            }
            first
        });
    }
}

/// A sink of dead letters whose failures end the run.
#[derive(Debug)]
pub(super) struct Failing<S> {
    inner: S,
    stop: Stop,
    /// Failures in a row.
    failures: AtomicU32,
}

impl<S> Failing<S> {
    pub(super) fn new(inner: S, stop: Stop) -> Self {
        Self { inner, stop, failures: AtomicU32::new(0) }
    }
}

impl<S: DeadLetterSink> DeadLetterSink for Failing<S> {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let written = self.inner.write(letter).await;
            match &written {
                Ok(()) => self.failures.store(0, Ordering::Relaxed),
                Err(error) => {
                    let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                    if error.class() == ErrorClass::Permanent || failures >= MAX_FAILURES {
                        let why = error_chain(error).join(": ");
                        self.stop.on_reason(format!("a dead letter cannot be saved: {why}"));
                    }
                }
            }
            written
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::SystemTime;

    use super::*;
    use longshore::event::{EventParts, Partition};
    use longshore::outcome::Failure;

    /// Fails in these ways, the last first, and then no more.
    #[derive(Debug)]
    struct Fails(Mutex<Vec<ErrorClass>>);

    impl DeadLetterSink for Fails {
        fn write<'a>(&'a self, _: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
            let class = self.0.lock().ok().and_then(|mut classes| classes.pop());
            let failed = class.map(|class| Error::new(class, "write", "told to fail"));
            async move { failed.map_or(Ok(()), Err) }.boxed()
        }
    }

    #[tokio::test]
    async fn a_failure_that_stays_ends_the_run_and_one_that_passes_does_not() {
        use ErrorClass::{Permanent, Transient};
        let partition = Arc::new(Partition::new("list", "0"));
        let letter = DeadLetter::new(
            EventParts::new(partition, 0, "x").into(),
            "$Default".into(),
            "a test",
            Failure::permanent("404"),
            SystemTime::UNIX_EPOCH,
        );
        for (classes, writes, ends) in [
            (vec![Transient, Transient], 3, false),
            (vec![Transient; 3], 3, true),
            (vec![Permanent], 1, true),
        ] {
            let stop = Stop::new();
            let sink = Failing::new(Fails(Mutex::new(classes.clone())), stop.clone());
            for _ in 0..writes {
                let _written = sink.write(&letter).await;
            }
            let reason = stop.reason().now_or_never();
            assert_eq!(reason.is_some(), ends, "{classes:?}: {reason:?}");
        }
    }
}
