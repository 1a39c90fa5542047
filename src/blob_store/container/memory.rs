//! The memory that blocks wait in on their way to the service: a budget, and buffers that sum what comes
//! and are used again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted at a time.
const UNIT_BYTES: u64 = 1_024;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Memory {
    budget_bytes: u64,
    left: Arc<Semaphore>,
    /// Buffers that nobody uses; together with those in use no more than the budget.
    unused: Mutex<Vec<Vec<u8>>>,
}

/// Memory for the bytes of a block. Dropped, it is given back.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Of the bytes: summed as they come, while the cache has them.
    crc64: Crc,
    capacity: usize,
    memory: Arc<Memory>,
    share: Option<OwnedSemaphorePermit>,
}

impl Memory {
    pub(super) fn new(budget_bytes: u64) -> Arc<Self> {
        let units = usize::try_from(budget_bytes / UNIT_BYTES).unwrap_or(usize::MAX);
        let left = Arc::new(Semaphore::new(units.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { budget_bytes, left, unused: Mutex::default() })
    }

    pub(super) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// A buffer for so many bytes, once there is memory for it. Who asks first has it first.
    ///
    /// # Cancel safety
    /// A dropped call takes nothing.
    pub(super) async fn buffer(self: &Arc<Self>, bytes: usize) -> Buffer {
        // It is never closed.
        let share = Arc::clone(&self.left).acquire_many_owned(self.units(bytes)).await.ok();
        self.buffer_of(bytes, share)
    }

    /// The same, if there is memory now.
    pub(super) fn try_buffer(self: &Arc<Self>, bytes: usize) -> Option<Buffer> {
        let share = Arc::clone(&self.left).try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(self.buffer_of(bytes, Some(share)))
    }

    /// More than all of it is never asked for.
    fn units(&self, bytes: usize) -> u32 {
        let all = (self.budget_bytes / UNIT_BYTES).max(1);
        let units = (bytes as u64).div_ceil(UNIT_BYTES).clamp(1, all);
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    fn buffer_of(self: &Arc<Self>, capacity: usize, share: Option<OwnedSemaphorePermit>) -> Buffer {
        let mut unused = self.unused();
        let fits = unused.iter().rposition(|bytes| bytes.capacity() >= capacity);
        // One that is too small gives its memory back.
        let bytes = match fits {
            Some(index) => unused.swap_remove(index),
            None => {
                unused.pop();
                Vec::new()
            }
        };
        let crc64 = Crc::new(CrcAlgorithm::Crc64Nvme);
        Buffer { bytes, crc64, capacity, memory: Arc::clone(self), share }
    }

    fn unused(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Appends what fits of `part`, which keeps the rest.
    pub(super) fn fill(&mut self, part: &mut Bytes) {
        let fits = part.split_to(part.len().min(self.room()));
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(self.capacity);
        }
        self.bytes.extend_from_slice(&fits);
        self.crc64.update(&fits);
    }

    /// How many bytes fit.
    pub(super) fn room(&self) -> usize {
        self.capacity - self.bytes.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, to be sent, and their CRC-64. The memory is given back when the last of them is dropped.
    pub(super) fn freeze(self) -> (Bytes, u64) {
        let crc64 = self.crc64.finalize();
        (Bytes::from_owner(self), crc64)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() > 0 {
            bytes.clear();
            self.memory.unused().push(bytes);
        }
        // Whoever has the share next finds the buffer.
        self.share = None;
        // What was large once is not kept for ever.
        let mut unused = self.memory.unused();
        let free = self.memory.left.available_permits() as u64 * UNIT_BYTES;
        while unused.iter().map(|bytes| bytes.capacity() as u64).sum::<u64>() > free
            && unused.pop().is_some()
        {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn no_more_than_the_budget_is_in_use_and_buffers_come_back() {
        let memory = Memory::new(64 * 1_024);
        let mut first = memory.buffer(32 * 1_024).await;
        let second = memory.try_buffer(32 * 1_024).unwrap();
        assert!(memory.try_buffer(1).is_none());
        let mut waits = Box::pin(memory.buffer(32 * 1_024));
        assert!(waits.as_mut().now_or_never().is_none());
        let mut part = Bytes::from(vec![7; 40 * 1_024]);
        first.fill(&mut part);
        assert_eq!((first.room(), part.len()), (0, 8 * 1_024));
        let (sent, crc64) = first.freeze();
        assert_eq!(crc64, crate::blob_store::sums::crc64(&sent));
        let place = sent.as_ptr();
        assert!(memory.try_buffer(1).is_none(), "it is being sent");
        drop(sent);
        let mut third = waits.await;
        third.fill(&mut part);
        assert_eq!(third.bytes().as_ptr(), place, "the same memory");
        assert_eq!(third.bytes().len(), 8 * 1_024);
        drop((second, third));
        // What is larger than all of it has all of it.
        let whole = memory.buffer(1 << 20).await;
        assert!(memory.try_buffer(1).is_none());
        drop(whole);
        assert!(memory.try_buffer(64 * 1_024).is_some());
    }
}
