//! The server's life, and what a test has in hand.

use super::state::{DriveFile, DriveRole, FOLDER, File, ROOT, State};
use super::wire::{self, Wire};
use super::{DriveFaults, DriveOperation, files, oauth};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(super) const CLIENT_ID: &str = "1234-testkit.apps.googleusercontent.com";
pub(super) const CLIENT_SECRET: &str = "GOCSPX-testkit/client+secret";

/// A Google Drive on a port of 127.0.0.1. It has a thread of its own, so that a test may block, and stops when it is dropped.
#[derive(Debug)]
pub struct DriveServer {
    wire: Arc<Wire>,
    runtime: Option<Runtime>,
}

impl DriveServer {
    /// Starts with an empty drive.
    ///
    /// # Panics
    /// If the system gives no port or thread.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Starts with an empty drive on a port of one's choice; 0 is any that is free.
    ///
    /// # Panics
    /// If the system does not give this port, or no thread.
    #[allow(clippy::expect_used, reason = "a test without its server has nothing to go on with")]
    pub async fn start_on(port: u16) -> Self {
        // Not the caller's runtime: it may be busy, or its clock stopped.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("drive-server")
            .enable_all()
            .build()
            .expect("a runtime for the server");
        let bound = runtime.spawn(async move {
            let listener = TcpListener::bind(("127.0.0.1", port)).await?;
            let mut state = State { token_life: 3599, ..State::default() };
            let root = (String::from("My Drive"), FOLDER.to_owned(), Vec::new(), BTreeMap::new());
            files::add(&mut state, ROOT.to_owned(), root, Bytes::new());
            let wire = Arc::new(Wire {
                own: format!("http://{}", listener.local_addr()?),
                state: Mutex::new(state),
                faults: DriveFaults::default(),
                counts: Mutex::default(),
            });
            tokio::spawn(wire::serve(listener, wire.clone()));
            std::io::Result::Ok(wire)
        });
        let wire = bound.await.expect("the server's task").expect("a port for the server");
        Self { wire, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:PORT`: in place of the service's hosts, with the same paths.
    pub fn url(&self) -> &str {
        &self.wire.own
    }

    /// The one OAuth client that the server knows.
    pub fn client_id(&self) -> &str {
        CLIENT_ID
    }

    /// Its secret, of characters that need care in forms.
    pub fn client_secret(&self) -> &str {
        CLIENT_SECRET
    }

    /// A refresh token, as a person who agreed would have given it.
    pub fn refresh_token(&self) -> String {
        oauth::new_refresh_token(&mut self.wire.state())
    }

    /// All refresh tokens that count.
    pub fn refresh_tokens(&self) -> Vec<String> {
        self.wire.state().refresh_tokens.iter().cloned().collect()
    }

    /// All access tokens that count.
    pub fn access_tokens(&self) -> Vec<String> {
        self.wire.state().access_tokens.iter().cloned().collect()
    }

    /// The person takes the consent back: no token counts any more.
    pub fn revoke_all(&self) {
        let mut state = self.wire.state();
        state.refresh_tokens.clear();
        state.access_tokens.clear();
    }

    /// Access tokens that were given out count no more; refresh tokens still do.
    pub fn expire_access_tokens(&self) {
        self.wire.state().access_tokens.clear();
    }

    /// How long access tokens live, in seconds, as answers say it (3,599 at first).
    pub fn set_token_life(&self, seconds: u64) {
        self.wire.state().token_life = seconds;
    }

    /// Whether refresh tokens change at each use.
    pub fn set_rotation(&self, rotates: bool) {
        self.wire.state().rotates = rotates;
    }

    /// Makes a service account known by its address and its public key in PEM.
    pub fn add_service_account(&self, email: &str, public_key: &[u8]) {
        self.wire.state().service_accounts.insert(email.to_owned(), public_key.to_vec());
    }

    /// Limits the bytes of all files.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.wire.state().quota = bytes;
    }

    /// Makes a folder in the drive's root; returns its id.
    pub fn make_folder(&self, name: &str) -> String {
        self.make_folder_in(ROOT, name)
    }

    /// Makes a folder in a folder or in a shared drive; returns its id.
    pub fn make_folder_in(&self, parent: &str, name: &str) -> String {
        let mut state = self.wire.state();
        let id = state.id("folder");
        let described = (name.to_owned(), FOLDER.to_owned(), vec![parent.to_owned()], BTreeMap::new());
        files::add(&mut state, id.clone(), described, Bytes::new());
        id
    }

    /// Makes a shared drive in which the account has a role; returns its id.
    pub fn make_shared_drive(&self, role: DriveRole) -> String {
        let mut state = self.wire.state();
        let id = state.id("drive");
        let described = (String::from("A shared drive"), FOLDER.to_owned(), Vec::new(), BTreeMap::new());
        files::add(&mut state, id.clone(), described, Bytes::new());
        if let Some(root) = state.files.get_mut(&id) {
            root.drive = Some(id.clone());
        }
        state.drives.insert(id.clone(), role);
        id
    }

    /// Files have an MD5 only: there is not always a SHA-256.
    pub fn keep_no_sha256(&self) {
        self.wire.state().without_sha256 = true;
    }

    /// After how many further listings a new file shows up in listings: on shared drives they may lag.
    pub fn set_list_lag(&self, lists: u64) {
        self.wire.state().lag = lists;
    }

    /// By how many seconds the server's clock is ahead of this machine's, or behind it.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.wire.state().clock = jiff::SignedDuration::from_secs(seconds);
    }

    /// Puts a file or folder into the bin past the code under test, or takes it out.
    pub fn set_trashed(&self, id: &str, trashed: bool) {
        if let Some(file) = self.wire.state().files.get_mut(id) {
            file.trashed = trashed;
        }
    }

    /// Puts a file into a folder past the code under test, as another program would; missing folders of the path are made.
    pub fn plant(&self, folder: &str, path: &str, content: Bytes) {
        self.plant_as(folder, path, content, false);
    }

    /// The same with a file of somebody else's that the app cannot see: with the scope `drive.file` it sees only its own.
    pub fn plant_hidden(&self, folder: &str, path: &str, content: Bytes) {
        self.plant_as(folder, path, content, true);
    }

    fn plant_as(&self, folder: &str, path: &str, content: Bytes, hidden: bool) {
        let mut state = self.wire.state();
        let mut parent = folder.to_owned();
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap_or_default().to_owned();
        for part in parts {
            let there = state.files.values().find(|f| f.is_folder() && f.name == part && f.parents.contains(&parent));
            let found = there.map(|file| file.id.clone());
            parent = found.unwrap_or_else(|| {
                let id = state.id("folder");
                let described = (part.to_owned(), FOLDER.to_owned(), vec![parent.clone()], BTreeMap::new());
                files::add(&mut state, id.clone(), described, Bytes::new());
                id
            });
        }
        let id = state.id("file");
        files::add(&mut state, id.clone(), (name, "text/plain".to_owned(), vec![parent], BTreeMap::new()), content);
        if let Some(file) = state.files.get_mut(&id) {
            file.hidden = hidden;
        }
    }

    /// All files that are not in the bin, no folders, by path.
    pub fn files(&self) -> Vec<DriveFile> {
        self.all(|file, is_trashed| !file.is_folder() && !is_trashed)
    }

    /// All folders that are not in the bin, by path.
    pub fn folders(&self) -> Vec<DriveFile> {
        self.all(|file, is_trashed| file.is_folder() && !is_trashed)
    }

    /// What is in the bin, files and folders, by path.
    pub fn bin(&self) -> Vec<DriveFile> {
        self.all(|_, is_trashed| is_trashed)
    }

    fn all(&self, which: impl Fn(&File, bool) -> bool) -> Vec<DriveFile> {
        let state = self.wire.state();
        let file = |file: &File| DriveFile {
            id: file.id.clone(),
            name: file.name.clone(),
            path: state.path(file),
            content: file.content.clone(),
        };
        let mut files: Vec<_> = state.files.values().filter(|f| which(f, state.is_trashed(f))).map(file).collect();
        files.sort_by(|a, b| (&a.path, &a.id).cmp(&(&b.path, &b.id)));
        files
    }

    /// Removes a file or folder past the code under test.
    pub fn remove(&self, id: &str) {
        self.wire.state().remove(id);
    }

    /// Copies a file: another of the same name, properties and place, with other bytes, as only somebody else can have made it.
    pub fn duplicate(&self, id: &str, content: Bytes) {
        let mut state = self.wire.state();
        let Some(file) = state.files.get(id).cloned() else { return };
        let id = state.id("file");
        files::add(&mut state, id, (file.name, file.mime, file.parents, file.app_properties), content);
    }

    /// The uploads that were begun and have not become a file.
    pub fn open_uploads(&self) -> usize {
        self.wire.state().sessions.values().filter(|session| session.file.is_none()).count()
    }

    /// Tokens, codes and ids of upload sessions (whoever has one can write) that were ever given out.
    pub fn secrets(&self) -> Vec<String> {
        self.wire.state().given.clone()
    }

    /// The script of faults.
    pub fn faults(&self) -> &DriveFaults {
        &self.wire.faults
    }

    /// How many requests of an operation there were since the start, or since [`reset_requests`](Self::reset_requests).
    pub fn requests(&self, operation: DriveOperation) -> u64 {
        self.wire.counts.lock().unwrap_or_else(PoisonError::into_inner).get(&operation).copied().unwrap_or(0)
    }

    /// Starts counting anew.
    pub fn reset_requests(&self) {
        self.wire.counts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for DriveServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping it would wait, which no async test may do.
            runtime.shutdown_background();
        }
    }
}
