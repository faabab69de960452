//! A folder as destination: each object of an archive is one file.

mod list;
mod probe;

use crate::GDrive;
use crate::api::{File, get, while_it_moves};
use crate::error::no_answer;
use crate::folders::oldest;
use crate::names;
use crate::pages;
use async_trait::async_trait;
use backup_core::adapter::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
use backup_core::model::{Identity, ObjectName};
use backup_core::{Digest, Error, ErrorClass, Result, Sha256};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::json;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
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

/// What a payload must be when it has arrived.
struct Digests {
    md5: String,
    sha256: String,
}

impl Digests {
    /// CPU work, on another thread.
    async fn of(payload: &Payload) -> Result<Self> {
        let payload = payload.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            use md5::Digest as _;
            let (mut md5, mut sha256) = (md5::Md5::new(), Sha256::new());
            for piece in payload.pieces() {
                md5.update(piece);
                sha256.update(piece);
            }
            let sha256: Digest = sha256.finish();
            Self { md5: hex::encode(md5.finalize()), sha256: sha256.to_string() }
        });
        hashed.await.map_err(|e| Error::permanent("a thread for hashing failed").because(e))
    }

    /// Whether a file has just these bytes, by the digests that the service keeps.
    fn fits(&self, file: &File, length: u64) -> Result<bool> {
        let same_md5 = file.md5_checksum.as_ref().is_some_and(|md5| *md5 == self.md5);
        // Mostly there.
        let same_sha256 = file.sha256_checksum.as_ref().is_none_or(|sha256| *sha256 == self.sha256);
        Ok(file.length()? == length && same_md5 && same_sha256)
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
        let root = self.drive.folders().root(&self.drive).await?;
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

    async fn put_new(&self, name: &ObjectName, payload: &Payload) -> Result<()> {
        let digests = Digests::of(payload).await?;
        let folders = self.drive.folders();
        let root = folders.root(&self.drive).await?.to_owned();
        let folder = match name.as_str().rsplit_once('/') {
            Some((path, _)) => folders.make(&self.drive, path).await?,
            None => root.clone(),
        };
        let metadata = json!({
            "name": name.file_name(),
            "parents": [folder],
            "mimeType": "application/octet-stream",
            "appProperties": names::properties(&root, name),
        });
        let uploaded = self.drive.upload(&metadata, payload).await.map_err(|e| match e.class() {
            ErrorClass::NotFound => {
                // The folder was deleted since it was found. It is looked for again when the put is repeated.
                folders.forget(names::split(name).0);
                Error::transient("the folder of the archive is gone").because(e)
            }
            _ => e,
        })?;
        if uploaded.trashed {
            folders.forget(names::split(name).0);
            return Err(Error::transient("the folder of the archive is in the bin"));
        }
        if !digests.fits(&uploaded, payload.len())? {
            if let Err(error) = self.drive.remove(&uploaded.id).await {
                // The first error counts.
                tracing::warn!(%name, error = error.chain(), "a file that arrived changed could not be removed");
            }
            return Err(Error::transient("what arrived at the service is not what was sent"));
        }
        // Another may have been there, or have come meanwhile. The listing may not show our own yet.
        let mut files = self.files(name).await?;
        if !files.iter().any(|file| file.id == uploaded.id) {
            files.push(uploaded.clone());
        }
        let Some(first) = oldest(files).filter(|first| first.id != uploaded.id) else {
            self.learn(name, Known::of(&uploaded)?);
            return Ok(());
        };
        self.drive.remove(&uploaded.id).await?;
        match digests.fits(&first, payload.len())? {
            true => {
                self.learn(name, Known::of(&first)?);
                Ok(())
            }
            false => Err(Error::conflict("an object with other bytes is already there")),
        }
    }

    /// The content of a file, or of a range that is not empty.
    async fn open(&self, known: &Known, range: Option<&Range<u64>>) -> Result<ByteStream> {
        let url = self.drive.url(&format!("/drive/v3/files/{}", known.id));
        let parameters = [("alt", "media"), ("supportsAllDrives", "true"), ("acknowledgeAbuse", "true")];
        let header = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let asked = self.drive.success(|http| {
            let request = get(http, &url, &parameters);
            match &header {
                Some(range) => request.header("range", range),
                None => request,
            }
        });
        let response = asked.await?;
        let wanted = match range {
            Some(range) => {
                let expected = format!("bytes {}-{}/", range.start, range.end - 1);
                let told = response.headers().get("content-range").and_then(|range| range.to_str().ok());
                if response.status() != reqwest::StatusCode::PARTIAL_CONTENT {
                    return Err(Error::unsupported("the service does not send parts of files"));
                }
                if !told.is_some_and(|told| told.starts_with(&expected)) {
                    return Err(Error::corrupt("it is shorter than the range that was asked for"));
                }
                range.end - range.start
            }
            None => known.size,
        };
        let mut content = response.bytes_stream();
        Ok(async_stream::try_stream! {
            let mut left = wanted;
            // Each piece has its own time.
            let still = AtomicU64::new(0);
            while let Some(piece) = while_it_moves(&still, content.next()).await? {
                let piece = piece.map_err(no_answer)?;
                left = left.checked_sub(piece.len() as u64).ok_or_else(|| Error::corrupt("it is longer than it was"))?;
                yield piece;
            }
            if left > 0 {
                Err(Error::transient("the content ended early"))?;
            }
        }
        .boxed())
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
