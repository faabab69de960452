//! A service on a place of its own, and an adapter with a secret.

use async_trait::async_trait;
use backup_core::adapter::{Destination, RestoreTarget, Source, Store};
use backup_core::archive::generate_key_file;
use backup_core::engine::EngineOptions;
use backup_core::local::{
    LocalAdapter, LocalDestination, LocalSource, LocalSourceConfig, LocalTarget, LocalTargetConfig,
};
use backup_core::memory::MemoryStore;
use backup_core::model::{ConnectionId, Holder};
use backup_core::secrets::{KeyRing, SecretKey};
use backup_core::service::{
    Adapter, AdapterConfig, BackupService, BackupServiceBuilder, NewConnection, Role, WorkerOptions,
};
use backup_core::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const PASSWORD: &str = "hunter2-correct-horse";

/// A directory behind a password: what a service of others is.
#[derive(Debug)]
pub(crate) struct VaultAdapter;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct VaultConfig {
    path: PathBuf,
    login: Login,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    password: SecretString,
}

fn open(config: &AdapterConfig) -> Result<PathBuf> {
    let VaultConfig { path, login } = config.parse()?;
    match login.password.expose_secret() == PASSWORD {
        true => Ok(path),
        false => Err(Error::unauthorized("the vault refuses the password")),
    }
}

#[async_trait]
impl Adapter for VaultAdapter {
    fn kind(&self) -> &str {
        "vault"
    }

    fn roles(&self) -> &[Role] {
        &[Role::Source, Role::Destination, Role::Target]
    }

    fn config_schema(&self) -> Value {
        json!({ "type": "object", "properties": {
            "path": { "type": "string" },
            "login": { "type": "object", "properties": { "password": { "type": "string", "writeOnly": true } } },
        } })
    }

    async fn source(&self, config: &AdapterConfig, _: &Value) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(LocalSource::new(LocalSourceConfig { root: open(config)?, ..LocalSourceConfig::default() })?))
    }

    async fn destination(&self, config: &AdapterConfig) -> Result<Arc<dyn Destination>> {
        Ok(Arc::new(LocalDestination::new(open(config)?)?))
    }

    async fn target(&self, config: &AdapterConfig, _: &Value) -> Result<Arc<dyn RestoreTarget>> {
        Ok(Arc::new(LocalTarget::new(LocalTargetConfig::new(open(config)?))?))
    }
}

pub(crate) fn ring() -> Arc<KeyRing> {
    Arc::new(KeyRing::new(SecretKey::parse(&generate_key_file().unwrap()).unwrap()))
}

/// A tree of files, places for archives and for what is restored, and a store.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: MemoryStore,
    pub(crate) ring: Arc<KeyRing>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docs")).unwrap();
        for number in 0..20 {
            let content = format!("file {number} ").repeat(number * 50 + 1);
            std::fs::write(dir.path().join(format!("docs/{number}.txt")), content).unwrap();
        }
        Self { dir, store: MemoryStore::new(), ring: ring() }
    }

    /// Adds incompressible data, so that a bandwidth limit makes a backup last.
    pub(crate) fn large(&self, bytes: usize) {
        let mut content = vec![0_u8; bytes];
        rand::fill(&mut content[..]);
        std::fs::write(self.path("docs/large.bin"), content).unwrap();
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn builder(&self) -> BackupServiceBuilder {
        self.builder_on(Arc::new(self.store.clone()))
    }

    pub(crate) fn builder_on(&self, store: Arc<dyn Store>) -> BackupServiceBuilder {
        let options = WorkerOptions { look_every: Duration::from_millis(50), ..WorkerOptions::default() };
        BackupService::builder(store)
            .keys(self.ring.clone())
            .adapter(LocalAdapter)
            .adapter(VaultAdapter)
            .worker(options)
    }

    pub(crate) fn service(&self) -> BackupService {
        self.builder().build().unwrap()
    }

    pub(crate) fn config(&self, below: &str) -> SecretString {
        json!({ "path": self.path(below) }).to_string().into()
    }

    pub(crate) fn vault(&self, below: &str, password: &str) -> SecretString {
        json!({ "path": self.path(below), "login": { "password": password } }).to_string().into()
    }

    /// Connections to the files and to the place of archives.
    pub(crate) async fn connect(&self, service: &BackupService) -> (ConnectionId, ConnectionId) {
        let docs = service.create_connection(NewConnection::new("docs", "local", self.config("docs"))).await.unwrap();
        let disk = NewConnection::new("disk", "local", self.config("backups")).checked_as([Role::Destination]);
        (docs.id, service.create_connection(disk).await.unwrap().id)
    }
}

/// Options of a process with another number, so that it is not this one.
pub(crate) fn as_process(pid: u32) -> EngineOptions {
    let holder = Holder { boot: "another boot".into(), host: "host".into(), pid, started: 1 };
    EngineOptions { holder, lease: Duration::from_secs(2), ..EngineOptions::default() }
}

pub(crate) fn same_tree(left: &Path, right: &Path) {
    let read = |dir: &Path| {
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_owned(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    assert!(read(left) == read(right), "the trees differ");
}
