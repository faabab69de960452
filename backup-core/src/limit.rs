//! Bandwidth limits that can be changed while they are used.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A limit in bytes a second, shared by everybody who holds a clone; `None` is unlimited.
#[derive(Clone, Debug)]
pub struct RateLimit {
    rate: Arc<watch::Sender<Option<NonZeroU64>>>,
    /// The moment until which the bytes taken so far have used up the rate.
    busy_until: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new(None)
    }
}

impl RateLimit {
    /// A limit of so many bytes a second.
    pub fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate: Arc::new(watch::Sender::new(rate)), busy_until: Arc::default() }
    }

    /// Changes the limit; who waits goes on at the new rate.
    pub fn set(&self, rate: Option<NonZeroU64>) {
        self.rate.send_replace(rate);
    }

    /// The limit now.
    pub fn get(&self) -> Option<NonZeroU64> {
        *self.rate.borrow()
    }

    /// Waits until `bytes` more fit the rate. Callers are served in turn; a burst of a quarter of a second is allowed.
    pub async fn take(&self, bytes: u64) {
        const BURST: Duration = Duration::from_millis(250);
        if self.get().is_none() {
            return;
        }
        let mut changed = self.rate.subscribe();
        let mut busy_until = self.busy_until.lock().await;
        let mut left = bytes as f64;
        loop {
            let Some(rate) = *changed.borrow_and_update() else { return };
            let now = Instant::now();
            let start = busy_until.filter(|until| *until > now).unwrap_or(now);
            let end = start + Duration::from_secs_f64(left / rate.get() as f64);
            if end <= now + BURST {
                *busy_until = Some(end);
                return;
            }
            let wait_from = now;
            tokio::select! {
                () = tokio::time::sleep_until(end - BURST) => {
                    *busy_until = Some(end);
                    return;
                }
                _ = changed.changed() => {
                    // What was waited for at the old rate counts.
                    left = (left - wait_from.elapsed().as_secs_f64() * rate.get() as f64).max(0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(n: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(n)
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_many_small_pieces() {
        let limit = RateLimit::new(rate(1000));
        let start = Instant::now();
        for _ in 0..100 {
            limit.take(100).await;
        }
        let took = start.elapsed().as_secs_f64();
        assert!((9.7..=10.0).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_reaches_who_waits() {
        let limit = RateLimit::new(rate(1));
        let start = Instant::now();
        let waiter = tokio::spawn({
            let limit = limit.clone();
            async move { limit.take(1_000_000).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        limit.set(None);
        waiter.await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
