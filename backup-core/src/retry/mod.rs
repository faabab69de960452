//! Retry: one wrapper around any adapter.
//!
//! [`Retrying`] repeats calls that failed with an error that [may pass](crate::Error::is_retryable), after a delay that grows and
//! varies. The trait methods are idempotent by contract, so that a call whose reply was lost is repeated without harm. Streams
//! that break off are taken up where they were. What each method does beyond that stands at the implementations:
//!
//! - [`Destination`](crate::adapter::Destination): all calls; [`get`](crate::adapter::Destination::get) goes on at the offset reached;
//!   `list` and `list_roots` are repeated only until their first item.
//! - [`Source`](crate::adapter::Source): all calls; [`read`](crate::adapter::Source::read) goes on at the offset reached,
//!   [`events`](crate::adapter::Source::events) behind the last entry.
//! - [`RestoreTarget`](crate::adapter::RestoreTarget): all calls but [`write_large`](crate::adapter::RestoreTarget::write_large), whose
//!   content cannot be read twice: the caller starts it again.
//!
//! Nothing runs but the futures and streams that the caller holds: one that is dropped, also while it waits, changes nothing.

mod destination;
mod policy;
mod resume;
mod source;
mod target;

pub use policy::{Attempts, Backoff, RetryPolicy, SystemBackoff};

use crate::{Error, Result};
use std::future::Future;
use std::sync::Arc;

/// An adapter whose calls are retried: `Retrying<dyn Source>`, `Retrying<dyn Destination>`, `Retrying<dyn RestoreTarget>`.
///
/// A clone shares the adapter.
#[derive(Debug)]
pub struct Retrying<T: ?Sized> {
    inner: Arc<T>,
    policy: RetryPolicy,
    backoff: Arc<dyn Backoff>,
}

impl<T: ?Sized> Clone for Retrying<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), policy: self.policy, backoff: self.backoff.clone() }
    }
}

impl<T: ?Sized> Retrying<T> {
    /// Wraps an adapter, with this process's clock and random numbers.
    pub fn new(inner: Arc<T>, policy: RetryPolicy) -> Arc<Self> {
        Self::with_backoff(inner, policy, Arc::new(SystemBackoff))
    }

    /// Wraps an adapter, with another clock and other random numbers.
    pub fn with_backoff(inner: Arc<T>, policy: RetryPolicy, backoff: Arc<dyn Backoff>) -> Arc<Self> {
        Arc::new(Self { inner, policy, backoff })
    }

    /// The adapter.
    pub fn inner(&self) -> &Arc<T> {
        &self.inner
    }

    fn attempts(&self, what: &'static str) -> Attempts {
        Attempts::new(what, self.policy, self.backoff.clone())
    }

    /// Repeats a call until it succeeds, fails for good, or has been tried often enough.
    async fn call<R, F: Future<Output = Result<R>> + Send>(
        &self,
        what: &'static str,
        call: impl Fn() -> F + Send,
    ) -> Result<R> {
        retry(&mut self.attempts(what), call).await
    }
}

/// Repeats a call until it succeeds, fails for good, or has been tried often enough.
///
/// # Errors
/// As [`Attempts::failed`].
pub async fn retry<R, F: Future<Output = Result<R>> + Send>(
    attempts: &mut Attempts,
    call: impl Fn() -> F + Send,
) -> Result<R> {
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => attempts.failed(error).await?,
        }
    }
}

/// A stream that came to an end too early, as an error that is worth another try.
fn early_end(at: u64, end: u64) -> Error {
    Error::transient(format!("the stream ended at byte {at} instead of {end}"))
}
