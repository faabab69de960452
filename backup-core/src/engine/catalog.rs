//! Which archives a destination holds.

use super::archive::{digest_of, read_header, read_small};
use super::keys::open_key;
use super::retrying;
use crate::adapter::{Destination, Store};
use crate::archive::{Header, KeyProvider, Manifest, ObjectNames, Totals, unseal};
use crate::model::{ArchiveId, ArchiveRecord, KnownArchive};
use crate::{Digest, Error, ErrorClass, Result};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The manifest of a listed archive is held in memory up to this length, some ten million entries; longer ones are compared by
/// their digest, and their totals are left out.
const MAX_LISTED_MANIFEST: u64 = 64 << 20;

/// Calls for the newest complete archive.
pub(super) const LATEST: &str = "latest";

/// In what state an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveStatus {
    /// It has a manifest.
    Complete,
    /// It has none: a backup is writing it, is paused, or was given up.
    Incomplete,
    /// It was swept, and parts of it may be gone.
    Swept,
    /// The store remembers it as complete, and the destination does not have it as such any more.
    Missing,
    /// Its manifest is not the one that the store remembers: somebody has put another archive in its place.
    Replaced,
    /// Its header or manifest cannot be read.
    Unreadable(String),
}

/// What a listing says of an archive.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchiveSummary {
    /// The archive.
    pub id: ArchiveId,
    /// Its state.
    pub status: ArchiveStatus,
    /// Its header, if that can be read.
    pub header: Option<Header>,
    /// Sums from its manifest; `None` when it is sealed and no key opens it, or when its manifest is longer than 64 MiB.
    pub totals: Option<Totals>,
    /// When it was completed, with the same condition.
    pub finished_at: Option<jiff::Timestamp>,
}

/// Lists the archives of a destination in the order of their times.
///
/// With a store, archives that it remembers for this destination are compared: see [`ArchiveStatus::Missing`] and
/// [`ArchiveStatus::Replaced`]. Keys are needed only for the totals of sealed archives.
///
/// # Errors
/// When the destination or the store cannot be read. Trouble with one archive is told in its status.
pub async fn list_archives(
    destination: &Arc<impl Destination + ?Sized>,
    store: Option<&dyn Store>,
    keys: Option<&dyn KeyProvider>,
) -> Result<Vec<ArchiveSummary>> {
    list(&*retrying(destination), store, keys).await
}

async fn list(
    destination: &dyn Destination,
    store: Option<&dyn Store>,
    keys: Option<&dyn KeyProvider>,
) -> Result<Vec<ArchiveSummary>> {
    let mut known = BTreeMap::new();
    if let Some(store) = store {
        for KnownArchive { record, .. } in store.archives(&destination.identity()).await? {
            known.insert(record.archive.clone(), record);
        }
    }
    let mut summaries = Vec::new();
    for id in archive_ids(destination).await? {
        let record = known.remove(&id);
        summaries.push(summarise(destination, id, record.as_ref(), keys).await?);
    }
    for (id, _) in known {
        summaries.push(ArchiveSummary {
            id,
            status: ArchiveStatus::Missing,
            header: None,
            totals: None,
            finished_at: None,
        });
    }
    // Ids tell the second; within it the header is more exact.
    summaries.sort_by_cached_key(|summary| {
        let started_at = summary.header.as_ref().map(|header| header.started_at);
        (second(&summary.id).to_owned(), started_at, summary.id.clone())
    });
    Ok(summaries)
}

/// The second in which an archive was begun; ids of one second are in no order.
fn second(id: &ArchiveId) -> &str {
    id.as_str().split_once('-').map_or(id.as_str(), |(second, _)| second)
}

/// The ids of all archives of which anything is there, in order.
pub(super) async fn archive_ids(destination: &dyn Destination) -> Result<Vec<ArchiveId>> {
    let mut ids = Vec::new();
    let mut roots = destination.list_roots();
    while let Some(root) = roots.try_next().await? {
        // Whatever else lies there is not ours.
        ids.extend(root.parse::<ArchiveId>());
    }
    ids.sort();
    Ok(ids)
}

async fn summarise(
    destination: &dyn Destination,
    id: ArchiveId,
    known: Option<&ArchiveRecord>,
    keys: Option<&dyn KeyProvider>,
) -> Result<ArchiveSummary> {
    let mut summary = ArchiveSummary {
        id: id.clone(),
        status: ArchiveStatus::Incomplete,
        header: None,
        totals: None,
        finished_at: None,
    };
    let (header, header_bytes) = match read_header(destination, &id).await {
        Ok(read) => read,
        Err(e) if e.class() == ErrorClass::NotFound => {
            if known.is_some() {
                summary.status = ArchiveStatus::Missing;
            }
            return Ok(summary);
        }
        Err(e) if is_about_the_archive(&e) => {
            summary.status = ArchiveStatus::Unreadable(e.chain());
            return Ok(summary);
        }
        Err(e) => return Err(e),
    };
    let names = ObjectNames::new(id.clone(), header.codec, header.sealed);
    summary.header = Some(header.clone());
    if destination.stat(&names.swept()).await?.is_some() {
        summary.status = ArchiveStatus::Swept;
        return Ok(summary);
    }
    let Some(info) = destination.stat(&names.manifest()).await? else {
        if known.is_some() {
            summary.status = ArchiveStatus::Missing;
        }
        return Ok(summary);
    };
    summary.status = ArchiveStatus::Complete;
    let checked = async {
        if info.size > MAX_LISTED_MANIFEST {
            let Some(record) = known else { return Ok(Ok(None)) };
            let same = digest_of(destination, &names.manifest()).await? == record.manifest_sha256;
            return Ok(if same { Ok(None) } else { Err(()) });
        }
        let stored = read_small(destination, &names.manifest(), MAX_LISTED_MANIFEST).await?;
        if known.is_some_and(|record| record.manifest_sha256 != Digest::of(&stored)) {
            return Ok::<_, Error>(Err(()));
        }
        let plain = match (header.sealed, keys) {
            (false, _) => Some(stored.to_vec()),
            (true, None) => None,
            (true, Some(provider)) => match open_key(destination, &names, &header_bytes, provider).await {
                Ok(key) => {
                    let manifest = names.manifest();
                    Some(unseal(&key, &id, names.relative(&manifest).unwrap_or_default(), &stored)?)
                }
                // The archive of somebody with another key; listing it is no failure.
                Err(e) if e.class() == ErrorClass::Unauthorized => None,
                Err(e) => return Err(e),
            },
        };
        let Some(plain) = plain else { return Ok(Ok(None)) };
        let manifest = Manifest::parse(&plain)?;
        manifest.check_against(&header, &Digest::of(&header_bytes))?;
        Ok(Ok(Some(manifest)))
    };
    match checked.await {
        Ok(Ok(Some(manifest))) => {
            summary.totals = Some(manifest.totals);
            summary.finished_at = Some(manifest.finished_at);
        }
        Ok(Ok(None)) => {}
        Ok(Err(())) => summary.status = ArchiveStatus::Replaced,
        Err(e) if is_about_the_archive(&e) => summary.status = ArchiveStatus::Unreadable(e.chain()),
        Err(e) => return Err(e),
    }
    Ok(summary)
}

fn is_about_the_archive(error: &Error) -> bool {
    matches!(error.class(), ErrorClass::Corrupt | ErrorClass::Unsupported | ErrorClass::Invalid | ErrorClass::NotFound)
}

/// Finds the archive that a person means: by its id, the unique beginning of an id, its name (the newest complete one of that
/// name), or `latest` (the newest complete one).
///
/// # Errors
/// `NotFound` when none fits; `Invalid` when it is the beginning of several ids and no name, or the beginning of one archive's id
/// and the name of another one; otherwise what reading the destination met.
pub async fn find_archive(destination: &Arc<impl Destination + ?Sized>, selector: &str) -> Result<ArchiveId> {
    find(&*retrying(destination), selector).await
}

async fn find(destination: &dyn Destination, selector: &str) -> Result<ArchiveId> {
    let ids = archive_ids(destination).await?;
    if selector == LATEST {
        return newest_complete(destination, &ids, |_| true)
            .await?
            .ok_or_else(|| Error::not_found(format!("there is no complete archive at {}", destination.identity())));
    }
    if selector.is_empty() {
        return Err(Error::invalid("an archive is named by its id, the beginning of one, its name, or `latest`"));
    }
    if let Some(id) = ids.iter().find(|id| id.as_str() == selector) {
        return Ok(id.clone());
    }
    let fitting: Vec<_> = ids.iter().filter(|id| id.as_str().starts_with(selector)).collect();
    let named = newest_complete(destination, &ids, |header| header.name == selector).await?;
    match (&fitting[..], named) {
        // Whichever is taken, the other one may be meant.
        ([id], Some(named)) if **id != named => {
            let text = format!("the id of {id} starts like this, and {named} has this name; use the whole id");
            return Err(Error::invalid(text).on(selector));
        }
        (_, Some(named)) => return Ok(named),
        ([id], None) => return Ok((*id).clone()),
        (_, None) => {}
    }
    if fitting.is_empty() {
        let text = format!("no archive at {} has this id or name", destination.identity());
        return Err(Error::not_found(text).on(selector));
    }
    let list = fitting.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
    Err(Error::invalid(format!("several archives start like this: {list}")).on(selector))
}

async fn newest_complete(
    destination: &dyn Destination,
    ids: &[ArchiveId],
    wanted: impl Fn(&Header) -> bool,
) -> Result<Option<ArchiveId>> {
    for same_second in ids.chunk_by(|a, b| second(a) == second(b)).rev() {
        let mut newest: Option<Header> = None;
        for id in same_second {
            let header = summarise_briefly(destination, id).await?.filter(&wanted);
            if let Some(header) = header
                && newest.as_ref().is_none_or(|newest| newest.started_at < header.started_at)
            {
                newest = Some(header);
            }
        }
        if let Some(header) = newest {
            return Ok(Some(header.id));
        }
    }
    Ok(None)
}

/// The header of a complete archive.
async fn summarise_briefly(destination: &dyn Destination, id: &ArchiveId) -> Result<Option<Header>> {
    let header = match read_header(destination, id).await {
        Ok((header, _)) => header,
        Err(e) if is_about_the_archive(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    let names = ObjectNames::new(id.clone(), header.codec, header.sealed);
    let complete =
        destination.stat(&names.manifest()).await?.is_some() && destination.stat(&names.swept()).await?.is_none();
    Ok(complete.then_some(header))
}
