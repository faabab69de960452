//! One hop to a blocking thread.

use crate::{Error, Result};

/// Runs file work on a blocking thread. Dropping the future does not stop the work, it runs to its end.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => Err(Error::permanent("file work stopped without an answer").because(panicked)),
    }
}
