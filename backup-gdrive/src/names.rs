//! How objects of archives are found again: by properties that only this app sees.
//!
//! Names are not unique in Drive, and files are not found by paths. So each file carries, as `appProperties` of at most 124 bytes each:
//! - `backupObject`: SHA-256 of the root folder's id, `/` and the object's name, in hexadecimal
//! - `backupArchive`: the same of the name's first component
//! - `backupName0`, `backupName1`, …: the object's name, in pieces
//!
//! Folders of archives carry `backupFolder` = `archive`. For people, the folders and names are those of the object's name.

use backup_core::Digest;
use backup_core::model::ObjectName;
use serde_json::{Map, Value};
use std::collections::HashMap;

pub(crate) const OBJECT: &str = "backupObject";
pub(crate) const ARCHIVE: &str = "backupArchive";
pub(crate) const FOLDER: &str = "backupFolder";
const NAME: &str = "backupName";
/// Bytes of a name in one property: with its key at most 124.
const PIECE: usize = 100;

/// The value by which something below a root folder is found.
pub(crate) fn mark(root: &str, name: &str) -> String {
    Digest::of(format!("{root}/{name}").as_bytes()).to_string()
}

/// The first component, and the rest of the name if there is one.
pub(crate) fn split(name: &ObjectName) -> (&str, Option<&str>) {
    match name.as_str().split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name.as_str(), None),
    }
}

/// The properties of an object.
pub(crate) fn properties(root: &str, name: &ObjectName) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert(OBJECT.into(), mark(root, name.as_str()).into());
    map.insert(ARCHIVE.into(), mark(root, split(name).0).into());
    // Names of objects are ASCII.
    for (n, piece) in name.as_str().as_bytes().chunks(PIECE).enumerate() {
        map.insert(format!("{NAME}{n}"), String::from_utf8_lossy(piece).into_owned().into());
    }
    map
}

/// The name in an object's properties; `None` for files of others, and for what was copied from elsewhere.
pub(crate) fn name_of(root: &str, properties: &HashMap<String, String>) -> Option<ObjectName> {
    let pieces: String = (0..).map_while(|n| properties.get(&format!("{NAME}{n}"))).map(String::as_str).collect();
    let name = ObjectName::new(pieces).ok()?;
    (properties.get(OBJECT)? == &mark(root, name.as_str())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_comes_back_from_its_properties_and_only_below_its_root() {
        for name in
            ["a", "20261120T061500Z-1a2b3c4d/data/00000000-1x7f3a9c.tar.zst", "x/".repeat(499).trim_end_matches('/')]
        {
            let name = ObjectName::new(name).unwrap();
            let map = properties("root", &name);
            assert!(map.len() <= 30 && map.iter().all(|(k, v)| k.len() + v.as_str().unwrap().len() <= 124), "{map:?}");
            let map: HashMap<String, String> =
                map.into_iter().map(|(k, v)| (k, v.as_str().unwrap().to_owned())).collect();
            assert_eq!(name_of("root", &map), Some(name));
            assert_eq!(name_of("other", &map), None);
        }
        assert_eq!(name_of("root", &HashMap::new()), None);
    }
}
