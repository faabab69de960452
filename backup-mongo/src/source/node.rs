//! The one server that a run reads from.

use crate::client::{MongoCluster, Topology, topology_of};
use crate::error::driver_error;
use crate::layout::OplogTime;
use backup_core::{Error, Result};
use mongodb::action::Action as _;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::SelectionCriteria;
use mongodb::raw_batch_cursor::RawBatchCursor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How long a resumed run looks for the server that it read from before.
const SAME_NODE: Duration = Duration::from_secs(10);

/// Which server it is, and in which of its lives: record numbers, by which a run goes on in natural order, mean something there only.
///
/// A server that dies may lose its newest writes, or, as a member of a replica set, apply them once more from the oplog; a member that
/// has to take back what a new primary does not have does so too. Numbers of records are then given anew. So a new process or a new
/// election counts as another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeId {
    /// Host and port, as the replica set calls it.
    host: String,
    /// The process.
    process: Option<String>,
    /// Number of the last election that it knows of.
    term: Option<i64>,
}

impl NodeId {
    fn of(hello: &Document, host: String) -> Self {
        let process = hello.get_document("topologyVersion").and_then(|version| version.get_object_id("processId"));
        let term = hello
            .get_document("lastWrite")
            .and_then(|write| write.get_document("opTime"))
            .and_then(|time| time.get_i64("t"));
        Self { host, process: process.ok().map(|id| id.to_hex()), term: term.ok() }
    }
}

/// The server that is read from.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) cluster: MongoCluster,
    pub(super) topology: Topology,
    pub(super) id: NodeId,
    /// Chooses it among the members of a replica set.
    choice: Option<SelectionCriteria>,
}

impl Node {
    /// Chooses a server: that of an earlier run, if it can be reached, else by the read preference of the connection string.
    pub(super) async fn choose(cluster: &MongoCluster, before: Option<&NodeId>) -> Result<Self> {
        let preferred = cluster.client().selection_criteria().cloned();
        let hello = hello(cluster, preferred.clone()).await?;
        let topology = topology_of(&hello);
        let me = hello.get_str("me").unwrap_or_default().to_owned();
        if topology != Topology::ReplicaSet || cluster.is_direct() {
            let host = if me.is_empty() { cluster.identity().location } else { me };
            let id = NodeId::of(&hello, host);
            return Ok(Self { cluster: cluster.clone(), topology, id, choice: preferred });
        }
        let is_member = |host: &str| {
            let lists = ["hosts", "passives"].iter().filter_map(|list| hello.get_array(list).ok());
            lists.flatten().any(|member| member.as_str() == Some(host))
        };
        if let Some(before) = before.filter(|before| before.host != me && is_member(&before.host)) {
            match tokio::time::timeout(SAME_NODE, Self::at(cluster, &before.host)).await {
                Ok(Ok(node)) => return Ok(node),
                Ok(Err(error)) => tracing::info!(host = before.host, error = %error.chain(), "cannot be read any more"),
                Err(_) => tracing::info!(host = before.host, "cannot be reached any more"),
            }
        }
        Self::at(cluster, &me).await
    }

    async fn at(cluster: &MongoCluster, host: &str) -> Result<Self> {
        let wanted = host.to_owned();
        let choice = SelectionCriteria::Predicate(Arc::new(move |server| {
            server.address().to_string().eq_ignore_ascii_case(&wanted)
        }));
        let hello = hello(cluster, Some(choice.clone())).await?;
        let id = NodeId::of(&hello, host.to_owned());
        Ok(Self { cluster: cluster.clone(), topology: topology_of(&hello), id, choice: Some(choice) })
    }

    /// Whether places of an earlier run, by numbers of records, can be gone on from here.
    pub(super) fn knows_records_of(&self, before: &NodeId) -> bool {
        self.id == *before && self.id.process.is_some()
    }

    /// Makes sure that it still is what it was when it was chosen.
    pub(super) async fn ensure_same(&self) -> Result<()> {
        let now = NodeId::of(&self.hello().await?, self.id.host.clone());
        if now == self.id {
            return Ok(());
        }
        Err(Error::transient("the server was started again or there was an election while it was read")
            .on(&self.id.host))
    }

    /// Runs a command on it.
    pub(super) async fn command(&self, database: &str, command: Document) -> Result<Document, mongodb::error::Error> {
        let database = self.cluster.database(database);
        database.run_command(command).optional(self.choice.clone(), |run, choice| run.selection_criteria(choice)).await
    }

    /// Runs a command that answers with a cursor; later batches have at most so many documents.
    pub(super) async fn cursor(
        &self,
        database: &str,
        command: RawDocumentBuf,
        batch: u32,
    ) -> Result<RawBatchCursor, mongodb::error::Error> {
        let database = self.cluster.database(database);
        let run = database.run_raw_cursor_command(command).batch_size(batch);
        run.optional(self.choice.clone(), |run, choice| run.selection_criteria(choice)).batch().await
    }

    pub(super) async fn hello(&self) -> Result<Document> {
        hello(&self.cluster, self.choice.clone()).await
    }

    /// The newest moment that a majority of the replica set has, and that is not taken back any more.
    pub(super) async fn majority_time(&self) -> Result<OplogTime> {
        let hello = self.hello().await?;
        let time = hello
            .get_document("lastWrite")
            .and_then(|w| w.get_document("majorityOpTime"))
            .and_then(|t| t.get_timestamp("ts"));
        Ok(time
            .map_err(|e| Error::transient("the server does not tell up to when its data is safe").because(e))?
            .into())
    }
}

async fn hello(cluster: &MongoCluster, choice: Option<SelectionCriteria>) -> Result<Document> {
    let database = cluster.database("admin");
    let run = database.run_command(doc! { "hello": 1 }).optional(choice, |run, choice| run.selection_criteria(choice));
    run.await.map_err(|e| driver_error(e, "connecting").on(&cluster.identity().location))
}
