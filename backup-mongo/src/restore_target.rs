//! A deployment as restore target.

mod collection;
mod create;
mod finish;
mod indexes;
mod insert;
mod learn;
mod marks;
mod metadata;
mod oplog;
mod ordered;
mod present;
mod read_back;
mod users;
mod verify;
mod views;
mod write;

pub use learn::entry_patterns;
pub(crate) use learn::unescape;
pub use marks::STAGE_PREFIX;
pub(crate) use metadata::{described_name, has_documents, is_capped};

use crate::client::{MongoCluster, topology_of};
use crate::{Topology, driver_error};
use async_trait::async_trait;
use backup_core::adapter::{
    ContentReader, EntryProgress, Granularity, RestorePlan, RestoreTarget, SmallEntry, VerifyReport, Warning, Written,
};
use backup_core::model::{Entry, EntryKind, Identity};
use backup_core::{Error, Result};
use bytes::BytesMut;
use learn::Learned;
use marks::Marks;
use mongodb::bson::{Document, doc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// No slice of a collection is longer: the largest document that a server takes, and some room.
const LARGEST_SLICE: u64 = 32 << 20;

/// What is restored and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MongoTargetOptions {
    /// All goes into this database; what is restored may then come from one database only.
    pub database: Option<String>,
    /// Other names for databases, by those that they have in the archive.
    pub rename: BTreeMap<String, String>,
    /// Users and roles are restored too, when the archive has them. They are merged into those that are there.
    pub users_and_roles: bool,
}

/// A deployment into which databases are restored.
///
/// Collections that exist already are left alone; with `overwrite` they are dropped first. While a restore is under way, a collection
/// whose name starts with [`STAGE_PREFIX`] in each database tells which collections it has made; it is dropped at the end.
#[derive(Clone)]
pub struct MongoRestoreTarget {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: MongoCluster,
    options: MongoTargetOptions,
    server: OnceCell<Server>,
    learned: Mutex<Option<Arc<Learned>>>,
    marks: Marks,
}

/// What matters of the server.
#[derive(Clone, Copy, Debug)]
struct Server {
    /// An insert can be told to leave empty timestamps as they are.
    keeps_empty_timestamps: bool,
    topology: Topology,
}

impl fmt::Debug for MongoRestoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoRestoreTarget")
            .field("identity", &self.identity())
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl MongoRestoreTarget {
    /// A target. When the cluster's configuration names one database and the options name none, all goes into that.
    ///
    /// # Errors
    /// `Invalid` when the options contradict each other or name what can be no database.
    pub fn new(cluster: MongoCluster, mut options: MongoTargetOptions) -> Result<Self> {
        let named = &cluster.selection().databases;
        if options.database.is_none() && options.rename.is_empty() && named.len() == 1 {
            options.database = named.first().cloned();
        }
        if options.database.is_some() && !options.rename.is_empty() {
            return Err(Error::invalid("either one database for everything or new names for databases, not both"));
        }
        for name in options.database.iter().chain(options.rename.values()) {
            learn::check_database(name)?;
        }
        let shared =
            Shared { cluster, options, server: OnceCell::new(), learned: Mutex::default(), marks: Marks::default() };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    async fn command(&self, database: &str, command: Document, doing: &'static str) -> Result<Document> {
        let answer = self.cluster.database(database).run_command(command).await.map_err(|e| driver_error(e, doing))?;
        check_concern(&answer, doing)?;
        Ok(answer)
    }

    async fn server(&self) -> Result<Server> {
        let ask = || async {
            let topology = topology_of(&self.cluster.hello().await?);
            let version = self.cluster.server_version().await?;
            Ok(Server { keeps_empty_timestamps: keeps_empty_timestamps(&version), topology })
        };
        self.server.get_or_try_init(ask).await.copied()
    }

    /// What a plan holds; looked up once, unless `anew`.
    async fn learned(&self, plan: &RestorePlan, anew: bool) -> Result<Arc<Learned>> {
        let known = self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.tag == plan.tag && !anew) {
            return Ok(known);
        }
        let learned = Arc::new(learn::learn(&self.options, plan).await?);
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(learned.clone());
        Ok(learned)
    }

    /// Databases that what is there counts of; `None` for all that the user can see.
    async fn databases(&self) -> Result<Vec<String>> {
        if let Some(database) = &self.options.database {
            return Ok(vec![database.clone()]);
        }
        let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true };
        let answer = self.command("admin", command, "listing databases").await?;
        let databases = answer.get_array("databases").map_err(|e| odd_answer().because(e))?;
        let names = databases.iter().filter_map(|d| d.as_document()?.get_str("name").ok());
        Ok(names.filter(|name| !matches!(*name, "admin" | "config" | "local")).map(str::to_owned).collect())
    }
}

/// Since which versions `bypassEmptyTsReplacement` is known.
fn keeps_empty_timestamps(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor, patch) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match (major, minor) {
        (5, 0) => patch >= 29,
        (6, 0) => patch >= 17,
        (7, 0) => patch >= 13,
        _ => major >= 8,
    }
}

fn odd_answer() -> Error {
    Error::permanent("the server's answer is not as it is documented")
}

/// What is part of an answer that says that the command was done, but not made durable.
fn check_concern(answer: &Document, doing: &'static str) -> Result<()> {
    match answer.get_document("writeConcernError") {
        Ok(concern) => {
            let text = concern.get_str("errmsg").unwrap_or("no reason is given");
            Err(Error::transient(format!("{doing}: a majority of the replica set has not confirmed it: {text}")))
        }
        Err(_) => Ok(()),
    }
}

/// Whether an error is about the target as a whole, so that other collections would meet it too.
fn is_fatal(error: &Error) -> bool {
    use backup_core::ErrorClass::{Cancelled, NoSpace, Unauthorized};
    error.is_retryable() || matches!(error.class(), Unauthorized | NoSpace | Cancelled)
}

#[async_trait]
impl RestoreTarget for MongoRestoreTarget {
    fn identity(&self) -> Identity {
        self.shared.cluster.identity()
    }

    /// Slices of collections whose order counts are put off and read again at the end, in their order.
    fn granularity(&self, _: &EntryKind) -> Granularity {
        Granularity::Slice
    }

    async fn check(&self) -> Result<()> {
        let hello = self.shared.cluster.hello().await?;
        // A direct connection may lead to a member that takes no writes.
        let says_no = |key| hello.get_bool(key).is_ok_and(|is| !is);
        if says_no("isWritablePrimary") || says_no("ismaster") {
            let text = "this server takes no writes; name the replica set in the connection string, so that its primary is found";
            return Err(Error::invalid(text).on(self.identity()));
        }
        self.shared.databases().await.map(drop)
    }

    async fn is_empty(&self) -> Result<bool> {
        for database in self.shared.databases().await? {
            for found in self.shared.list_collections(&database, doc! {}).await? {
                if !found.name.starts_with(STAGE_PREFIX) && !found.name.starts_with("system.") {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn prepare(&self, plan: &RestorePlan) -> Result<()> {
        let learned = self.shared.learned(plan, true).await?;
        self.shared.server().await?;
        if learned.is_foreign() {
            return Err(Error::invalid("what is to be restored is no MongoDB data"));
        }
        Ok(())
    }

    async fn write_small(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>> {
        let learned = self.shared.learned(plan, false).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for small in batch {
            let name = small.entry.name.clone();
            match self.shared.write(plan, &learned, small).await.map_err(|e| e.on(name)) {
                Err(error) if is_fatal(&error) => return Err(error),
                answer => answers.push(answer),
            }
        }
        Ok(answers)
    }

    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        mut content: ContentReader,
        _: &EntryProgress,
    ) -> Result<Result<Written>> {
        if entry.size > LARGEST_SLICE {
            return Ok(Err(Error::unsupported("no slice of a collection is so long").on(&entry.name)));
        }
        let mut bytes = BytesMut::new();
        while let Some(piece) = content.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > LARGEST_SLICE {
                return Ok(Err(Error::corrupt("it is longer than the index says").on(&entry.name)));
            }
        }
        content.finish()?;
        let small = SmallEntry { entry: entry.clone(), content: bytes.freeze() };
        let mut answers = self.write_small(plan, vec![small]).await?;
        Ok(answers.pop().unwrap_or_else(|| Err(odd_answer())))
    }

    /// What was written is durable on a majority of a replica set before an insert is answered; a standalone server's journal is
    /// written now.
    async fn sync(&self) -> Result<()> {
        self.shared.sync().await
    }

    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>> {
        self.shared.finish(plan).await
    }

    /// None before the end: what there is to tell of a collection is told when it is completed.
    fn take_warnings(&self) -> Vec<Warning> {
        Vec::new()
    }

    /// The collections stay as far as they have come, without their indexes; the marks of what this restore has made go.
    async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        self.shared.discard(plan).await
    }

    async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport> {
        self.shared.verify(plan).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_keep_empty_timestamps_are_known() {
        for (version, keeps) in [
            ("4.4.30", false),
            ("5.0.28", false),
            ("5.0.29", true),
            ("6.0.5", false),
            ("6.0.17", true),
            ("6.1.0", false),
            ("7.0.12", false),
            ("7.0.13", true),
            ("7.3.1", false),
            ("8.0.0", true),
            ("8.1.0-rc1", true),
            ("?", false),
        ] {
            assert_eq!(keeps_empty_timestamps(version), keeps, "{version}");
        }
    }
}
