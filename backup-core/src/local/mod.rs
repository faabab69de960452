//! The `local` adapter: files and directories of this machine.

mod apply;
mod beneath;
mod blocking;
mod destination;
mod identity;
mod publish;
mod rw;
mod target;
#[cfg(test)]
mod testing;

pub use destination::LocalDestination;
pub use identity::local_identity;
pub use target::{LocalTarget, LocalTargetConfig, NameRule, OwnerRule};
