//! The handler calls under way: their tasks, their deadlines, and whose report is still wanted.
//!
//! All calls of a consumer have the same time limit, so their deadlines come in the order the
//! calls began: a queue and one timer of the worker serve them all. A call that is overdue is
//! aborted and its events go on without it; should it report all the same, the report names a
//! call that is not here any more, and is dropped. An aborted task runs on until it yields, and
//! only then is it gone.

use std::collections::VecDeque;
use std::time::Duration;

use slab::Slab;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::scope::CallId;
use super::unit::Unit;

/// How often it is looked whether aborted tasks are gone: nothing tells.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The calls under way. Dropped, it takes them with it.
pub(crate) struct Running {
    calls: Slab<CallUnderWay>,
    timeout: Option<Duration>,
    /// Oldest first; calls that have ended are still in it until they come to the front.
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
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        Self {
            calls: Slab::new(),
            timeout,
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
        let deadline = self.timeout.map(|timeout| now + timeout);
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

    /// When the oldest call is overdue.
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
        if self.next_deadline()? > now {
            return None;
        }
        let (_, id) = self.deadlines.pop_front()?;
        let call = self.take(id)?;
        call.task.abort();
        self.aborted.retain(|task| !task.is_finished());
        self.aborted.push(call.task);
        Some(call.unit)
    }

    /// Aborts every call; returns how many.
    pub(crate) fn cut(&mut self) -> usize {
        let count = self.calls.len();
        for call in self.calls.drain() {
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
        if self.is_running(id) { self.calls.try_remove(id.key) } else { None }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cut();
    }
}
