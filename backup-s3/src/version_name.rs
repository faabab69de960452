//! How the versions of an object are named in an archive.
//!
//! An archive of current objects names each entry by its key below the prefix. An archive of all versions has an entry for
//! each version and each delete marker, the oldest of a key first:
//!
//! - The current version has the plain key as its name, so that restoring to a disk, `tar` and patterns give the current
//!   objects as they are. Earlier ones are named `KEY?versionId=ID`, delete markers `KEY?deleteMarker=ID`, and are empty.
//! - A key that has `?versionId=` or `?deleteMarker=` in itself is never used as a plain name. So no two versions share a name,
//!   and a name is taken apart at the last of these words.
//! - Each entry carries the header `version-id`, a delete marker also `delete-marker: true`, and a current version whose name is
//!   not its key `latest: true`. A name is that of a version exactly if the entry has the first header and the name ends with the
//!   word and the same id: [`VersionName::of`]. Archives of current objects have no such header, whatever their keys look like.
//! - `%`, `?`, `/`, blanks and whatever is not printable ASCII in an id is percent-encoded in the name.
//! - Entries of a key with several versions are of one group, named like the key.
//! - A bucket as restore target takes the current versions, under their keys, and leaves out the others with a warning each. Other
//!   targets take each entry under its name.

use backup_core::model::{Entry, Metadata};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Name of the header with the id of a version.
const VERSION_ID: &str = "version-id";
/// Name of the header that tells a current version whose name is not its key.
const LATEST: &str = "latest";
/// Name of the header that tells a delete marker.
const DELETE_MARKER: &str = "delete-marker";

const VERSION: &str = "?versionId=";
const MARKER: &str = "?deleteMarker=";
const ENCODED: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'/').add(b' ');

/// A name taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionName {
    /// The key below the prefix.
    pub(crate) key: String,
    /// The id, unless it is a current version.
    pub(crate) id: Option<String>,
    /// Whether it is a delete marker.
    pub(crate) delete_marker: bool,
}

impl VersionName {
    /// The name of a version in an archive of all versions.
    pub(crate) fn encode(key: &str, id: &str, latest: bool, delete_marker: bool) -> String {
        if latest && !delete_marker && !Self::is_reserved(key) {
            return key.to_owned();
        }
        let word = if delete_marker { MARKER } else { VERSION };
        format!("{key}{word}{}", utf8_percent_encode(id, ENCODED))
    }

    /// Takes a name of an archive of all versions apart.
    pub(crate) fn decode(name: &str) -> Self {
        let found = [(VERSION, false), (MARKER, true)].into_iter().filter_map(|(word, marker)| {
            let at = name.rfind(word)?;
            Some((at, at + word.len(), marker))
        });
        match found.max() {
            None => Self { key: name.to_owned(), id: None, delete_marker: false },
            Some((at, id, delete_marker)) => Self {
                key: name[..at].to_owned(),
                id: Some(percent_decode_str(&name[id..]).decode_utf8_lossy().into_owned()),
                delete_marker,
            },
        }
    }

    /// What an entry of any archive stands for, so that it can be put back: the key, and which version. `None` when its name is
    /// no text, which no key is.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let name = entry.name.as_str()?;
        let Metadata { headers, .. } = &entry.metadata;
        let plain = Self { key: name.to_owned(), id: None, delete_marker: false };
        let Some(id) = headers.get(VERSION_ID) else { return Some(plain) };
        let decoded = Self::decode(name);
        let fits = decoded.id.as_ref() == Some(id) && decoded.delete_marker == headers.contains_key(DELETE_MARKER);
        let latest = headers.contains_key(LATEST);
        Some(match fits {
            true => Self { id: decoded.id.filter(|_| !latest), ..decoded },
            false => plain,
        })
    }

    /// Adds to an entry's metadata what [`of`](Self::of) looks for. `latest` is for a current version whose name is not its key.
    pub(crate) fn tell(metadata: &mut Metadata, id: &str, latest: bool, delete_marker: bool) {
        metadata.headers.insert(VERSION_ID.to_owned(), id.to_owned());
        for (header, _) in [(LATEST, latest), (DELETE_MARKER, delete_marker)].into_iter().filter(|(_, is)| *is) {
            metadata.headers.insert(header.to_owned(), "true".to_owned());
        }
    }

    /// Whether a key is never used as a plain name.
    pub(crate) fn is_reserved(key: &str) -> bool {
        key.contains(VERSION) || key.contains(MARKER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::model::EntryKind;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn the_current_version_has_the_plain_key() {
        assert_eq!(VersionName::encode("a/b", "v1", true, false), "a/b");
        assert_eq!(VersionName::encode("a/b", "v1", false, false), "a/b?versionId=v1");
        assert_eq!(VersionName::encode("a/b", "v2", true, true), "a/b?deleteMarker=v2");
        assert_eq!(VersionName::encode("a?versionId=x", "v1", true, false), "a?versionId=x?versionId=v1");
    }

    fn entry(name: &str, metadata: Metadata) -> Entry {
        Entry {
            name: name.into(),
            kind: EntryKind::File,
            size: 0,
            mtime: None,
            metadata,
            sha256: None,
            offset: 0,
            ordinal: 0,
            group: None,
            inconsistent: false,
            superseded: false,
        }
    }

    #[test]
    fn in_an_archive_of_current_objects_every_name_is_a_key() {
        let headers = [(LATEST.to_owned(), "true".to_owned())].into();
        for metadata in [Metadata::default(), Metadata { headers, ..Metadata::default() }] {
            let found = VersionName::of(&entry("a?versionId=x", metadata)).unwrap();
            assert_eq!((&*found.key, found.id), ("a?versionId=x", None));
        }
    }

    fn keys() -> impl Strategy<Value = String> {
        prop_oneof!["[a?]{0,3}(\\?versionId=|\\?deleteMarker=)?[a?=%/]{0,3}", ".{0,6}"]
    }

    proptest! {
        #[test]
        fn every_name_is_taken_apart_into_what_it_was_made_of(key in keys(), id in keys(), latest: bool, marker: bool) {
            let name = VersionName::encode(&key, &id, latest, marker);
            let decoded = VersionName::decode(&name);
            prop_assert_eq!(&decoded.key, &key);
            if name != key {
                prop_assert_eq!(decoded.id, Some(id));
                prop_assert_eq!(decoded.delete_marker, marker);
            }
        }

        #[test]
        fn an_entry_tells_its_key_and_whether_it_is_the_current_version(key in keys(), id in keys(), latest: bool, marker: bool) {
            let name = VersionName::encode(&key, &id, latest, marker);
            let mut metadata = Metadata::default();
            VersionName::tell(&mut metadata, &id, latest && !marker && name != key, marker);
            let found = VersionName::of(&entry(&name, metadata)).unwrap();
            prop_assert_eq!(found.key, key);
            prop_assert_eq!(found.id.is_none(), latest && !marker);
            prop_assert_eq!(found.delete_marker, marker);
        }

        #[test]
        fn no_two_versions_share_a_name(versions in proptest::collection::hash_set((keys(), "[a-z?]{1,2}", any::<bool>()), 0..8)) {
            // Of each key at most one version is the current one, and an id stands for one version only.
            let mut seen = HashSet::new();
            let versions: Vec<_> = versions.into_iter().filter(|(key, id, _)| seen.insert((key.clone(), id.clone()))).collect();
            let mut with_latest = HashSet::new();
            let names: HashSet<String> = versions
                .iter()
                .map(|(key, id, marker)| VersionName::encode(key, id, with_latest.insert(key.clone()), *marker))
                .collect();
            prop_assert_eq!(names.len(), versions.len());
        }
    }
}
