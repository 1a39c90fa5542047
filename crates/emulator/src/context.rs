//! What the sessions and links of one connection share: the output, the timers and the budgets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::broker::Broker;
use super::budget::{Budget, Kept};
use super::frame::{self, Outcome};
use super::mailbox::{AppendTicket, LinkKey, Mailbox};
use super::refusal::Refusal;
use super::segment::ReadJob;
use super::tokens::Grants;

/// State of a connection outside of its sessions.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) broker: Arc<Broker>,
    pub(super) mailbox: Arc<Mailbox>,
    /// Frames on their way to the peer.
    pub(super) out: BytesMut,
    /// What the peer accepts in one frame.
    pub(super) max_frame_bytes: u32,
    /// Links that may have something to send; each is in here at most once.
    pub(super) ready: VecDeque<LinkKey>,
    /// File reads for links, to run away from the runtime.
    pub(super) read_jobs: Vec<(LinkKey, ReadJob)>,
    /// Bytes sent to the log that it has not accepted yet.
    pub(super) append_bytes: usize,
    pub(super) links: usize,
    /// What the tokens of this connection open.
    pub(super) grants: Grants,
    /// What the peer makes the broker keep.
    pub(super) budget: Budget,
    /// Receivers that wait to read a file until others have sent what they read.
    starved: Vec<LinkKey>,
    last_serial: u64,
    due: Due,
}

impl Context {
    pub(super) fn new(broker: Arc<Broker>, mailbox: Arc<Mailbox>) -> Self {
        Self {
            budget: Budget::new(broker.settings.tokens),
            broker,
            mailbox,
            out: BytesMut::new(),
            max_frame_bytes: frame::MIN_MAX_FRAME_BYTES,
            ready: VecDeque::new(),
            read_jobs: Vec::new(),
            append_bytes: 0,
            links: 0,
            grants: Grants::default(),
            starved: Vec::new(),
            last_serial: 0,
            due: Due::default(),
        }
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    /// Lets a receiver read `job`, or has it wait until others have sent what they read; then it is
    /// [ready](Self::ready) again. Says which.
    pub(super) fn read(&mut self, link: LinkKey, job: ReadJob) -> bool {
        let may_read = self.budget.hold(Kept::Reads, job.bytes()).is_ok();
        if may_read {
            self.read_jobs.push((link, job));
        } else {
            self.starved.push(link);
        }
        may_read
    }

    /// What was read is sent, or of no use any more.
    pub(super) fn on_read_done(&mut self, bytes: usize) {
        if bytes > 0 {
            self.budget.release(Kept::Reads, bytes);
            self.ready.extend(self.starved.drain(..));
        }
    }

    /// Settles a delivery of the peer, not before the disposition delay after it arrived: a client
    /// that gets the answer before it registered its own send waits for it for ever.
    pub(super) fn settle_later(&mut self, ticket: &AppendTicket, outcome: Outcome) {
        if ticket.settled {
            return;
        }
        let due = ticket.received_at + self.broker.settings.disposition_delay;
        self.due.outcomes.push(DueOutcome {
            due,
            channel: ticket.link.channel,
            delivery_id: ticket.delivery_id,
            outcome,
        });
    }

    /// Answers a detach after the detach delay: a client that closes a session's links and the
    /// session in one go treats an answer in between as the end of the session, and then the answer
    /// to its `end` as an error of the connection.
    pub(super) fn detach_later(&mut self, now: Instant, link: LinkKey, closed: bool) {
        self.due.detaches.push_back(DueDetach {
            due: now + self.broker.settings.detach_delay,
            link,
            closed,
        });
    }

    /// Detaches a link with an error, when the outcomes of its deliveries are out: clients only look
    /// for an outcome while they wait for one, and would wait for ever.
    pub(super) fn drop_later(&mut self, now: Instant, link: LinkKey, refusal: Refusal) {
        self.due.drops.push_back(DueDrop {
            due: now + self.broker.settings.disposition_delay,
            link,
            refusal,
        });
    }

    /// Takes the answer to a detach that is due for this handle, early.
    pub(super) fn take_detach(&mut self, channel: u16, handle: u32) -> Option<DueDetach> {
        let at = self
            .due
            .detaches
            .iter()
            .position(|due| due.link.channel == channel && due.link.handle == handle)?;
        self.due.detaches.remove(at)
    }

    /// Forgets every answer due on a channel: its session is ending.
    pub(super) fn forget_channel(&mut self, channel: u16) {
        self.due.outcomes.retain(|due| due.channel != channel);
        self.due.detaches.retain(|due| due.link.channel != channel);
        self.due.drops.retain(|due| due.link.channel != channel);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.next().into_iter().chain(self.grants.next_expiry()).min()
    }

    pub(super) fn take_due_detaches(&mut self, now: Instant) -> Vec<DueDetach> {
        let count = self.due.detaches.iter().take_while(|detach| detach.due <= now).count();
        self.due.detaches.drain(..count).collect()
    }

    /// To be called after [`Self::put_due_outcomes`].
    pub(super) fn take_due_drops(&mut self, now: Instant) -> Vec<(LinkKey, Refusal)> {
        let count = self.due.drops.iter().take_while(|drop| drop.due <= now).count();
        self.due.drops.drain(..count).map(|drop| (drop.link, drop.refusal)).collect()
    }

    /// Writes the dispositions that are due, neighbours in one frame.
    pub(super) fn put_due_outcomes(&mut self, now: Instant) {
        let by_channel = self.due.take_outcomes(now, self.broker.settings.disposition_delay);
        for (channel, mut outcomes) in by_channel {
            outcomes.sort_by_key(|(id, _)| *id);
            let mut outcomes = outcomes.into_iter().peekable();
            while let Some((first, outcome)) = outcomes.next() {
                let mut last = first;
                while let Some((id, _)) =
                    outcomes.next_if(|(id, next)| *id == last.wrapping_add(1) && *next == outcome)
                {
                    last = id;
                }
                frame::put_disposition(&mut self.out, channel, false, first, last, &outcome);
            }
        }
    }
}

/// Answers that wait for their time.
#[derive(Debug, Default)]
struct Due {
    outcomes: Vec<DueOutcome>,
    /// In the order they fall due, like the next.
    detaches: VecDeque<DueDetach>,
    drops: VecDeque<DueDrop>,
}

/// A link to detach with an error.
#[derive(Debug)]
struct DueDrop {
    due: Instant,
    link: LinkKey,
    refusal: Refusal,
}

#[derive(Debug)]
struct DueOutcome {
    due: Instant,
    channel: u16,
    delivery_id: u32,
    outcome: Outcome,
}

/// An answer to a detach.
#[derive(Debug, Clone, Copy)]
pub(super) struct DueDetach {
    due: Instant,
    pub(super) link: LinkKey,
    pub(super) closed: bool,
}

impl Due {
    fn next(&self) -> Option<Instant> {
        let outcome = self.outcomes.iter().map(|outcome| outcome.due).min();
        let detach = self.detaches.front().map(|detach| detach.due);
        let drop = self.drops.front().map(|drop| drop.due);
        outcome.into_iter().chain(detach).chain(drop).min()
    }

    /// Takes what is due and what would be a tenth of the delay later: deliveries come in bursts,
    /// and one wake-up and one frame serve a burst.
    fn take_outcomes(
        &mut self,
        now: Instant,
        delay: Duration,
    ) -> BTreeMap<u16, Vec<(u32, Outcome)>> {
        let horizon = match self.outcomes.iter().any(|outcome| outcome.due <= now) {
            true => now + delay / 10,
            false => return BTreeMap::new(),
        };
        let mut by_channel: BTreeMap<u16, Vec<(u32, Outcome)>> = BTreeMap::new();
        for outcome in self.outcomes.extract_if(.., |outcome| outcome.due <= horizon) {
            by_channel
                .entry(outcome.channel)
                .or_default()
                .push((outcome.delivery_id, outcome.outcome));
        }
        by_channel
    }
}
