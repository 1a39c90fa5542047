//! What a log keeps: how much, for how long, and from which event on.
//!
//! A log in memory is trimmed event by event. One in files loses whole files, never the newest, and
//! begins with the first file that is left; so it may keep a file more than was asked for.

use std::path::PathBuf;
use std::time::Duration;

use super::{Next, PartitionLog, State};
use crate::extents::Extent;
use crate::memory;

/// How long and how much of a partition is kept; without either, for ever and everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) age: Option<Duration>,
    pub(crate) bytes: Option<u64>,
}

impl PartitionLog {
    /// Keeps this much from now on.
    pub(crate) fn keep(&self, retention: Retention) {
        self.lock().retention = retention;
    }

    /// Trims what is older or more than is kept. Returns the files to remove.
    pub(crate) fn trim(&self, now_ms: i64) -> Vec<PathBuf> {
        let mut state = self.lock();
        state.trim_bytes();
        let oldest_ms = state
            .retention
            .age
            .map(|age| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)));
        if let Some(oldest_ms) = oldest_ms {
            state.trim_age(oldest_ms);
        }
        state.trim_files(oldest_ms)
    }

    /// Forgets the events before `sequence`, as retention would; the files stay until then. Returns
    /// the sequence number the log begins with now: of a log in files it can be a lower one.
    pub(crate) fn trim_before(&self, sequence: i64) -> i64 {
        let mut state = self.lock();
        let sequence = sequence.min(state.next.sequence);
        let first_in_tail = state.tail.front().map_or(state.next.sequence, |event| event.sequence);
        if sequence >= first_in_tail {
            while state.tail.front().is_some_and(|event| event.sequence < sequence) {
                state.pop_front();
            }
            state.begin_at_tail();
        } else if let Some(cursor) = state.seek(super::StartKey::SequenceNumber, sequence + 1)
            && cursor.sequence > state.begin_sequence
        {
            (state.begin_sequence, state.begin_offset) = (cursor.sequence, cursor.offset);
        }
        state.begin_sequence
    }

    /// All that its files must hold once they are synced.
    pub(crate) fn extent(&self) -> Extent {
        let state = self.lock();
        let Next { sequence: end, offset: end_offset, .. } = state.next;
        Extent { begin: state.first_sequence(), end, end_offset }
    }

    /// The part of it that is in files older than the newest, which were synced.
    pub(crate) fn older_extent(&self) -> Extent {
        let state = self.lock();
        let begin = state.first_sequence();
        match state.segments.last() {
            Some(newest) => {
                Extent { begin, end: newest.base_sequence, end_offset: newest.base_offset }
            }
            None => Extent { begin, ..Extent::default() },
        }
    }
}

impl State {
    fn is_in_memory(&self) -> bool {
        self.segments.is_empty()
    }

    /// The first event of the oldest file, which the log may begin behind.
    fn first_sequence(&self) -> i64 {
        self.segments.first().map_or(self.begin_sequence, |first| first.base_sequence)
    }

    pub(super) fn pop_front(&mut self) {
        if let Some(event) = self.tail.pop_front() {
            self.tail_bytes -= event.encoded.len();
            if let Some(share) = &mut self.share {
                share.release(memory::bytes_of(event.encoded.len()));
            }
        }
    }

    fn begin_at_tail(&mut self) {
        (self.begin_sequence, self.begin_offset) = match self.tail.front() {
            Some(first) => (first.sequence, first.offset),
            None => (self.next.sequence, self.next.offset),
        };
    }

    /// Keeps a log in memory within its bytes. The newest event stays, whatever its size.
    pub(super) fn trim_bytes(&mut self) {
        let Some(limit) = self.retention.bytes.filter(|_| self.is_in_memory()) else {
            return;
        };
        while self.tail_bytes as u64 > limit && self.tail.len() > 1 {
            self.pop_front();
        }
        self.begin_at_tail();
    }

    fn trim_age(&mut self, oldest_ms: i64) {
        if !self.is_in_memory() {
            return;
        }
        while self.tail.front().is_some_and(|event| event.enqueued_ms < oldest_ms) {
            self.pop_front();
        }
        self.begin_at_tail();
    }

    fn trim_files(&mut self, oldest_ms: Option<i64>) -> Vec<PathBuf> {
        let mut removed = Vec::new();
        while let [_, second, ..] = self.segments.as_slice() {
            let kept_bytes = self.next.offset.abs_diff(second.base_offset);
            let too_much = self.retention.bytes.is_some_and(|limit| kept_bytes >= limit);
            // Everything in the first is as old as the beginning of the second, or older.
            let too_old = oldest_ms
                .zip(second.begun_ms())
                .is_some_and(|(oldest_ms, begun_ms)| begun_ms < oldest_ms);
            if !too_much && !too_old {
                break;
            }
            let (sequence, offset) = (second.base_sequence, second.base_offset);
            removed.push(self.segments.remove(0).path);
            if self.begin_sequence < sequence {
                (self.begin_sequence, self.begin_offset) = (sequence, offset);
            }
        }
        while self.tail.front().is_some_and(|event| event.sequence < self.begin_sequence) {
            self.pop_front();
        }
        removed
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::path::Path;

    use bytes::BytesMut;

    use super::*;
    use crate::address::Start;
    use crate::event;
    use crate::memory::Memory;
    use crate::refusal::RESOURCE_LIMIT_EXCEEDED;
    use crate::segment::Segment;

    fn append(log: &PartitionLog, bytes: usize, at_ms: i64) {
        let mut message = BytesMut::new();
        crate::wire::put_descriptor(&mut message, 0x75);
        crate::wire::put_binary(&mut message, &vec![0; bytes]);
        let events = event::prepare(message.freeze(), None).unwrap().events;
        log.append_in_memory(&events, at_ms).unwrap();
    }

    fn keep(bytes: Option<u64>, age_ms: Option<u64>) -> PartitionLog {
        let log = PartitionLog::in_memory(&Memory::new(usize::MAX));
        log.keep(Retention { bytes, age: age_ms.map(Duration::from_millis) });
        log
    }

    #[test]
    fn bytes_are_bounded_at_every_append() {
        let log = keep(Some(10_000), None);
        for time in 0..1_000 {
            append(&log, 1_000, time);
            assert!(log.lock().tail_bytes <= 10_000);
        }
        let ends = log.ends();
        assert_eq!(ends.last_sequence, 999);
        assert!((990..995).contains(&ends.begin_sequence), "{ends:?}");
        assert_eq!(log.cursor_at(Start::Earliest).unwrap().sequence, ends.begin_sequence);
        append(&log, 100_000, 1_000);
        assert_eq!(log.ends().begin_sequence, 1_000);
    }

    #[test]
    fn old_events_go_and_the_numbers_go_on() {
        let log = keep(None, Some(100));
        for time in [0, 50, 120] {
            append(&log, 10, time);
        }
        log.trim(150);
        assert_eq!((log.ends().begin_sequence, log.ends().last_sequence), (1, 2));
        log.trim(1_000);
        assert!(log.ends().is_empty());
        append(&log, 10, 1_000);
        assert_eq!((log.ends().begin_sequence, log.ends().last_sequence), (3, 3));
    }

    #[test]
    fn a_trimmed_log_begins_later() {
        let log = keep(None, None);
        for time in 0..5 {
            append(&log, 10, time);
        }
        assert_eq!(log.trim_before(2), 2);
        assert_eq!(log.trim_before(1), 2);
        assert_eq!(log.trim_before(99), 5);
        assert!(log.ends().is_empty());
    }

    #[test]
    fn files_go_whole_and_the_newest_stays() {
        let mut segments = Vec::new();
        for number in 0..4 {
            let next = Next { sequence: number * 10, offset: number * 1_000, not_before_ms: 0 };
            segments.push(Segment::starting_at(Path::new("p"), next));
        }
        let next = Next { sequence: 40, offset: 4_000, not_before_ms: 0 };
        let log = PartitionLog::durable(segments, next, 3_900, usize::MAX);
        log.keep(Retention { age: None, bytes: Some(2_000) });
        let removed = log.trim(0);
        assert_eq!(removed.len(), 2);
        assert!(removed[1].ends_with(format!("{:020}.log", 10)));
        assert_eq!(log.ends().begin_sequence, 20);
        log.keep(Retention { age: None, bytes: Some(1) });
        assert_eq!(log.trim(0).len(), 1);
        assert_eq!(log.ends().begin_sequence, 30);
        assert!(log.trim(0).is_empty());
    }

    #[test]
    fn retention_gives_the_room_that_the_next_events_take() {
        let memory = Memory::new(20_000);
        let (full, kept) = (PartitionLog::in_memory(&memory), PartitionLog::in_memory(&memory));
        kept.keep(Retention { bytes: Some(5_000), age: Some(Duration::from_millis(100)) });
        for time in 0..100 {
            append(&kept, 1_000, time);
        }
        let mut message = BytesMut::new();
        crate::wire::put_descriptor(&mut message, 0x75);
        crate::wire::put_binary(&mut message, &[0; 1_000]);
        let events = event::prepare(message.freeze(), None).unwrap().events;
        let accepted = (0..100).take_while(|_| full.append_in_memory(&events, 0).is_ok()).count();
        assert!((10..14).contains(&accepted), "{accepted}");
        let refused = full.append_in_memory(&events, 0).unwrap_err();
        assert_eq!(refused.condition, RESOURCE_LIMIT_EXCEEDED);
        assert_eq!(full.ends().last_sequence, accepted as i64 - 1);
        append(&kept, 1_000, 100);
        kept.trim(1_000);
        full.append_in_memory(&events, 0).unwrap();
        drop(full);
        assert_eq!((0..9).filter(|_| kept.append_in_memory(&events, 1_000).is_ok()).count(), 9);
    }
}
