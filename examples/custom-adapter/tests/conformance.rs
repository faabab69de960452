//! The table keeps every promise of a source.

use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::Source;
use backup_core::model::{EntryName, Identity};
use backup_example_custom_adapter::TableSource;
use backup_testkit::conformance::source::{Disturbance, KnownItem, SourceFixture, SourcePart, SourcePlace, run_all};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Makes tables.
struct Tables;

/// A table and what it was made with.
struct Place {
    table: TableSource,
    rows: Vec<(String, Bytes)>,
}

impl Place {
    fn made(rows: Vec<(String, Bytes)>) -> Box<dyn SourcePlace> {
        static PLACES: AtomicU32 = AtomicU32::new(0);
        let name = format!("place {}", PLACES.fetch_add(1, Ordering::Relaxed));
        Box::new(Self { table: TableSource::new(&name, rows.clone()), rows })
    }
}

fn value(length: usize) -> Bytes {
    (0..length).map(|i| (i % 251) as u8).collect()
}

#[async_trait]
impl SourceFixture for Tables {
    async fn place(&self) -> Result<Box<dyn SourcePlace>> {
        let lengths = [
            ("empty", 0),
            ("part/a", 10),
            ("part/large", 300_000),
            ("partly", 64 << 10),
            ("reports/just-too-long-to-be-inline", (64 << 10) + 1),
            ("reports/ü", 1000),
        ];
        Ok(Place::made(lengths.map(|(key, length)| (key.to_string(), value(length))).into()))
    }

    async fn many(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        Ok(Some(Place::made((0..20_000).map(|i| (format!("row/{i}"), value(i % 100))).collect())))
    }
}

#[async_trait]
impl SourcePlace for Place {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.table.clone())
    }

    async fn again(&self) -> Result<Arc<dyn Source>> {
        Ok(self.source())
    }

    fn items(&self) -> Vec<KnownItem> {
        self.rows.iter().map(|(key, value)| KnownItem::file(key, value.clone())).collect()
    }

    fn part(&self) -> Option<SourcePart> {
        let identity = Identity::new("table", format!("{}/part", self.table.identity().location));
        Some(SourcePart { identity, names: vec!["part/a".into(), "part/large".into()] })
    }

    async fn disturb(&self, item: &EntryName, how: Disturbance) -> Result<bool> {
        let Some(key) = item.as_str() else { return Ok(false) };
        match how {
            Disturbance::Remove => self.table.remove(key),
            Disturbance::Change(content) => self.table.insert(key, content),
            Disturbance::Shorten(length) => {
                let rest =
                    self.rows.iter().find(|(k, _)| k == key).map(|(_, v)| v.slice(..v.len().min(length as usize)));
                self.table.insert(key, rest.unwrap_or_default());
            }
            // A table in memory denies nothing.
            Disturbance::Deny => return Ok(false),
        }
        Ok(true)
    }
}

#[tokio::test]
async fn the_table_keeps_every_promise() {
    // A table in memory has no password, is never away or locked, and not at the end of a bad line.
    let skipped = [
        "identity_and_debug_carry_no_secret",
        "a_missing_place_is_not_found",
        "wrong_credentials_are_unauthorized",
        "an_item_that_may_not_be_read_does_not_end_the_run",
        "a_broken_connection_is_an_error",
        "a_denied_item_is_permanent_or_unauthorized",
    ];
    let passed = run_all(&Tables).await.assert_passed(&skipped);
    assert!(passed >= 20, "{passed} cases passed");
}
