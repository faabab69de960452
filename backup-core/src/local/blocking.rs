//! One hop to a blocking thread.

use crate::{Error, Result};
use tokio::task::JoinError;

/// Runs file work on a blocking thread. Dropping the future does not stop the work, it runs to its end.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// What file work on a blocking thread gave.
pub(super) fn joined<T>(outcome: Result<Result<T>, JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|failed| Err(stopped(failed)))
}

/// The error for work that panicked, or that was not started because the runtime is shutting down.
pub(super) fn stopped(failed: JoinError) -> Error {
    Error::permanent("file work stopped without an answer").because(failed)
}
