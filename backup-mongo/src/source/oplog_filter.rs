//! Which entries of the oplog a restore has to apply.

use super::listing::{is_data, known_as};
use super::oplog::renamed;
use crate::config::Selection;
use backup_core::{Error, Result};
use mongodb::bson::{RawArray, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};

/// Commands that change a collection, which their first value names.
const OF_A_COLLECTION: [&str; 11] = [
    "create",
    "drop",
    "collMod",
    "createIndexes",
    "dropIndexes",
    "deleteIndexes",
    "startIndexBuild",
    "commitIndexBuild",
    "abortIndexBuild",
    "convertToCapped",
    "emptycapped",
];

/// The collection in which a server keeps the views of a database.
const VIEWS: &str = "system.views";

/// What is kept of an entry.
#[derive(Debug, PartialEq)]
pub(super) enum Kept {
    /// All of it.
    Whole,
    /// Some of the operations in it: this entry.
    Part(Vec<u8>),
    /// Nothing.
    Not,
}

/// Judges an entry.
///
/// # Errors
/// `ConsistencyLost` when it renames a collection, which what was read under the other name does not fit; `Corrupt` when it cannot
/// be read.
pub(super) fn filter(entry: &[u8], selection: &Selection) -> Result<Kept> {
    let entry = RawDocument::from_bytes(entry).map_err(damaged)?;
    let namespace = entry.get_str("ns").map_err(damaged)?;
    let (database, collection) = namespace.split_once('.').unwrap_or((namespace, ""));
    match entry.get_str("op").map_err(damaged)? {
        "i" | "u" | "d" if collection == VIEWS => {
            Ok(if is_wanted_view(entry, selection) { Kept::Whole } else { Kept::Not })
        }
        "i" | "u" | "d" => Ok(if is_wanted(database, collection, selection) { Kept::Whole } else { Kept::Not }),
        "c" => command(entry, database, selection),
        // Nothing is done ("n"), or to the server's own housekeeping.
        _ => Ok(Kept::Not),
    }
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::corrupt("an entry cannot be read").on("oplog").because(error)
}

fn is_wanted(database: &str, collection: &str, selection: &Selection) -> bool {
    let collection = known_as(collection);
    is_data(database, collection) && selection.has_collection(database, collection)
}

/// A restore has to know that a view was made, changed or dropped.
fn is_wanted_view(entry: &RawDocument, selection: &Selection) -> bool {
    let id = |name| entry.get_document(name).ok()?.get_str("_id").ok();
    id("o2").or_else(|| id("o")).is_some_and(|view| touched(view, selection))
}

fn command(entry: &RawDocument, database: &str, selection: &Selection) -> Result<Kept> {
    let what = entry.get_document("o").map_err(damaged)?;
    let Some(first) = what.iter().next() else { return Ok(Kept::Not) };
    let (name, value) = first.map_err(damaged)?;
    match (name.as_str(), value) {
        ("applyOps", RawBsonRef::Array(operations)) => apply_ops(entry, what, operations, selection),
        // They end what earlier entries of a transaction have begun; without any of it here, they end nothing.
        ("commitTransaction" | "abortTransaction", _) => Ok(Kept::Whole),
        ("dropDatabase", _) => {
            Ok(if database != "local" && selection.has_database(database) { Kept::Whole } else { Kept::Not })
        }
        ("renameCollection", RawBsonRef::String(from)) => {
            let to = what.get_str("to").map_err(damaged)?;
            let touched = |name: &str| {
                name.split_once('.').is_some_and(|(database, collection)| is_wanted(database, collection, selection))
            };
            if touched(from) || touched(to) { Err(renamed(from)) } else { Ok(Kept::Not) }
        }
        ("importCollection", RawBsonRef::String(collection)) if touched(collection, selection) => {
            Err(renamed(collection))
        }
        (name, RawBsonRef::String(collection)) if OF_A_COLLECTION.contains(&name) => {
            Ok(if is_wanted(database, collection, selection) { Kept::Whole } else { Kept::Not })
        }
        _ => Ok(Kept::Not),
    }
}

fn touched(namespace: &str, selection: &Selection) -> bool {
    namespace.split_once('.').is_some_and(|(database, collection)| is_wanted(database, collection, selection))
}

/// Several operations in one entry: those of collections that are not wanted are taken out.
fn apply_ops(entry: &RawDocument, what: &RawDocument, operations: &RawArray, selection: &Selection) -> Result<Kept> {
    let mut kept = RawArrayBuf::new();
    let (mut all, mut count) = (0, 0);
    for operation in operations {
        let operation = operation.map_err(damaged)?;
        all += 1;
        let document =
            operation.as_document().ok_or_else(|| Error::corrupt("an operation is not a document").on("oplog"))?;
        match filter(document.as_bytes(), selection)? {
            Kept::Whole => kept.push(document.to_owned()),
            Kept::Part(part) => kept.push(RawDocumentBuf::from_bytes(part).map_err(damaged)?),
            Kept::Not => continue,
        }
        count += 1;
    }
    // A link in the chain of a transaction stays, also when nothing of it is wanted.
    let in_transaction = entry.get("prevOpTime").is_ok_and(|value| value.is_some());
    if count == 0 && !in_transaction {
        return Ok(Kept::Not);
    }
    if count == all {
        return Ok(Kept::Whole);
    }
    let mut command = RawDocumentBuf::new();
    for element in what {
        let (key, value) = element.map_err(damaged)?;
        match key.as_str() {
            "applyOps" => command.append(key, kept.clone()),
            _ => command.append(key, value),
        }
    }
    let mut other = RawDocumentBuf::new();
    for element in entry {
        let (key, value) = element.map_err(damaged)?;
        match key.as_str() {
            "o" => other.append(key, &command),
            _ => other.append(key, value),
        }
    }
    Ok(Kept::Part(other.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MongoConfig;
    use backup_core::ErrorClass;
    use mongodb::bson::rawdoc;

    fn selection() -> Selection {
        let mut config = MongoConfig::new("mongodb://h/shop".to_string());
        config.exclude = vec!["shop.secret*".into()];
        config.selection().unwrap()
    }

    fn judged(entry: &RawDocumentBuf) -> Kept {
        filter(entry.as_bytes(), &selection()).unwrap()
    }

    fn insert(namespace: &str) -> RawDocumentBuf {
        rawdoc! { "op": "i", "ns": namespace, "o": { "_id": 1 } }
    }

    #[test]
    fn entries_are_chosen_by_their_collection() {
        for (namespace, kept) in [
            ("shop.orders", Kept::Whole),
            ("shop.system.buckets.weather", Kept::Whole),
            ("shop.secrets", Kept::Not),
            ("shop.system.buckets.secrets", Kept::Not),
            ("shop.system.profile", Kept::Not),
            ("other.orders", Kept::Not),
            ("config.transactions", Kept::Not),
        ] {
            assert_eq!(judged(&insert(namespace)), kept, "{namespace}");
        }
        assert_eq!(judged(&rawdoc! { "op": "n", "ns": "", "o": { "msg": "x" } }), Kept::Not);
        let view = |id: &str| rawdoc! { "op": "i", "ns": "shop.system.views", "o": { "_id": id, "viewOn": "orders" } };
        assert_eq!(judged(&view("shop.paid")), Kept::Whole);
        assert_eq!(judged(&view("shop.secret_view")), Kept::Not);
    }

    #[test]
    fn commands_are_chosen_by_their_collection() {
        let command =
            |database: &str, o: RawDocumentBuf| rawdoc! { "op": "c", "ns": format!("{database}.$cmd"), "o": o };
        assert_eq!(judged(&command("shop", rawdoc! { "create": "a" })), Kept::Whole);
        assert_eq!(judged(&command("shop", rawdoc! { "drop": "secret" })), Kept::Not);
        assert_eq!(judged(&command("other", rawdoc! { "create": "a" })), Kept::Not);
        assert_eq!(judged(&command("shop", rawdoc! { "dropDatabase": 1 })), Kept::Whole);
        assert_eq!(judged(&command("other", rawdoc! { "dropDatabase": 1 })), Kept::Not);
        assert_eq!(judged(&command("admin", rawdoc! { "commitTransaction": 1 })), Kept::Whole);
        assert_eq!(judged(&command("shop", rawdoc! { "dbCheck": "a" })), Kept::Not);
        let other = command("other", rawdoc! { "renameCollection": "other.a", "to": "other.b" });
        assert_eq!(judged(&other), Kept::Not);
        for (from, to) in [("shop.a", "other.a"), ("other.a", "shop.a")] {
            let rename = command("shop", rawdoc! { "renameCollection": from, "to": to });
            assert_eq!(filter(rename.as_bytes(), &selection()).unwrap_err().class(), ErrorClass::ConsistencyLost);
        }
    }

    #[test]
    fn operations_of_other_collections_are_taken_out_of_transactions() {
        let entry = |operations: Vec<RawDocumentBuf>, chained: bool| {
            let mut array = RawArrayBuf::new();
            operations.into_iter().for_each(|operation| array.push(operation));
            let mut entry = rawdoc! { "ts": 1, "op": "c", "ns": "admin.$cmd", "o": { "applyOps": array, "count": 3 } };
            if chained {
                entry.append(mongodb::bson::raw::cstr!("prevOpTime"), &rawdoc! { "t": 1 });
            }
            entry
        };
        let (wanted, other) = (insert("shop.a"), insert("other.a"));
        assert_eq!(judged(&entry(vec![wanted.clone(), wanted.clone()], false)), Kept::Whole);
        assert_eq!(judged(&entry(vec![other.clone()], false)), Kept::Not);
        let part = entry(vec![wanted.clone()], true).into_bytes();
        assert_eq!(judged(&entry(vec![other.clone(), wanted], true)), Kept::Part(part));
        let empty = entry(vec![], true).into_bytes();
        assert_eq!(judged(&entry(vec![other], true)), Kept::Part(empty));
    }
}
