//! The folders that objects lie in.

use crate::GDrive;
use crate::api::{FOLDER_TYPE, File};
use crate::names;
use crate::pages;
use crate::send::Outage;
use backup_core::{Error, ErrorClass, Result};
use serde_json::Map;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// So many folders are remembered.
const REMEMBERED: usize = 1000;

/// The folders that are known: the root, and those below it by their paths.
#[derive(Debug, Default)]
pub(crate) struct Folders {
    root: tokio::sync::Mutex<Option<String>>,
    known: Mutex<HashMap<String, String>>,
    /// One folder is made at a time, so that none is made twice.
    making: tokio::sync::Mutex<()>,
}

impl Folders {
    /// The folder that archives are in, made with its path when it is missing.
    pub(crate) async fn root(&self, drive: &GDrive) -> Result<String> {
        let mut root = self.root.lock().await;
        if let Some(root) = &*root {
            return Ok(root.clone());
        }
        let found = find_root(drive).await?;
        *root = Some(found.clone());
        Ok(found)
    }

    fn known(&self, path: &str) -> Option<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    fn learn(&self, path: &str, id: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(path.to_owned(), id.to_owned());
    }

    /// Forgets what is at a path and below it: it may be gone.
    pub(crate) fn forget(&self, path: &str) {
        let below = format!("{path}/");
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known, _| known != path && !known.starts_with(&below));
    }

    /// Forgets all, the root too: something that was there is not there any more.
    pub(crate) async fn forget_all(&self) {
        *self.root.lock().await = None;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The folder at a path below the root, e.g. `20261120T061500Z-1a2b3c4d/data`; made when it is missing.
    pub(crate) async fn make(&self, drive: &GDrive, path: &str) -> Result<String> {
        if let Some(id) = self.known(path) {
            return Ok(id);
        }
        let _one = self.making.lock().await;
        let mut at = self.root(drive).await?;
        let mut ends: Vec<usize> = path.match_indices('/').map(|(end, _)| end).collect();
        ends.push(path.len());
        for (depth, end) in ends.into_iter().enumerate() {
            let (here, name) = (&path[..end], path[..end].rsplit('/').next().unwrap_or_default());
            at = match self.known(here) {
                Some(id) => id,
                None => {
                    let kind = if depth == 0 { "archive" } else { "part" };
                    let made = Self::child(drive, &at, name, Some(kind), true).await?;
                    let id = made.ok_or_else(|| Error::transient("a folder that was made is not there").on(here))?;
                    self.learn(here, &id);
                    id
                }
            };
        }
        Ok(at)
    }

    /// The folder of an archive, if there is one.
    pub(crate) async fn archive(&self, drive: &GDrive, name: &str) -> Result<Option<String>> {
        if let Some(id) = self.known(name) {
            return Ok(Some(id));
        }
        let root = self.root(drive).await?;
        let found = Self::child(drive, &root, name, Some("archive"), false).await?;
        if let Some(id) = &found {
            self.learn(name, id);
        }
        Ok(found)
    }

    /// A folder in a folder, the oldest of this name. `kind` is a property that it must have, and gets.
    pub(crate) async fn child(
        drive: &GDrive,
        parent: &str,
        name: &str,
        kind: Option<&str>,
        make: bool,
    ) -> Result<Option<String>> {
        let mut query = format!(
            "'{}' in parents and name = '{}' and mimeType = '{FOLDER_TYPE}' and trashed = false",
            quoted(parent),
            quoted(name)
        );
        if let Some(kind) = kind {
            query += &format!(" and appProperties has {{ key='{}' and value='{}' }}", names::FOLDER, quoted(kind));
        }
        let oldest = async || Ok::<_, Error>(oldest(pages::all(drive, query.clone()).await?));
        if let Some(found) = oldest().await? {
            return Ok(Some(found.id));
        }
        if !make {
            return Ok(None);
        }
        let mut properties = Map::new();
        if let Some(kind) = kind {
            properties.insert(names::FOLDER.into(), kind.into());
        }
        let mut outage = Outage::new(drive);
        let made = loop {
            match drive.create_folder(parent, name, properties.clone()).await {
                Ok(made) => break made,
                Err(error) => outage.failed(error).await?,
            }
            // It may have been made, and the answer lost.
            if let Some(found) = oldest().await? {
                return Ok(Some(found.id));
            }
        };
        // Another process may have made one at the same moment; all take the oldest. The listing may not show it yet.
        match oldest().await? {
            Some(other) if other.id != made => {
                // Into the bin, lest somebody has put something there already.
                drive.bin(&made).await?;
                Ok(Some(other.id))
            }
            _ => Ok(Some(made)),
        }
    }
}

/// Of several files that are the same thing, the one that counts.
pub(crate) fn oldest(files: Vec<File>) -> Option<File> {
    files.into_iter().min_by(|a, b| (a.created_time, &a.id).cmp(&(b.created_time, &b.id)))
}

/// Text inside the quotation marks of a query.
pub(crate) fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

async fn find_root(drive: &GDrive) -> Result<String> {
    let config = drive.config();
    if config.folder == "root" {
        let text = "the top of a drive is another place for each account; keep archives in a folder, and write its id";
        return Err(Error::invalid(text).on("folder root"));
    }
    let folder = drive.metadata(&config.folder).await.map_err(|e| match e.class() {
        ErrorClass::NotFound => Error::not_found(
            "there is no such folder, or the account cannot see it: with the scope `drive.file`, an app sees only the folders that it made",
        )
        .on(format!("folder {}", config.folder))
        .because(e),
        _ => e.on(format!("folder {}", config.folder)),
    })?;
    if folder.mime_type != FOLDER_TYPE {
        return Err(Error::invalid("this is a file and no folder").on(format!("folder {}", config.folder)));
    }
    if folder.trashed {
        return Err(Error::not_found("the folder is in the bin; take it out, or choose another")
            .on(format!("folder {}", config.folder)));
    }
    let mut at = folder.id;
    for name in config.components() {
        let made = Folders::child(drive, &at, name, None, true).await?;
        at = made.ok_or_else(|| Error::transient("a folder that was made is not there").on(name))?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_quotation_marks() {
        assert_eq!(quoted(r"it's a \ path"), r"it\'s a \\ path");
    }
}
