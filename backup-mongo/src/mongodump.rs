//! What `mongodump` writes: directories and archive files, read as input of a restore, and directories written from an archive.
//!
//! The archive format is described in the sources of the MongoDB database tools, `common/archive/spec.md`.

mod archive;
mod crc64;
mod directory;
mod export;
mod input;
mod plan;
mod restore;

pub use export::{Exported, export_directory};
pub use plan::Dump;
pub use restore::{DumpOptions, DumpOutcome, restore_dump};
