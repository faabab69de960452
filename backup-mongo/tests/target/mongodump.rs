//! Dumps of mongodump as input, and directories as it writes them as output. The dumps are written here, by their format.

use crate::plan::Archived;
use crate::support::{SERVERS, Server, assert_equal, dataset, documents, drop_databases, fresh};
use backup_core::ErrorClass;
use backup_core::adapter::RestoreTarget;
use backup_core::engine::{Archive, BackupRequest, Engine, OpenOptions, Outcome, Selection};
use backup_core::memory::MemoryStore;
use backup_core::model::EntryKind;
use backup_mongo::layout::{self, Item};
use backup_mongo::mongodump::{Dump, DumpOptions, DumpOutcome, export_directory, restore_dump};
use backup_mongo::{MongoRestoreTarget, MongoSource, MongoSourceOptions, MongoTargetOptions};
use backup_testkit::doubles::MemoryDestination;
use flate2::Compression;
use flate2::write::GzEncoder;
use mongodb::Client;
use mongodb::bson::{Document, Timestamp, rawdoc};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn packed(content: &[u8], gzip: bool) -> Vec<u8> {
    if !gzip {
        return content.to_vec();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The files of a dump by their paths, without `.gz`.
fn files(archived: &Archived) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for small in &archived.entries {
        let path = match Item::parse(&small.entry.name).unwrap() {
            Item::Prelude => "prelude.json".to_owned(),
            Item::Metadata { database, folder } => format!("{database}/{folder}.metadata.json"),
            Item::Slice { database, folder, .. } => format!("{database}/{folder}.bson"),
            Item::Oplog { .. } => "oplog.bson".to_owned(),
        };
        files.entry(path).or_default().extend_from_slice(&small.content);
    }
    files
}

fn write_directory(archived: &Archived, root: &Path, gzip: bool) {
    for (path, content) in files(archived) {
        let ending = if gzip && path != "oplog.bson" { ".gz" } else { "" };
        let path = root.join(format!("{path}{ending}"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, packed(&content, gzip)).unwrap();
    }
}

/// CRC-64/XZ, bit by bit.
fn crc64(bytes: &[u8]) -> i64 {
    let step = |crc: u64, byte: &u8| {
        (0..8).fold(
            crc ^ u64::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xc96c_5795_d787_0f42 } else { crc >> 1 },
        )
    };
    (!bytes.iter().fold(!0, step)).cast_signed()
}

fn archive_bytes(archived: &Archived) -> Vec<u8> {
    let end = [0xff; 4];
    let mut out = 0x8199_e26d_u32.to_le_bytes().to_vec();
    out.extend(rawdoc! { "concurrent_collections": 4, "version": "0.1", "server_version": "6.0.5", "tool_version": "100.18.0" }.into_bytes());
    // Every collection that is declared has an end, also an empty one and a view.
    let mut rest: BTreeMap<(String, String), Vec<&[u8]>> = BTreeMap::new();
    for small in &archived.entries {
        if let (Some(Item::Metadata { .. }), Some(group)) = (Item::parse(&small.entry.name), &small.entry.group) {
            let (database, collection) = layout::split_group(group).unwrap();
            let json = std::str::from_utf8(&small.content).unwrap();
            let options = &serde_json::from_str::<serde_json::Value>(json).unwrap()["options"];
            let (kind, holder) = match (options.get("viewOn"), options.get("timeseries")) {
                (Some(_), _) => ("view", collection.to_owned()),
                (_, Some(_)) => ("timeseries", format!("system.buckets.{collection}")),
                _ => ("collection", collection.to_owned()),
            };
            let header =
                rawdoc! { "db": database, "collection": collection, "metadata": json, "size": 0, "type": kind };
            out.extend(header.into_bytes());
            rest.insert((database.to_owned(), holder), Vec::new());
        } else if let Some(Item::Oplog { number: 0 }) = Item::parse(&small.entry.name) {
            out.extend(rawdoc! { "db": "", "collection": "oplog", "metadata": "", "size": 0, "type": "" }.into_bytes());
        }
    }
    out.extend(end);
    // Blocks of several collections in turns: one slice of each.
    for small in &archived.entries {
        match (Item::parse(&small.entry.name), &small.entry.group) {
            (Some(Item::Slice { folder, .. }), Some(group)) => {
                let (database, collection) = layout::split_group(group).unwrap();
                let holder = if folder.starts_with("system.buckets.") {
                    format!("system.buckets.{collection}")
                } else {
                    collection.to_owned()
                };
                rest.entry((database.to_owned(), holder)).or_default().push(&small.content);
            }
            (Some(Item::Oplog { .. }), _) => {
                rest.entry((String::new(), "oplog".to_owned())).or_default().push(&small.content)
            }
            _ => {}
        }
    }
    let sums: BTreeMap<_, _> = rest.iter().map(|(name, slices)| (name.clone(), crc64(&slices.concat()))).collect();
    let header = |(database, collection): &(String, String), is_end: bool, crc: i64| {
        rawdoc! { "db": &**database, "collection": &**collection, "EOF": is_end, "CRC": crc }.into_bytes()
    };
    while !rest.is_empty() {
        for (name, slices) in &mut rest {
            if !slices.is_empty() {
                out.extend(header(name, false, 0));
                out.extend(slices.remove(0));
                out.extend(end);
            }
            if slices.is_empty() {
                out.extend(header(name, true, sums[name]));
                out.extend(end);
            }
        }
        rest.retain(|_, slices| !slices.is_empty());
    }
    out
}

async fn restored(path: &Path, server: Server, to: &str) -> DumpOutcome {
    let dump = Dump::open(path).await.unwrap();
    restore_dump(&dump, target(server, to).await, DumpOptions::default(), &|_, _| {}).await.unwrap()
}

async fn target(server: Server, to: &str) -> Arc<dyn RestoreTarget> {
    Arc::new(MongoRestoreTarget::new(server.cluster_of(to).await, MongoTargetOptions::default()).unwrap())
}

fn is_clean(outcome: &DumpOutcome) {
    let verified = outcome.verified.as_ref().unwrap();
    assert!(outcome.warnings.is_empty(), "{:?}", outcome.warnings);
    assert_eq!((verified.mismatch_count, verified.metadata_count), (0, 0), "{:?}", verified.mismatches);
}

/// The data of a server as dumps in all forms.
async fn dumps(client: &Client, database: &str, root: &Path) -> Vec<PathBuf> {
    let archived = Archived::read(client, &[database]).await;
    let mut paths = Vec::new();
    for gzip in [false, true] {
        let directory = root.join(format!("directory-{gzip}"));
        write_directory(&archived, &directory, gzip);
        let file = root.join(format!("archive-{gzip}"));
        std::fs::write(&file, packed(&archive_bytes(&archived), gzip)).unwrap();
        paths.extend([directory, file]);
    }
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn dumps_of_every_form_are_restored_as_they_were() {
    for server in SERVERS {
        let client = server.client().await;
        let (from, to) = (fresh("from"), fresh("to"));
        dataset::fill(&client, &from, 500).await;
        let root = tempfile::tempdir().unwrap();
        for path in dumps(&client, &from, root.path()).await {
            is_clean(&restored(&path, server, &to).await);
            assert_equal((&client, &from), (&client, &to)).await;
            client.database(&to).drop().await.unwrap();
        }
        drop_databases(&client, &[&from]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_one_database_and_files_without_descriptions_are_restored() {
    let server = Server::Standalone;
    let client = server.client().await;
    let to = fresh("to");
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("shop");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a%2Fb.bson"), rawdoc! { "_id": 1 }.into_bytes()).unwrap();
    std::fs::write(directory.join("empty.metadata.json"), r#"{"options":{},"indexes":[]}"#).unwrap();
    is_clean(&restored(&directory, server, &to).await);
    let mut names = client.database(&to).list_collection_names().await.unwrap();
    names.sort();
    assert_eq!(names, ["a/b", "empty"]);
    drop_databases(&client, &[&to]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_dump_is_refused_before_anything_is_restored() {
    let mut archived = Archived::default();
    for name in ["a", "b"] {
        let documents: Vec<_> = (0..1000).map(|n| rawdoc! { "_id": n, "pad": "x".repeat(200) }).collect();
        archived.slices("shop", name, &layout::group("shop", name), &documents, false);
    }
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("archive");
    let whole = archive_bytes(&archived);
    std::fs::write(&path, &whole).unwrap();
    Dump::open(&path).await.unwrap();
    let mut flipped = whole.clone();
    // A letter of a document: only the checksum tells.
    let at = flipped.windows(20).rposition(|w| w == [b'x'; 20]).unwrap();
    flipped[at] = b'y';
    let mut damaged = vec![flipped];
    for length in [3, 100, whole.len() / 2, whole.len() - 1, whole.len() - 10] {
        damaged.push(whole[..length].to_vec());
    }
    // Without the last end of a collection.
    let end = whole[..whole.len() - 5].windows(4).rposition(|w| w == [0xff; 4]).unwrap();
    damaged.push(whole[..end + 4].to_vec());
    for (n, bytes) in damaged.into_iter().enumerate() {
        for gzip in [false, true] {
            std::fs::write(&path, packed(&bytes, gzip)).unwrap();
            let error = Dump::open(&path).await.unwrap_err();
            assert!(matches!(error.class(), ErrorClass::Corrupt | ErrorClass::Invalid), "{n}: {error:?}");
        }
    }
    let directory = root.path().join("dump");
    write_directory(&archived, &directory, false);
    let file = directory.join("shop/a.bson");
    let content = std::fs::read(&file).unwrap();
    std::fs::write(&file, &content[..content.len() - 7]).unwrap();
    let error = Dump::open(&directory).await.unwrap_err();
    assert!(error.class() == ErrorClass::Corrupt && error.to_string().contains("a.bson"), "{error}");
    for (nothing, class) in [("missing", ErrorClass::NotFound), ("empty", ErrorClass::Invalid)] {
        let path = root.path().join(nothing);
        if nothing == "empty" {
            std::fs::create_dir(&path).unwrap();
        }
        assert_eq!(Dump::open(&path).await.unwrap_err().class(), class, "{nothing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_cut_off_between_two_blocks_is_refused() {
    let mut archived = Archived::default();
    for (name, options) in [
        ("a", "{}"),
        ("b", "{}"),
        ("empty", "{}"),
        ("view", r#"{"viewOn":"a","pipeline":[]}"#),
        ("weather", r#"{"timeseries":{"timeField":"t"}}"#),
    ] {
        let json = format!(r#"{{"options":{options},"indexes":[],"collectionName":"{name}"}}"#);
        let group = layout::group("shop", name);
        archived.push(layout::metadata_name("shop", name), EntryKind::File, Some(group.clone()), json);
        let documents: Vec<_> = (0..1000).map(|n| rawdoc! { "_id": n, "pad": "x".repeat(200) }).collect();
        match name {
            "a" | "b" => archived.slices("shop", name, &group, &documents, false),
            "weather" => archived.slices("shop", "system.buckets.weather", &group, &documents[..1], false),
            _ => {}
        }
    }
    archived.push(layout::oplog_name(0), EntryKind::Slice, None, rawdoc! { "op": "n", "ns": "" }.into_bytes());
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("archive");
    let whole = archive_bytes(&archived);
    std::fs::write(&path, &whole).unwrap();
    Dump::open(&path).await.unwrap();
    let (mut at, mut cuts) = (4, Vec::new());
    while at < whole.len() {
        let head = i32::from_le_bytes(*whole[at..].first_chunk().unwrap());
        at += if head == -1 { 4 } else { head as usize };
        cuts.extend((head == -1).then_some(at));
    }
    assert_eq!(cuts.pop(), Some(whole.len()));
    assert!(cuts.len() > 10);
    for cut in cuts {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = Dump::open(&path).await.unwrap_err();
        assert!(error.class() == ErrorClass::Corrupt && error.to_string().contains("cut off"), "{cut}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_that_are_named_as_the_oplog_are_collections() {
    let server = Server::ReplicaSet;
    let client = server.client().await;
    let (from, to) = (fresh("from"), fresh("to"));
    for name in ["oplog", "oplog.bson", "other"] {
        client.database(&from).collection(name).insert_one(mongodb::bson::doc! { "_id": name }).await.unwrap();
    }
    let root = tempfile::tempdir().unwrap();
    let archived = Archived::read(&client, &[&from]).await;
    for gzip in [false, true] {
        let directory = root.path().join(format!("dump-{gzip}"));
        write_directory(&archived, &directory, gzip);
        // All of it, and the directory of the database.
        for path in [directory.clone(), directory.join(&from)] {
            is_clean(&restored(&path, server, &to).await);
            assert_equal((&client, &from), (&client, &to)).await;
            client.database(&to).drop().await.unwrap();
        }
    }
    let (archive, _) = backed_up(server, &from).await;
    let output = root.path().join("exported");
    export_directory(&archive, &Selection::default(), &output).await.unwrap();
    is_clean(&restored(&output, server, &to).await);
    assert_equal((&client, &from), (&client, &to)).await;
    drop_databases(&client, &[&from, &to]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_a_dump_that_broke_off_goes_on_when_it_is_repeated() {
    let server = Server::ReplicaSet;
    let client = server.client().await;
    let (from, to) = (fresh("from"), fresh("to"));
    dataset::fill(&client, &from, 1500).await;
    let root = tempfile::tempdir().unwrap();
    write_directory(&Archived::read(&client, &[&from]).await, root.path(), true);
    let mut random = dataset::Random(5);
    let mut kills = 0;
    // Its marks go when all is there; what may be killed after that is only the reading back.
    let is_done = async |kills: u32| {
        let names = client.database(&to).list_collection_names().await.unwrap();
        kills > 0 && !names.is_empty() && !names.iter().any(|name| name.starts_with("backup-tmp-"))
    };
    while !is_done(kills).await {
        let patience = std::time::Duration::from_millis(100 + random.below(150 * u64::from(kills + 1)));
        match tokio::time::timeout(patience, restored(root.path(), server, &to)).await {
            Ok(outcome) => is_clean(&outcome),
            Err(_) => {
                kills += 1;
                // What the server was asked last, such as to drop the marks, may still be under way.
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
        }
    }
    assert!(kills > 0);
    assert_equal((&client, &from), (&client, &to)).await;
    drop_databases(&client, &[&from, &to]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oplog_of_a_dump_is_applied() {
    for server in SERVERS {
        let client = server.client().await;
        let to = fresh("to");
        let mut archived = Archived::default();
        let ten: Vec<_> = (0..10).map(|n| rawdoc! { "_id": n, "v": 0 }).collect();
        archived.slices("shop", "c", &layout::group("shop", "c"), &ten, false);
        let ts = |n: u32| Timestamp { time: n, increment: 1 };
        let entry =
            |n: u32, op: &str, ns: &str, o: mongodb::bson::RawDocumentBuf, o2: mongodb::bson::RawDocumentBuf| {
                rawdoc! { "ts": ts(n), "v": 2_i64, "op": op, "ns": ns, "ui": "of another server", "o": o, "o2": o2 }
                    .into_bytes()
            };
        let none = || rawdoc! {};
        let log = [
            entry(1, "i", "shop.c", rawdoc! { "_id": 3, "v": 1 }, none()),
            entry(2, "d", "shop.c", rawdoc! { "_id": 4 }, none()),
            entry(3, "u", "shop.c", rawdoc! { "$v": 2, "diff": { "u": { "v": 7 } } }, rawdoc! { "_id": 5 }),
            // Gone before it was read, and changed before.
            entry(4, "u", "shop.c", rawdoc! { "$v": 2, "diff": { "u": { "v": 7 } } }, rawdoc! { "_id": 99 }),
            entry(5, "d", "shop.c", rawdoc! { "_id": 99 }, none()),
            entry(
                6,
                "c",
                "shop.$cmd",
                rawdoc! { "create": "late", "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } },
                none(),
            ),
            entry(7, "i", "shop.late", rawdoc! { "_id": "x" }, none()),
            entry(
                8,
                "c",
                "shop.$cmd",
                rawdoc! { "createIndexes": "c", "v": 2, "key": { "v": 1 }, "name": "v_1" },
                none(),
            ),
            entry(9, "i", "other.c", rawdoc! { "_id": 1 }, none()),
        ];
        archived.push(layout::oplog_name(0), EntryKind::Slice, None, log.concat());
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("archive");
        std::fs::write(&path, archive_bytes(&archived)).unwrap();
        let outcome = restored(&path, server, &to).await;
        is_clean(&outcome);
        let values: Vec<(i32, i32)> = documents_of(&client, &to).await;
        let expected: Vec<(i32, i32)> = [0, 1, 2, 3, 5, 6, 7, 8, 9]
            .map(|n| {
                (
                    n,
                    match n {
                        3 => 1,
                        5 => 7,
                        _ => 0,
                    },
                )
            })
            .into();
        assert_eq!(values, expected);
        assert_eq!(documents(&client, &to, "late").await, [rawdoc! { "_id": "x" }]);
        let indexes = client.database(&to).collection::<Document>("c").list_index_names().await.unwrap();
        assert_eq!(indexes, ["_id_", "v_1"]);
        drop_databases(&client, &[&to]).await;
    }
}

async fn documents_of(client: &Client, database: &str) -> Vec<(i32, i32)> {
    let mut values: Vec<_> = documents(client, database, "c")
        .await
        .iter()
        .map(|d| (d.get_i32("_id").unwrap(), d.get_i32("v").unwrap()))
        .collect();
    values.sort();
    values
}

async fn backed_up(server: Server, from: &str) -> (Archive, MemoryDestination) {
    let destination = MemoryDestination::default();
    let source = Arc::new(MongoSource::new(server.cluster_of(from).await, MongoSourceOptions::default()));
    let store: Arc<dyn backup_core::adapter::Store> = Arc::new(MemoryStore::new());
    let handle = Engine::new(store).backup(BackupRequest::new(source, Arc::new(destination.clone()))).await.unwrap();
    let id = handle.archive().clone();
    assert!(matches!(handle.wait().await.unwrap(), Outcome::Completed { warnings: 0, .. }));
    let archive = Archive::open(Arc::new(destination.clone()), &id, &OpenOptions::default()).await.unwrap();
    (archive, destination)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_exported_as_mongodump_lays_it_out() {
    let server = Server::ReplicaSet;
    let client = server.client().await;
    let (from, to) = (fresh("from-ü%"), fresh("to"));
    dataset::fill(&client, &from, 300).await;
    let (archive, _) = backed_up(server, &from).await;
    let root = tempfile::tempdir().unwrap();
    let output = root.path().join("dump");
    let exported = export_directory(&archive, &Selection::default(), &output).await.unwrap();
    assert_eq!(exported.left_out, 0);

    // As mongodump 100.18 names the files of this data set.
    let x = "x".repeat(200);
    let u = layout::escape(&"ü".repeat(60));
    assert!(u.len() == 238 && u.contains("%24"));
    let both = [
        "%252F",
        "CaseName",
        "back%5Cslash",
        "capped",
        "casename",
        "clustered",
        "dots.in.name",
        "empty",
        "indexed",
        "mixed_ids",
        "new%0Aline",
        "orders",
        "per%25cent",
        "plus%2B",
        "quote%22%27",
        "sl%2Fash",
        "sp+ace",
        "star%2A%3F%3C%3E%7C%3A",
        "system.js",
        "trailing.",
        "zero_ts",
        "%C3%BCn%C3%AFcode-%E6%97%A5%E6%9C%AC",
        &x,
        &u,
    ];
    let mut expected: Vec<String> =
        both.iter().flat_map(|name| [format!("{name}.bson"), format!("{name}.metadata.json")]).collect();
    expected.extend(["a_view", "paid_orders", "weather"].map(|name| format!("{name}.metadata.json")));
    expected.push("system.buckets.weather.bson".into());
    expected.sort();
    let list = |path: &Path| {
        let mut names: Vec<String> =
            std::fs::read_dir(path).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(list(&output.join(&from)), expected);
    assert_eq!(list(&output), {
        let mut all = vec![from.clone(), "prelude.json".into()];
        all.sort();
        all
    });
    assert_eq!(list(root.path()), ["dump"]);
    assert_eq!(exported.files as usize, expected.len() + 1);
    let orders = documents(&client, &from, "orders").await;
    let bytes: Vec<u8> = orders.iter().flat_map(|document| document.as_bytes().to_vec()).collect();
    assert!(std::fs::read(output.join(&from).join("orders.bson")).unwrap() == bytes);
    let json = std::fs::read_to_string(output.join(&from).join("empty.metadata.json")).unwrap();
    let start = r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"uuid":""#;
    assert!(json.starts_with(start) && json.ends_with(r#"","collectionName":"empty","type":"collection"}"#), "{json}");

    // It is a dump for us as well.
    is_clean(&restored(&output, server, &to).await);
    assert_equal((&client, &from), (&client, &to)).await;
    let error = export_directory(&archive, &Selection::default(), &output).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict, "{error}");
    let nothing = Selection { include: vec!["nothing".into()], ..Selection::default() };
    assert!(export_directory(&archive, &nothing, &root.path().join("none")).await.is_err());
    assert_eq!(list(root.path()), ["dump"]);
    drop_databases(&client, &[&from, &to]).await;
}
