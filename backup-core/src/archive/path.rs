//! Tar paths.

use crate::model::{EntryKind, EntryName};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The longest entry name that an archive can hold, in bytes.
pub const MAX_NAME: usize = 64 << 10;
/// The entry that an archive adds of its own.
pub const WARNINGS_FILE: &str = "BACKUP-WARNINGS.txt";

/// Makes tar paths, in the order of the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TarPaths {}

impl TarPaths {
    /// At the start of an archive.
    pub fn new() -> Self {
        Self::default()
    }
    /// The path of the next entry; borrowed when it equals the name.
    pub fn next<'a>(&mut self, _name: &'a EntryName, _kind: &EntryKind) -> Cow<'a, str> {
        todo!()
    }
    /// The path of an entry as it would come next, e.g. of a hard link's target; changes nothing.
    pub fn path<'a>(&self, _name: &'a EntryName) -> Cow<'a, str> {
        todo!()
    }
}
