//! The objects with an archive's key wraps: found, read, and opened.

use super::archive::read_small;
use crate::adapter::Destination;
use crate::archive::{ArchiveKey, KeyProvider, KeyWraps, ObjectNames};
use crate::model::ObjectName;
use crate::{Error, ErrorClass, Result};
use futures::TryStreamExt;

/// A list of keys is never longer.
const MAX_KEYS: u64 = 1 << 20;
/// So many of these objects are looked at, the newest ones. A change of keys that was cut short leaves one behind.
const MAX_OBJECTS: usize = 16;
/// How often the objects are listed anew when one of them has gone meanwhile.
const TRIES: usize = 5;

/// One object with wraps.
#[derive(Debug)]
pub(super) struct KeyObject {
    pub(super) number: u64,
    pub(super) name: ObjectName,
    /// An error when it is damaged, or of a newer version.
    pub(super) wraps: Result<KeyWraps>,
}

/// All objects with wraps, the newest first; at least one.
pub(super) async fn key_objects(destination: &dyn Destination, names: &ObjectNames) -> Result<Vec<KeyObject>> {
    for _ in 0..TRIES {
        if let Some(objects) = read_all(destination, names).await? {
            return Ok(objects);
        }
    }
    Err(Error::transient("the keys are being changed all the time").on(names.archive()))
}

/// `None` when one was removed between the listing and its reading.
async fn read_all(destination: &dyn Destination, names: &ObjectNames) -> Result<Option<Vec<KeyObject>>> {
    let mut objects = Vec::new();
    for number in key_numbers(destination, names).await?.into_iter().rev().take(MAX_OBJECTS) {
        let name = names.keys(number);
        let wraps = match read_small(destination, &name, MAX_KEYS).await {
            Ok(bytes) => KeyWraps::parse(&bytes).map_err(|e| e.on(&name)),
            Err(e) if e.class() == ErrorClass::NotFound => return Ok(None),
            Err(e) if e.class() == ErrorClass::Corrupt => Err(e.on(&name)),
            Err(e) => return Err(e.on(&name)),
        };
        objects.push(KeyObject { number, name, wraps });
    }
    if objects.is_empty() {
        let text = "the archive is sealed, but the object with its wrapped keys is missing";
        return Err(Error::corrupt(text).on(names.keys(0)));
    }
    Ok(Some(objects))
}

/// The numbers of the objects with wraps, in order.
pub(super) async fn key_numbers(destination: &dyn Destination, names: &ObjectNames) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let folder = names.keys_folder();
    let mut listed = destination.list(Some(&folder));
    while let Some(object) = listed.try_next().await? {
        numbers.extend(names.parse_keys(&object.name));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The archive key, by the newest object that the provider opens.
///
/// Objects that are damaged or open with another key are passed over as long as another one opens: a change of keys may have been
/// cut short. The error is that of the newest.
pub(super) async fn open_key(
    destination: &dyn Destination,
    names: &ObjectNames,
    header: &[u8],
    provider: &dyn KeyProvider,
) -> Result<ArchiveKey> {
    let mut refused = None;
    for object in key_objects(destination, names).await? {
        let opened = match object.wraps {
            Ok(wraps) => wraps.open(provider, header).await.map_err(|e| e.on(names.archive())),
            Err(e) => Err(e),
        };
        match opened {
            Ok(key) => return Ok(key),
            Err(e) if e.is_retryable() || e.class() == ErrorClass::Cancelled => return Err(e),
            Err(e) => refused = refused.or(Some(e)),
        }
    }
    Err(refused.unwrap_or_else(|| Error::corrupt("the archive has no keys").on(names.archive())))
}
