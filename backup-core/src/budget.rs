//! Memory bounded by bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in units of this many bytes, because a semaphore counts in 32 bits.
const UNIT: u64 = 1024;

/// A number of bytes that several tasks share. Cloning shares it.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    units: Arc<Semaphore>,
    total: u32,
    waiting: Arc<AtomicUsize>,
}

/// Counts a waiting call, also when that is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes taken from a [`ByteBudget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    units: OwnedSemaphorePermit,
}

impl Permit {
    /// Gives back what is not needed for `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let needed = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        if let Some(surplus) = self.units.num_permits().checked_sub(needed) {
            drop(self.units.split(surplus));
        }
    }
}

impl ByteBudget {
    /// A budget of `bytes`, at least one KiB, at most four TiB.
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX);
        Self { units: Arc::new(Semaphore::new(total as usize)), total, waiting: Arc::default() }
    }

    /// The whole budget in bytes.
    pub fn total(&self) -> u64 {
        u64::from(self.total) * UNIT
    }

    /// Bytes that nobody holds at the moment.
    pub fn available(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT
    }

    /// Whether somebody waits for bytes at this moment.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits until `bytes` are free and takes them, in turn. More than the whole budget counts as the whole,
    /// so that a single large item goes through alone instead of waiting for ever.
    pub async fn take(&self, bytes: u64) -> Permit {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total);
        let _waiting = Waiting::new(&self.waiting);
        match self.units.clone().acquire_many_owned(units).await {
            Ok(permit) => Permit { units: permit },
            // The semaphore is never closed.
            Err(closed) => unreachable!("{closed}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_dropped_comes_back_and_the_oversized_goes_alone() {
        let budget = ByteBudget::new(10 * 1024);
        let small = budget.take(1).await;
        assert_eq!(budget.available(), 9 * 1024);
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(1 << 40).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && budget.is_wanted());
        drop(small);
        let all = waiting.await.unwrap();
        assert_eq!(budget.available(), 0);
        assert!(!budget.is_wanted());
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(1), budget.take(1)).await;
        assert!(given_up.is_err() && !budget.is_wanted());
        drop(all);
        let mut shrinking = budget.take(8 * 1024).await;
        shrinking.shrink_to(1025);
        assert_eq!(budget.available(), 8 * 1024);
        shrinking.shrink_to(5000);
        assert_eq!(budget.available(), 8 * 1024);
        drop(shrinking);
        assert_eq!(budget.available(), budget.total());
    }
}
