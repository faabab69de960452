//! Databases as a source.

mod consistency;
mod lane;
mod listing;
mod node;
mod oplog;
mod oplog_filter;
mod position;
mod query;
mod run;
mod slices;
mod turns;

use crate::client::MongoCluster;
use crate::error::driver_error;
use async_trait::async_trait;
use backup_core::adapter::{Cursor, Estimate, Opened, ReadContext, Source, SourceEvent, SourceProperties, Version};
use backup_core::model::{EntryName, Identity, Naming};
use backup_core::{Error, Result};
use futures::StreamExt;
use futures::stream::BoxStream;
use mongodb::bson::doc;
use node::Node;
use run::Run;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// In what order the documents of a collection are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReadOrder {
    /// As they lie on the server: the fastest. Going on is possible on the same server only; on another one the collections that were
    /// being read are read again.
    #[default]
    Natural,
    /// By `_id`: costs the server more, and goes on at any member of a replica set. Capped collections are read as they lie all the same.
    Id,
}

/// In what sense all that is read shall be of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReadConsistency {
    /// A snapshot; when the server does not keep it long enough, the oplog from its beginning on. Standalone servers and sharded
    /// clusters have neither: best effort, and the manifest says so.
    #[default]
    Automatic,
    /// The oplog from the start: for backups that are known to take longer than the server keeps snapshots.
    Oplog,
    /// Each document as it is when it is read. For a backup that paused because consistency was lost, this is the way to go on.
    BestEffort,
}

/// How a source reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MongoSourceOptions {
    /// The order of documents.
    pub order: ReadOrder,
    /// The consistency.
    pub consistency: ReadConsistency,
}

/// The databases of a deployment as a source: see the crate's documentation for what it delivers.
#[derive(Clone, Debug)]
pub struct MongoSource {
    cluster: MongoCluster,
    options: MongoSourceOptions,
}

impl MongoSource {
    /// A source of the databases and collections that the cluster's configuration means.
    pub fn new(cluster: MongoCluster, options: MongoSourceOptions) -> Self {
        Self { cluster, options }
    }
}

#[async_trait]
impl Source for MongoSource {
    fn identity(&self) -> Identity {
        self.cluster.identity()
    }

    fn properties(&self) -> SourceProperties {
        // Everything is delivered inline.
        SourceProperties { parallel_reads: 1, pins_version: true, naming: Naming::Paths }
    }

    async fn check(&self) -> Result<()> {
        let node = Node::choose(&self.cluster, None).await?;
        let selection = self.cluster.selection();
        let databases = listing::databases(&node, selection).await?;
        if let Some(missing) = selection.databases.iter().find(|name| !databases.contains(name)) {
            return Err(Error::not_found("there is no such database, or the user may not see it").on(missing));
        }
        for database in databases {
            let all = listing::list_database(&node, selection, &database).await?;
            // One stands for all: rights are usually given for whole databases.
            if let Some(first) = all.iter().find(|listed| listed.uuid.is_some()) {
                let find = doc! { "find": first.data(), "limit": 1, "projection": { "_id": 1 } };
                let read = node.command(&database, find).await;
                read.map_err(|e| driver_error(e, "reading").on(first.group()))?;
            }
        }
        Ok(())
    }

    async fn estimate(&self) -> Result<Estimate> {
        let node = Node::choose(&self.cluster, None).await?;
        let mut bytes = 0.0;
        for database in listing::databases(&node, self.cluster.selection()).await? {
            let stats = node.command(&database, doc! { "dbStats": 1 }).await;
            let stats = stats.map_err(|e| driver_error(e, "asking for the size").on(&database))?;
            let size = stats.get("dataSize");
            bytes += size.and_then(|n| n.as_f64().or_else(|| n.as_i64().map(|n| n as f64))).unwrap_or_default();
        }
        // Collections that are left out are counted all the same: asking for each would take long where there are many.
        Ok(Estimate { entries: None, bytes: Some(bytes as u64) })
    }

    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        async_stream::try_stream! {
            let mut run = Run::start(self.cluster.clone(), self.options, after, ctx).await?;
            while let Some(event) = run.next().await? {
                yield event;
            }
        }
        .boxed()
    }

    async fn read(
        &self,
        entry: &EntryName,
        _version: Option<&Version>,
        _range: Range<u64>,
        _ctx: &ReadContext,
    ) -> Result<Opened> {
        Err(Error::not_found("all content is delivered with its entry").on(entry))
    }
}
