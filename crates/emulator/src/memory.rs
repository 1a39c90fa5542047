//! What the logs of a broker without a data folder may take together.
//!
//! Counted are the events as they are kept, with what keeps track of each. Whoever publishes is refused
//! where they would be more; retention gives room again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::log::StoredEvent;
use super::refusal::{RESOURCE_LIMIT_EXCEEDED, Refusal};

/// What all logs of a broker hold, and may.
#[derive(Debug)]
pub(super) struct Memory {
    limit_bytes: usize,
    held_bytes: AtomicUsize,
}

impl Memory {
    pub(super) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit_bytes, held_bytes: AtomicUsize::new(0) })
    }

    /// A part of it for one log.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { of: Arc::clone(self), held_bytes: 0 }
    }
}

/// What one log holds. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Memory>,
    held_bytes: usize,
}

/// What an event with so many bytes takes.
pub(super) fn bytes_of(encoded_bytes: usize) -> usize {
    encoded_bytes + size_of::<StoredEvent>()
}

impl Share {
    /// Counts `bytes` more, of which the log gives back `returned_bytes` at once.
    ///
    /// # Errors
    /// They are too much; nothing is counted.
    pub(super) fn hold(&mut self, bytes: usize, returned_bytes: usize) -> Result<(), Refusal> {
        let Memory { limit_bytes, held_bytes } = &*self.of;
        let added = bytes.saturating_sub(returned_bytes);
        let held = held_bytes.fetch_add(bytes, Ordering::Relaxed);
        if added > 0 && held.saturating_add(added) > *limit_bytes {
            held_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Refusal::new(
                RESOURCE_LIMIT_EXCEEDED,
                format!(
                    "The quota has been exceeded: this broker keeps its events in memory, \
                     {limit_bytes} bytes of them at most. Give its hubs a retention, or the broker a \
                     data folder or a greater max_memory_bytes"
                ),
            ));
        }
        self.held_bytes += bytes;
        Ok(())
    }

    /// Gives back what was counted.
    pub(super) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held_bytes);
        self.held_bytes -= bytes;
        self.of.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release(self.held_bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn logs_share_what_there_is_and_give_it_back() {
        let memory = Memory::new(100);
        let (mut one, mut other) = (memory.share(), memory.share());
        one.hold(60, 0).unwrap();
        assert_eq!(other.hold(41, 0).unwrap_err().condition, RESOURCE_LIMIT_EXCEEDED);
        other.hold(40, 0).unwrap();
        assert!(one.hold(1, 0).is_err());
        // As much as goes at once may come at any time.
        other.hold(20, 20).unwrap();
        other.release(20);
        drop(one);
        other.hold(60, 0).unwrap();
        assert!(other.hold(1, 0).is_err());
    }
}
