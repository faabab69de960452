//! The contract of sources.

use crate::data::fill;
use crate::support::{Place, Run, replica_set, source, standalone};
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::Source;
use backup_core::model::EntryKind;
use backup_mongo::layout::{Item, group};
use backup_mongo::{MongoConfig, MongoSource, MongoSourceOptions, ReadOrder};
use backup_testkit::conformance::source::{KnownItem, SourceFixture, SourcePlace, run_all};
use bytes::Bytes;
use mongodb::bson::doc;
use std::collections::BTreeMap;
use std::sync::Arc;

struct Fixture {
    uri: String,
    order: ReadOrder,
}

struct Filled {
    place: Place,
    options: MongoSourceOptions,
    source: Arc<MongoSource>,
    items: Vec<KnownItem>,
}

impl Fixture {
    async fn filled(&self, place: Place) -> Result<Box<dyn SourcePlace>> {
        let options = MongoSourceOptions { order: self.order, ..MongoSourceOptions::default() };
        let source = place.source(options).await;
        // The documents were compared with the server's by other tests; here the run is the measure of later ones.
        let run = Run::whole(&source).await;
        run.compare(&place).await;
        let mut slices: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for seen in &run.entries {
            // Metadata belongs to its group, and so is a part of the group's content.
            if let Some(group) = &seen.group {
                slices.entry(group.0.to_string()).or_default().extend_from_slice(&seen.bytes);
            }
        }
        let mut items: Vec<KnownItem> =
            slices.into_iter().map(|(name, content)| KnownItem::group(&name, content)).collect();
        for seen in run.entries {
            if seen.group.is_none() {
                items.push(KnownItem::Entry { name: seen.name, kind: seen.kind, content: Some(seen.bytes) });
            }
        }
        Ok(Box::new(Filled { place, options, source, items }))
    }
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn place(&self) -> Result<Box<dyn SourcePlace>> {
        let place = Place::new(&self.uri).await;
        fill(&place.database(), 2000).await;
        self.filled(place).await
    }

    async fn many(&self) -> Result<Option<Box<dyn SourcePlace>>> {
        let place = Place::new(&self.uri).await;
        for n in 0..60 {
            place.database().create_collection(format!("c{n}")).await.unwrap();
        }
        self.filled(place).await.map(Some)
    }

    async fn missing(&self) -> Result<Option<Arc<dyn Source>>> {
        let mut config = MongoConfig::new(self.uri.clone());
        config.databases = vec!["backup_test_missing".into()];
        let missing: Arc<dyn Source> = source(config, MongoSourceOptions::default()).await;
        Ok(Some(missing))
    }

    async fn unauthorized(&self) -> Result<Option<Arc<dyn Source>>> {
        let mut config = MongoConfig::new(self.uri.clone());
        config.username = Some("nobody".into());
        config.password = Some("wrong".to_string().into());
        let refused: Arc<dyn Source> = source(config, MongoSourceOptions::default()).await;
        Ok(Some(refused))
    }
}

#[async_trait]
impl SourcePlace for Filled {
    fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }

    async fn again(&self) -> Result<Arc<dyn Source>> {
        Ok(self.place.source(self.options).await)
    }

    fn items(&self) -> Vec<KnownItem> {
        self.items.clone()
    }

    fn secrets(&self) -> Vec<String> {
        password(&self.place.uri).into_iter().collect()
    }
}

/// The password of a connection string.
fn password(uri: &str) -> Option<String> {
    let (user, _) = uri.strip_prefix("mongodb://")?.split_once('@')?;
    user.split_once(':').map(|(_, password)| password.to_owned())
}

impl Drop for Filled {
    fn drop(&mut self) {
        let database = self.place.database();
        tokio::spawn(async move { database.drop().await });
    }
}

/// Everything is inline, nothing lies inside of it, and rights are tested elsewhere.
const SKIPPED: [&str; 10] = [
    "an_item_that_may_not_be_read_does_not_end_the_run",
    "an_excluded_place_is_left_out",
    "an_empty_range_delivers_nothing",
    "ranges_are_exact",
    "an_item_that_became_shorter_delivers_what_is_left",
    "a_broken_connection_is_an_error",
    "a_removed_item_is_not_found",
    "a_denied_item_is_permanent_or_unauthorized",
    "a_changed_item_is_told",
    "the_bandwidth_limit_is_kept",
];

async fn conforms(uri: String, order: ReadOrder) {
    let mut skipped = SKIPPED.to_vec();
    if password(&uri).is_none() {
        // A server without users: there is no secret to be printed.
        skipped.push("identity_and_debug_carry_no_secret");
    }
    run_all(&Fixture { uri, order }).await.assert_passed(&skipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_in_natural_order_conforms() {
    conforms(replica_set(), ReadOrder::Natural).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_by_id_conforms() {
    conforms(replica_set(), ReadOrder::Id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_conforms() {
    conforms(standalone(), ReadOrder::Natural).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_collection_is_delivered_as_it_is_laid_out() {
    for uri in [replica_set(), standalone()] {
        let place = Place::new(&uri).await;
        fill(&place.database(), 500).await;
        let run = Run::whole(&place.source(MongoSourceOptions::default()).await).await;
        run.compare(&place).await;
        assert_eq!(run.entries[0].name.to_string(), "prelude.json");
        let metadata = |name: &str| -> serde_json::Value {
            let wanted = group(&place.name, name);
            let is =
                |seen: &&crate::support::Seen| seen.group.as_ref() == Some(&wanted) && seen.kind == EntryKind::File;
            serde_json::from_slice(&run.entries.iter().find(is).unwrap().bytes).unwrap()
        };
        assert_eq!(metadata("orders_paid")["type"], "view");
        assert_eq!(metadata("orders_paid")["options"]["viewOn"], "orders");
        assert_eq!(metadata("weather")["type"], "timeseries");
        assert!(metadata("weather").get("uuid").is_none());
        assert_eq!(metadata("indexed")["indexes"].as_array().unwrap().len(), 6);
        assert_eq!(metadata("clustered")["options"]["clusteredIndex"]["name"], "cl");
        let buckets = |seen: &crate::support::Seen| match Item::parse(&seen.name) {
            Some(Item::Slice { folder, .. }) => folder == "system.buckets.weather",
            _ => false,
        };
        assert!(run.entries.iter().any(buckets));
        let all: Vec<Bytes> = run.entries.iter().map(|seen| seen.bytes.clone()).collect();
        assert!(all.iter().all(|bytes| bytes.len() <= 8 << 20));
        place.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_chosen_collections_are_delivered() {
    let place = Place::new(&replica_set()).await;
    for name in ["a1", "a2", "b1"] {
        place.database().collection(name).insert_one(doc! { "_id": 1 }).await.unwrap();
    }
    let mut config = place.config();
    config.include = vec!["*.a*".into()];
    config.exclude = vec!["*.a2".into()];
    let run = Run::whole(&source(config, MongoSourceOptions::default()).await).await;
    assert_eq!(run.collections().into_keys().collect::<Vec<_>>(), ["a1"]);
    place.drop().await;
}
