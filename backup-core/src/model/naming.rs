//! What the names of a source's entries are.

use serde::{Deserialize, Serialize};

/// What the names of a source's entries are. An archive keeps it, so that whoever restores it elsewhere knows how to read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Naming {
    /// Paths of a tree: a name is a file or a directory and never both, and no component is empty or leads upwards.
    #[default]
    Paths,
    /// Keys of an object store: any text, in which `/` has no meaning of its own; `a`, `a/` and `a/b` may stand beside each other.
    Keys,
}

impl Naming {
    /// Whether it is the usual one, which need not be written down.
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}
