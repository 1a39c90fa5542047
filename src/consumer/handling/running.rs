//! The handler calls under way: their tasks, their deadlines, and whose report is still wanted.
//!
//! All calls of a consumer have the same time limit, so their deadlines come in the order the
//! calls began: a queue and one timer of the worker serve them all. A call that said that it gets on
//! ([`Renewals`]) is found out when its old deadline has come, and goes back into the queue, by its new
//! one. A call that is overdue is
//! aborted and its events go on without it; should it report all the same, the report names a
//! call that is not here any more, and is dropped. An aborted task runs on until it yields, and
//! only then is it gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::renewals::Renewals;
use super::scope::CallId;
use super::unit::Unit;

/// How often it is looked whether aborted tasks are gone: nothing tells.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The calls under way. Dropped, it takes them with it.
pub(crate) struct Running {
    calls: Slab<CallUnderWay>,
    renewals: Arc<Renewals>,
    /// The next first; calls that have ended are still in it until they come to the front.
    deadlines: VecDeque<(Instant, CallId)>,
    next_serial: u64,
    /// What was given up on, and may be running still.
    aborted: Vec<AbortHandle>,
}

struct CallUnderWay {
    serial: u64,
    unit: Unit,
    begun: Instant,
    task: AbortHandle,
}

impl Running {
    pub(crate) fn new(renewals: Arc<Renewals>) -> Self {
        Self {
            calls: Slab::new(),
            renewals,
            deadlines: VecDeque::new(),
            next_serial: 0,
            aborted: Vec::new(),
        }
    }

    /// Begins a call: `spawn` starts its task, and is told its name and its deadline.
    pub(crate) fn begin(
        &mut self,
        unit: Unit,
        now: Instant,
        spawn: impl FnOnce(&Unit, CallId, Option<Instant>) -> AbortHandle,
    ) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let entry = self.calls.vacant_entry();
        let id = CallId { key: entry.key(), serial };
        let deadline = self.renewals.timeout().map(|timeout| now + timeout);
        let task = spawn(&unit, id, deadline);
        entry.insert(CallUnderWay { serial, unit, begun: now, task });
        if let Some(deadline) = deadline {
            self.deadlines.push_back((deadline, id));
        }
    }

    /// Takes a call out that reported; `None`: its report is not wanted any more.
    pub(crate) fn on_reported(&mut self, id: CallId) -> Option<(Unit, Instant)> {
        self.take(id).map(|call| (call.unit, call.begun))
    }

    /// When the next call may be overdue.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        while let Some((deadline, id)) = self.deadlines.front() {
            if self.is_running(*id) {
                return Some(*deadline);
            }
            self.deadlines.pop_front();
        }
        None
    }

    /// Aborts the next call that is overdue and returns what it worked on.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> Option<Unit> {
        let id = loop {
            if self.next_deadline()? > now {
                return None;
            }
            let (deadline, id) = self.deadlines.pop_front()?;
            match self.renewals.deadline(id.serial).filter(|renewed| *renewed > deadline) {
                Some(renewed) => self.put_back(renewed, id),
                None => break id,
            }
        };
        let call = self.take(id)?;
        call.task.abort();
        self.aborted.retain(|task| !task.is_finished());
        self.aborted.push(call.task);
        Some(call.unit)
    }

    /// The call got on, and so has another deadline.
    fn put_back(&mut self, deadline: Instant, id: CallId) {
        let place = self.deadlines.partition_point(|(other, _)| *other <= deadline);
        self.deadlines.insert(place, (deadline, id));
    }

    /// Aborts every call; returns how many.
    pub(crate) fn cut(&mut self) -> usize {
        let count = self.calls.len();
        for call in self.calls.drain() {
            self.renewals.forget(call.serial);
            call.task.abort();
            self.aborted.push(call.task);
        }
        self.deadlines.clear();
        count
    }

    /// Aborted calls that are not gone yet.
    pub(crate) fn aborted(&self) -> usize {
        self.aborted.iter().filter(|task| !task.is_finished()).count()
    }

    /// Waits until the futures of aborted calls are dropped.
    pub(crate) async fn until_dropped(&self) {
        while self.aborted() > 0 {
            sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    fn is_running(&self, id: CallId) -> bool {
        self.calls.get(id.key).is_some_and(|call| call.serial == id.serial)
    }

    fn take(&mut self, id: CallId) -> Option<CallUnderWay> {
        if !self.is_running(id) {
            return None;
        }
        self.renewals.forget(id.serial);
        self.calls.try_remove(id.key)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cut();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::handling::unit::{Failures, Tracked};
    use crate::event::{EventParts, Partition};
    use crate::state::watermark::Ticket;

    const LIMIT: Duration = Duration::from_secs(60);

    struct Calls {
        running: Running,
        renewals: Arc<Renewals>,
        begun: Instant,
    }

    impl Calls {
        fn new() -> Self {
            let renewals = Arc::new(Renewals::new(Some(LIMIT)));
            Self { running: Running::new(Arc::clone(&renewals)), renewals, begun: Instant::now() }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.begun + Duration::from_secs(seconds)
        }

        /// Begins the call of the event of this number; its id.
        fn begin(&mut self, number: i64, seconds: u64) -> CallId {
            let partition = Arc::new(Partition::new("orders", "0"));
            let event = EventParts::new(partition, number, "").into();
            let tracked = Tracked { event, ticket: Ticket::FIRST };
            let unit = Unit::Event(tracked, Failures::default().attempt(Ticket::FIRST));
            let (now, mut began) = (self.at(seconds), None);
            self.running.begin(unit, now, |_, id, deadline| {
                assert_eq!(deadline, Some(now + LIMIT));
                began = Some(id);
                tokio::spawn(std::future::pending::<()>()).abort_handle()
            });
            began.expect("begun")
        }

        fn overdue(&mut self, seconds: u64) -> Vec<i64> {
            let now = self.at(seconds);
            let units = std::iter::from_fn(|| self.running.take_overdue(now));
            units.filter_map(|unit| Some(unit.first_event()?.sequence_number().0)).collect()
        }
    }

    #[tokio::test]
    async fn calls_are_overdue_in_the_order_they_began() {
        let mut calls = Calls::new();
        (0..3).for_each(|number| {
            calls.begin(number, number.unsigned_abs());
        });
        assert_eq!(calls.running.next_deadline(), Some(calls.at(60)));
        assert_eq!(calls.overdue(59), [0; 0]);
        assert_eq!(calls.overdue(61), [0, 1]);
        assert_eq!(calls.overdue(62), [2]);
        assert_eq!(calls.running.next_deadline(), None);
    }

    #[tokio::test]
    async fn a_call_that_gets_on_has_its_whole_time_again_and_holds_no_other_up() {
        let mut calls = Calls::new();
        let slow = calls.begin(0, 0);
        calls.begin(1, 10);
        calls.begin(2, 50);
        // Its new deadline, 85, is between those of the others.
        calls.renewals.renew(slow.serial, calls.at(25));
        assert_eq!(calls.overdue(60), [0; 0]);
        assert_eq!(calls.running.next_deadline(), Some(calls.at(70)));
        assert_eq!(calls.overdue(84), [1]);
        calls.renewals.renew(slow.serial, calls.at(84));
        assert_eq!(calls.overdue(143), [2]);
        assert_eq!(calls.running.next_deadline(), Some(calls.at(144)));
        assert_eq!(calls.overdue(144), [0], "it said nothing more");
        assert_eq!(calls.renewals.deadline(slow.serial), None);
    }

    #[tokio::test]
    async fn what_ended_is_not_renewed() {
        let mut calls = Calls::new();
        let [ended, other] = [0, 1].map(|number| calls.begin(number, 0));
        calls.renewals.renew(ended.serial, calls.at(10));
        assert!(calls.running.on_reported(ended).is_some());
        // Its place is another's by now.
        let next = calls.begin(2, 20);
        assert_eq!(next.key, ended.key);
        calls.renewals.renew(ended.serial, calls.at(30));
        assert_eq!(calls.overdue(80), [1, 2]);
        assert!(calls.running.on_reported(other).is_none());
        assert!(calls.running.is_empty());
    }
}
