//! Drives for tests: each has a server of its own.

use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::Destination;
use backup_core::retry::{RetryPolicy, Retrying};
use backup_gdrive::{Credentials, GDrive, GDriveConfig, GDriveDestination, QuotaPolicy, TimeLimits};
use backup_testkit::conformance::destination::{DestinationFixture, DestinationPlace};
use backup_testkit::faulty::When;
use backup_testkit::gdrive::{DriveFault, DriveFaults, DriveOperation, DriveRole, DriveServer};
use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// Waits are short, and the cap of a day is met after a moment.
pub(crate) fn quick() -> QuotaPolicy {
    QuotaPolicy { first_wait_ms: 2, longest_wait_ms: 20, patience_s: 2, pause_s: 4 * 3600 }
}

/// An outage is over after a moment, or lasts too long.
pub(crate) fn limits() -> TimeLimits {
    TimeLimits { outage_s: 2, ..TimeLimits::default() }
}

pub(crate) fn config(server: &DriveServer, folder: &str, refresh_token: &str) -> GDriveConfig {
    let credentials = Credentials::User {
        client_id: server.client_id().to_owned(),
        client_secret: server.client_secret().into(),
        refresh_token: Some(refresh_token.into()),
    };
    let mut config = GDriveConfig::new(folder, credentials);
    config.path = "archives/of one".to_owned();
    config.endpoint = Some(server.url().to_owned());
    (config.quota, config.limits) = (quick(), limits());
    config
}

/// A folder on a server of its own.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) server: Arc<DriveServer>,
    pub(crate) folder: String,
    /// The shared drive that the folder is in.
    shared: Option<String>,
    /// Used as the engine does it: what breaks off is taken up again.
    retrying: bool,
    token: String,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let server = Arc::new(DriveServer::start().await);
        // Others have files too.
        server.plant("root-of-my-drive", "neighbour/x", Bytes::from_static(b"a neighbour"));
        let (folder, token) = (server.make_folder("backups"), server.refresh_token());
        Self { server, folder, shared: None, retrying: false, token }
    }

    /// In a shared drive in which the account has a role.
    pub(crate) async fn shared(role: DriveRole) -> Self {
        let place = Self::new().await;
        let drive = place.server.make_shared_drive(role);
        let folder = place.server.make_folder_in(&drive, "backups");
        Self { folder, shared: Some(drive), ..place }
    }

    pub(crate) fn config(&self) -> GDriveConfig {
        GDriveConfig { drive: self.shared.clone(), ..config(&self.server, &self.folder, &self.token) }
    }

    pub(crate) fn destination(&self) -> Arc<GDriveDestination> {
        self.destination_with(limits())
    }

    pub(crate) fn destination_with(&self, limits: TimeLimits) -> Arc<GDriveDestination> {
        Arc::new(GDriveDestination::new(GDrive::new(GDriveConfig { limits, ..self.config() }).unwrap()))
    }

    /// The id of a folder, by the end of its path.
    pub(crate) fn folder_at(&self, end: &str) -> String {
        self.server.folders().into_iter().find(|folder| folder.path.ends_with(end)).unwrap().id
    }
}

/// Makes places for the conformance suite.
#[derive(Debug)]
pub(crate) struct Drives {
    /// Met again and again, if there is one.
    pub(crate) fault: Option<(DriveOperation, When, DriveFault)>,
    /// How many objects a listing has.
    pub(crate) many: usize,
    /// In a shared drive, in which the account has a role.
    pub(crate) shared: Option<DriveRole>,
    /// The scripts of all places.
    pub(crate) scripts: Mutex<Vec<DriveFaults>>,
}

impl Default for Drives {
    fn default() -> Self {
        Self { fault: None, many: 1200, shared: None, scripts: Mutex::default() }
    }
}

impl Drives {
    async fn make(&self) -> Place {
        let mut place = match self.shared {
            Some(role) => Place::shared(role).await,
            None => Place::new().await,
        };
        place.retrying = matches!(self.fault, Some((_, _, DriveFault::Break { .. })));
        if let Some((operation, when, fault)) = &self.fault {
            place.server.faults().add(*operation, *when, fault.clone());
            self.scripts.lock().unwrap().push(place.server.faults().clone());
        }
        place
    }

    /// How many faults were met in all places.
    pub(crate) fn fired(&self) -> usize {
        self.scripts.lock().unwrap().iter().map(DriveFaults::fired).sum()
    }
}

#[async_trait]
impl DestinationFixture for Drives {
    async fn place(&self) -> Result<Box<dyn DestinationPlace>> {
        Ok(Box::new(self.make().await))
    }

    fn many(&self) -> usize {
        self.many
    }

    async fn unauthorized(&self) -> Result<Option<Arc<dyn Destination>>> {
        let place = Place { token: "1//wrong".into(), ..self.make().await };
        Ok(Some(Arc::new(Kept { inner: place.destination(), _server: place.server })))
    }

    async fn nearly_full(&self) -> Result<Option<Box<dyn DestinationPlace>>> {
        let place = self.make().await;
        place.server.set_quota(Some(1 << 20));
        Ok(Some(Box::new(place)))
    }

    async fn breaking(&self) -> Result<Option<Box<dyn DestinationPlace>>> {
        let place = Place::new().await;
        place.server.faults().add(DriveOperation::Download, When::Always, DriveFault::Break { after: 100_000 });
        Ok(Some(Box::new(place)))
    }
}

#[async_trait]
impl DestinationPlace for Place {
    fn destination(&self) -> Arc<dyn Destination> {
        match self.retrying {
            true => Retrying::new(self.destination(), RetryPolicy::default()),
            false => self.destination(),
        }
    }

    async fn again(&self) -> Result<Arc<dyn Destination>> {
        Ok(DestinationPlace::destination(self))
    }

    fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![self.token.clone(), self.server.client_secret().to_owned()];
        secrets.extend(self.server.secrets());
        secrets
    }

    async fn plant(&self, path: &str, bytes: Bytes) -> Result<bool> {
        self.server.plant(&self.folder, &format!("archives/of one/{path}"), bytes);
        Ok(true)
    }

    async fn paths(&self) -> Result<Option<Vec<String>>> {
        let below = |path: &str| path.strip_prefix("backups/archives/of one/").map(str::to_owned);
        Ok(Some(self.server.files().iter().filter_map(|file| below(&file.path)).collect()))
    }
}

/// A destination that keeps its server alive.
#[derive(Debug)]
struct Kept {
    inner: Arc<GDriveDestination>,
    _server: Arc<DriveServer>,
}

#[async_trait]
impl Destination for Kept {
    fn identity(&self) -> backup_core::model::Identity {
        self.inner.identity()
    }
    fn properties(&self) -> backup_core::adapter::DestinationProperties {
        self.inner.properties()
    }
    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }
    async fn now(&self) -> Result<jiff::Timestamp> {
        self.inner.now().await
    }
    async fn put(&self, name: &backup_core::model::ObjectName, body: backup_core::adapter::Payload) -> Result<()> {
        self.inner.put(name, body).await
    }
    async fn get(
        &self,
        name: &backup_core::model::ObjectName,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<backup_core::adapter::ByteStream> {
        self.inner.get(name, range).await
    }
    async fn stat(&self, name: &backup_core::model::ObjectName) -> Result<Option<backup_core::adapter::ObjectInfo>> {
        self.inner.stat(name).await
    }
    fn list(
        &self,
        prefix: Option<&backup_core::model::ObjectName>,
    ) -> futures::stream::BoxStream<'_, Result<backup_core::adapter::ObjectInfo>> {
        self.inner.list(prefix)
    }
    fn list_roots(&self) -> futures::stream::BoxStream<'_, Result<String>> {
        self.inner.list_roots()
    }
    async fn delete(&self, name: &backup_core::model::ObjectName) -> Result<()> {
        self.inner.delete(name).await
    }
    async fn remove_staged(&self, prefix: &backup_core::model::ObjectName) -> Result<()> {
        self.inner.remove_staged(prefix).await
    }
    async fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space().await
    }
}
