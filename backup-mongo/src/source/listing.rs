//! Which collections there are, and which of them belong into a backup.

use super::node::Node;
use crate::config::Selection;
use crate::error::driver_error;
use crate::layout::{BUCKETS_PREFIX, CollectionKind};
use crate::restore_target::STAGE_PREFIX;
use backup_core::model::GroupName;
use backup_core::{Digest, Error, Result};
use futures::StreamExt;
use mongodb::bson::{RawDocument, RawDocumentBuf, doc, rawdoc};
use std::collections::BTreeMap;

/// Collections of the database `config` that describe a sharded cluster; the others are of use to a running server only.
const CONFIG: [&str; 7] = ["chunks", "collections", "databases", "settings", "shards", "tags", "version"];
/// Collections that are listed in one batch.
const BATCH: u32 = 1000;

/// A collection as it was listed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listed {
    pub(super) database: String,
    pub(super) name: String,
    pub(super) kind: CollectionKind,
    /// Of the collection that holds the documents; views have none.
    pub(super) uuid: Option<[u8; 16]>,
    pub(super) options: RawDocumentBuf,
    pub(super) capped: bool,
}

impl Listed {
    /// The collection that holds the documents.
    pub(super) fn data(&self) -> String {
        match self.kind {
            CollectionKind::TimeSeries => format!("{BUCKETS_PREFIX}{}", self.name),
            CollectionKind::Collection | CollectionKind::View => self.name.clone(),
        }
    }

    pub(super) fn group(&self) -> GroupName {
        crate::layout::group(&self.database, &self.name)
    }

    /// Where it stands in the order of reading.
    pub(super) fn key(&self) -> (&str, &str) {
        (&self.database, &self.name)
    }

    /// A number that stands for its name and identity, to be added up over many.
    pub(super) fn print(&self) -> u64 {
        let text = format!("{}.{}\0{:?}", self.database, self.name, self.uuid);
        let digest = Digest::of(text.as_bytes()).0;
        digest.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    }
}

/// Whether a backup holds a collection at all, whoever asks; as `mongodump` decides. `collection` is the name that users know, so of
/// a time-series not that of its buckets.
pub(super) fn is_data(database: &str, collection: &str) -> bool {
    let prefixes = ["__mdb_internal", STAGE_PREFIX];
    if database == "local" || prefixes.iter().any(|p| database.starts_with(p) || collection.starts_with(p)) {
        return false;
    }
    match database {
        "config" => CONFIG.contains(&collection),
        "admin" => collection != "system.keys",
        _ => !collection.starts_with("system.") || collection == "system.js",
    }
}

/// The name by which users know a collection that the server names so.
pub(super) fn known_as(collection: &str) -> &str {
    collection.strip_prefix(BUCKETS_PREFIX).unwrap_or(collection)
}

/// The databases that are meant and exist, in order.
pub(super) async fn databases(node: &Node, selection: &Selection) -> Result<Vec<String>> {
    let answer = node.command("admin", doc! { "listDatabases": 1, "nameOnly": true }).await;
    let answer = answer.map_err(|e| driver_error(e, "listing the databases"))?;
    let listed = answer.get_array("databases").map_err(unreadable)?;
    let names = listed.iter().filter_map(|db| db.as_document()?.get_str("name").ok());
    let mut names: Vec<String> =
        names.filter(|name| *name != "local" && selection.has_database(name)).map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::corrupt("the server's list cannot be read").because(error)
}

/// The collections that are meant, in the order of reading.
pub(super) async fn list(node: &Node, selection: &Selection) -> Result<Vec<Listed>> {
    let mut all = Vec::new();
    for database in databases(node, selection).await? {
        all.append(&mut list_database(node, selection, &database).await?);
    }
    Ok(all)
}

/// The collections of one database that are meant, in the order of reading.
pub(super) async fn list_database(node: &Node, selection: &Selection, database: &str) -> Result<Vec<Listed>> {
    let named = |e| driver_error(e, "listing the collections").on(database);
    let command = rawdoc! { "listCollections": 1, "cursor": { "batchSize": 1000 } };
    let mut batches = node.cursor(database, command, BATCH).await.map_err(named)?;
    let (mut found, mut buckets) = (Vec::new(), BTreeMap::new());
    while let Some(batch) = batches.next().await.transpose().map_err(named)? {
        for document in batch.doc_slices().map_err(named)? {
            let document = document.map_err(unreadable)?;
            let document = document.as_document().ok_or_else(|| Error::corrupt("the server's list cannot be read"))?;
            let listed = listed(database, document)?;
            if let Some(series) = listed.name.strip_prefix(BUCKETS_PREFIX) {
                buckets.insert(series.to_owned(), listed.uuid);
            } else if is_data(database, &listed.name) && selection.has_collection(database, &listed.name) {
                found.push(listed);
            }
        }
    }
    for series in found.iter_mut().filter(|listed| listed.kind == CollectionKind::TimeSeries) {
        series.uuid = buckets.get(&series.name).copied().flatten();
    }
    found.sort_by(|a, b| a.key().cmp(&b.key()));
    Ok(found)
}

fn listed(database: &str, document: &RawDocument) -> Result<Listed> {
    let name = document.get_str("name").map_err(unreadable)?.to_owned();
    let kind = match document.get_str("type").map_err(unreadable)? {
        "view" => CollectionKind::View,
        "timeseries" => CollectionKind::TimeSeries,
        _ => CollectionKind::Collection,
    };
    let options = match document.get_document("options") {
        Ok(options) => options.to_owned(),
        Err(_) => RawDocumentBuf::new(),
    };
    let info = document.get_document("info").ok();
    let uuid = info.and_then(|info| info.get_binary("uuid").ok()).and_then(|uuid| uuid.bytes.try_into().ok());
    let capped = options.get_bool("capped").unwrap_or(false);
    Ok(Listed { database: database.to_owned(), name, kind, uuid, options, capped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_collections_are_chosen_as_mongodump_does() {
        for (database, collection, kept) in [
            ("shop", "orders", true),
            ("shop", "system.js", true),
            ("shop", "system.views", false),
            ("shop", "system.profile", false),
            ("admin", "system.users", true),
            ("admin", "system.keys", false),
            ("config", "shards", true),
            ("config", "transactions", false),
            ("local", "oplog.rs", false),
            ("shop", "__mdb_internal_x", false),
            ("shop", "backup-tmp-x", false),
        ] {
            assert_eq!(is_data(database, collection), kept, "{database}.{collection}");
        }
        assert_eq!(known_as("system.buckets.weather"), "weather");
    }
}
