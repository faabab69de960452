//! The `local` adapter: files and directories of this machine.

mod identity;

pub use identity::local_identity;
