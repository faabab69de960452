//! Counts what an operation has done, and makes snapshots with rate and time to go.

use crate::model::{Phase, Progress};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Collects figures from all stages of an operation.
#[derive(Debug)]
pub(super) struct Meter {
    inner: Mutex<Inner>,
    published: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Inner {
    progress: Progress,
    last: Option<(Instant, u64)>,
}

impl Meter {
    pub(super) fn new(start: Progress) -> Self {
        let published = watch::Sender::new(start.clone());
        Self { inner: Mutex::new(Inner { progress: start, last: None }), published }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.published.subscribe()
    }

    /// Changes figures.
    pub(super) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).progress);
    }

    pub(super) fn phase(&self, phase: Phase) {
        self.update(|p| p.phase = phase);
        self.publish();
    }

    /// The figures now.
    pub(super) fn snapshot(&self) -> Progress {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).progress.clone()
    }

    /// Smoothes the rate over about five seconds and tells the watchers.
    pub(super) fn publish(&self) -> Progress {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let bytes = inner.progress.bytes;
        match inner.last {
            None => inner.last = Some((now, bytes)),
            Some((then, before)) if now - then >= Duration::from_millis(100) => {
                let seconds = (now - then).as_secs_f64();
                let rate = bytes.saturating_sub(before) as f64 / seconds;
                let old = inner.progress.bytes_per_second;
                let weight = if old == 0.0 { 1.0 } else { 1.0 - (-seconds / 5.0).exp() };
                inner.progress.bytes_per_second = old + weight * (rate - old);
                inner.last = Some((now, bytes));
            }
            Some(_) => {}
        }
        let p = &mut inner.progress;
        p.eta_seconds = match p.bytes_total {
            Some(total) if p.bytes_per_second > 0.0 && p.phase == Phase::Transferring => {
                Some(total.saturating_sub(p.bytes) as f64 / p.bytes_per_second)
            }
            _ => None,
        };
        let snapshot = inner.progress.clone();
        drop(inner);
        self.published.send_replace(snapshot.clone());
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rate_and_time_to_go_follow_the_bytes() {
        let meter =
            Meter::new(Progress { bytes_total: Some(10_000), phase: Phase::Transferring, ..Progress::default() });
        meter.publish();
        for _ in 0..10 {
            tokio::time::advance(Duration::from_millis(500)).await;
            meter.update(|p| p.bytes += 500);
            meter.publish();
        }
        let p = meter.subscribe().borrow().clone();
        assert!((p.bytes_per_second - 1000.0).abs() < 1.0, "{p:?}");
        assert!((p.eta_seconds.unwrap() - 5.0).abs() < 0.1, "{p:?}");
    }
}
