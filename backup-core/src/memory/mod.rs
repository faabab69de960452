//! A store in memory, for tests and for programs that need no history.

mod connections;
mod store;

pub use store::MemoryStore;
