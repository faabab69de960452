//! A connection to a deployment.

use crate::config::{MongoConfig, Selection};
use crate::error::driver_error;
use backup_core::model::Identity;
use backup_core::{Error, Result};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use std::fmt;

/// The kind of MongoDB adapters.
pub const KIND: &str = "mongodb";

/// What a deployment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// A single server without replication: no point in time, no oplog.
    Standalone,
    /// A replica set.
    ReplicaSet,
    /// A sharded cluster, through a router.
    Sharded,
}

/// A connection to a MongoDB deployment. Cloning shares it.
#[derive(Clone)]
pub struct MongoCluster {
    client: Client,
    selection: Selection,
    identity: Identity,
    direct: bool,
}

impl fmt::Debug for MongoCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoCluster").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl MongoCluster {
    /// Makes a client. No server is reached yet, but DNS records are looked up for `mongodb+srv`.
    ///
    /// # Errors
    /// `Invalid` when the configuration cannot be right; `Transient` when the hosts cannot be looked up.
    pub async fn connect(config: MongoConfig) -> Result<Self> {
        let selection = config.selection()?;
        let mut location = config.hosts()?;
        if !selection.databases.is_empty() {
            let names: Vec<&str> = selection.databases.iter().map(String::as_str).collect();
            location = format!("{location}/{}", names.join(","));
        }
        let options = config.client_options().await?;
        let direct = options.direct_connection == Some(true);
        let client = Client::with_options(options).map_err(|e| crate::error::without_uri(&e))?;
        Ok(Self { client, selection, identity: Identity::new(KIND, location), direct })
    }

    /// The driver's client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Which databases and collections are meant.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Hosts and databases, without secrets.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Whether one server is meant, whatever replica set it belongs to.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// A database, meant or not.
    pub fn database(&self, name: &str) -> Database {
        self.client.database(name)
    }

    /// The server's answer to `hello`.
    ///
    /// # Errors
    /// `Transient` when no server can be reached in time, `Unauthorized` when the credentials are refused.
    pub async fn hello(&self) -> Result<Document> {
        let hello = self.database("admin").run_command(doc! { "hello": 1 }).await;
        hello.map_err(|e| driver_error(e, "connecting").on(&self.identity.location))
    }

    /// The version of the server, e.g. `6.0.5`.
    ///
    /// # Errors
    /// As [`hello`](Self::hello).
    pub async fn server_version(&self) -> Result<String> {
        let info = self.database("admin").run_command(doc! { "buildInfo": 1 }).await;
        let info = info.map_err(|e| driver_error(e, "asking for the server's version"))?;
        info.get_str("version")
            .map(str::to_owned)
            .map_err(|e| Error::corrupt("the server does not tell its version").because(e))
    }

    /// What the deployment is.
    ///
    /// # Errors
    /// As [`hello`](Self::hello).
    pub async fn topology(&self) -> Result<Topology> {
        Ok(topology_of(&self.hello().await?))
    }
}

/// What a server's answer to `hello` says of its deployment.
pub(crate) fn topology_of(hello: &Document) -> Topology {
    if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        Topology::Sharded
    } else if hello.contains_key("setName") {
        Topology::ReplicaSet
    } else {
        Topology::Standalone
    }
}
