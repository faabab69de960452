//! The `local` adapter: files and directories of this machine.

mod adapter;
mod apply;
mod batch;
mod beneath;
mod blocking;
mod content;
mod cursor;
mod destination;
mod events;
mod holes;
mod identity;
mod links;
mod metadata;
mod names;
mod open;
mod publish;
mod read;
mod rw;
mod scope;
mod source;
mod target;
#[cfg(test)]
mod testing;
mod walk;

pub use adapter::LocalAdapter;
pub use destination::LocalDestination;
pub use identity::local_identity;
pub use source::{LocalSource, LocalSourceConfig};
pub use target::{LocalTarget, LocalTargetConfig, NameRule, OwnerRule};
