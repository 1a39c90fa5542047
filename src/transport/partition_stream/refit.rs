//! A link with other credit takes over from the open one: the shell around
//! [`crate::state::prefetch`].
//!
//! The open link brings events until the other one is there. What both bring comes out once, as after
//! any lost link, for it has the same numbers. What cannot be read has none: where the open link
//! brought such an event meanwhile, the other one is not used, and one is opened behind all that came.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tracing::debug;

use super::{PartitionStream, State, StreamEnd};
use crate::error::{Error, ErrorClass};
use crate::event::Event;
use crate::transport::Link;

impl PartitionStream {
    /// Opens a link with more credit, or less, where the size of these events says so.
    pub(super) fn open_with_what_fits(&mut self, events: &[Event]) {
        let bytes = events.iter().map(Event::budget_bytes).sum();
        let now = Instant::now().into_std();
        let credit = self.prefetch.on_received(events.len(), bytes, now);
        let Some(credit) = credit.filter(|_| self.next.is_none()) else { return };
        debug!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            prefetch_events = credit,
            "a link with other credit is opened, by the size of its events"
        );
        self.next_is_stale = false;
        self.next = Some(self.link_of(credit).take_over().boxed());
    }

    /// Puts a link in the place of the open one, once it is there. Returns whether it is.
    pub(super) fn poll_next_link(&mut self, cx: &mut Context<'_>) -> Result<bool, StreamEnd> {
        let Some(next) = &mut self.next else { return Ok(false) };
        let Poll::Ready(opened) = next.poll_unpin(cx) else { return Ok(false) };
        self.next = None;
        match opened {
            Ok(opened) if self.next_is_stale || !opened.is_verified => {
                self.goodbye = opened.outcome.ok().map(|link| link.close());
                // It may have taken the partition from the open one.
                self.open_again();
                Ok(true)
            }
            Ok(opened) => {
                if let State::Open(watched) = std::mem::replace(&mut self.state, State::Ended) {
                    self.goodbye = Some(watched.link.close());
                }
                self.on_opened(opened)?;
                Ok(true)
            }
            // The open link goes on. Where that is at fault too, it will say so itself.
            Err(error) => {
                self.prefetch.on_failed(Instant::now().into_std());
                debug!(
                    message_topic = %self.partition.entity,
                    message_partition = %self.partition.id,
                    %error,
                    "the link with other credit does not open"
                );
                Ok(false)
            }
        }
    }

    /// The open link ended. Where another one of ours may have taken its place at the broker, that
    /// one says what is the case.
    pub(super) fn on_link_error(
        &mut self,
        error: Error,
        link: Box<dyn Link>,
    ) -> Result<(), StreamEnd> {
        match self.next.take() {
            Some(next) if error.class() == ErrorClass::PartitionLost => {
                self.goodbye = Some(link.close());
                let is_stale = self.next_is_stale;
                let opening = self.link_of(self.prefetch.next_credit());
                let opened = async move {
                    let opened = next.await?;
                    if opened.is_verified && !is_stale {
                        return Ok(opened);
                    }
                    let link = opened.outcome.ok();
                    opening.open(link.map(|link| (link, Duration::ZERO))).await
                };
                self.state = State::Opening(opened.boxed());
                Ok(())
            }
            _ => self.on_error(error, Some(link)),
        }
    }
}
