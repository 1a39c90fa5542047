//! Publishing with patience: every send has a timeout of its adapter's, and one that failed in
//! a way that may pass is tried again with back-off.
//!
//! An answer that was lost is a send that was made: a retry may publish an event twice, and
//! whoever consumes it recognises it by its message id.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;
use tracing::warn;

use crate::error::{Error, Result, error_chain};
use crate::event::{EntityName, OutgoingEvent};
use crate::state::backoff::Backoff;
use crate::transport::{Publisher, SendReceipt, SendTarget};

/// Default of [`Producer::with_attempts`].
pub const DEFAULT_SEND_ATTEMPTS: u32 = 8;

/// Default of [`Producer::with_backoff`].
pub const DEFAULT_SEND_BACKOFF: Backoff =
    Backoff::doubling(Duration::from_millis(200), Duration::from_secs(10));

/// Publishes to one entity. `Ok` means that the service accepted it.
#[derive(Debug)]
pub struct Producer {
    publisher: Arc<dyn Publisher>,
    attempts: u32,
    backoff: Backoff,
    random: Mutex<SmallRng>,
}

impl Producer {
    /// A producer with [`DEFAULT_SEND_ATTEMPTS`] and [`DEFAULT_SEND_BACKOFF`].
    pub fn new(publisher: Arc<dyn Publisher>) -> Self {
        Self {
            publisher,
            attempts: DEFAULT_SEND_ATTEMPTS,
            backoff: DEFAULT_SEND_BACKOFF,
            random: Mutex::new(SmallRng::from_os_rng()),
        }
    }

    /// Sets how often a send is tried; at least once.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the delays between attempts.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The entity it publishes to.
    pub fn entity(&self) -> &EntityName {
        self.publisher.entity()
    }

    /// Publishes one event.
    ///
    /// # Errors
    /// The last error, where trying again is useless or did not help.
    ///
    /// # Cancel safety
    /// A dropped call may have published.
    pub async fn send(&self, target: SendTarget, event: OutgoingEvent) -> Result<SendReceipt> {
        let mut failures = 0;
        loop {
            match self.publisher.send(target.clone(), event.clone()).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => self.on_failure(&mut failures, error).await?,
            }
        }
    }

    /// Publishes events in as few transfers as the link allows, in order.
    ///
    /// # Errors
    /// As [`Producer::send`]; some of the events may have been published.
    ///
    /// # Cancel safety
    /// As [`Producer::send`].
    pub async fn send_batch(&self, target: SendTarget, events: Vec<OutgoingEvent>) -> Result<()> {
        let mut failures = 0;
        loop {
            match self.publisher.send_batch(target.clone(), events.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => self.on_failure(&mut failures, error).await?,
            }
        }
    }

    /// Lets go of the connection.
    pub async fn close(&self) {
        self.publisher.close().await;
    }

    async fn on_failure(&self, failures: &mut u32, error: Error) -> Result<()> {
        *failures += 1;
        if !error.class().is_retryable() || *failures >= self.attempts {
            return Err(error);
        }
        let random = self.random.lock().unwrap_or_else(PoisonError::into_inner).random();
        let delay = self.backoff.delay(*failures, random);
        warn!(
            message_topic = %self.publisher.entity(),
            class = %error.class(),
            failures = *failures,
            retry_in_ms = delay.as_millis(),
            causes = ?error_chain(&error),
            "an event could not be published; trying again"
        );
        sleep(delay).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass;
    use crate::transport::memory::MemoryHub;

    #[tokio::test(start_paused = true)]
    async fn a_send_that_may_pass_is_tried_again_and_one_that_may_not_is_not() {
        let hub = MemoryHub::new("results", 1);
        let producer = Producer::new(Arc::new(hub.publisher()));
        hub.fail_sends(7, ErrorClass::Transient);
        let receipt = producer.send(SendTarget::Any, OutgoingEvent::new("a")).await.expect("sent");
        assert_eq!(receipt.sequence_number.map(|number| number.0), Some(0));
        hub.fail_sends(8, ErrorClass::Throttling);
        let error = producer.send(SendTarget::Any, OutgoingEvent::new("b")).await.expect_err("8");
        assert_eq!(error.class(), ErrorClass::Throttling);
        hub.fail_sends(1, ErrorClass::Permanent);
        let error = producer.send(SendTarget::Any, OutgoingEvent::new("c")).await.expect_err("1");
        assert_eq!(error.class(), ErrorClass::Permanent);
    }
}
