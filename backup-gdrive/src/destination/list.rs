//! Listing what lies in a destination.

use crate::GDrive;
use crate::api::FOLDER_TYPE;
use crate::folders::quoted;
use crate::names;
use crate::pages::{self, MANY, found};
use backup_core::adapter::ObjectInfo;
use backup_core::model::{ObjectName, STAGE_PREFIX};
use backup_core::{ErrorClass, Result};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use std::collections::HashSet;

/// Folders that are looked into at once.
const AT_ONCE: usize = 4;

fn has(key: &str, value: &str) -> String {
    format!("appProperties has {{ key='{key}' and value='{}' }} and trashed = false", quoted(value))
}

/// The objects of one archive, each once although several files may stand for it.
fn of_archive(drive: GDrive, root: String, archive: &str) -> BoxStream<'static, Result<ObjectInfo>> {
    let query = has(names::ARCHIVE, &names::mark(&root, archive));
    Box::pin(async_stream::try_stream! {
        // Files for one object have the same name, and so come together, the oldest first.
        let mut files = found(drive, query, "name,createdTime", MANY);
        let mut run = String::new();
        let mut seen: HashSet<ObjectName> = HashSet::new();
        while let Some(file) = files.try_next().await? {
            if file.name != run {
                seen.clear();
                run.clone_from(&file.name);
            }
            let Some(name) = names::name_of(&root, &file.app_properties) else { continue };
            let Some(modified) = file.created_time else { continue };
            if seen.insert(name.clone()) {
                yield ObjectInfo { size: file.length()?, name, modified };
            }
        }
    })
}

pub(super) fn objects(drive: GDrive, prefix: Option<ObjectName>) -> BoxStream<'static, Result<ObjectInfo>> {
    Box::pin(async_stream::try_stream! {
        let root = drive.folders().root(&drive).await?;
        match prefix {
            Some(prefix) => {
                let below = format!("{prefix}/");
                let mut objects = of_archive(drive, root, names::split(&prefix).0);
                while let Some(object) = objects.try_next().await? {
                    if object.name.as_str().starts_with(&below) {
                        yield object;
                    }
                }
            }
            None => {
                let mut all = roots(drive.clone());
                while let Some(archive) = all.try_next().await? {
                    let mut objects = of_archive(drive.clone(), root.clone(), &archive);
                    while let Some(object) = objects.try_next().await? {
                        yield object;
                    }
                }
            }
        }
    })
}

pub(super) fn roots(drive: GDrive) -> BoxStream<'static, Result<String>> {
    Box::pin(async_stream::try_stream! {
        let root = drive.folders().root(&drive).await?;
        let mut names = names_in(drive.clone(), root);
        let mut next = names.try_next().await;
        if next.as_ref().is_err_and(|e| e.class() == ErrorClass::NotFound) {
            // The root was removed since it was found.
            drive.folders().forget_all().await;
            let root = drive.folders().root(&drive).await?;
            names = names_in(drive.clone(), root);
            next = names.try_next().await;
        }
        // A name may stand for several folders, and for an object as well.
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(name) = next? {
            if let Some(name) = name.filter(|name| seen.insert(name.clone())) {
                yield name;
            }
            next = names.try_next().await;
        }
    })
}

/// The names of archives and objects in the root; nothing in place of an archive that is empty.
fn names_in(drive: GDrive, root: String) -> BoxStream<'static, Result<Option<String>>> {
    let query = format!("'{}' in parents and trashed = false", quoted(&root));
    let of = root.clone();
    let files = found(drive.clone(), query, "name", MANY).try_filter_map(move |file| {
        let name = if file.mime_type != FOLDER_TYPE {
            names::name_of(&of, &file.app_properties).map(|name| (name.as_str().to_owned(), true))
        } else {
            let is_ours = file.app_properties.get(names::FOLDER).is_some_and(|kind| kind == "archive");
            (is_ours && ObjectName::new(&file.name).is_ok()).then_some((file.name, false))
        };
        std::future::ready(Ok(name))
    });
    let names = files.map_ok(move |(name, is_object)| {
        let (drive, root) = (drive.clone(), root.clone());
        async move {
            // A folder may be empty: what was in it was deleted.
            let is_there = is_object || !is_empty(&drive, &root, &name).await?;
            Ok(is_there.then_some(name))
        }
    });
    Box::pin(names.try_buffered(AT_ONCE))
}

/// Whether an archive has no objects.
async fn is_empty(drive: &GDrive, root: &str, archive: &str) -> Result<bool> {
    let query = has(names::ARCHIVE, &names::mark(root, archive));
    pages::none(drive, query).await
}

/// Removes what is called as if it were staged, and the folders of an archive that has no objects any more. Files of others stay.
pub(super) async fn remove_staged(drive: &GDrive, prefix: &ObjectName) -> Result<()> {
    let (archive, _) = names::split(prefix);
    match remove_staged_in(drive, archive).await {
        Err(e) if e.class() == ErrorClass::NotFound => {
            // A folder was removed since it was found; another may have taken its place.
            drive.folders().forget_all().await;
            remove_staged_in(drive, archive).await
        }
        removed => removed,
    }
}

async fn remove_staged_in(drive: &GDrive, archive: &str) -> Result<()> {
    let root = drive.folders().root(drive).await?;
    let Some(folder) = drive.folders().archive(drive, archive).await? else { return Ok(()) };
    // Folders are removed from below, each only when nothing is in it.
    let mut folders = vec![folder];
    let mut next = 0;
    let mut others = false;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        let mut files =
            found(drive.clone(), format!("'{}' in parents and trashed = false", quoted(&folder)), "name", MANY);
        while let Some(file) = files.try_next().await? {
            if file.mime_type == FOLDER_TYPE && file.app_properties.contains_key(names::FOLDER) {
                folders.push(file.id);
            } else if file.name.starts_with(STAGE_PREFIX)
                && file.mime_type != FOLDER_TYPE
                && names::name_of(&root, &file.app_properties).is_none()
            {
                drive.remove(&file.id).await?;
            } else {
                others = true;
            }
        }
    }
    if others || !is_empty(drive, &root, archive).await? {
        return Ok(());
    }
    drive.folders().forget(archive);
    // Into the bin and not for good: there may be files of others that the app cannot see.
    for folder in folders.iter().rev() {
        drive.bin(folder).await?;
    }
    Ok(())
}
