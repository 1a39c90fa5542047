//! The events of one partition: positions, the newest bytes in memory, and who waits for more.
//!
//! An event has a sequence number (0, 1, 2 …) and an offset, which is the byte position its record
//! has, or would have, in the log. The two differ on purpose: a client that confuses them is found
//! out here. Both only grow, and so does the enqueued time.
//!
//! ```text
//!            begin            tail.front                        next
//!  durable     | ... files ...   | ... also in memory ...         |
//!  in memory   |                 | everything                     |
//! ```
//!
//! Invariants:
//! - `tail` holds consecutive sequence numbers that end right before `next`.
//! - An event becomes visible (in `tail`, in a wake-up) only after the log accepted it.
//! - The lock is held for memory work only, never during file I/O or an await.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};

use super::address::{Start, StartKey};
use super::event::Prepared;
use super::mailbox::{LinkKey, Mailbox, Notice};
use super::memory::{self, Memory, Share};
use super::record::{self, RECORD_HEADER_BYTES};
use super::refusal::{ARGUMENT_ERROR, Refusal};
use super::segment::{ReadJob, Segment};

mod retention;

pub(super) use retention::Retention;

/// One event as consumers get it.
#[derive(Debug, Clone)]
pub(super) struct StoredEvent {
    pub(super) sequence: i64,
    pub(super) offset: i64,
    pub(super) enqueued_ms: i64,
    pub(super) encoded: Bytes,
}

impl StoredEvent {
    fn log_bytes(&self) -> i64 {
        RECORD_HEADER_BYTES as i64 + self.encoded.len() as i64
    }

    fn key(&self, key: StartKey) -> i64 {
        match key {
            StartKey::Offset => self.offset,
            StartKey::SequenceNumber => self.sequence,
            StartKey::EnqueuedMillis => self.enqueued_ms,
        }
    }
}

/// The position the next event gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) sequence: i64,
    pub(super) offset: i64,
    /// Not before this: enqueued times never go back, whatever the clock does.
    pub(super) not_before_ms: i64,
}

impl Next {
    pub(super) const FIRST: Self = Self { sequence: 0, offset: 0, not_before_ms: 0 };
}

/// Events with positions, not yet visible.
#[derive(Debug)]
pub(super) struct Encoded {
    /// The records, one after the other, as a file holds them.
    pub(super) records: Bytes,
    pub(super) events: Vec<StoredEvent>,
    pub(super) next: Next,
}

/// Gives `events` the positions from `next` on.
pub(super) fn encode_records<'a>(
    events: impl Iterator<Item = &'a Prepared> + Clone,
    mut next: Next,
    now_ms: i64,
) -> Encoded {
    let size: usize = events.clone().map(|event| event.size_hint() + RECORD_HEADER_BYTES).sum();
    let mut buffer = BytesMut::with_capacity(size);
    let mut places = Vec::with_capacity(events.size_hint().0);
    let enqueued_ms = now_ms.max(next.not_before_ms);
    next.not_before_ms = enqueued_ms;
    for event in events {
        let start = buffer.len();
        buffer.put_bytes(0, RECORD_HEADER_BYTES);
        event.encode(&mut buffer, next.sequence, next.offset, enqueued_ms);
        record::seal(&mut buffer[start..], next.sequence, enqueued_ms);
        places.push((next.sequence, next.offset, start, buffer.len()));
        next.sequence += 1;
        next.offset += (buffer.len() - start) as i64;
    }
    let records = buffer.freeze();
    let events = places
        .into_iter()
        .map(|(sequence, offset, start, end)| StoredEvent {
            sequence,
            offset,
            enqueued_ms,
            encoded: records.slice(start + RECORD_HEADER_BYTES..end),
        })
        .collect();
    Encoded { records, events, next }
}

/// Where a consumer is: the next event it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) sequence: i64,
    /// The record of that event starts here; reading from files needs it.
    pub(super) offset: i64,
    /// Leave out what does not reach the start position; it is found by reading from a little
    /// before it.
    pub(super) from: Option<(StartKey, i64)>,
}

impl Cursor {
    /// Moves behind `event`; true when it is to be delivered.
    fn admits(&mut self, event: &StoredEvent) -> bool {
        self.sequence = event.sequence + 1;
        self.offset = event.offset + event.log_bytes();
        match self.from {
            Some((key, least)) if event.key(key) < least => false,
            _ => {
                self.from = None;
                true
            }
        }
    }

    /// Moves over `events` and leaves those that are to be delivered.
    pub(super) fn advance(&mut self, events: &mut Vec<StoredEvent>) {
        events.retain(|event| self.admits(event));
    }
}

/// What a partition has for a cursor.
#[derive(Debug)]
pub(super) enum Read {
    Events(Vec<StoredEvent>),
    /// They are in a file: run the job and come again with its result.
    File(ReadJob),
    /// Nothing yet; the link gets a [`Notice::Readable`].
    CaughtUp,
}

/// How much a read may return.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadLimit {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// The ends of a partition, for its properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) begin_sequence: i64,
    pub(super) last_sequence: i64,
    pub(super) last_offset: i64,
    pub(super) last_enqueued_ms: i64,
}

impl Ends {
    pub(super) fn is_empty(&self) -> bool {
        self.last_sequence < self.begin_sequence
    }
}

/// The events of one partition.
#[derive(Debug)]
pub(super) struct PartitionLog {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    begin_sequence: i64,
    /// The record of the first event, or of the next one, starts here.
    begin_offset: i64,
    retention: Retention,
    next: Next,
    last_offset: i64,
    tail: VecDeque<StoredEvent>,
    tail_bytes: usize,
    tail_limit_bytes: usize,
    /// What the tail of a log in memory counts for.
    share: Option<Share>,
    /// Oldest first; empty for a log in memory.
    segments: Vec<Segment>,
    waiting: Vec<(Arc<Mailbox>, LinkKey)>,
}

impl PartitionLog {
    /// An empty log that keeps all of its events in memory.
    pub(super) fn in_memory(memory: &Arc<Memory>) -> Self {
        Self::with(Vec::new(), Next::FIRST, -1, usize::MAX, Some(memory.share()))
    }

    /// A log whose events are in `segments`, with at most `tail_limit_bytes` of the newest ones in
    /// memory as well.
    pub(super) fn durable(
        segments: Vec<Segment>,
        next: Next,
        last_offset: i64,
        tail_limit_bytes: usize,
    ) -> Self {
        Self::with(segments, next, last_offset, tail_limit_bytes, None)
    }

    fn with(
        segments: Vec<Segment>,
        next: Next,
        last_offset: i64,
        tail_limit_bytes: usize,
        share: Option<Share>,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                begin_sequence: segments.first().map_or(0, |first| first.base_sequence),
                begin_offset: segments.first().map_or(0, |first| first.base_offset),
                retention: Retention::default(),
                next,
                last_offset,
                tail: VecDeque::new(),
                tail_bytes: 0,
                tail_limit_bytes,
                share,
                segments,
                waiting: Vec::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next(&self) -> Next {
        self.lock().next
    }

    /// The file to append to, and its length up to the last accepted record.
    pub(super) fn newest_file(&self) -> Option<(PathBuf, u64)> {
        let state = self.lock();
        let newest = state.segments.last()?;
        Some((newest.path.clone(), newest.file_bytes()))
    }

    /// Appends to a log in memory.
    ///
    /// # Errors
    /// There is no room for them.
    pub(super) fn append_in_memory(&self, events: &[Prepared], now_ms: i64) -> Result<(), Refusal> {
        let mut state = self.lock();
        let encoded = encode_records(events.iter(), state.next, now_ms);
        state.hold(&encoded.events)?;
        let waiting = state.on_accepted(encoded);
        drop(state);
        wake(waiting);
        Ok(())
    }

    /// Makes events visible that a file has accepted. `grow` brings the segments up to date first.
    pub(super) fn on_written(&self, encoded: Encoded, grow: impl FnOnce(&mut Vec<Segment>)) {
        let mut state = self.lock();
        grow(&mut state.segments);
        let waiting = state.on_accepted(encoded);
        drop(state);
        wake(waiting);
    }

    /// Reads from `cursor` on, or registers the link to be told when there is more.
    pub(super) fn read_or_wait(
        &self,
        cursor: &mut Cursor,
        limit: ReadLimit,
        mailbox: &Arc<Mailbox>,
        link: LinkKey,
    ) -> Read {
        let mut state = self.lock();
        if cursor.sequence < state.begin_sequence {
            cursor.sequence = state.begin_sequence;
            cursor.offset = state.begin_offset;
        }
        if cursor.sequence < state.next.sequence {
            let first = state.tail.front().map(|event| event.sequence);
            let skip = first.and_then(|first| usize::try_from(cursor.sequence - first).ok());
            if let Some(skip) = skip {
                return Read::Events(state.read_tail(cursor, skip, limit));
            }
            if let Some(job) = state.read_job(*cursor) {
                return Read::File(job);
            }
        }
        if !state.is_waiting(mailbox, link) {
            state.waiting.push((Arc::clone(mailbox), link));
        }
        Read::CaughtUp
    }

    /// Forgets a link that waits here.
    pub(super) fn forget(&self, mailbox: &Arc<Mailbox>, link: LinkKey) {
        self.lock().waiting.retain(|(other, key)| !(Arc::ptr_eq(other, mailbox) && *key == link));
    }

    pub(super) fn ends(&self) -> Ends {
        let state = self.lock();
        Ends {
            begin_sequence: state.begin_sequence,
            last_sequence: state.next.sequence - 1,
            last_offset: state.last_offset,
            last_enqueued_ms: state.next.not_before_ms,
        }
    }

    /// Turns a start position into a cursor.
    ///
    /// A position behind the end of the log is refused, as the service does: it is the sign of a
    /// hub that was created anew, and waiting there would skip events silently.
    pub(super) fn cursor_at(&self, start: Start) -> Result<Cursor, Refusal> {
        let state = self.lock();
        let beginning =
            Cursor { sequence: state.begin_sequence, offset: state.begin_offset, from: None };
        let (key, value, inclusive) = match start {
            Start::Earliest => return Ok(beginning),
            Start::Latest => {
                return Ok(Cursor {
                    sequence: state.next.sequence,
                    offset: state.next.offset,
                    from: None,
                });
            }
            Start::At { key, value, inclusive } => (key, value, inclusive),
        };
        state.refuse_beyond_end(key, value, inclusive)?;
        let least = if inclusive { value } else { value.saturating_add(1) };
        let mut cursor = state.seek(key, least).unwrap_or(beginning);
        cursor.from = Some((key, least));
        Ok(cursor)
    }
}

impl State {
    fn is_waiting(&self, mailbox: &Arc<Mailbox>, link: LinkKey) -> bool {
        self.waiting.iter().any(|(other, key)| Arc::ptr_eq(other, mailbox) && *key == link)
    }

    /// Counts events that are about to come, in a log in memory.
    fn hold(&mut self, events: &[StoredEvent]) -> Result<(), Refusal> {
        let Some(share) = &mut self.share else { return Ok(()) };
        let encoded_bytes: usize = events.iter().map(|event| event.encoded.len()).sum();
        // The oldest go as far as retention has too much then.
        let after = (self.tail_bytes + encoded_bytes) as u64;
        let too_much = self.retention.bytes.map_or(0, |limit| after.saturating_sub(limit));
        let (mut gone, mut returned) = (0, 0);
        let mut oldest = self.tail.iter().map(|event| event.encoded.len());
        while gone < too_much
            && let Some(bytes) = oldest.next()
        {
            gone += bytes as u64;
            returned += memory::bytes_of(bytes);
        }
        let held = events.iter().map(|event| memory::bytes_of(event.encoded.len())).sum();
        share.hold(held, returned)
    }

    fn on_accepted(&mut self, encoded: Encoded) -> Vec<(Arc<Mailbox>, LinkKey)> {
        if let Some(last) = encoded.events.last() {
            self.last_offset = last.offset;
        }
        self.next = encoded.next;
        for event in encoded.events {
            self.tail_bytes += event.encoded.len();
            self.tail.push_back(event);
        }
        while self.tail_bytes > self.tail_limit_bytes && !self.tail.is_empty() {
            self.pop_front();
        }
        self.trim_bytes();
        std::mem::take(&mut self.waiting)
    }

    fn read_tail(&self, cursor: &mut Cursor, skip: usize, limit: ReadLimit) -> Vec<StoredEvent> {
        let mut bytes = 0;
        let mut events = Vec::new();
        for event in self.tail.range(skip..).take(limit.events) {
            if cursor.admits(event) {
                bytes += event.encoded.len();
                events.push(event.clone());
            }
            if bytes >= limit.bytes {
                break;
            }
        }
        events
    }

    fn read_job(&self, cursor: Cursor) -> Option<ReadJob> {
        let after = self.segments.partition_point(|segment| segment.base_offset <= cursor.offset);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        segment.read_job(cursor.offset)
    }

    /// The best cursor known at or before the first event whose `key` is at least `least`.
    fn seek(&self, key: StartKey, least: i64) -> Option<Cursor> {
        let at = self.tail.partition_point(|event| event.key(key) < least);
        let in_tail = at > 0 || self.segments.is_empty();
        if in_tail {
            let (sequence, offset) = match self.tail.get(at) {
                Some(event) => (event.sequence, event.offset),
                None => (self.next.sequence, self.next.offset),
            };
            return Some(Cursor { sequence, offset, from: None });
        }
        let found =
            self.segments.iter().rev().try_for_each(|segment| match segment.seek(key, least) {
                Some(mark) => ControlFlow::Break(mark),
                None => ControlFlow::Continue(()),
            });
        match found {
            ControlFlow::Break(mark) => {
                Some(Cursor { sequence: mark.sequence, offset: mark.offset, from: None })
            }
            ControlFlow::Continue(()) => None,
        }
    }

    fn refuse_beyond_end(&self, key: StartKey, value: i64, inclusive: bool) -> Result<(), Refusal> {
        let (what, last, end) = match key {
            StartKey::Offset => ("offset", self.last_offset, self.next.offset),
            StartKey::SequenceNumber => {
                ("sequence number", self.next.sequence - 1, self.next.sequence)
            }
            StartKey::EnqueuedMillis => return Ok(()),
        };
        let most = if inclusive { end } else { end - 1 };
        if value <= most.max(last) {
            return Ok(());
        }
        Err(Refusal::new(
            ARGUMENT_ERROR,
            format!(
                "The supplied {what} '{value}' is invalid. The last {what} in the system is '{last}'"
            ),
        ))
    }
}

fn wake(waiting: Vec<(Arc<Mailbox>, LinkKey)>) {
    for (mailbox, link) in waiting {
        mailbox.post(Notice::Readable(link));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::event;

    const LINK: LinkKey = LinkKey { channel: 0, handle: 0, serial: 1 };
    const LIMIT: ReadLimit = ReadLimit { events: 10, bytes: usize::MAX };

    fn log_at(times: &[i64]) -> PartitionLog {
        let log = PartitionLog::in_memory(&Memory::new(usize::MAX));
        for time in times {
            let mut message = BytesMut::new();
            crate::wire::put_descriptor(&mut message, 0x75);
            crate::wire::put_binary(&mut message, b"x");
            let events = event::prepare(message.freeze(), None).unwrap().events;
            log.append_in_memory(&events, *time).unwrap();
        }
        log
    }

    fn read(log: &PartitionLog, start: Start) -> Vec<i64> {
        let mailbox = Arc::new(Mailbox::default());
        let mut cursor = log.cursor_at(start).unwrap();
        match log.read_or_wait(&mut cursor, LIMIT, &mailbox, LINK) {
            Read::Events(events) => events.iter().map(|event| event.sequence).collect(),
            Read::CaughtUp => Vec::new(),
            Read::File(job) => panic!("{job:?}"),
        }
    }

    fn at(key: StartKey, value: i64, inclusive: bool) -> Start {
        Start::At { key, value, inclusive }
    }

    #[test]
    fn start_positions_find_their_event() {
        let log = log_at(&[10, 20, 20, 15, 30]);
        let offset = {
            let state = log.lock();
            state.tail[2].offset
        };
        for (start, expected) in [
            (Start::Earliest, vec![0, 1, 2, 3, 4]),
            (Start::Latest, vec![]),
            (at(StartKey::SequenceNumber, 2, true), vec![2, 3, 4]),
            (at(StartKey::SequenceNumber, 2, false), vec![3, 4]),
            (at(StartKey::SequenceNumber, 4, false), vec![]),
            (at(StartKey::Offset, offset, true), vec![2, 3, 4]),
            (at(StartKey::Offset, offset - 1, true), vec![2, 3, 4]),
            (at(StartKey::Offset, offset, false), vec![3, 4]),
            (at(StartKey::EnqueuedMillis, 20, true), vec![1, 2, 3, 4]),
            // The clock went back, the log did not: the fourth event has the time of the third.
            (at(StartKey::EnqueuedMillis, 20, false), vec![4]),
            (at(StartKey::EnqueuedMillis, 99, true), vec![]),
            (at(StartKey::SequenceNumber, -5, true), vec![0, 1, 2, 3, 4]),
        ] {
            assert_eq!(read(&log, start), expected, "{start:?}");
        }
    }

    #[test]
    fn positions_behind_the_end_are_refused() {
        let log = log_at(&[10, 20]);
        for (value, inclusive, refused) in
            [(1, false, false), (2, true, false), (2, false, true), (3, true, true)]
        {
            let start = at(StartKey::SequenceNumber, value, inclusive);
            assert_eq!(log.cursor_at(start).is_err(), refused, "{start:?}");
        }
        assert!(log.cursor_at(at(StartKey::Offset, 1_000_000, false)).is_err());
        assert!(PartitionLog::in_memory(&Memory::new(usize::MAX)).cursor_at(Start::Latest).is_ok());
    }

    #[test]
    fn a_link_that_caught_up_is_told_once() {
        let log = log_at(&[10]);
        let mailbox = Arc::new(Mailbox::default());
        let mut cursor = log.cursor_at(Start::Latest).unwrap();
        for _ in 0..2 {
            let read = log.read_or_wait(&mut cursor, LIMIT, &mailbox, LINK);
            assert!(matches!(read, Read::CaughtUp));
        }
        let mut message = BytesMut::new();
        crate::wire::put_descriptor(&mut message, 0x75);
        crate::wire::put_binary(&mut message, b"y");
        let events = event::prepare(message.freeze(), None).unwrap().events;
        log.append_in_memory(&events, 20).unwrap();
        log.append_in_memory(&events, 20).unwrap();
        assert!(matches!(mailbox.take_notices()[..], [Notice::Readable(LINK)]));
        log.read_or_wait(&mut cursor, LIMIT, &mailbox, LINK);
        log.read_or_wait(&mut cursor, LIMIT, &mailbox, LINK);
        log.forget(&mailbox, LINK);
        log.append_in_memory(&events, 20).unwrap();
        assert!(mailbox.take_notices().is_empty());
    }

    #[test]
    fn a_small_tail_keeps_the_newest_events() {
        let log = PartitionLog::durable(Vec::new(), Next::FIRST, -1, 400);
        for _ in 0..10 {
            let mut message = BytesMut::new();
            crate::wire::put_descriptor(&mut message, 0x75);
            crate::wire::put_binary(&mut message, &[0; 100]);
            let events = event::prepare(message.freeze(), None).unwrap().events;
            log.append_in_memory(&events, 5).unwrap();
        }
        let state = log.lock();
        assert!(state.tail_bytes <= 400 && !state.tail.is_empty());
        assert_eq!(state.tail.back().unwrap().sequence, 9);
    }
}
