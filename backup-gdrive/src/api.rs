//! The connection: requests with the account's token, repeated as far as the service asks for it, and calls about metadata.

use crate::account::{TokenStore, Tokens};
use crate::config::GDriveConfig;
use crate::error::{Refusal, no_answer, not_understood};
use crate::folders::Folders;
use backup_core::model::Identity;
use backup_core::{Error, ErrorClass, Result};
use reqwest::{Client, Method, RequestBuilder, Response};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

pub(crate) const FOLDER_TYPE: &str = "application/vnd.google-apps.folder";
/// How long an answer to a request about metadata may take.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a connection may stand still while content is sent or received.
const STILL: Duration = Duration::from_secs(90);

/// A folder of Google Drive and the account that uses it. Cloning shares the connection.
#[derive(Clone, Debug)]
pub struct GDrive(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: GDriveConfig,
    identity: Identity,
    http: Client,
    tokens: Tokens,
    folders: Folders,
    /// Refusals for the sake of the rate since the last success, over all requests.
    refusals: AtomicU32,
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
        let (folders, refusals) = (Folders::default(), AtomicU32::new(0));
        Ok(Self(Arc::new(Inner { config, identity, http, tokens, folders, refusals })))
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

    /// Sends a request until it has an answer that is not about token or rate. `build` is called for each try; a try in which `moved` does not
    /// change for too long is given up. Any other answer is success: its status is the caller's to look at.
    pub(crate) async fn send(&self, moved: &AtomicU64, build: impl Fn(&Client) -> RequestBuilder) -> Result<Answered> {
        let inner = &*self.0;
        let mut renewed = false;
        let mut since: Option<Instant> = None;
        loop {
            let token = inner.tokens.get().await?;
            let sent = build(&inner.http).bearer_auth(token.expose_secret()).send();
            let response = while_it_moves(moved, sent).await?.map_err(no_answer)?;
            let refusal = match response.status().as_u16() {
                401 | 403 | 429 => refusal(response).await?,
                _ => {
                    inner.refusals.store(0, Ordering::Relaxed);
                    return Ok(Answered::Answer(response));
                }
            };
            if refusal.status == 401 && !renewed {
                // It may have been taken back, or the clock was wrong.
                renewed = true;
                inner.tokens.renew(&token).await?;
                continue;
            }
            if !refusal.is_rate_limit() {
                return Ok(Answered::Refused(refusal));
            }
            let started = *since.get_or_insert_with(Instant::now);
            let quota = &inner.config.quota;
            let refusals = inner.refusals.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let wait = quota.wait(refusals, rand::random());
            if started.elapsed() + wait > quota.patience() {
                let text =
                    "the service has refused requests for so long that it must be the account's daily cap (750 GB)";
                let class = ErrorClass::Throttled { after: Some(quota.pause()) };
                return Err(Error::new(class, text).because(refusal.into_error()));
            }
            tracing::debug!(?wait, refusals, "Google Drive asks for fewer requests");
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends a request whose answer is JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, build: impl Fn(&Client) -> RequestBuilder) -> Result<T> {
        let response = self.success(|http| build(http).timeout(ANSWER)).await?;
        let body = response.bytes().await.map_err(no_answer)?;
        serde_json::from_slice(&body).map_err(|_| not_understood())
    }

    /// Sends a request whose answer must be a success.
    pub(crate) async fn success(&self, build: impl Fn(&Client) -> RequestBuilder) -> Result<Response> {
        match self.send(&AtomicU64::new(0), build).await? {
            Answered::Answer(response) if response.status().is_success() => Ok(response),
            Answered::Answer(response) => Err(refusal(response).await?.into_error()),
            Answered::Refused(refusal) => Err(refusal.into_error()),
        }
    }

    /// Parameters for shared drives, which the API wants with each request.
    fn shared(&self) -> [(&'static str, &'static str); 1] {
        [("supportsAllDrives", "true")]
    }

    pub(crate) async fn metadata(&self, id: &str) -> Result<File> {
        let url = self.url(&format!("/drive/v3/files/{id}"));
        self.json(|http| get(http, &url, &[("fields", FIELDS)]).query_pairs(&self.shared())).await
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
        self.json(|http| get(http, &url, &parameters).query_pairs(&self.shared())).await
    }

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
            .json(|http| {
                let request = request(http, Method::POST, &url, &[("fields", "id")]).query_pairs(&self.shared());
                request.header("content-type", "application/json").body(body.clone())
            })
            .await?;
        Ok(created.id)
    }

    /// Removes a file for good; one that is not there is fine.
    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        let url = self.url(&format!("/drive/v3/files/{id}"));
        let done = self
            .success(|http| request(http, Method::DELETE, &url, &[]).query_pairs(&self.shared()).timeout(ANSWER))
            .await;
        match done {
            Err(e) if e.class() == ErrorClass::NotFound => Ok(()),
            done => done.map(|_| ()),
        }
    }

    async fn about(&self) -> Result<Response> {
        let url = self.url("/drive/v3/about");
        self.success(|http| get(http, &url, &[("fields", "storageQuota")]).timeout(ANSWER)).await
    }

    /// Bytes that the account may still store; `None` without a limit, and for shared drives, of which the service does not tell.
    pub(crate) async fn free_space(&self) -> Result<Option<u64>> {
        if self.0.config.drive.is_some() {
            return Ok(None);
        }
        let body = self.about().await?.bytes().await.map_err(no_answer)?;
        let About { storage_quota } = serde_json::from_slice(&body).map_err(|_| not_understood())?;
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let (limit, usage) = (number(storage_quota.limit), number(storage_quota.usage));
        Ok(limit.map(|limit| limit.saturating_sub(usage.unwrap_or(0))))
    }

    /// The service's time, to the second.
    pub(crate) async fn now(&self) -> Result<jiff::Timestamp> {
        let answer = self.about().await?;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        let time = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        time.map(|time| time.timestamp()).ok_or_else(|| Error::unsupported("the service does not tell the time"))
    }
}

/// What came of a request.
pub(crate) enum Answered {
    /// Any status but those about token, rights and rate.
    Answer(Response),
    /// 401, 403 or 429, for another reason than the rate.
    Refused(Refusal),
}

/// Reads what a refusal says.
pub(crate) async fn refusal(response: Response) -> Result<Refusal> {
    let status = response.status().as_u16();
    let body = tokio::time::timeout(ANSWER, response.bytes()).await;
    let body = body.map_err(|_| Error::transient("the service did not answer in time"))?.map_err(no_answer)?;
    Ok(Refusal::new(status, &body))
}

/// A client as all of this crate's requests use it.
pub(crate) fn http_client() -> Result<Client> {
    Client::builder()
        // 308 means something else in uploads.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(30))
        .pool_idle_timeout(Duration::from_secs(50))
        .user_agent(concat!("backup-gdrive/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| Error::permanent("cannot set up the HTTP client").because(e.without_url()))
}

/// A request with parameters.
pub(crate) fn request(http: &Client, method: Method, url: &str, parameters: &[(&str, &str)]) -> RequestBuilder {
    http.request(method, url).query_pairs(parameters)
}

pub(crate) fn get(http: &Client, url: &str, parameters: &[(&str, &str)]) -> RequestBuilder {
    request(http, Method::GET, url, parameters)
}

/// Adds parameters to a request's address.
pub(crate) trait QueryPairs {
    fn query_pairs(self, parameters: &[(&str, &str)]) -> Self;
}

impl QueryPairs for RequestBuilder {
    fn query_pairs(self, parameters: &[(&str, &str)]) -> Self {
        let (client, request) = self.build_split();
        match request {
            Ok(mut request) => {
                if !parameters.is_empty() {
                    request.url_mut().query_pairs_mut().extend_pairs(parameters);
                }
                Self::from_parts(client, request)
            }
            // What was wrong with it is said when it is sent.
            Err(_) => client.request(Method::GET, ""),
        }
    }
}

/// Waits for something as long as `moved` changes: for transfers that may take long, but not stand still.
pub(crate) async fn while_it_moves<T>(moved: &AtomicU64, work: impl Future<Output = T>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let before = moved.load(Ordering::Relaxed);
        match tokio::time::timeout(STILL, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) if moved.load(Ordering::Relaxed) != before => {}
            Err(_) => return Err(Error::transient("nothing moved on the connection for too long")),
        }
    }
}
