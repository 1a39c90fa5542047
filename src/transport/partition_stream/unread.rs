//! What a stream knows of the events that cannot be read, since the last one that could.

use std::time::Duration;

use crate::event::SequenceNumber;
use crate::hub::{LinkStart, LogProperties};
use crate::state::unreadable::{LinkCredit, UnreadableRun, credit_for_run};

/// How long a link may be silent within a run before the hub is asked where the log ends.
pub(super) const RUN_PROBE_AFTER: Duration = Duration::from_millis(500);

/// What cannot be read, since the last event that could.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) run: UnreadableRun,
    pub(super) credit: LinkCredit,
    /// Why the last one cannot be read.
    pub(super) reason: String,
    /// Whether the client panicked in this run: then a failure need not be an event.
    pub(super) panicked: bool,
    /// The number before the oldest event of the log, when the link was opened.
    before_log: SequenceNumber,
    /// The end of the log, as far as it was seen.
    pub(super) log_end: SequenceNumber,
    /// The number of the log's last event, while a link is to tell whether that can be read.
    pub(super) looks_at: Option<SequenceNumber>,
}

impl Default for Unread {
    fn default() -> Self {
        Self {
            run: UnreadableRun::default(),
            credit: LinkCredit::new(0),
            reason: String::new(),
            panicked: false,
            before_log: SequenceNumber(-1),
            log_end: SequenceNumber(-1),
            looks_at: None,
        }
    }
}

impl Unread {
    pub(super) fn is_empty(&self) -> bool {
        self.run.is_empty()
    }

    /// `log` is what it was before the link was opened, if it was asked.
    pub(super) fn on_link_opened(&mut self, prefetch_events: u32, log: Option<&LogProperties>) {
        if self.looks_at.is_none() {
            self.run.on_link_opened();
        }
        self.credit = LinkCredit::new(prefetch_events);
        if let Some(log) = log {
            // What was counted was counted in the log as it was; it may be shorter by now.
            if self.looks_at.is_none() {
                self.before_log = SequenceNumber(log.begin.0.saturating_sub(1));
            }
            self.log_end = log.end();
        }
    }

    /// The prefetch of the next link, if there is no reason for another but the run.
    pub(super) fn prefetch(&self, prefetch_events: u32) -> u32 {
        match self.run.is_empty() {
            true => prefetch_events,
            false => credit_for_run(self.run.len(), prefetch_events).unwrap_or(prefetch_events),
        }
    }

    /// The number below which no event of the run can be: the last one received, if there is one.
    pub(super) fn after(&self, start: LinkStart) -> SequenceNumber {
        match start {
            LinkStart::After(number) => number,
            LinkStart::FirstEvent | LinkStart::EnqueuedAt(_) => self.before_log,
        }
    }

    /// How long a link may be silent where that is not `usual`.
    pub(super) fn probe_after(&self, usual: Duration) -> Duration {
        if self.run.is_empty() { usual } else { RUN_PROBE_AFTER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_placed_in_the_log_in_which_it_was_counted() {
        let last = Some(SequenceNumber(16));
        let log = |begin| LogProperties::new(SequenceNumber(begin), last, None);
        let mut unread = Unread::default();
        unread.on_link_opened(8, Some(&log(0)));
        (0..9).for_each(|_| unread.run.on_unreadable());
        unread.looks_at = Some(SequenceNumber(16));
        // Retention removed some of the nine; nine numbers are left, and are not theirs alone.
        unread.on_link_opened(8, Some(&log(8)));
        let after = unread.after(LinkStart::FirstEvent);
        let places = unread.run.end_at(SequenceNumber(16), after);
        assert_eq!(places.len(), 9);
        assert!(places.iter().all(|place| place.first == SequenceNumber(0)), "{places:?}");
    }
}
