//! In-memory doubles that are stricter than any real service.
//!
//! They check what their caller owes them as well as what they owe the caller: a breach is an error of class
//! [`Invalid`](backup_core::ErrorClass::Invalid) that says what was wrong.

mod blob;
mod clock;
mod destination;
mod source;
mod target;

pub(crate) use blob::mix;

pub use blob::Blob;
pub use clock::{Clock, ManualClock, SystemClock};
pub use destination::{Damage, MemoryDestination};
pub use source::{MemoryContent, MemoryEntry, MemorySource, OnChange, OnResume, Synthetic, Trouble, TroubleAt};
pub use target::{MemoryTarget, Names, Restored};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A double stays usable after a test of its panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
