//! What the tests on real servers share: the servers, a data set, and independent looks at what a server holds.

#![allow(dead_code, reason = "each suite uses a part")]

pub(crate) mod dataset;

use backup_mongo::{MongoCluster, MongoConfig};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    ReplicaSet,
    Standalone,
}

pub(crate) const SERVERS: [Server; 2] = [Server::ReplicaSet, Server::Standalone];

/// A variable that says where a server or its program is.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: these tests need real servers. `eval \"$(scripts/test-servers start)\"` starts them")
    })
}

impl Server {
    /// The connection string, without a database.
    pub(crate) fn uri(self) -> String {
        variable(match self {
            Self::ReplicaSet => "BACKUP_TEST_MONGODB",
            Self::Standalone => "BACKUP_TEST_MONGODB_STANDALONE",
        })
    }

    /// The connection string with a database.
    pub(crate) fn uri_of(self, database: &str) -> String {
        let uri = self.uri();
        let (hosts, options) = uri.split_once("/?").map_or((&*uri, ""), |(hosts, options)| (hosts, options));
        // Users are those of the database admin, whatever database is named.
        let source = if hosts.contains('@') { "authSource=admin&" } else { "" };
        format!("{}/{}?{source}{options}", hosts.trim_end_matches('/'), percent(database))
    }

    /// The connection string with another user, or with none.
    pub(crate) fn uri_as(self, user: Option<(&str, &str)>) -> String {
        let uri = self.uri();
        let rest = uri.strip_prefix("mongodb://").unwrap();
        let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
        match user {
            Some((name, password)) => format!("mongodb://{name}:{password}@{rest}"),
            None => format!("mongodb://{rest}"),
        }
    }

    /// The password in the connection string.
    pub(crate) fn password(self) -> Option<String> {
        let uri = self.uri();
        Some(uri.split_once('@')?.0.rsplit_once(':')?.1.to_owned())
    }

    pub(crate) async fn client(self) -> Client {
        Client::with_uri_str(self.uri()).await.unwrap()
    }

    pub(crate) async fn cluster(self) -> MongoCluster {
        MongoCluster::connect(MongoConfig::new(self.uri())).await.unwrap()
    }

    pub(crate) async fn cluster_of(self, database: &str) -> MongoCluster {
        MongoCluster::connect(MongoConfig::new(self.uri_of(database))).await.unwrap()
    }
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b == b'-' || b == b'_' {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// A name for a database that no other test uses.
pub(crate) fn fresh(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Databases that are dropped at the end of a test, also of a failed one if the next run comes by.
pub(crate) async fn drop_databases(client: &Client, names: &[&str]) {
    for name in names {
        client.database(name).drop().await.unwrap();
    }
}

/// The server's own hash of each collection.
pub(crate) async fn db_hash(client: &Client, database: &str) -> BTreeMap<String, String> {
    let answer = client.database(database).run_command(doc! { "dbHash": 1 }).await.unwrap();
    let collections = answer.get_document("collections").unwrap();
    // That of views has their full names in it; they are compared by their descriptions.
    let collections = collections.iter().filter(|(name, _)| *name != "system.views");
    collections.map(|(name, hash)| (name.clone(), hash.as_str().unwrap().to_owned())).collect()
}

/// Options and indexes of each collection, as far as they should be the same after a restore.
pub(crate) async fn descriptions(client: &Client, database: &str) -> BTreeMap<String, Document> {
    let database = client.database(database);
    let all: Vec<Document> = database
        .run_cursor_command(doc! { "listCollections": 1, "cursor": {} })
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let mut described = BTreeMap::new();
    for mut collection in all {
        let name = collection.get_str("name").unwrap().to_owned();
        let kind = collection.get_str("type").unwrap().to_owned();
        if name == "system.views" {
            continue;
        }
        let mut indexes = Vec::new();
        if kind != "view" {
            let cursor = database.run_cursor_command(doc! { "listIndexes": &name, "cursor": {} }).await.unwrap();
            indexes = cursor.try_collect::<Vec<Document>>().await.unwrap();
            indexes.sort_by_key(|index| index.get_str("name").unwrap_or_default().to_owned());
        }
        let options = collection.remove("options").unwrap_or(Bson::Null);
        let indexes: Vec<Bson> = indexes.into_iter().map(Bson::Document).collect();
        described.insert(name, doc! { "type": kind, "options": options, "indexes": indexes });
    }
    described
}

/// The documents of a collection in natural order, as they are.
pub(crate) async fn documents(client: &Client, database: &str, collection: &str) -> Vec<RawDocumentBuf> {
    let collection = client.database(database).collection::<RawDocumentBuf>(collection);
    collection
        .find(doc! {})
        .hint(mongodb::options::Hint::Keys(doc! { "$natural": 1 }))
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap()
}

/// Two databases hold the same: documents by the server's own hash, order of capped collections, options and indexes.
pub(crate) async fn assert_equal(from: (&Client, &str), to: (&Client, &str)) {
    let (here, there) = (descriptions(from.0, from.1).await, descriptions(to.0, to.1).await);
    assert_eq!(here.keys().collect::<Vec<_>>(), there.keys().collect::<Vec<_>>());
    for (name, description) in &here {
        assert_eq!(description, &there[name], "{name}");
    }
    assert_eq!(db_hash(from.0, from.1).await, db_hash(to.0, to.1).await);
    for (name, description) in &here {
        if description.get_document("options").is_ok_and(|o| o.get_bool("capped").unwrap_or(false)) {
            assert!(documents(from.0, from.1, name).await == documents(to.0, to.1, name).await, "the order of {name}");
        }
    }
}
