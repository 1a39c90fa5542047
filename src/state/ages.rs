//! When the events of a partition's window were enqueued: what the lag in seconds is made of.
//!
//! Only the oldest unsettled event is ever asked for, and which one that is going to be nobody knows
//! before. So all are noted, the ones enqueued within [`RESOLUTION`] of each other together: on a busy
//! hub an intake of hundreds costs one note.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::event::Event;
use crate::state::watermark::Ticket;

/// How much older than it is an event may be taken for.
pub const RESOLUTION: Duration = Duration::from_millis(100);

/// When events were enqueued, by ticket.
#[derive(Debug, Default)]
pub struct Ages {
    /// In ascending order; each holds up to the next one.
    notes: VecDeque<Note>,
    newest: Option<SystemTime>,
}

#[derive(Clone, Copy, Debug)]
struct Note {
    first: Ticket,
    /// `None`: not known.
    enqueued: Option<SystemTime>,
}

impl Ages {
    /// Takes in events that are received in a row, of which `first` is the first's ticket.
    pub fn on_received(&mut self, first: Ticket, events: &[Event]) {
        let (Some(oldest), Some(newest)) = (events.first(), events.last()) else {
            return;
        };
        let (oldest, newest) = (oldest.known_enqueued_time(), newest.known_enqueued_time());
        if covers(oldest, newest) {
            self.note(first, oldest, newest);
        } else {
            for (index, event) in events.iter().enumerate() {
                let enqueued = event.known_enqueued_time();
                self.note(first.after(index), enqueued, enqueued);
            }
        }
        self.newest = newest.or(self.newest);
    }

    /// Notes events in a row that are one note, unless the last note says enough of all of them.
    fn note(&mut self, first: Ticket, oldest: Option<SystemTime>, newest: Option<SystemTime>) {
        if !self.notes.back().is_some_and(|note| covers(note.enqueued, newest)) {
            self.notes.push_back(Note { first, enqueued: oldest });
        }
    }

    /// When an event was enqueued, to [`RESOLUTION`]. Those before it are forgotten.
    pub fn enqueued(&mut self, oldest: Ticket) -> Option<SystemTime> {
        while self.notes.get(1).is_some_and(|next| next.first <= oldest) {
            self.notes.pop_front();
        }
        self.notes.front().and_then(|note| note.enqueued)
    }

    /// When the event received last was enqueued.
    pub fn newest(&self) -> Option<SystemTime> {
        self.newest
    }
}

/// Whether what is noted of an event says enough of a later one.
fn covers(noted: Option<SystemTime>, later: Option<SystemTime>) -> bool {
    match (noted, later) {
        (Some(noted), Some(later)) => {
            later.duration_since(noted).is_ok_and(|after| after < RESOLUTION)
        }
        (noted, later) => noted.is_none() && later.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::event::{EventParts, Partition};

    fn event(number: i64, millis: u64) -> Event {
        let partition = Arc::new(Partition::new("files", "0"));
        let enqueued_time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        EventParts { enqueued_time, ..EventParts::new(partition, number, "") }.into()
    }

    proptest! {
        /// Whatever the pace of the log and the sizes of intakes, the oldest is known to a tenth of
        /// a second, and never younger than it is.
        #[test]
        fn the_oldest_event_is_known_to_the_resolution(
            intakes in prop::collection::vec(
                prop::collection::vec(prop_oneof![0u64..5, 0u64..400], 1..20), 1..12,
            ),
            asked in prop::collection::btree_set(0usize..240, 1..40),
        ) {
            let (mut ages, mut now, mut times) = (Ages::default(), 1_000, Vec::new());
            for intake in intakes {
                let first = Ticket::FIRST.after(times.len());
                let events: Vec<Event> = intake
                    .into_iter()
                    .map(|pause| {
                        now += pause;
                        times.push(now);
                        event(times.len() as i64, now)
                    })
                    .collect();
                ages.on_received(first, &events);
            }
            for index in asked.into_iter().filter(|index| *index < times.len()) {
                let exact = SystemTime::UNIX_EPOCH + Duration::from_millis(times[index]);
                let known = ages.enqueued(Ticket::FIRST.after(index)).expect("noted");
                let off = exact.duration_since(known).expect("not younger");
                prop_assert!(off < RESOLUTION, "{off:?}");
            }
            let newest = SystemTime::UNIX_EPOCH + Duration::from_millis(now);
            prop_assert_eq!(ages.newest(), Some(newest));
        }
    }

    #[test]
    fn a_busy_log_is_one_note_and_an_event_without_a_time_is_not_known() {
        let mut ages = Ages::default();
        for intake in 0..10 {
            let events: Vec<Event> = (0..200).map(|index| event(index, 1_000 + intake)).collect();
            ages.on_received(Ticket::FIRST.after(200 * intake as usize), &events);
        }
        assert_eq!(ages.notes.len(), 1);
        ages.on_received(Ticket::FIRST.after(2_000), &[event(2_000, 0)]);
        assert!(ages.enqueued(Ticket::FIRST.after(1_999)).is_some());
        assert_eq!(ages.enqueued(Ticket::FIRST.after(2_000)), None);
        assert_eq!(ages.newest(), Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_009)));
    }
}
