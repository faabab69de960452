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

/// Which server it is. Record numbers, by which a run goes on in natural order, mean something on this server only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeId {
    /// Host and port, as the replica set calls it.
    host: String,
    /// Changes when the server copies everything anew from another member, and so numbers its records anew.
    sync: Option<String>,
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
            let mut node =
                Self { cluster: cluster.clone(), topology, id: NodeId { host, sync: None }, choice: preferred };
            node.id.sync = node.sync_id().await;
            return Ok(node);
        }
        let is_member = |host: &str| {
            ["hosts", "passives"]
                .iter()
                .filter_map(|list| hello.get_array(list).ok())
                .flatten()
                .any(|h| h.as_str() == Some(host))
        };
        if let Some(before) = before.filter(|before| before.host != me && is_member(&before.host)) {
            let node = Self::at(cluster, topology, before.host.clone());
            match tokio::time::timeout(SAME_NODE, node.hello()).await {
                Ok(Ok(_)) => return Ok(node.identified().await),
                Ok(Err(error)) => tracing::info!(host = before.host, error = %error.chain(), "cannot be read any more"),
                Err(_) => tracing::info!(host = before.host, "cannot be reached any more"),
            }
        }
        Ok(Self::at(cluster, topology, me).identified().await)
    }

    fn at(cluster: &MongoCluster, topology: Topology, host: String) -> Self {
        let wanted = host.clone();
        let choice = SelectionCriteria::Predicate(Arc::new(move |server| {
            server.address().to_string().eq_ignore_ascii_case(&wanted)
        }));
        Self { cluster: cluster.clone(), topology, id: NodeId { host, sync: None }, choice: Some(choice) }
    }

    async fn identified(mut self) -> Self {
        self.id.sync = self.sync_id().await;
        self
    }

    /// Tells one filling of a member from the next. Not everybody may read it; then the host's name has to do.
    async fn sync_id(&self) -> Option<String> {
        let find = doc! { "find": "replset.initialSyncId", "limit": 1, "singleBatch": true };
        let found = self.command("local", find).await.ok()?;
        let first = found.get_document("cursor").ok()?.get_array("firstBatch").ok()?.first()?.as_document()?;
        first.get("_id").map(ToString::to_string)
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
