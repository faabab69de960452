//! Large buffers that are used again. Fresh memory costs about as much time as filling it, and what is freed on another thread
//! than it was taken on goes back to the system late.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers below this many bytes are left to the allocator.
const WORTH_KEEPING: usize = 256 << 10;

/// Buffers of one purpose, so that they are all of about one size.
#[derive(Debug)]
pub(crate) struct BufferPool {
    idle: Mutex<Vec<Vec<u8>>>,
    /// Idle buffers that are kept at most.
    keep: usize,
}

impl BufferPool {
    /// A pool that keeps so many idle buffers.
    pub(crate) fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), keep })
    }

    /// An empty buffer with room for `capacity` bytes.
    pub(crate) fn take(&self, capacity: usize) -> Vec<u8> {
        // In steps, so that buffers of about one size can take each other's place.
        let capacity = if capacity < WORTH_KEEPING { capacity } else { capacity.next_multiple_of(WORTH_KEEPING) };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Not one that is far too large: whoever holds it accounts for what is in it.
        match idle.iter().position(|buffer| (capacity..=capacity.saturating_mul(2)).contains(&buffer.capacity())) {
            Some(found) => idle.swap_remove(found),
            None => Vec::with_capacity(capacity),
        }
    }

    /// Bytes whose memory comes back when nobody holds them any more.
    pub(crate) fn lend(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        if buffer.capacity() < WORTH_KEEPING {
            return buffer.into();
        }
        Bytes::from_owner(Lent { buffer, pool: self.clone() })
    }
}

struct Lent {
    buffer: Vec<u8>,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.pool.keep {
            idle.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_when_the_last_holder_is_gone() {
        let pool = BufferPool::new(1);
        let mut buffer = pool.take(WORTH_KEEPING);
        buffer.extend_from_slice(b"abc");
        let address = buffer.as_ptr();
        let bytes = pool.lend(buffer);
        let part = bytes.slice(1..);
        drop(bytes);
        let other = pool.take(WORTH_KEEPING);
        assert_ne!(other.as_ptr(), address, "somebody still reads it");
        assert_eq!(&part[..], b"bc");
        drop(part);
        let again = pool.take(WORTH_KEEPING);
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
    }

    #[test]
    fn no_more_are_kept_than_was_said_and_none_that_are_too_small() {
        let pool = BufferPool::new(2);
        let lent: Vec<Bytes> = (0..5).map(|_| pool.lend(pool.take(WORTH_KEEPING))).collect();
        drop(lent);
        assert_eq!(pool.idle.lock().unwrap().len(), 2);
        drop(pool.lend(pool.take(10)));
        assert!(pool.take(2 * WORTH_KEEPING).capacity() >= 2 * WORTH_KEEPING);
        assert!(pool.take(WORTH_KEEPING / 4).capacity() < WORTH_KEEPING);
        assert_eq!(pool.idle.lock().unwrap().len(), 2, "they are too small for one and too large for the other");
    }
}
