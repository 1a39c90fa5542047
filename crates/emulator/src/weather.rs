//! What the network under the connections is like: slow, or standing still.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::socket::Ending;

#[derive(Debug, Clone, Copy, Default)]
struct Conditions {
    stalled_until: Option<Instant>,
    delay: Duration,
}

/// The weather for all connections of a broker.
#[derive(Debug, Default)]
pub(super) struct Weather {
    conditions: watch::Sender<Conditions>,
    /// Connections still to come that are half open from the first.
    to_silence: AtomicUsize,
}

impl Weather {
    /// Nothing moves until then.
    pub(super) fn stall_until(&self, until: Instant) {
        self.conditions.send_modify(|conditions| conditions.stalled_until = Some(until));
    }

    /// Whatever arrives, arrives this much later.
    pub(super) fn delay(&self, delay: Duration) {
        self.conditions.send_modify(|conditions| conditions.delay = delay);
    }

    /// The next `connections` are accepted, and then nothing.
    pub(super) fn silence_next(&self, connections: usize) {
        self.to_silence.store(connections, Ordering::Release);
    }

    /// Whether a new connection is one of those.
    pub(super) fn take_silence(&self) -> bool {
        let take = |left: usize| left.checked_sub(1);
        self.to_silence.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    pub(super) fn watch(&self) -> Forecast {
        Forecast(self.conditions.subscribe())
    }
}

/// The weather as one connection sees it.
#[derive(Debug)]
pub(super) struct Forecast(watch::Receiver<Conditions>);

impl Forecast {
    /// Resolves when the weather is not what it was.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn stalled_until(&mut self) -> Option<Instant> {
        self.0.borrow_and_update().stalled_until.filter(|until| *until > Instant::now())
    }

    /// Waits while nothing moves; without an end when the connection is half open. False when it
    /// was ended meanwhile.
    pub(super) async fn calm(&mut self, ending: &Ending) -> bool {
        loop {
            let stalled_until = match (ending.silence.is_cancelled(), self.stalled_until()) {
                (false, None) => return true,
                (false, until) => until,
                (true, _) => None,
            };
            let over = async {
                match stalled_until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = ending.cut.cancelled() => return false,
                () = ending.stop.cancelled() => return false,
                () = over => {}
                () = self.changed() => {}
            }
        }
    }

    /// Waits as long as what has arrived is on its way. False when the connection was cut meanwhile.
    pub(super) async fn travel(&self, ending: &Ending) -> bool {
        let delay = self.0.borrow().delay;
        if delay.is_zero() {
            return true;
        }
        tokio::select! {
            biased;
            () = ending.cut.cancelled() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }
}
