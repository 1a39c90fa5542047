//! One call at a time, whose answer all get who asked before it was begun.
//!
//! Partitions that are opened together ask the hub together, over one client that takes a round
//! trip for each call. None may be given an answer that is older than its question.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// The last answer, and when its call was begun, counted in questions and calls.
#[derive(Debug)]
pub(super) struct SharedAnswer<T> {
    count: AtomicU64,
    last: Mutex<Option<(u64, T)>>,
}

impl<T> Default for SharedAnswer<T> {
    fn default() -> Self {
        Self { count: AtomicU64::new(0), last: Mutex::new(None) }
    }
}

impl<T: Clone> SharedAnswer<T> {
    /// Makes the call, unless one that is begun while this waits for its turn is answered.
    pub(super) async fn ask<E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let asked = self.count.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last.lock().await;
        if let Some((begun, answer)) = &*last
            && *begun > asked
        {
            return Ok(answer.clone());
        }
        let begun = self.count.fetch_add(1, Ordering::Relaxed);
        let answer = call.await?;
        *last = Some((begun, answer.clone()));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::future::join_all;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_together_share_a_call_that_is_younger_than_their_questions() {
        let shared = SharedAnswer::default();
        let calls = Cell::new(0);
        let call = async || {
            calls.set(calls.get() + 1);
            let answer = calls.get();
            yield_now().await;
            Ok::<_, ()>(answer)
        };
        let answers = join_all((0..10).map(|_| shared.ask(call()))).await;
        // The first call was begun before the others asked.
        assert_eq!(answers, [vec![Ok(1)], vec![Ok(2); 9]].concat());
        assert_eq!(shared.ask(call()).await, Ok(3));
    }

    #[tokio::test]
    async fn a_failure_is_not_shared() {
        let shared = SharedAnswer::default();
        let answers = [Err("cut"), Err("cut"), Ok(7)].map(|answer| {
            shared.ask(async move {
                yield_now().await;
                answer
            })
        });
        assert_eq!(join_all(answers).await, [Err("cut"), Err("cut"), Ok(7)]);
    }
}
