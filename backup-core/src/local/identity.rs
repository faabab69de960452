//! The identity of a place in the file system.

use crate::model::Identity;
use crate::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The kind of the identities and connections of this adapter.
pub(crate) const KIND: &str = "local";

/// The identity of a path: kind `local`, and the absolute path with all symbolic links resolved.
///
/// A path that does not exist (yet) is resolved as far as it exists. Bytes that are not UTF-8, and `%` itself, are
/// percent-encoded, so that different paths have different identities. Does I/O that may block.
///
/// # Errors
/// `Invalid` for an empty path, or `..` below something that does not exist; otherwise what resolving the path met.
pub fn local_identity(path: impl AsRef<Path>) -> Result<Identity> {
    Ok(identity_of_resolved(&resolve(path.as_ref())?))
}

/// The absolute path without symbolic links, as far as it exists, and the rest as it is.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    let failed = |e| Error::io(e, "cannot resolve the path").on(path.display());
    let mut existing = std::path::absolute(path).map_err(failed)?;
    let mut missing: Vec<OsString> = Vec::new();
    loop {
        match existing.canonicalize() {
            Ok(mut resolved) => {
                resolved.extend(missing.iter().rev());
                return Ok(resolved);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => match existing.components().next_back() {
                Some(Component::Normal(name)) => {
                    missing.push(name.to_owned());
                    existing.pop();
                }
                Some(Component::ParentDir) => {
                    return Err(Error::invalid("`..` below a directory that does not exist").on(path.display()));
                }
                _ => return Err(failed(e)),
            },
            Err(e) => return Err(failed(e)),
        }
    }
}

/// The identity of a path that [`resolve`] gave.
pub(crate) fn identity_of_resolved(path: &Path) -> Identity {
    let mut location = String::with_capacity(path.as_os_str().len());
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        location.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            location.push_str(&format!("%{byte:02X}"));
        }
    }
    Identity::new(KIND, location)
}

/// The path that a location, or the part of one, stands for: undoes the percent-encoding.
pub(crate) fn path_of_location(location: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(location.len());
    let mut rest = location.as_bytes();
    while let [first, after @ ..] = rest {
        let mut decoded = [0];
        if *first == b'%' && after.len() >= 2 && hex::decode_to_slice(&after[..2], &mut decoded).is_ok() {
            bytes.push(decoded[0]);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Bytes as a file name or path.
pub(crate) fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;

    #[test]
    fn links_and_dots_and_slashes_make_no_difference() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        let expected = Identity::new("local", root.join("a/b").to_str().unwrap());
        for same in ["a/b", "a/b/", "a/./b", "link/b", "a/b/../b"] {
            assert_eq!(local_identity(root.join(same)).unwrap(), expected, "{same}");
        }
        assert!(local_identity(&root).unwrap().contains(&expected));
    }

    #[test]
    fn a_path_that_does_not_exist_is_resolved_as_far_as_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(".", root.join("link")).unwrap();
        assert_eq!(local_identity(root.join("link/x/y")).unwrap(), local_identity(root.join("x/y")).unwrap());
        assert_eq!(local_identity(root.join("x/../y")).unwrap_err().class(), ErrorClass::Invalid);
    }

    #[test]
    fn names_that_are_not_utf8_stay_apart_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = std::collections::HashSet::new();
        for name in [&b"\xff"[..], b"%FF", b"%25FF", b"%", b"a%zz", b"\xc3\xa4"] {
            let path = dir.path().canonicalize().unwrap().join(os(name));
            let identity = local_identity(&path).unwrap();
            assert_eq!(path_of_location(&identity.location), path);
            assert!(seen.insert(identity));
        }
    }

    #[test]
    fn the_root_directory_holds_everything() {
        let root = local_identity("/").unwrap();
        assert_eq!(root.to_string(), "local:/");
        assert!(root.contains(&local_identity("/usr").unwrap()));
    }
}
