//! Ctrl-C and SIGTERM while an operation runs.

use backup_core::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// SIGINT: somebody wants the operation to stand still.
    Pause,
    /// SIGTERM: this process has to end, and another one may go on.
    ShutDown,
}

/// Listens for SIGINT and SIGTERM. From the moment it is made they no longer end the process by themselves.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    received: bool,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn install() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Error::io(e, "cannot listen for signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            received: false,
        })
    }

    /// Waits for the next one. May be dropped and called again without losing any.
    pub(crate) async fn next(&mut self) -> Wish {
        let wish = tokio::select! {
            _ = self.interrupt.recv() => Wish::Pause,
            _ = self.terminate.recv() => Wish::ShutDown,
        };
        self.received = true;
        wish
    }

    /// Whether there has been one.
    pub(crate) fn were_received(&self) -> bool {
        self.received
    }
}
