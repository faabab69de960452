//! How many requests there were.

use super::Operation;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts of requests; a copy, which does not go on counting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    counts: BTreeMap<(Operation, String), u64>,
    most_at_once: BTreeMap<Operation, u64>,
}

impl Requests {
    /// Requests of one operation, whatever their answer, those that met a fault included.
    pub fn count(&self, operation: Operation) -> u64 {
        self.iter().filter(|(one, _, _)| *one == operation).map(|(_, _, count)| count).sum()
    }

    /// Requests of one operation about one bucket and what is in it.
    pub fn count_in(&self, bucket: &str, operation: Operation) -> u64 {
        self.counts.get(&(operation, bucket.to_owned())).copied().unwrap_or_default()
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The most requests of one operation that waited for the head of their answer at the same time.
    pub fn most_at_once(&self, operation: Operation) -> u64 {
        self.most_at_once.get(&operation).copied().unwrap_or_default()
    }

    /// The operations that were asked for, by bucket (empty for those about none), with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, &str, u64)> {
        self.counts.iter().map(|((operation, bucket), count)| (*operation, bucket.as_str(), *count))
    }
}

/// Counts while the server runs.
#[derive(Clone, Default)]
pub(super) struct Counter(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    seen: Requests,
    now: BTreeMap<Operation, u64>,
}

/// A request at work.
pub(super) struct AtWork(Counter, Operation);

impl Counter {
    pub(super) fn begin(&self, operation: Operation, bucket: &str) -> AtWork {
        let mut state = self.lock();
        *state.seen.counts.entry((operation, bucket.to_owned())).or_default() += 1;
        let now = state.now.entry(operation).or_default();
        *now += 1;
        let now = *now;
        let most = state.seen.most_at_once.entry(operation).or_default();
        *most = now.max(*most);
        AtWork(self.clone(), operation)
    }

    pub(super) fn seen(&self) -> Requests {
        self.lock().seen.clone()
    }

    pub(super) fn reset(&self) {
        self.lock().seen = Requests::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if let Some(now) = self.0.lock().now.get_mut(&self.1) {
            *now -= 1;
        }
    }
}
