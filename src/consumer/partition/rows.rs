//! Events that cannot be read, in rows of which only the range is known.
//!
//! The numbers such events go by are not their own. A checkpoint between two of them would pass an
//! event whose letter is not written, or hold one whose letter is. So a row is settled as one: when
//! all of its letters are acknowledged.

use std::collections::BTreeMap;

use crate::consumer::handling::unit::Tracked;
use crate::event::{Event, SequenceNumber};

/// The first and the last number that an event of a row may have.
type Range = (SequenceNumber, SequenceNumber);

/// The rows whose letters are not all written. A row is taken in as a whole.
#[derive(Debug, Default)]
pub(super) struct Rows(BTreeMap<Range, Row>);

#[derive(Debug, Default)]
struct Row {
    unwritten: usize,
    written: Vec<Tracked>,
}

/// The row of an event, where its own number is not known.
fn range(event: &Event) -> Option<Range> {
    let unreadable = event.unreadable().filter(|unreadable| !unreadable.is_exact())?;
    Some((unreadable.first, unreadable.last))
}

impl Rows {
    /// A letter of this event is to be written.
    pub(super) fn on_received(&mut self, event: &Event) {
        if let Some(range) = range(event) {
            self.0.entry(range).or_default().unwritten += 1;
        }
    }

    /// The letter of this event is written. Returns what is to be settled.
    pub(super) fn on_written(&mut self, tracked: Tracked) -> Vec<Tracked> {
        let Some(range) = range(&tracked.event) else { return vec![tracked] };
        let row = self.0.entry(range).or_default();
        row.written.push(tracked);
        row.unwritten = row.unwritten.saturating_sub(1);
        match row.unwritten {
            0 => self.0.remove(&range).map(|row| row.written).unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}
