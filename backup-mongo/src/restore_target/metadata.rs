//! Descriptions of collections, read from `metadata.json`, in the form in which a server takes them.

use backup_core::{Error, Result};
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;

/// What a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// Its documents have an order.
    Capped,
    TimeSeries,
    View,
}

/// Options and indexes of a collection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metadata {
    /// The true name, when it is given.
    pub(super) name: Option<String>,
    /// As the server of the source told them.
    pub(super) options: Document,
    /// As the server of the source told them.
    pub(super) indexes: Vec<Document>,
}

#[derive(Deserialize)]
struct Form {
    #[serde(default)]
    options: Option<Document>,
    #[serde(default)]
    indexes: Option<Vec<Document>>,
    #[serde(default, rename = "collectionName")]
    name: Option<String>,
}

/// Options that a server tells, but does not take, or that newer ones do not take any more.
const NOT_TAKEN: [&str; 3] = ["autoIndexId", "recordIdsReplicated", "uuid"];
/// Parts of an index that mean nothing to the server that makes it.
const NOT_OF_THE_INDEX: [&str; 3] = ["v", "ns", "background"];

impl Metadata {
    /// Reads Extended JSON, canonical or relaxed; the order of keys stays.
    pub(super) fn parse(json: &[u8]) -> Result<Self> {
        let Form { options, indexes, name } = serde_json::from_slice(json)
            .map_err(|e| Error::corrupt("it is no description of a collection").because(e))?;
        Ok(Self { name, options: options.unwrap_or_default(), indexes: indexes.unwrap_or_default() })
    }

    pub(super) fn kind(&self) -> Kind {
        if self.options.contains_key("viewOn") {
            Kind::View
        } else if self.options.contains_key("timeseries") {
            Kind::TimeSeries
        } else if self.options.get("capped").is_some_and(is_true) {
            Kind::Capped
        } else {
            Kind::Plain
        }
    }

    /// After how many seconds a time-series or clustered collection loses documents; set when everything is there.
    pub(super) fn expires(&self) -> Option<&Bson> {
        self.options.get("expireAfterSeconds")
    }

    fn collation(&self) -> Option<&Document> {
        self.options.get_document("collation").ok()
    }

    /// The command that makes the collection or view.
    pub(super) fn create(&self, name: &str) -> Document {
        let mut command = doc! { "create": name };
        for (key, value) in &self.options {
            if !NOT_TAKEN.contains(&key.as_str()) && key != "expireAfterSeconds" {
                command.insert(key, value.clone());
            }
        }
        if let Some(collation) = self.collation() {
            command.insert("collation", portable(collation));
        }
        if !self.options.contains_key("clusteredIndex")
            && self.kind() != Kind::View
            && let Some(index) = self.indexes.iter().find(|index| is_id_index(index))
        {
            let mut index = cleaned(index);
            index.remove("clustered");
            command.insert("idIndex", index);
        }
        command
    }

    /// The indexes that have to be made, in the form in which a server takes them.
    pub(super) fn wanted_indexes(&self) -> Vec<Document> {
        let wanted =
            self.indexes.iter().filter(|index| !is_id_index(index) && !index.get("clustered").is_some_and(is_true));
        wanted
            .map(|index| {
                let mut index = cleaned(index);
                // Without it, the index would inherit the collection's; in the source it has none.
                if self.collation().is_some() && !index.contains_key("collation") {
                    index.insert("collation", doc! { "locale": "simple" });
                }
                index
            })
            .collect()
    }

    /// Options in a form in which those of two servers can be compared.
    pub(super) fn comparable_options(&self) -> Document {
        let mut options = self.options.clone();
        for key in NOT_TAKEN {
            options.remove(key);
        }
        if let Some(collation) = self.collation().map(portable) {
            options.insert("collation", collation);
        }
        comparable(&options)
    }

    /// Indexes in a form in which those of two servers can be compared, by name.
    pub(super) fn comparable_indexes(&self) -> Vec<(String, Document)> {
        let named = |index: &Document| {
            let mut index = cleaned(index);
            if index.get_document("collation").is_ok_and(|c| c.get_str("locale").is_ok_and(|l| l == "simple")) {
                index.remove("collation");
            }
            let key = index.get("key").cloned();
            let mut same = comparable(&index);
            // The order of a key's fields is a part of what it is.
            if let Some(Bson::Document(key)) = key {
                same.insert("key", key.iter().map(|(k, v)| doc! { k: number(v) }).collect::<Vec<_>>());
            }
            (index.get_str("name").unwrap_or_default().to_owned(), same)
        };
        let mut all: Vec<_> = self.indexes.iter().map(named).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

/// Whether a description is one of a capped collection.
pub(crate) fn is_capped(json: &[u8]) -> bool {
    Metadata::parse(json).is_ok_and(|metadata| metadata.kind() == Kind::Capped)
}

/// The true name of a collection, if its description has it.
pub(crate) fn described_name(json: &[u8]) -> Option<String> {
    Metadata::parse(json).ok()?.name
}

/// Whether what is described has documents: a view has none, those of a time-series (`true`) are in another collection.
///
/// # Errors
/// `Corrupt` when it is no description.
pub(crate) fn has_documents(json: &[u8]) -> Result<Option<bool>> {
    Ok(match Metadata::parse(json)?.kind() {
        Kind::View => None,
        kind => Some(kind == Kind::TimeSeries),
    })
}

pub(super) fn is_true(value: &Bson) -> bool {
    match value {
        Bson::Boolean(value) => *value,
        Bson::Int32(n) => *n != 0,
        Bson::Int64(n) => *n != 0,
        Bson::Double(n) => *n != 0.0,
        _ => false,
    }
}

fn is_id_index(index: &Document) -> bool {
    index.get_document("key").is_ok_and(|key| key.len() == 1 && key.contains_key("_id"))
        && (index.get_str("name").is_ok_and(|name| name == "_id_") || index.get("clustered").is_some_and(is_true))
}

/// Without the version of the library that compares texts: another server may have another one, and refuses this.
fn portable(collation: &Document) -> Document {
    let mut collation = collation.clone();
    collation.remove("version");
    collation
}

fn cleaned(index: &Document) -> Document {
    let mut index = index.clone();
    for key in NOT_OF_THE_INDEX {
        index.remove(key);
    }
    if let Ok(collation) = index.get_document("collation").map(portable) {
        index.insert("collation", collation);
    }
    index
}

/// With numbers of one type, and fields in the order of their names.
fn comparable(document: &Document) -> Document {
    let mut fields: Vec<_> = document.iter().map(|(key, value)| (key.clone(), number(value))).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields.into_iter().collect()
}

fn number(value: &Bson) -> Bson {
    match value {
        Bson::Int32(n) => Bson::Double(f64::from(*n)),
        Bson::Int64(n) => Bson::Double(*n as f64),
        Bson::Document(inner) => Bson::Document(inner.iter().map(|(k, v)| (k.clone(), number(v))).collect()),
        Bson::Array(inner) => Bson::Array(inner.iter().map(number).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Metadata {
        Metadata::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_order_of_an_indexs_fields_stays() {
        let metadata = parse(
            r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"},
                {"v":{"$numberInt":"2"},"key":{"b":{"$numberInt":"1"},"a":{"$numberDouble":"-1.0"}},"name":"x","ns":"d.c"}]}"#,
        );
        assert_eq!(metadata.wanted_indexes(), [doc! { "key": { "b": 1, "a": -1.0 }, "name": "x" }]);
        let other = parse(r#"{"indexes":[{"v":1,"key":{"_id":1},"name":"_id_"},{"key":{"a":-1,"b":1},"name":"x"}]}"#);
        assert_ne!(metadata.comparable_indexes(), other.comparable_indexes());
        let same = parse(r#"{"indexes":[{"name":"x","key":{"b":1,"a":-1}},{"v":1,"key":{"_id":1},"name":"_id_"}]}"#);
        assert_eq!(metadata.comparable_indexes(), same.comparable_indexes());
    }

    #[test]
    fn an_index_without_a_collation_does_not_inherit_that_of_its_collection() {
        let metadata = parse(
            r#"{"options":{"collation":{"locale":"de","version":"57.1"}},"indexes":[
                {"key":{"_id":1},"name":"_id_","collation":{"locale":"de","version":"57.1"}},
                {"key":{"a":1},"name":"a"},{"key":{"b":1},"name":"b","collation":{"locale":"sv","version":"57.1"}}]}"#,
        );
        let wanted = metadata.wanted_indexes();
        assert_eq!(wanted[0].get_document("collation").unwrap(), &doc! { "locale": "simple" });
        assert_eq!(wanted[1].get_document("collation").unwrap(), &doc! { "locale": "sv" });
        let create = metadata.create("c");
        assert_eq!(create.get_document("collation").unwrap(), &doc! { "locale": "de" });
        assert_eq!(
            create.get_document("idIndex").unwrap().get_document("collation").unwrap(),
            &doc! { "locale": "de" }
        );
    }

    #[test]
    fn kinds_are_told_by_their_options() {
        for (options, kind) in [
            ("{}", Kind::Plain),
            (r#"{"capped":true,"size":{"$numberInt":"4096"}}"#, Kind::Capped),
            (r#"{"viewOn":"x","pipeline":[]}"#, Kind::View),
            (r#"{"timeseries":{"timeField":"t"},"expireAfterSeconds":{"$numberLong":"5"}}"#, Kind::TimeSeries),
        ] {
            let metadata = parse(&format!(r#"{{"options":{options},"indexes":[]}}"#));
            assert_eq!(metadata.kind(), kind);
            assert!(!metadata.create("x").contains_key("expireAfterSeconds"));
        }
        assert!(parse("{}").options.is_empty());
        assert!(Metadata::parse(b"[1]").is_err() && Metadata::parse(b"{\"options\":5}").is_err());
    }
}
