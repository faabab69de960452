//! The target keeps every promise of the trait.

use crate::support::{Server, documents, fresh};
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::RestoreTarget;
use backup_core::model::{EntryKind, EntryName, GroupName};
use backup_mongo::layout::Item;
use backup_mongo::{MongoCluster, MongoConfig, MongoRestoreTarget, MongoTargetOptions, STAGE_PREFIX};
use backup_testkit::conformance::restore_target::{Sample, Samples, SeenItem, TargetFixture, TargetPlace, run_all};
use bytes::Bytes;
use mongodb::Client;
use mongodb::bson::{Document, doc, rawdoc};
use std::sync::Arc;

struct Fixture(Server);

struct Place {
    server: Server,
    client: Client,
    database: String,
}

fn of_group(mut sample: Sample, group: &str) -> Sample {
    sample.entry.group = Some(GroupName(group.into()));
    sample
}

/// A slice of ten documents, which know of which slice they are.
fn slice(collection: &str, number: u32, text: &str) -> Sample {
    let name = format!("shop/{collection}/{number:06}.bson");
    let document =
        |n: i32| rawdoc! { "_id": format!("{name}#{n}"), "slice": &*name, "n": n, "text": text }.into_bytes();
    let content: Vec<u8> = (0..10).flat_map(document).collect();
    of_group(Sample::new(&name, EntryKind::Slice, content), &format!("shop.{collection}"))
}

fn description(collection: &str, options: &str) -> Sample {
    let indexes = if options.contains("viewOn") {
        "[]"
    } else {
        r#"[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}]"#
    };
    let json = format!(r#"{{"options":{options},"indexes":{indexes},"collectionName":"{collection}"}}"#);
    of_group(Sample::file(&format!("shop/{collection}/metadata.json"), json), &format!("shop.{collection}"))
}

#[async_trait]
impl TargetFixture for Fixture {
    async fn place(&self) -> Result<Box<dyn TargetPlace>> {
        let client = self.0.client().await;
        Ok(Box::new(Place { server: self.0, client, database: fresh("conformance") }))
    }

    fn samples(&self) -> Samples {
        let capped = r#"{"capped":true,"size":{"$numberInt":"1048576"}}"#;
        Samples {
            small: vec![
                slice("plain", 0, "a"),
                slice("plain", 1, "b"),
                slice("plain", 2, "c"),
                description("items", r#"{"validator":{"n":{"$exists":true}}}"#),
                slice("items", 0, "d"),
                slice("items", 1, "e"),
            ],
            changed: slice("plain", 1, "another content"),
            large: None,
            groups: vec![vec![description("log", capped), slice("log", 0, "f"), slice("log", 1, "g")]],
            hostile: Vec::new(),
            unfinishable: Some(description("broken", r#"{"viewOn":"items","pipeline":[{"$nonsense":1}]}"#)),
        }
    }

    async fn unauthorized(&self) -> Result<Option<Arc<dyn RestoreTarget>>> {
        let config = MongoConfig::new(self.0.uri_as(Some(("nobody", "wrong"))));
        Ok(Some(target(config, "x").await))
    }
}

async fn target(mut config: MongoConfig, database: &str) -> Arc<dyn RestoreTarget> {
    config.databases = vec![database.into()];
    let cluster = MongoCluster::connect(config).await.unwrap();
    Arc::new(MongoRestoreTarget::new(cluster, MongoTargetOptions::default()).unwrap())
}

impl Place {
    async fn new_target(&self) -> Arc<dyn RestoreTarget> {
        let config = MongoConfig::new(self.server.uri());
        target(config, &self.database).await
    }

    fn collection(&self, name: &EntryName) -> String {
        match Item::parse(name) {
            Some(Item::Metadata { folder, .. } | Item::Slice { folder, .. }) => folder.to_owned(),
            _ => "none".to_owned(),
        }
    }

    fn documents(&self, name: &EntryName) -> mongodb::Collection<Document> {
        self.client.database(&self.database).collection(&self.collection(name))
    }
}

#[async_trait]
impl TargetPlace for Place {
    fn target(&self) -> Arc<dyn RestoreTarget> {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.new_target()))
    }

    async fn again(&self) -> Result<Arc<dyn RestoreTarget>> {
        Ok(self.new_target().await)
    }

    /// A slice is there when all of its documents are: a server takes them one by one.
    async fn look(&self, name: &EntryName) -> Result<Option<SeenItem>> {
        let collection = self.collection(name);
        let names = self.client.database(&self.database).list_collection_names().await.unwrap();
        if !names.contains(&collection) {
            return Ok(None);
        }
        if name.to_string().ends_with("metadata.json") {
            let samples = Fixture(self.server).samples();
            let all = samples.small.iter().chain(samples.groups.iter().flatten());
            let content = all.into_iter().find(|sample| sample.name() == name).map(|sample| sample.content.clone());
            return Ok(content.map(SeenItem::Content));
        }
        let mut found = Vec::new();
        for document in documents(&self.client, &self.database, &collection).await {
            if document.get_str("slice").is_ok_and(|slice| slice == name.to_string()) {
                found.push((document.get_i32("n").unwrap(), document.into_bytes()));
            }
        }
        found.sort();
        let content: Bytes = found.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>().into();
        Ok((found.len() == 10).then_some(SeenItem::Content(content)))
    }

    fn secrets(&self) -> Vec<String> {
        self.server.password().into_iter().collect()
    }

    async fn staged(&self) -> Result<Option<Vec<String>>> {
        let names = self.client.database(&self.database).list_collection_names().await.unwrap();
        Ok(Some(names.into_iter().filter(|name| name.starts_with(STAGE_PREFIX)).collect()))
    }

    async fn spoil(&self, name: &EntryName) -> Result<bool> {
        if name.to_string().ends_with("metadata.json") {
            return self.lose(name).await;
        }
        let change = doc! { "$set": { "text": "spoilt" } };
        self.documents(name).update_one(doc! { "slice": name.to_string() }, change).await.unwrap();
        Ok(true)
    }

    async fn lose(&self, name: &EntryName) -> Result<bool> {
        if name.to_string().ends_with("metadata.json") {
            // With it all documents are gone.
            self.documents(name).drop().await.unwrap();
        } else {
            self.documents(name).delete_many(doc! { "slice": name.to_string() }).await.unwrap();
        }
        Ok(true)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_keeps_its_promises() {
    for server in crate::support::SERVERS {
        let mut skipped = vec![
            // A target of collections takes no names that lead anywhere; what it refuses is tested by itself.
            "hostile_names_are_refused_and_the_rest_is_written",
            // No entry is large: the longest is a slice of one document.
            "staged_leftovers_do_not_count",
            "nothing_is_visible_before_the_end",
            "a_wrong_digest_or_length_is_not_published",
            "content_of_any_size_is_written",
            "existing_items_are_treated_as_by_write_small",
            "an_item_in_the_way_is_the_inner_error",
            "a_resumed_entry_is_as_without_interruption",
            "a_saved_state_of_no_use_is_changed",
            "an_error_of_the_reader_comes_back_and_nothing_is_published",
            "finish_leaves_nothing_staged",
            "discard_leaves_nothing_staged",
            "discard_can_be_repeated",
            "a_dropped_write_leaves_nothing_behind_a_discard",
        ];
        if server == Server::Standalone {
            // It asks for no password.
            skipped.push("identity_and_debug_carry_no_secret");
        }
        run_all(&Fixture(server)).await.assert_passed(&skipped);
        let client = server.client().await;
        let names: Vec<String> = client.list_database_names().await.unwrap();
        for name in names.iter().filter(|name| name.starts_with("conformance-")) {
            client.database(name).drop().await.unwrap();
        }
    }
}
