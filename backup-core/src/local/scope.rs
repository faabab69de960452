//! What of a tree belongs to a source.

use super::identity::path_of_location;
use super::metadata::Inode;
use crate::model::Identity;
use crate::pattern::fits;
use globset::GlobSet;
use rustix::fs::AtFlags;
use std::collections::HashSet;
use std::os::unix::ffi::OsStringExt;

/// What is left out of one run.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    globs: GlobSet,
    /// Relative paths.
    paths: HashSet<Vec<u8>>,
    /// The same places once more, for when they are reached by another path (a bind mount).
    inodes: HashSet<Inode>,
    /// Nothing at all belongs to the source.
    pub(crate) nothing: bool,
    /// Directories on other file systems than the root are not entered.
    pub(crate) one_file_system: bool,
}

impl Scope {
    /// Leaves out what the patterns match and the places in `excluded`. Does I/O.
    pub(crate) fn new(globs: GlobSet, one_file_system: bool, root: &Identity, excluded: &[Identity]) -> Self {
        let mut scope = Self { globs, one_file_system, ..Self::default() };
        for place in excluded.iter().filter(|place| place.kind == root.kind) {
            let path = path_of_location(&place.location);
            if place.contains(root) {
                scope.nothing = true;
            } else if let Some(below) = root.below(place) {
                scope.paths.insert(path_of_location(below).into_os_string().into_vec());
            }
            // A place that does not exist (yet) cannot be met under another path.
            if let Ok(stat) = rustix::fs::statat(rustix::fs::CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
                scope.inodes.insert(super::metadata::FileState::from(stat).inode());
            }
        }
        scope
    }

    /// Whether this relative path, and everything below it, is left out.
    pub(crate) fn leaves_out(&self, path: &[u8]) -> bool {
        fits(&self.globs, path) || (!self.paths.is_empty() && self.paths.contains(path))
    }

    /// Whether this directory is one of the places that are left out.
    pub(crate) fn leaves_out_inode(&self, inode: Inode) -> bool {
        self.inodes.contains(&inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_places_are_those_inside_the_root() {
        let id = |path: &str| Identity::new("local", path);
        let root = id("/data/x");
        let excluded = [id("/data/x/b%2525"), id("/data/xy"), Identity::new("s3", "/data/x/c"), id("/other")];
        let scope = Scope::new(GlobSet::default(), false, &root, &excluded);
        assert!(scope.leaves_out(b"b%25"));
        assert!(!scope.leaves_out(b"b%2525") && !scope.leaves_out(b"c") && !scope.nothing);
        assert!(Scope::new(GlobSet::default(), false, &root, &[id("/data")]).nothing);
    }
}
