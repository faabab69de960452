//! `header.json`, the first object of an archive and the only one besides the key wraps that is never sealed.

use super::document;
use super::{Codec, Compression};
use crate::Result;
use crate::model::{ArchiveId, Identity, Naming};
use serde::{Deserialize, Serialize};

/// The format that this build writes.
const FORMAT: u32 = 1;
const WHAT: &str = "header.json";

/// What is known of an archive when it starts.
///
/// Its bytes are made once and then kept: key wraps and manifest are bound to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Header {
    /// Format that it was written in.
    pub format: u32,
    /// The oldest reader version that can read it.
    pub min_reader: u32,
    /// Features that a reader must know.
    pub features: Vec<String>,
    /// The archive.
    pub id: ArchiveId,
    /// A name for people; may be empty.
    pub name: String,
    /// What it is a backup of.
    pub source: Identity,
    /// When it was started.
    pub started_at: jiff::Timestamp,
    /// How volumes and index pieces are compressed.
    pub codec: Codec,
    /// At which level; absent without compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
    /// Whether everything but this object and the key wraps is sealed.
    pub sealed: bool,
    /// What the names of its entries are; absent for paths.
    #[serde(default, skip_serializing_if = "Naming::is_usual")]
    pub naming: Naming,
    /// What wrote it, e.g. `backup 0.1.0`.
    pub tool: String,
}

impl Header {
    /// The header of an archive that this build writes.
    pub fn new(
        id: ArchiveId,
        name: impl Into<String>,
        source: Identity,
        started_at: jiff::Timestamp,
        compression: Compression,
        sealed: bool,
    ) -> Self {
        Self {
            format: FORMAT,
            min_reader: 1,
            features: Vec::new(),
            id,
            name: name.into(),
            source,
            started_at,
            codec: compression.codec(),
            level: compression.level(),
            sealed,
            naming: Naming::default(),
            tool: concat!("backup ", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// The bytes of `header.json`: the same header gives the same bytes.
    ///
    /// # Errors
    /// `Invalid` when it cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>> {
        document::encode(self, WHAT)
    }

    /// Reads `header.json`.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged; `Unsupported` when it asks for a newer reader or for a feature that this build does not have,
    /// whatever else such a header may hold.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        document::parse_versioned(bytes, WHAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use proptest::prelude::*;

    fn header() -> Header {
        Header::new(
            "20261120T061500Z-1a2b3c4d".parse().unwrap(),
            "nightly",
            Identity::new("local", "/srv/data"),
            "2026-11-20T06:15:00Z".parse().unwrap(),
            Compression::default(),
            true,
        )
    }

    #[test]
    fn the_bytes_are_these_and_say_the_same_again() {
        let bytes = Header { tool: "backup 0.1.0".into(), ..header() }.encode().unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(
            text.starts_with(concat!(
                r#"{"format":1,"min_reader":1,"features":[],"id":"20261120T061500Z-1a2b3c4d","name":"nightly","#,
                r#""source":{"kind":"local","location":"/srv/data"},"started_at":"2026-11-20T06:15:00Z","#,
                r#""codec":"zstd","level":3,"sealed":true,"tool":"backup 0.1.0","sha256":""#
            )),
            "{text}"
        );
        assert_eq!(Header::parse(&header().encode().unwrap()).unwrap(), header());
    }

    #[test]
    fn every_changed_byte_is_corrupt() {
        let bytes = header().encode().unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Header::parse(&changed).is_err(), "byte {at}");
            assert_eq!(Header::parse(&bytes[..at]).unwrap_err().class(), ErrorClass::Corrupt, "cut at {at}");
        }
    }

    #[test]
    fn a_newer_format_is_named_as_such_even_when_nothing_else_is_known() {
        for newer in [
            &b"{\"format\":2,\"min_reader\":2,\"features\":[],\"what\":{\"ever\":1}}"[..],
            &document::encode(&Header { format: 3, min_reader: 3, ..header() }, WHAT).unwrap(),
        ] {
            let error = Header::parse(newer).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Unsupported);
            assert!(error.to_string().contains("needs a newer version"), "{error}");
        }
    }

    #[test]
    fn an_unknown_feature_is_refused_by_name_and_a_newer_writer_is_not() {
        let with_feature = Header { features: vec!["deltas".into()], ..header() }.encode().unwrap();
        let error = Header::parse(&with_feature).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unsupported);
        assert!(error.to_string().contains("\"deltas\""), "{error}");
        let mut value = serde_json::to_value(Header { format: 2, ..header() }).unwrap();
        value["new_member"] = 1.into();
        assert_eq!(Header::parse(&document::encode(&value, WHAT).unwrap()).unwrap().format, 2);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,200}") {
            let _ = Header::parse(&bytes);
            let _ = Header::parse(text.as_bytes());
        }
    }
}
