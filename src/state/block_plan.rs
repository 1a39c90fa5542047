//! One file over several connections: which bytes each of them fetches.
//!
//! ```text
//!  0          frontier                                 horizon            total
//!  |  complete  |  taken  |  complete  |  taken  | ... |     missing      |
//!               └───────────── the window ────────────┘
//! ```
//!
//! The file is cut into blocks of one length; the last one may be shorter. A stream takes the first
//! bytes that nobody has, up to the end of their block, and asks for them. Where it breaks, what came
//! is kept, and the rest of its block is taken again, by whoever asks next.
//!
//! * Each byte is complete, taken by one stream, or missing.
//! * Nothing at the horizon or behind it is taken, so what is complete above the frontier is bounded.
//! * The body that came first, of a request for the whole file, flows on into the next block as long
//!   as nobody else has it.
//!
//! Whether the server's bytes are those of the same file is judged elsewhere
//! ([`fetch_plan`](super::fetch_plan)).

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::fetch_plan::{AfterBreak, pause};

/// Breaks in a row, of whatever streams, before which not one byte came: then the attempt failed.
const MAX_IDLE_BREAKS: u32 = 4;

/// The length of blocks, and how far they are fetched ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocks {
    /// The length of a block; at least 1.
    pub block_bytes: u64,
    /// How many blocks the window has, the one with the frontier included; at least 1.
    pub window_blocks: u64,
}

/// A stream that has taken bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(u64);

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct BlockPlan {
    blocks: Blocks,
    total: u64,
    /// What nobody has: from its first byte to the one behind its last.
    missing: BTreeMap<u64, u64>,
    /// What streams have taken, and is not here yet.
    taken: BTreeMap<StreamId, Range<u64>>,
    next_stream: u64,
    idle_breaks: u32,
}

impl BlockPlan {
    /// A file of `total` bytes, of which nothing is here.
    pub fn new(total: u64, blocks: Blocks) -> Self {
        let blocks = Blocks {
            block_bytes: blocks.block_bytes.max(1),
            window_blocks: blocks.window_blocks.max(1),
        };
        let missing = (total > 0).then_some((0, total)).into_iter().collect();
        Self { blocks, total, missing, taken: BTreeMap::new(), next_stream: 0, idle_breaks: 0 }
    }

    /// The same, with these bytes here already.
    #[must_use]
    pub fn with_there(mut self, there: impl IntoIterator<Item = Range<u64>>) -> Self {
        for range in there {
            self.on_there(range);
        }
        self
    }

    fn on_there(&mut self, there: Range<u64>) {
        let overlapping: Vec<(u64, u64)> = self
            .missing
            .range(..there.end)
            .map(|(from, to)| (*from, *to))
            .filter(|(_, to)| *to > there.start)
            .collect();
        for (from, to) in overlapping {
            self.missing.remove(&from);
            if from < there.start {
                self.missing.insert(from, there.start);
            }
            if there.end < to {
                self.missing.insert(there.end, to);
            }
        }
    }

    /// Everything before it is here.
    pub fn frontier(&self) -> u64 {
        let missing = self.missing.keys().next().copied();
        let taken = self.taken.values().filter(|taken| !taken.is_empty());
        let taken = taken.map(|taken| taken.start).min();
        missing.into_iter().chain(taken).min().unwrap_or(self.total)
    }

    /// Bytes that are here.
    pub fn received(&self) -> u64 {
        let missing: u64 = self.missing.iter().map(|(from, to)| to - from).sum();
        let taken: u64 = self.taken.values().map(|taken| taken.end - taken.start).sum();
        self.total - missing - taken
    }

    /// Whether all of it is here.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.taken.values().all(Range::is_empty)
    }

    /// Whether something is missing that may be taken now.
    pub fn can_take(&self) -> bool {
        self.missing.keys().next().is_some_and(|from| *from < self.horizon())
    }

    /// Gives a stream the first bytes that nobody has, up to the end of their block; `None` where
    /// nothing within the window is missing.
    pub fn take(&mut self) -> Option<(StreamId, Range<u64>)> {
        let from = *self.missing.keys().next()?;
        let range = self.take_from(from)?;
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        self.taken.insert(stream, range.clone());
        Some((stream, range))
    }

    /// A stream whose block is here goes on with the one behind it, where nobody has any of that and it
    /// is within the window.
    pub fn take_next(&mut self, stream: StreamId) -> Option<Range<u64>> {
        let from = self.taken.get(&stream).filter(|taken| taken.is_empty())?.end;
        if !self.missing.contains_key(&from) {
            return None;
        }
        let range = self.take_from(from)?;
        self.taken.insert(stream, range.clone());
        Some(range)
    }

    fn take_from(&mut self, from: u64) -> Option<Range<u64>> {
        if from >= self.horizon() {
            return None;
        }
        let to = self.missing.remove(&from)?;
        let end = self.end_of_block(from).min(to);
        if end < to {
            self.missing.insert(end, to);
        }
        Some(from..end)
    }

    /// Where the block of a byte ends.
    fn end_of_block(&self, byte: u64) -> u64 {
        let block = byte / self.blocks.block_bytes;
        (block + 1).saturating_mul(self.blocks.block_bytes)
    }

    /// The end of the window.
    fn horizon(&self) -> u64 {
        let first = self.frontier() / self.blocks.block_bytes;
        first.saturating_add(self.blocks.window_blocks).saturating_mul(self.blocks.block_bytes)
    }

    /// What a stream has taken and is not here yet.
    pub fn left(&self, stream: StreamId) -> Range<u64> {
        self.taken.get(&stream).cloned().unwrap_or(0..0)
    }

    /// Bytes of a stream are here; no more than it has taken.
    pub fn on_bytes(&mut self, stream: StreamId, bytes: u64) {
        if let Some(taken) = self.taken.get_mut(&stream) {
            debug_assert!(
                bytes <= taken.end - taken.start,
                "a stream brought what it had not taken"
            );
            taken.start = taken.start.saturating_add(bytes).min(taken.end);
            if bytes > 0 {
                self.idle_breaks = 0;
            }
        }
    }

    /// A stream ended with all that it had taken, or is given up without blame: what it has left is
    /// taken again.
    pub fn on_end(&mut self, stream: StreamId) {
        let Some(Range { start, mut end }) = self.taken.remove(&stream) else { return };
        if start == end {
            return;
        }
        // Joined with what follows it, so that there is one entry where one will do.
        if let Some(to) = self.missing.remove(&end) {
            end = to;
        }
        self.missing.insert(start, end);
    }

    /// The connection of a stream broke. What it has left is taken again, after a pause where nothing
    /// came since another one broke.
    pub fn on_break(&mut self, stream: StreamId) -> AfterBreak {
        self.on_end(stream);
        let before = self.idle_breaks;
        self.idle_breaks += 1;
        match before {
            0 => AfterBreak::GoOn(Duration::ZERO),
            MAX_IDLE_BREAKS.. => AfterBreak::Failed,
            _ => AfterBreak::GoOn(pause(before - 1)),
        }
    }
}

#[cfg(test)]
mod tests;
