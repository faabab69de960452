//! One hop to a blocking thread.

use crate::{Error, Result};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

/// Runs file work on a blocking thread. When the future is dropped, work that has begun runs to its end; what still waits for a thread
/// never begins, so that nothing is written long after its writer has been stopped.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    joined(AbortOnDropHandle::new(tokio::task::spawn_blocking(work)).await)
}

/// What file work on a blocking thread gave.
pub(super) fn joined<T>(outcome: Result<Result<T>, JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|failed| Err(stopped(failed)))
}

/// The error for work that panicked, or that was not started because the runtime is shutting down.
pub(super) fn stopped(failed: JoinError) -> Error {
    Error::permanent("file work stopped without an answer").because(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};

    #[test]
    fn what_waits_for_a_thread_never_begins_when_nobody_waits_for_it_any_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (end, ended) = mpsc::channel::<()>();
            let first = tokio::spawn(blocking(move || Ok(ended.recv().is_ok())));
            tokio::task::yield_now().await;
            let begun = Arc::new(AtomicBool::new(false));
            let second = blocking({
                let begun = begun.clone();
                move || {
                    begun.store(true, Ordering::SeqCst);
                    Ok(())
                }
            });
            let mut second = Box::pin(second);
            assert!(futures::poll!(&mut second).is_pending());
            drop(second);
            end.send(()).unwrap();
            assert!(first.await.unwrap().unwrap());
            // The only thread is free again.
            blocking(|| Ok(())).await.unwrap();
            assert!(!begun.load(Ordering::SeqCst));
        });
    }
}
