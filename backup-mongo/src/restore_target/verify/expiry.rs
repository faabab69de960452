//! Which documents a server may have deleted because they have expired.

use super::super::collection::Collection;
use super::super::metadata::Kind;
use super::super::oplog::Changes;
use mongodb::bson::{Bson, RawBsonRef, RawDocument};

/// The rules of a collection: a path to a date, and seconds.
#[derive(Debug)]
pub(super) struct Expiry {
    rules: Vec<(String, i64)>,
    /// Milliseconds since 1970-01-01 UTC.
    now: i64,
}

fn seconds(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(n) => Some(i64::from(*n)),
        Bson::Int64(n) => Some(*n),
        Bson::Double(n) => Some(*n as i64),
        _ => None,
    }
}

impl Expiry {
    pub(super) fn new(collection: &Collection, changes: &Changes) -> Self {
        let mut rules = Vec::new();
        for index in changes.indexes(collection) {
            let field = index.get_document("key").ok().and_then(|key| key.keys().next().cloned());
            if let (Some(field), Some(seconds)) = (field, index.get("expireAfterSeconds").and_then(seconds)) {
                rules.push((field, seconds));
            }
        }
        if let Some(seconds) = collection.metadata.expires().and_then(seconds) {
            let series = collection.metadata.options.get_document("timeseries");
            let field = match (collection.kind(), series.and_then(|s| s.get_str("timeField"))) {
                (Kind::TimeSeries, Ok(field)) => format!("control.max.{field}"),
                _ => "_id".into(),
            };
            rules.push((field, seconds));
        }
        Self { rules, now: jiff::Timestamp::now().as_millisecond() }
    }

    /// Whether a document has expired.
    pub(super) fn is_over(&self, document: &[u8]) -> bool {
        let Ok(document) = RawDocument::from_bytes(document) else { return false };
        self.rules.iter().any(|(path, seconds)| {
            let at = date_at(document, path).and_then(|at| at.checked_add(seconds.checked_mul(1000)?));
            at.is_some_and(|at| at <= self.now)
        })
    }
}

/// The earliest date at a path.
fn date_at(document: &RawDocument, path: &str) -> Option<i64> {
    let whole = document.get(path).ok().flatten();
    let (value, rest) = match (whole, path.split_once('.')) {
        (Some(value), _) => (value, None),
        (None, Some((first, rest))) => (document.get(first).ok().flatten()?, Some(rest)),
        (None, None) => return None,
    };
    match (value, rest) {
        (RawBsonRef::DateTime(at), None) => Some(at.timestamp_millis()),
        (RawBsonRef::Array(all), None) => {
            all.into_iter().flatten().filter_map(|v| v.as_datetime().map(|at| at.timestamp_millis())).min()
        }
        (RawBsonRef::Document(inner), Some(rest)) => date_at(inner, rest),
        (RawBsonRef::Array(all), Some(rest)) => {
            all.into_iter().flatten().filter_map(|v| date_at(v.as_document()?, rest)).min()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{DateTime, rawdoc};

    #[test]
    fn documents_expire_by_the_earliest_date_at_the_path() {
        let at = |millis: i64| DateTime::from_millis(millis);
        let expiry = Expiry { rules: vec![("a.at".into(), 10)], now: 100_000 };
        for (document, over) in [
            (rawdoc! { "a": { "at": at(90_000) } }, true),
            (rawdoc! { "a": { "at": at(90_001) } }, false),
            (rawdoc! { "a": [{ "at": at(99_000) }, { "at": at(1) }] }, true),
            (rawdoc! { "a": { "at": [at(99_000), at(5)] } }, true),
            (rawdoc! { "a": { "at": 5 } }, false),
            (rawdoc! { "at": at(1) }, false),
        ] {
            assert_eq!(expiry.is_over(document.as_bytes()), over, "{document:?}");
        }
    }
}
