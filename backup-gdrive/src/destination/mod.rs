//! A folder as destination: each object of an archive is one file.

mod content;
mod list;
mod probe;
mod put;

use crate::GDrive;
use crate::api::File;
use crate::folders::oldest;
use crate::names;
use crate::pages;
use async_trait::async_trait;
use backup_core::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
use backup_core::model::{Identity, ObjectName};
use backup_core::{Error, ErrorClass, Result};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The largest file of the service, in bytes (5 TB).
const MAX_FILE: u64 = 5_000_000_000_000;
/// So many ids of objects are remembered.
const REMEMBERED: usize = 4096;

/// A folder of Google Drive in which archives are kept: a folder for each archive, a file for each object.
///
/// Each object is one resumable upload and one further request, which looks whether another file stands for the same object: names are
/// not unique in Drive. Of several files for one object the oldest counts, and a put that finds an older one removes its own. So of two puts
/// at the very same moment from two processes, the one whose file is older wins. Archives name their objects by attempt and random bits, so
/// that this does not happen.
///
/// On shared drives, what one process has put may show up in another's listings a little later.
#[derive(Clone, Debug)]
pub struct GDriveDestination {
    drive: GDrive,
    /// Ids of objects that this process has put or found.
    known: Arc<Mutex<HashMap<ObjectName, Known>>>,
}

#[derive(Clone, Debug)]
struct Known {
    id: String,
    size: u64,
    modified: jiff::Timestamp,
}

impl Known {
    fn of(file: &File) -> Result<Self> {
        let modified = file.created_time.ok_or_else(crate::error::not_understood)?;
        Ok(Self { id: file.id.clone(), size: file.length()?, modified })
    }

    fn info(&self, name: &ObjectName) -> ObjectInfo {
        ObjectInfo { name: name.clone(), size: self.size, modified: self.modified }
    }
}

impl GDriveDestination {
    /// A destination. Sends no request.
    pub fn new(drive: GDrive) -> Self {
        Self { drive, known: Arc::default() }
    }

    fn recall(&self, name: &ObjectName) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn learn(&self, name: &ObjectName, known: Known) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(name.clone(), known);
    }

    fn forget(&self, name: &ObjectName) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// All files that stand for an object.
    async fn files(&self, name: &ObjectName) -> Result<Vec<File>> {
        let root = &self.drive.folders().root(&self.drive).await?;
        let query = format!(
            "appProperties has {{ key='{}' and value='{}' }} and trashed = false",
            names::OBJECT,
            names::mark(root, name.as_str())
        );
        pages::all(&self.drive, query).await
    }

    /// The file of an object.
    async fn find(&self, name: &ObjectName) -> Result<Option<Known>> {
        let Some(file) = oldest(self.files(name).await?) else { return Ok(None) };
        let known = Known::of(&file)?;
        self.learn(name, known.clone());
        Ok(Some(known))
    }

    async fn known(&self, name: &ObjectName) -> Result<Option<Known>> {
        match self.recall(name) {
            Some(known) => Ok(Some(known)),
            None => self.find(name).await,
        }
    }
}

#[async_trait]
impl Destination for GDriveDestination {
    fn identity(&self) -> Identity {
        self.drive.identity().clone()
    }

    fn properties(&self) -> DestinationProperties {
        // About two files a second may be made: few large ones.
        DestinationProperties { max_object_size: MAX_FILE, preferred_volume_size: 64 << 20, parallelism: 2 }
    }

    async fn check(&self) -> Result<()> {
        self.probe().await
    }

    async fn now(&self) -> Result<jiff::Timestamp> {
        self.drive.now().await
    }

    async fn put(&self, name: &ObjectName, body: Payload) -> Result<()> {
        self.put_new(name, &body).await.map_err(|e| e.on(name))
    }

    async fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ByteStream> {
        let absent = || Error::not_found("there is no such object").on(name);
        let remembered = self.recall(name);
        let known = match &remembered {
            Some(known) => known.clone(),
            None => self.find(name).await?.ok_or_else(absent)?,
        };
        if range.as_ref().is_some_and(|range| range.is_empty()) {
            return Ok(futures::stream::empty().boxed());
        }
        match self.open(&known, range.as_ref()).await {
            Err(e) if e.class() == ErrorClass::NotFound && remembered.is_some() => {
                // Somebody removed it; another file may stand for it now.
                self.forget(name);
                let known = self.find(name).await?.ok_or_else(absent)?;
                self.open(&known, range.as_ref()).await.map_err(|e| e.on(name))
            }
            opened => opened.map_err(|e| e.on(name)),
        }
    }

    async fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        // Not from memory alone: others may have removed it. But what this process has put is there, also if a listing lags behind.
        if let Some(found) = self.find(name).await.map_err(|e| e.on(name))? {
            return Ok(Some(found.info(name)));
        }
        let Some(known) = self.recall(name) else { return Ok(None) };
        match self.drive.metadata(&known.id).await {
            Ok(file) if !file.trashed => Ok(Some(known.info(name))),
            Ok(_) => {
                self.forget(name);
                Ok(None)
            }
            Err(e) if e.class() == ErrorClass::NotFound => {
                self.forget(name);
                Ok(None)
            }
            Err(e) => Err(e.on(name)),
        }
    }

    fn list(&self, prefix: Option<&ObjectName>) -> BoxStream<'_, Result<ObjectInfo>> {
        list::objects(self.drive.clone(), prefix.cloned())
    }

    fn list_roots(&self) -> BoxStream<'_, Result<String>> {
        list::roots(self.drive.clone())
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        let mut ids: Vec<String> = self.files(name).await?.into_iter().map(|file| file.id).collect();
        ids.extend(self.recall(name).map(|known| known.id));
        // The one that counts goes last, so that none of its doubles takes its place.
        ids.sort_unstable();
        ids.dedup();
        if let Some(counts) = self.known(name).await?.map(|known| known.id) {
            ids.sort_by_key(|id| *id == counts);
        }
        for id in &ids {
            self.drive.remove(id).await.map_err(|e| e.on(name))?;
        }
        self.forget(name);
        Ok(())
    }

    async fn remove_staged(&self, prefix: &ObjectName) -> Result<()> {
        list::remove_staged(&self.drive, prefix).await
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.drive.free_space().await
    }
}
