//! The `local` adapter: files and directories of this machine.

mod batch;
mod content;
mod cursor;
mod events;
mod holes;
mod identity;
mod links;
mod metadata;
mod names;
mod open;
mod read;
mod scope;
mod source;
mod walk;

pub use identity::local_identity;
pub use source::{LocalSource, LocalSourceConfig};
