//! The connection: the folder and the account, and calls about metadata.

use crate::account::{TokenStore, Tokens};
use crate::config::GDriveConfig;
use crate::error::not_understood;
use crate::folders::Folders;
use crate::send::{Answered, PAGE, QueryPairs, SMALL, date, get, http_client, request};
use backup_core::model::Identity;
use backup_core::{Error, ErrorClass, Result};
use reqwest::{Client, Method, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

pub(crate) const FOLDER_TYPE: &str = "application/vnd.google-apps.folder";

/// A folder of Google Drive and the account that uses it. Cloning shares the connection.
#[derive(Clone, Debug)]
pub struct GDrive(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: GDriveConfig,
    identity: Identity,
    pub(crate) http: Client,
    pub(crate) tokens: Tokens,
    folders: Folders,
    /// Refusals for the sake of the rate since the last success, over all requests.
    pub(crate) refusals: AtomicU32,
    /// Whether the service has ever answered.
    reached: AtomicBool,
}

impl Inner {
    pub(crate) fn answers(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }
}

/// Metadata of a file, as far as we ask for it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct File {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) mime_type: String,
    #[serde(default)]
    pub(crate) trashed: bool,
    /// A number as text.
    #[serde(default)]
    pub(crate) size: Option<String>,
    #[serde(default)]
    pub(crate) created_time: Option<jiff::Timestamp>,
    #[serde(default)]
    pub(crate) md5_checksum: Option<String>,
    #[serde(default)]
    pub(crate) sha256_checksum: Option<String>,
    #[serde(default)]
    pub(crate) app_properties: HashMap<String, String>,
}

/// The fields of [`File`] that an object needs.
pub(crate) const FIELDS: &str = "id,name,mimeType,trashed,size,createdTime,md5Checksum,sha256Checksum,appProperties";

impl File {
    pub(crate) fn length(&self) -> Result<u64> {
        self.size.as_deref().and_then(|size| size.parse().ok()).ok_or_else(not_understood)
    }
}

/// A page of a listing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page {
    pub(crate) files: Vec<File>,
    #[serde(default)]
    pub(crate) next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct About {
    storage_quota: StorageQuota,
}

#[derive(Debug, Deserialize)]
struct StorageQuota {
    #[serde(default)]
    limit: Option<String>,
    #[serde(default)]
    usage: Option<String>,
}

impl GDrive {
    /// A connection; sends no request. A refresh token that Google rotates is kept in memory only: give a place for it with
    /// [`with_token_store`](Self::with_token_store).
    ///
    /// # Errors
    /// `Invalid`, and what to write instead, when the configuration cannot be right.
    pub fn new(config: GDriveConfig) -> Result<Self> {
        Self::build(config, None)
    }

    /// The same, with a place where the person's refresh token is kept: read before each use, written when Google rotates it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_token_store(config: GDriveConfig, store: Arc<dyn TokenStore>) -> Result<Self> {
        Self::build(config, Some(store))
    }

    fn build(config: GDriveConfig, store: Option<Arc<dyn TokenStore>>) -> Result<Self> {
        config.validate()?;
        let http = http_client()?;
        let tokens = Tokens::new(&config, http.clone(), store)?;
        let path: Vec<&str> = std::iter::once(config.folder.as_str()).chain(config.components()).collect();
        let place = config.endpoint.as_deref().unwrap_or("drive.google.com").trim_end_matches('/');
        let place = place.split_once("://").map_or(place, |(_, host)| host);
        let identity = Identity::new("gdrive", format!("{place}/{}", path.join("/")));
        let folders = Folders::default();
        let (refusals, reached) = (AtomicU32::new(0), AtomicBool::new(false));
        Ok(Self(Arc::new(Inner { config, identity, http, tokens, folders, refusals, reached })))
    }

    /// The folder, without any secret.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// What it was made of.
    pub fn config(&self) -> &GDriveConfig {
        &self.0.config
    }

    /// Makes a folder at the top of the account's drive, unless the app has made one of this name before; its id.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn make_folder(&self, name: &str) -> Result<String> {
        Folders::child(self, "root", name, None, true).await?.ok_or_else(not_understood)
    }

    pub(crate) fn folders(&self) -> &Folders {
        &self.0.folders
    }

    /// An address of the API, e.g. for `/drive/v3/files`.
    pub(crate) fn url(&self, path: &str) -> String {
        let host = self.0.config.endpoint.as_deref().unwrap_or("https://www.googleapis.com");
        format!("{}{path}", host.trim_end_matches('/'))
    }

    /// Parameters for shared drives, which the API wants with each request.
    fn shared(&self) -> [(&'static str, &'static str); 1] {
        [("supportsAllDrives", "true")]
    }

    pub(crate) async fn metadata(&self, id: &str) -> Result<File> {
        let url = self.url(&format!("/drive/v3/files/{id}"));
        self.json(SMALL, |http| get(http, &url, &[("fields", FIELDS)]).query_pairs(&self.shared())).await
    }

    /// A page of what a query finds ("Search for files and folders" in the guides).
    pub(crate) async fn page(&self, query: &str, order: &str, size: u16, token: Option<&str>) -> Result<Page> {
        let url = self.url("/drive/v3/files");
        let (fields, size) = (format!("nextPageToken,files({FIELDS})"), size.to_string());
        let mut parameters = vec![
            ("q", query),
            ("orderBy", order),
            ("pageSize", &size),
            ("fields", &fields),
            ("includeItemsFromAllDrives", "true"),
        ];
        if let Some(token) = token {
            parameters.push(("pageToken", token));
        }
        if let Some(drive) = &self.0.config.drive {
            parameters.extend([("driveId", drive.as_str()), ("corpora", "drive")]);
        }
        self.json(PAGE, |http| get(http, &url, &parameters).query_pairs(&self.shared())).await
    }

    /// Makes a folder. Not repeated: after a lost answer it may be there.
    pub(crate) async fn create_folder(
        &self,
        parent: &str,
        name: &str,
        properties: Map<String, Value>,
    ) -> Result<String> {
        let url = self.url("/drive/v3/files");
        let body = json!({ "name": name, "mimeType": FOLDER_TYPE, "parents": [parent], "appProperties": properties });
        let body = body.to_string();
        let created: File = self
            .json_once(SMALL, |http| {
                let request = request(http, Method::POST, &url, &[("fields", "id")]).query_pairs(&self.shared());
                request.header("content-type", "application/json").body(body.clone())
            })
            .await?;
        Ok(created.id)
    }

    /// Removes a file for good; one that is not there is fine. Where the account may not do that, as on a shared drive that it does not manage,
    /// the file goes into the bin.
    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        match self.persist(|| self.remove_once(id)).await? {
            Removed::Gone => Ok(()),
            Removed::Forbidden(refused) if self.0.config.drive.is_some() => {
                self.bin(id).await.map_err(|e| if e.is_retryable() { e } else { refused })
            }
            Removed::Forbidden(refused) => Err(refused),
        }
    }

    async fn remove_once(&self, id: &str) -> Result<Removed> {
        let url = self.url(&format!("/drive/v3/files/{id}"));
        let answer = self.0.config.limits.answer();
        let moved = AtomicU64::new(0);
        let sent = self
            .send(&moved, |http| request(http, Method::DELETE, &url, &[]).query_pairs(&self.shared()).timeout(answer));
        let response = match sent.await? {
            Answered::Refused(refusal) if refusal.status == 403 => return Ok(Removed::Forbidden(refusal.into_error())),
            Answered::Refused(refusal) => return Err(refusal.into_error()),
            Answered::Answer(response) => response,
        };
        match response.status().as_u16() {
            204 => Ok(Removed::Gone),
            // Whatever else is called a success is not the service's answer to this.
            200 => match self.small(response, SMALL).await?.trim_ascii() {
                b"" | b"{}" => Ok(Removed::Gone),
                _ => Err(not_understood()),
            },
            201..300 => Err(not_understood()),
            404 => Ok(Removed::Gone),
            _ => Err(self.refusal(response).await?.into_error()),
        }
    }

    /// Puts something into the bin; what is not there is fine. In a folder, what others put there stays with it, and can be taken out again.
    pub(crate) async fn bin(&self, id: &str) -> Result<()> {
        let url = self.url(&format!("/drive/v3/files/{id}"));
        let binned = self.json::<File>(SMALL, |http| {
            let request = request(http, Method::PATCH, &url, &[("fields", "id,trashed")]).query_pairs(&self.shared());
            request.header("content-type", "application/json").body("{\"trashed\":true}")
        });
        match binned.await {
            Ok(file) if file.trashed => Ok(()),
            Ok(_) => Err(not_understood()),
            Err(e) if e.class() == ErrorClass::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Bytes that the account may still store; `None` without a limit, and for shared drives, of which the service does not tell.
    pub(crate) async fn free_space(&self) -> Result<Option<u64>> {
        if self.0.config.drive.is_some() {
            return Ok(None);
        }
        let url = self.url("/drive/v3/about");
        let About { storage_quota } = self.json(SMALL, |http| get(http, &url, ABOUT)).await?;
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let (limit, usage) = (number(storage_quota.limit), number(storage_quota.usage));
        Ok(limit.map(|limit| limit.saturating_sub(usage.unwrap_or(0))))
    }

    /// The service's time, to the second.
    pub(crate) async fn now(&self) -> Result<jiff::Timestamp> {
        let (url, limit) = (self.url("/drive/v3/about"), self.0.config.limits.answer());
        let url = &url;
        let asked = self.persist(|| self.success(move |http| get(http, url, ABOUT).timeout(limit)));
        let answer: Response = asked.await?;
        date(answer.headers()).ok_or_else(|| Error::unsupported("the service does not tell the time"))
    }
}

/// Parameters of a question about the account.
const ABOUT: &[(&str, &str)] = &[("fields", "storageQuota")];

/// What came of removing something for good.
enum Removed {
    Gone,
    /// The account may not do it.
    Forbidden(Error),
}
