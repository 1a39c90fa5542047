//! The lease loop: carries out what [`LeaseTable`] decides, with a store that may fail or hang.
//!
//! Heartbeats, looks (a listing, then what the table makes of it), writes of ownership records, and
//! reads of the records that are about to become ours, or were asked for, go on beside each other:
//! none waits for another. Each has a time limit, and whatever fails is tried again at its own pace,
//! so a store that is away stops nothing that runs.
//!
//! The end of a worker is a hand-off as well. It says that it is leaving, and goes on until the
//! others have asked for what it has, for [`LEAVING_SHARE`] of the drain's time at most; then it
//! drains what is left and releases it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::first_look::timed_out;
use super::hub_watch::{Found, HubWatch};
use super::lease_requests::{Polled, Requests};
use super::owners::Owners;
use crate::config::LeaseOptions;
use crate::consumer::exit::{PartitionExit, StopReason};
use crate::consumer::lock::lock;
use crate::consumer::never_connected::{GaveUp, NeverConnected, Unreached};
use crate::consumer::orders::{Directive, Order};
use crate::consumer::shared::Shared;
use crate::error::{Error, error_chain};
use crate::event::PartitionId;
use crate::lease_store::{LeaseListing, Member, OwnerId};
use crate::state::fence::Superseded;
use crate::state::lease_table::{Action, Ended, LeaseLimits, LeaseTable, LeaseWrite, LeaseWritten};
use crate::state::tenure::CANCEL_GRACE;

/// The part of `drain_timeout` for which a worker waits for successors before it drains: a half.
pub const LEAVING_SHARE: f64 = 0.5;

/// How often records that are about to become ours are read: every 500 ms.
pub const HAND_OFF_POLL: Duration = Duration::from_millis(500);

/// The time between two looks while a hand-off, an uneven share or a departure is under way: 2 s.
pub const BUSY_LOOK: Duration = Duration::from_secs(2);

/// The most hand-offs that a worker asks for, and gives, at once: 16.
pub const MAX_HAND_OFFS: usize = 16;

/// How the worker's end goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaving {
    No,
    /// It goes on until this time, for others to ask for what it has.
    Announced {
        until: Instant,
        deadline: Instant,
    },
    /// It drains, until this time.
    Draining {
        deadline: Instant,
    },
}

struct LeaseLoop<'a> {
    shared: &'a Arc<Shared>,
    options: LeaseOptions,
    owners: Owners,
    me: OwnerId,
    table: LeaseTable,
    requests: Requests,
    writes: FuturesUnordered<BoxFuture<'static, (LeaseWrite, LeaseWritten)>>,
    removals: FuturesUnordered<BoxFuture<'static, ()>>,
    listing: Option<BoxFuture<'static, Result<LeaseListing, Error>>>,
    heartbeat: Option<BoxFuture<'static, Result<Member, Error>>>,
    polling: Option<BoxFuture<'static, Polled>>,
    /// The member record that others can read, as far as we know.
    announced: Option<Member>,
    next_look: Instant,
    next_heartbeat: Instant,
    next_poll: Instant,
    leaving: Leaving,
    /// How partitions that stay ours ended.
    exits: BTreeMap<PartitionId, PartitionExit>,
    failures: u32,
    /// Until the leases were listed once.
    first: Option<FirstLook>,
}

/// The first look at the leases, while it is not made.
struct FirstLook {
    /// When it is given up. Until then it is tried, whatever the store says: its container may be
    /// about to be created, or opened.
    deadline: Option<Instant>,
    last: Option<Error>,
    /// Why it is not tried any more.
    ended: Option<GaveUp>,
}

/// Runs what this worker has leases for, until it is told to drain.
///
/// # Errors
/// Where they were never listed: the time for the first connection is over, or the worker is told to
/// drain.
pub(super) async fn run(
    shared: &Arc<Shared>,
    owners: Owners,
    partitions: Vec<PartitionId>,
) -> Result<Vec<PartitionExit>, NeverConnected> {
    let Some(leases) = &shared.leases else {
        return Ok(Vec::new());
    };
    let options = leases.options.clone();
    let me = leases.owner.clone();
    let mut table = LeaseTable::new(me.clone(), limits(&options));
    table.on_partitions(partitions);
    let requests = Requests {
        store: Arc::clone(&leases.store),
        scope: shared.scope(),
        // What the table assumes of them: see `LeaseTable`.
        limit: shared.options.store_timeout.min(options.lease_expiry / 6),
    };
    let now = Instant::now();
    let this = LeaseLoop {
        shared,
        options,
        owners,
        me,
        table,
        requests,
        writes: FuturesUnordered::new(),
        removals: FuturesUnordered::new(),
        listing: None,
        heartbeat: None,
        polling: None,
        announced: None,
        next_look: now,
        next_heartbeat: now,
        next_poll: now,
        leaving: Leaving::No,
        exits: BTreeMap::new(),
        failures: 0,
        first: Some(FirstLook {
            deadline: shared.options.connect_timeout.map(|timeout| now + timeout),
            last: None,
            ended: None,
        }),
    };
    this.run().await
}

fn limits(options: &LeaseOptions) -> LeaseLimits {
    LeaseLimits {
        expiry: options.lease_expiry,
        foreign_expiry: options.foreign_lease_expiry,
        look_interval: options.look_interval,
        busy_interval: BUSY_LOOK.min(options.look_interval),
        hand_off_timeout: options.hand_off_timeout,
        max_hand_offs: MAX_HAND_OFFS,
    }
}

impl LeaseLoop<'_> {
    async fn run(mut self) -> Result<Vec<PartitionExit>, NeverConnected> {
        let mut directive = self.shared.directive.subscribe();
        directive.mark_changed();
        let mut watch = HubWatch::new(self.shared);
        let mut timer = Box::pin(sleep_until(Instant::now()));
        loop {
            self.begin_what_is_due(Instant::now());
            if self.is_over(Instant::now()) {
                break;
            }
            let wake = self.next_deadline();
            if let Some(wake) = wake {
                timer.as_mut().reset(wake);
            }
            let writing = !self.writes.is_empty();
            let owning = !self.owners.is_empty();
            tokio::select! {
                biased;
                Ok(()) = directive.changed() => {
                    let directed = *directive.borrow_and_update();
                    self.on_directive(directed, Instant::now());
                }
                Some((partition, exit)) = self.owners.next_exit(), if owning => {
                    self.on_exit(&partition, exit);
                }
                Some((write, written)) = self.writes.next(), if writing => {
                    let actions = self.table.on_written(&write, written, now_std());
                    self.carry_out(actions);
                }
                Some(()) = self.removals.next() => {}
                Some(listed) = OptionFuture::from(self.listing.as_mut()) => {
                    self.listing = None;
                    self.on_listed(listed);
                }
                Some(polled) = OptionFuture::from(self.polling.as_mut()) => {
                    self.polling = None;
                    self.on_polled(polled);
                }
                Some(written) = OptionFuture::from(self.heartbeat.as_mut()) => {
                    self.heartbeat = None;
                    self.on_heartbeat(written);
                }
                found = watch.next() => match found {
                    Found::Partitions(found) => self.table.on_partitions(found),
                    Found::Overwritten(found) => {
                        found.iter().for_each(|id| self.owners.recheck(id));
                    }
                },
                () = &mut timer, if wake.is_some() => {}
            }
        }
        self.finish().await
    }

    // What is due.

    fn begin_what_is_due(&mut self, now: Instant) {
        if let Some(first) = &mut self.first
            && first.deadline.is_some_and(|end| now >= end)
        {
            first.ended.get_or_insert(timed_out(self.shared));
        }
        if let Leaving::Announced { until, deadline } = self.leaving {
            // Without successors there is nobody to wait for; before the first look nobody knows.
            let alone = self.announced.as_ref().is_some_and(|member| member.leaving)
                && !self.table.has_successors();
            if now >= until || alone || self.table.is_promised() {
                self.drain(deadline);
            }
        }
        let member = Member {
            owner: self.me.clone(),
            wants: self.table.wants().clone(),
            leaving: self.table.is_leaving(),
        };
        let news = self.announced.as_ref() != Some(&member);
        if self.heartbeat.is_none() && (now >= self.next_heartbeat || (news && self.failures == 0))
        {
            self.next_heartbeat = now + self.options.heartbeat_interval;
            self.heartbeat = Some(self.requests.heartbeat(member));
        }
        // Others must be able to see us before we take anything.
        if self.listing.is_none() && now >= self.next_look && self.announced.is_some() {
            self.table.on_look_begun();
            self.listing = Some(self.requests.list());
        }
        let called_back = self.table.on_time(now.into_std());
        self.carry_out(called_back);
        let polls = self.table.next_polls();
        if self.polling.is_none() && !polls.is_empty() && now >= self.next_poll {
            self.next_poll = now + HAND_OFF_POLL;
            self.polling = Some(self.requests.poll(polls));
        }
    }

    /// When something is due that is not under way already.
    fn next_deadline(&self) -> Option<Instant> {
        let looks = self.listing.is_none() && self.announced.is_some();
        let polls = self.polling.is_none() && !self.table.next_polls().is_empty();
        let ends = match self.leaving {
            Leaving::No => None,
            Leaving::Announced { until, .. } => Some(until),
            Leaving::Draining { deadline } => Some(self.last_moment(deadline)),
        };
        [
            self.heartbeat.is_none().then_some(self.next_heartbeat),
            looks.then_some(self.next_look),
            polls.then_some(self.next_poll),
            ends.filter(|end| *end > Instant::now()),
            self.first.as_ref().and_then(|first| first.deadline),
            self.table.next_overdue().map(Instant::from_std),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When even what is not released is left behind.
    fn last_moment(&self, deadline: Instant) -> Instant {
        deadline + CANCEL_GRACE + self.shared.options.store_timeout
    }

    fn is_over(&self, now: Instant) -> bool {
        if self.first.as_ref().is_some_and(|first| first.ended.is_some()) {
            return true;
        }
        let Leaving::Draining { deadline } = self.leaving else {
            return false;
        };
        self.owners.is_empty() && (self.table.is_empty() || now >= self.last_moment(deadline))
    }

    // Inputs.

    fn on_directive(&mut self, directive: Directive, now: Instant) {
        let Directive::Drain(deadline) = directive else {
            if self.leaving == Leaving::No {
                self.owners.order_all(Order::from(directive));
            }
            return;
        };
        if let Some(first) = &mut self.first {
            // Nothing is ours yet, so nobody has to be waited for.
            first.ended.get_or_insert(GaveUp::Told);
            return;
        }
        match self.leaving {
            Leaving::No => {
                let time = deadline.saturating_duration_since(now);
                let until = now + time.mul_f64(LEAVING_SHARE);
                info!(worker = %self.me, "the worker is leaving");
                self.table.leave();
                self.leaving = Leaving::Announced { until, deadline };
                self.next_look = now;
            }
            Leaving::Announced { until, deadline: before } => {
                let deadline = before.min(deadline);
                let time = deadline.saturating_duration_since(now);
                let until = until.min(now + time.mul_f64(LEAVING_SHARE));
                self.leaving = Leaving::Announced { until, deadline };
            }
            Leaving::Draining { deadline: before } => self.drain(before.min(deadline)),
        }
    }

    /// The second half of the end: what was not handed over is drained and released.
    fn drain(&mut self, deadline: Instant) {
        self.leaving = Leaving::Draining { deadline };
        self.owners.order_all(Order::Drain(deadline));
        let actions = self.table.release_stopped();
        self.carry_out(actions);
    }

    fn on_listed(&mut self, listed: Result<LeaseListing, Error>) {
        let now = Instant::now();
        match listed {
            Ok(listing) => {
                self.failures = 0;
                self.shared.on_store_time(listing.now);
                let actions = self.table.on_look(listing, now_std());
                self.shared.leases_seen.store(true, Ordering::Relaxed);
                self.first = None;
                self.carry_out(actions);
                // Jittered, earlier only: a fleet does not look all at once, and no expiry is
                // found late.
                let wait = self.table.next_look();
                self.next_look = now + wait.mul_f64(0.85 + 0.15 * self.shared.random());
            }
            Err(error) => {
                self.failures += 1;
                self.table.on_store_failed();
                let random = self.shared.random();
                let delay = self.shared.options.reopen_backoff.delay(self.failures, random);
                self.next_look = now + delay.min(self.options.look_interval);
                warn!(
                    message_topic = %self.requests.scope.entity,
                    message_consumer_group = %self.requests.scope.consumer_group,
                    failures = self.failures,
                    causes = ?error_chain(&error),
                    "the leases cannot be listed; what runs goes on"
                );
                self.note_failure(error);
            }
        }
    }

    fn on_heartbeat(&mut self, written: Result<Member, Error>) {
        match written {
            Ok(member) => {
                self.failures = 0;
                self.announced = Some(member);
            }
            Err(error) => {
                self.failures += 1;
                self.table.on_store_failed();
                let random = self.shared.random();
                let delay = self.shared.options.reopen_backoff.delay(self.failures, random);
                let again = Instant::now() + delay.min(self.options.lease_expiry / 12);
                self.next_heartbeat = self.next_heartbeat.min(again);
                warn!(
                    message_topic = %self.requests.scope.entity,
                    message_consumer_group = %self.requests.scope.consumer_group,
                    failures = self.failures,
                    causes = ?error_chain(&error),
                    "the heartbeat cannot be written; other workers may take the partitions"
                );
                self.note_failure(error);
            }
        }
    }

    /// Keeps why the first look was not made yet.
    fn note_failure(&mut self, error: Error) {
        if let Some(first) = &mut self.first {
            first.last = Some(error);
        }
    }

    fn on_polled(&mut self, polled: Polled) {
        for (partition, found) in polled {
            if let Ok(found) = found {
                let actions = self.table.on_polled(&partition, found);
                self.carry_out(actions);
            }
        }
    }

    fn on_exit(&mut self, partition: &PartitionId, exit: Option<PartitionExit>) {
        let reason = exit.as_ref().map(|exit| &exit.reason);
        let how = match reason {
            Some(StopReason::Drained | StopReason::HandedOff) => Ended::Drained,
            Some(
                StopReason::Lost(_)
                | StopReason::LeaseLost
                | StopReason::Superseded(Superseded::Epoch(_)),
            ) => Ended::Lost,
            Some(_) => Ended::Stopped,
            // Abnormally, for example in a hook: the next look begins it again.
            None => Ended::Lost,
        };
        debug!(message_partition = %partition, how = ?how, "the partition has ended here");
        // What ended for good stays in sight; what is another worker's now does not.
        let stays = how == Ended::Stopped || matches!(self.leaving, Leaving::Draining { .. });
        match exit {
            Some(exit) if stays => {
                self.exits.insert(partition.clone(), exit);
            }
            Some(_) => {
                lock(&self.shared.partitions).remove(partition);
            }
            None => {}
        }
        let actions = self.table.on_ended(partition, how);
        self.carry_out(actions);
    }

    // Outputs.

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Write(write) => self.writes.push(self.requests.write(write)),
                Action::Start(partition) => {
                    let order = Order::from(*self.shared.directive.borrow());
                    let order = match (self.leaving, order) {
                        (Leaving::Draining { deadline }, _) => Order::Drain(deadline),
                        (_, Order::Drain(_)) => Order::Run,
                        (_, order) => order,
                    };
                    self.exits.remove(&partition);
                    self.owners.start(partition, order);
                }
                Action::Forget(owner) => self.removals.push(self.requests.remove_member(owner)),
                Action::Lose(partition) => self.owners.order(&partition, Order::Lose),
                // A drain ends it all the same.
                _ if matches!(self.leaving, Leaving::Draining { .. }) => {}
                Action::Yield(partition) => self.owners.order(&partition, Order::HandOff),
                Action::CallBack(partition) => {
                    let order = match *self.shared.directive.borrow() {
                        Directive::Pause => Order::Pause,
                        _ => Order::Run,
                    };
                    self.owners.order(&partition, order);
                }
            }
        }
    }

    /// The last word: others need not wait for our heartbeat to expire.
    async fn finish(self) -> Result<Vec<PartitionExit>, NeverConnected> {
        drop(self.heartbeat);
        self.requests.remove_member(self.me.clone()).await;
        let Some(FirstLook { last, ended: Some(ended), .. }) = self.first else {
            return Ok(self.exits.into_values().collect());
        };
        Err(NeverConnected::new(Unreached::Leases, &*self.shared.transport, ended, last))
    }
}

fn now_std() -> std::time::Instant {
    Instant::now().into_std()
}
