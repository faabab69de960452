//! What of a tree belongs to a source.

use super::identity::{os, path_of_location};
use super::metadata::Inode;
use crate::model::Identity;
use crate::{Error, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::AtFlags;
use std::collections::HashSet;
use std::os::unix::ffi::OsStringExt;

/// Compiles patterns, see [`LocalSourceConfig::exclude`](super::LocalSourceConfig::exclude).
pub(crate) fn compile(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let trimmed = pattern.trim_end_matches('/');
        let anchored = match trimmed.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None if trimmed.contains('/') => trimmed.to_owned(),
            None => format!("**/{trimmed}"),
        };
        let failed = |e| Error::invalid("not a valid exclude pattern").on(format!("{pattern:?}")).because(e);
        if trimmed.is_empty() {
            return Err(Error::invalid("an empty pattern would exclude nothing").on(format!("{pattern:?}")));
        }
        let glob = GlobBuilder::new(&anchored).literal_separator(true).backslash_escape(true).build();
        set.add(glob.map_err(failed)?);
    }
    set.build().map_err(|e| Error::invalid("the exclude patterns are too many or too large").because(e))
}

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
        (!self.globs.is_empty() && self.globs.is_match(os(path)))
            || (!self.paths.is_empty() && self.paths.contains(path))
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
    fn patterns_match_names_anywhere_or_paths_from_the_root() {
        let set = |patterns: &[&str]| Scope {
            globs: compile(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).unwrap(),
            ..Scope::default()
        };
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("*.log", &["a.log", "x/y/b.log"], &["a.log.gz", "x/log"]),
            ("target/", &["target", "x/target"], &["targets", "x/target/y"]),
            ("/target", &["target"], &["x/target"]),
            ("x/*.o", &["x/a.o"], &["y/x/a.o", "x/y/a.o"]),
            ("x/**", &["x/a", "x/a/b"], &["x", "y/a"]),
            ("**/cache/tmp", &["cache/tmp", "a/b/cache/tmp"], &["cache"]),
            ("[ab]?", &["ax", "q/b1"], &["c1"]),
            ("a\\*", &["a*"], &["ab"]),
        ];
        for (pattern, yes, no) in cases {
            let scope = set(&[pattern]);
            for path in *yes {
                assert!(scope.leaves_out(path.as_bytes()), "{pattern} {path}");
            }
            for path in *no {
                assert!(!scope.leaves_out(path.as_bytes()), "{pattern} {path}");
            }
        }
        assert!(set(&["*.x"]).leaves_out(b"\xff\xfe.x"));
        assert!(compile(&["a[".to_owned()]).is_err());
        assert!(compile(&["/".to_owned()]).is_err());
    }

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
