//! The `local` adapter: files and directories of this machine.

mod blocking;
mod destination;
mod identity;
mod publish;
mod rw;
#[cfg(test)]
mod testing;

pub use destination::LocalDestination;
pub use identity::local_identity;
