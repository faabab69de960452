//! Changes which keys open a sealed archive. The archive key stays, and with it everything that is sealed; only its wraps change.
//!
//! The new wraps are put as another object, read back and opened; only then is the object before it removed. So at any moment
//! an object is there that opens, and a change that was cut short is done by repeating it.

use super::archive::{read_header, read_small};
use super::keys::{KeyObject, key_numbers, key_objects};
use crate::adapter::{Destination, Payload};
use crate::archive::{ArchiveKey, KeyProvider, KeyWrap, KeyWraps, ObjectNames};
use crate::model::{ArchiveId, ObjectName};
use crate::retry::{RetryPolicy, Retrying};
use crate::{Error, ErrorClass, Result};
use std::sync::Arc;

/// What becomes of the key that opened the archive so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldKey {
    /// It opens the archive no more. (Whoever kept a copy of the old wrap can still use it.)
    #[default]
    Remove,
    /// It opens the archive as well.
    Keep,
}

/// What [`rekey`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RekeyOutcome {
    /// The new key opens the archive now.
    Changed,
    /// It did so before, and the current one does not: the same was done already, or was cut short and is done now.
    Already,
}

/// Lets a new key open a sealed archive, and removes the one that did so far unless it is to be kept. Wraps for other keys stay.
///
/// Works in seconds whatever the archive's size. Safe to be cut short anywhere: repeat it.
///
/// # Errors
/// `Unauthorized` when the current key does not open the archive; `Invalid` when the archive is not sealed; `Conflict` when it is
/// not complete (its backup needs the key with which it began), or somebody else changes the keys at the same time; `NotFound`
/// when there is none; `Unsupported` when its keys were written by a newer version; otherwise what destination or providers met.
pub async fn rekey(
    destination: Arc<dyn Destination>,
    id: &ArchiveId,
    current: &dyn KeyProvider,
    new: &dyn KeyProvider,
    old: OldKey,
) -> Result<RekeyOutcome> {
    let destination = Retrying::new(destination, RetryPolicy::default());
    let (header, header_bytes) = read_header(&*destination, id).await?;
    if !header.sealed {
        return Err(Error::invalid("the archive is not sealed: it has no key that could be changed").on(id));
    }
    let names = ObjectNames::new(id.clone(), header.codec, header.sealed);
    complete(&*destination, &names).await?;
    let change = Change { destination: &*destination, names: &names, header: &header_bytes, current, new };
    change.run(old).await
}

/// Fails unless the archive is complete.
async fn complete(destination: &dyn Destination, names: &ObjectNames) -> Result<()> {
    if destination.stat(&names.swept()).await?.is_some() {
        return Err(Error::corrupt("the archive was swept: parts of it are gone").on(names.archive()));
    }
    if destination.stat(&names.manifest()).await?.is_none() {
        let text =
            "the archive is not complete: its backup needs the key with which it began; finish or cancel that first";
        return Err(Error::conflict(text).on(names.archive()));
    }
    Ok(())
}

struct Change<'a> {
    destination: &'a dyn Destination,
    names: &'a ObjectNames,
    header: &'a [u8],
    current: &'a dyn KeyProvider,
    new: &'a dyn KeyProvider,
}

impl Change<'_> {
    async fn run(&self, old: OldKey) -> Result<RekeyOutcome> {
        let objects = key_objects(self.destination, self.names).await?;
        // What a newer version has written must not be replaced by what this one understands of it.
        let mut readable: Vec<(&KeyObject, &KeyWraps)> = Vec::new();
        let mut damaged = None;
        for object in &objects {
            match &object.wraps {
                Ok(wraps) => readable.push((object, wraps)),
                Err(e) if e.class() == ErrorClass::Unsupported => {
                    return Err(Error::unsupported("the keys need a newer version of this program").on(&object.name));
                }
                Err(_) => damaged = damaged.or(Some(&object.name)),
            }
        }
        let Some((newest, wraps)) = readable.first() else {
            let error = Error::corrupt("all objects with the archive's keys are damaged");
            return Err(error.on(damaged.unwrap_or(&self.names.keys(0))));
        };

        let (mut key, mut of_current, mut others, mut has_new) = (None, Vec::new(), Vec::new(), false);
        for wrap in &wraps.wraps {
            let opened = self.opens(self.current, wrap).await?;
            let by_new = self.opens(self.new, wrap).await?.is_some();
            has_new |= by_new;
            match opened {
                // The new wrap takes its place.
                Some(opened) if by_new => key = key.or(Some(opened)),
                Some(opened) => {
                    key = key.or(Some(opened));
                    of_current.push(wrap.clone());
                }
                None if by_new => {}
                None => others.push(wrap.clone()),
            }
        }
        if key.is_none() && has_new && old == OldKey::Remove {
            self.remove_before(newest.number, &objects).await?;
            return Ok(RekeyOutcome::Already);
        }
        if key.is_none() {
            // A change that was cut short, to be done otherwise: the current key opens only what comes before it.
            for wrap in readable.iter().skip(1).flat_map(|(_, older)| &older.wraps) {
                if let Some(opened) = self.opens(self.current, wrap).await? {
                    key = Some(opened);
                    of_current.push(wrap.clone());
                    break;
                }
            }
        }
        let Some(key) = key else {
            return match wraps.open(self.current, self.header).await {
                Err(error) if !has_new => Err(error.on(self.names.archive())),
                _ => Ok(RekeyOutcome::Already),
            };
        };
        if old == OldKey::Keep {
            others.append(&mut of_current);
        }
        others.push(self.new.wrap(&key, self.header).await?);
        let number = objects.first().map_or(0, |newest| newest.number).checked_add(1);
        let number = number.ok_or_else(|| Error::corrupt("the number of the keys' object is too high"))?;
        self.put(number, KeyWraps::new(others), &key).await?;
        self.remove_before(number, &objects).await?;
        Ok(RekeyOutcome::Changed)
    }

    /// The archive key, when the provider opens this wrap; what is refused or damaged is not for it.
    async fn opens(&self, provider: &dyn KeyProvider, wrap: &KeyWrap) -> Result<Option<ArchiveKey>> {
        match provider.unwrap(wrap, self.header).await {
            Err(e) if e.is_retryable() || e.class() == ErrorClass::Cancelled => Err(e),
            opened => Ok(opened.unwrap_or(None)),
        }
    }

    /// Puts the wraps, and makes sure that they are there and open.
    async fn put(&self, number: u64, wraps: KeyWraps, key: &ArchiveKey) -> Result<()> {
        let name = self.names.keys(number);
        let bytes = wraps.encode()?;
        self.destination.put(&name, Payload::from(bytes.clone())).await.map_err(|e| match e.class() {
            ErrorClass::Conflict => busy(&name),
            _ => e.on(&name),
        })?;
        let back = read_small(self.destination, &name, bytes.len() as u64).await.map_err(|e| e.on(&name))?;
        let opened = match *back == *bytes {
            true => KeyWraps::parse(&back)?.open(self.new, self.header).await.is_ok_and(|opened| opened == *key),
            false => false,
        };
        if !opened {
            let text = "the new keys do not read back as they were written; the old ones stay, try again";
            return Err(Error::corrupt(text).on(&name));
        }
        // Somebody may have gone on from the same objects and further, or have removed the archive.
        let newer = key_numbers(self.destination, self.names).await?.into_iter().any(|other| other > number);
        let still = if newer { Err(busy(&name)) } else { complete(self.destination, self.names).await };
        if let Err(error) = still {
            self.destination.delete(&name).await.map_err(|e| e.on(&name))?;
            return Err(error);
        }
        Ok(())
    }

    async fn remove_before(&self, number: u64, objects: &[KeyObject]) -> Result<()> {
        for object in objects.iter().filter(|object| object.number < number) {
            let removed = self.destination.delete(&object.name).await;
            removed
                .map_err(|e| e.on(&object.name).context("the new key opens the archive, but the old one remains"))?;
        }
        Ok(())
    }
}

fn busy(name: &ObjectName) -> Error {
    Error::conflict("somebody else changes the keys of this archive at the same time; look, and try again").on(name)
}
