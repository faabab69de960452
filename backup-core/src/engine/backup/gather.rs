//! Gathers the pieces in which a content arrives into such as make a frame each.
//!
//! What comes over a network comes in many small pieces, each of which holds on to a larger buffer of the connection: that would be more
//! memory than is accounted for. A frame of one piece is packed without a copy, so that this is the only one.

use crate::pool::BufferPool;
use bytes::Bytes;
use std::sync::Arc;

/// The pieces of one range.
#[derive(Debug)]
pub(super) struct Gatherer {
    pool: Arc<BufferPool>,
    /// What makes a frame.
    frame: usize,
    /// Bytes that are still to come.
    left: usize,
    pieces: Vec<Bytes>,
    open: Vec<u8>,
}

impl Gatherer {
    /// For a range of so many bytes.
    pub(super) fn new(pool: Arc<BufferPool>, frame: usize, expected: u64) -> Self {
        Self {
            pool,
            frame,
            left: usize::try_from(expected).unwrap_or(usize::MAX),
            pieces: Vec::new(),
            open: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, mut piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        // Of a source that gathers by itself, or all that there is.
        if self.open.is_empty() && (piece.len() >= self.frame / 2 || piece.len() == self.left) {
            self.left = self.left.saturating_sub(piece.len());
            return self.pieces.push(piece);
        }
        while !piece.is_empty() {
            if self.open.capacity() == 0 {
                self.open = self.pool.take(self.frame.min(self.left.max(piece.len())));
            }
            let part = piece.split_to(piece.len().min(self.frame - self.open.len()));
            self.left = self.left.saturating_sub(part.len());
            self.open.extend_from_slice(&part);
            if self.open.len() == self.frame {
                self.close();
            }
        }
    }

    /// All pieces in order.
    pub(super) fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.close();
        }
        self.pieces
    }

    fn close(&mut self) {
        self.pieces.push(self.pool.lend(std::mem::take(&mut self.open)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gathered(frame: usize, lengths: &[usize]) -> (Vec<Bytes>, Vec<u8>) {
        let all: Vec<u8> = (0..lengths.iter().sum()).map(|n| n as u8).collect();
        let mut gatherer = Gatherer::new(BufferPool::new(2), frame, all.len() as u64);
        let mut rest = Bytes::from(all.clone());
        for length in lengths {
            gatherer.push(rest.split_to(*length));
        }
        (gatherer.finish(), all)
    }

    #[test]
    fn small_pieces_become_frames_and_large_ones_stay_as_they_are() {
        let lengths = |frame, lengths: &[usize]| gathered(frame, lengths).0.iter().map(Bytes::len).collect::<Vec<_>>();
        assert_eq!(lengths(100, &[30; 10]), [100, 100, 100]);
        assert_eq!(lengths(100, &[30; 5]), [100, 50]);
        assert_eq!(lengths(100, &[100, 60, 10, 100]), [100, 60, 100, 10]);
        assert_eq!(lengths(100, &[7]), [7]);
        assert_eq!(lengths(100, &[0, 5, 0, 4]), [9]);
        assert_eq!(lengths(100, &[]), [] as [usize; 0]);
        let (pieces, all) = gathered(100, &[20]);
        assert_eq!((pieces.len(), &pieces[0][..]), (1, &all[..]));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_moved(frame in 1_usize..50, lengths in proptest::collection::vec(0_usize..120, 0..20)) {
            let (pieces, all) = gathered(frame, &lengths);
            prop_assert_eq!(pieces.concat(), all);
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
        }
    }
}
