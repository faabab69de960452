//! All versions of the objects of a bucket.

use crate::fixture::{Access, bytes, source};
use crate::run::{Run, run};
use backup_core::ErrorClass;
use backup_core::adapter::{Content, Cursor, Source, SourceEvent};
use backup_core::model::EntryName;
use backup_s3::{S3Source, S3SourceOptions, S3Versions};
use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Operation, Rule, S3BucketOptions, S3Object, S3Server, Versioning};
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use std::sync::Arc;

async fn server() -> S3Server {
    let server = S3Server::start().await;
    let options = S3BucketOptions { versioning: Versioning::Enabled, ..S3BucketOptions::default() };
    server.create_bucket_with("data", options);
    server
}

async fn all(server: &S3Server, options: S3SourceOptions) -> Arc<S3Source> {
    let options = S3SourceOptions { versions: S3Versions::All, ..options };
    source(Access::of(server).bucket("data", "").await, options)
}

/// `key content` of each entry, `key -` of a delete marker.
fn story(run: &Run) -> Vec<String> {
    let content = |got: &crate::run::Got| {
        let marker = got.metadata.headers.contains_key("delete-marker");
        if marker { "-".to_owned() } else { String::from_utf8_lossy(&got.content).into_owned() }
    };
    let key = |name: &str| {
        let end = [name.rfind("?versionId="), name.rfind("?deleteMarker=")].into_iter().flatten().max();
        name[..end.unwrap_or(name.len())].to_owned()
    };
    run.entries.iter().map(|got| format!("{} {}", key(&got.name), content(got))).collect()
}

#[tokio::test]
async fn the_history_of_each_key_comes_from_the_oldest_version_to_the_newest() {
    let server = server().await;
    let first = server.put("data", "a", "1");
    server.buckets().remove("data", "a");
    server.put("data", "a", "2");
    let latest = server.put("data", "a", "3");
    let only = server.put("data", "a/b", "only");
    server.put("data", "gone", "4");
    server.buckets().remove("data", "gone");
    let run = run(all(&server, S3SourceOptions::default()).await, None).await.unwrap();
    assert_eq!(story(&run), ["a 1", "a -", "a 2", "a 3", "a/b only", "gone 4", "gone -"]);
    let names = run.names();
    assert_eq!(names[0], format!("a?versionId={first}"));
    assert!(names[1].starts_with("a?deleteMarker="), "{names:?}");
    assert_eq!((names[3], names[4]), ("a", "a/b"));
    assert!(names[6].starts_with("gone?deleteMarker="), "{names:?}");
    assert_eq!(run.get("a").metadata.headers["version-id"], latest);
    assert_eq!(run.get("a/b").metadata.headers["version-id"], only);
    let groups: Vec<_> = run.entries.iter().map(|got| got.group.as_deref()).collect();
    assert_eq!(groups, [Some("a"), Some("a"), Some("a"), Some("a"), None, Some("gone"), Some("gone")]);
}

#[tokio::test]
async fn large_versions_are_read_by_their_id() {
    let server = server().await;
    server.put("data", "a", bytes(5 << 20));
    server.put("data", "a", bytes(6 << 20));
    let run = run(all(&server, S3SourceOptions { tags: true, ..Default::default() }).await, None).await.unwrap();
    assert_eq!(run.entries[0].content, bytes(5 << 20));
    assert_eq!(run.entries[1].content, bytes(6 << 20));
    let id = run.entries[0].name.strip_prefix("a?versionId=").unwrap();
    assert_eq!(run.entries[0].metadata.headers["version-id"], id);
}

/// A large object with a tag that tells its version.
fn tagged(length: usize, version: &str) -> S3Object {
    let mut object = S3Object::new("a", bytes(length));
    object.tags.insert("version".to_owned(), version.to_owned());
    object
}

#[tokio::test]
async fn a_large_version_that_is_overwritten_after_it_was_listed_is_still_the_one_that_is_read() {
    let server = server().await;
    let first = server.buckets().put("data", tagged(5 << 20, "first"));
    let overwrite = Fault::act(|buckets| drop(buckets.put("data", tagged(6 << 20, "second"))));
    server.faults().add(Rule::new(Operation::GetObject, When::First(1), overwrite));
    let options = S3SourceOptions { tags: true, ..Default::default() };
    let whole = run(all(&server, options.clone()).await, None).await.unwrap();
    assert!(whole.warnings.is_empty(), "{:?}", whole.warnings);
    let is_first = |got: &crate::run::Got| {
        assert!(got.content == bytes(5 << 20), "{} bytes", got.content.len());
        assert_eq!(got.metadata.headers["version-id"], first);
        assert_eq!(got.metadata.tags["version"], "first");
    };
    assert_eq!(whole.names(), ["a"]);
    is_first(&whole.entries[0]);

    // Also when another process goes on with what the listing said, in the middle of it, and when the key has been deleted by then.
    server.buckets().remove("data", "a");
    server.buckets().put("data", tagged(5 << 20, "third"));
    let listing = all(&server, options.clone()).await;
    let mut events = listing.events(None, crate::run::context());
    let mut listed = Vec::new();
    while let Some(event) = events.next().await.transpose().unwrap() {
        let SourceEvent::Entry(entry) = event else { panic!("{event:?}") };
        listed.push(*entry);
    }
    let current = listed.pop().unwrap();
    assert_eq!(current.name.as_str(), Some("a"));
    let Content::Stored { size, version: Some(version) } = current.content else { panic!("{current:?}") };
    server.buckets().remove("data", "a");
    let another = all(&server, options).await;
    let ctx = crate::run::context();
    let opened = another.read(&current.name, Some(&version), 0..size, &ctx).await.unwrap();
    assert_eq!(opened.version, Some(version.clone()));
    assert_eq!(opened.metadata.unwrap().tags["version"], "third");
    let opened = another.read(&current.name, Some(&version), 4 << 20..size, &ctx).await.unwrap();
    assert_eq!(opened.version, Some(version));
    let rest: Vec<Bytes> = opened.content.map(|piece| piece.unwrap()).collect().await;
    assert!(rest.concat() == bytes(5 << 20)[4 << 20..]);
}

#[tokio::test]
async fn a_current_version_whose_name_is_not_its_key_is_told_by_a_header() {
    let server = server().await;
    for key in ["a?versionId=x", "b?deleteMarker=y"] {
        server.put("data", key, "1");
        server.put("data", key, bytes(3 << 20));
        server.put("data", key, "3");
        server.put("data", key, bytes(4 << 20));
    }
    server.put("data", "c?versionId=z", "1");
    server.buckets().remove("data", "c?versionId=z");
    server.put("data", "plain", "1");
    let source = all(&server, S3SourceOptions::default()).await;
    let whole = run(source.clone(), None).await.unwrap();
    let told: Vec<_> = whole.entries.iter().map(|got| got.metadata.headers.get("latest").map(String::as_str)).collect();
    let four = [None, None, None, Some("true")];
    assert_eq!(told, [&four[..], &four, &[None, None, None]].concat(), "{:?}", whole.names());
    // Also when such a version is read afresh, of which nothing is known but the name.
    for (at, latest) in [(1, false), (3, true), (5, false), (7, true)] {
        let name = EntryName::from(&*whole.entries[at].name);
        let opened = source.read(&name, None, 0..0, &crate::run::context()).await.unwrap();
        assert_eq!(opened.metadata.unwrap().headers.contains_key("latest"), latest, "{name}");
    }
}

#[tokio::test]
async fn versions_from_before_versioning_have_the_id_null() {
    let server = S3Server::start().await;
    server.create_bucket("data");
    server.put("data", "a", "1");
    let run = run(all(&server, S3SourceOptions::default()).await, None).await.unwrap();
    assert_eq!(run.names(), ["a"]);
    assert_eq!(run.get("a").metadata.headers["version-id"], "null");
    assert_eq!(run.get("a").content, "1");
}

#[tokio::test]
async fn a_cursor_within_a_history_fits_no_source_of_current_objects() {
    let server = server().await;
    server.put("data", "a", "1");
    server.put("data", "a", "2");
    let history = run(all(&server, S3SourceOptions::default()).await, None).await.unwrap();
    let current = source(Access::of(&server).bucket("data", "").await, S3SourceOptions::default());
    let error = run(current, Some(history.entries[0].cursor.clone())).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
}

#[tokio::test]
async fn what_happens_to_a_history_between_two_runs_neither_repeats_nor_hides_anything() {
    let server = server().await;
    let ids: Vec<String> = (0..6).map(|n| server.put("data", "a", format!("{n}"))).collect();
    let source = all(&server, S3SourceOptions::default()).await;
    let whole = run(source.clone(), None).await.unwrap();
    // A newer version comes along: it is the current one, and the one that was so has another name.
    server.put("data", "a", "6");
    let rest = run(source.clone(), Some(whole.entries[2].cursor.clone())).await.unwrap();
    assert_eq!(story(&rest), ["a 3", "a 4", "a 5", "a 6"]);
    // Behind the last one the key is done with.
    let rest = run(source.clone(), Some(whole.entries[5].cursor.clone())).await.unwrap();
    assert_eq!(story(&rest), [""; 0]);
    // The version of the cursor is removed for good; what was made in the same second may come again, but nothing is missing.
    let client = Access::of(&server).bucket("data", "").await;
    client.client().delete_object().bucket("data").key("a").version_id(&ids[2]).send().await.unwrap();
    let rest = run(source, Some(whole.entries[2].cursor.clone())).await.unwrap();
    assert!(story(&rest).ends_with(&["a 3", "a 4", "a 5", "a 6"].map(str::to_owned)), "{:?}", story(&rest));
}

#[tokio::test]
async fn trouble_with_one_version_is_a_warning() {
    let server = server().await;
    server.put("data", "a", "1");
    let id = server.put("data", "a", "2");
    server.put("data", "b", "3");
    server.faults().add(Rule::new(Operation::GetObject, When::Nth(2), Fault::fail(403, "InvalidObjectState")));
    let source = all(&server, S3SourceOptions::default()).await;
    let mut events = source.events(None, crate::run::context());
    let (mut delivered, mut warned) = (0, Vec::new());
    while let Some(event) = events.next().await.transpose().unwrap() {
        match event {
            SourceEvent::Entry(_) => delivered += 1,
            SourceEvent::Warning(warning) => warned.push(warning),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((delivered, warned.len()), (2, 1));
    assert!(warned[0].message.contains("archived"), "{warned:?}, {id}");
}

/// What a client does to one of few keys.
#[derive(Clone, Debug)]
enum Step {
    Put(&'static str),
    Delete(&'static str),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || prop::sample::select(vec!["a", "a/", "a/b", "a?versionId=x", "b+ c", "é"]);
    proptest::collection::vec(prop_oneof![2 => key().prop_map(Step::Put), 1 => key().prop_map(Step::Delete)], 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_listed_in_order_and_resumed_from_every_cursor(steps in steps()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let server = server().await;
            let mut expected: Vec<(&str, String)> = Vec::new();
            for (number, step) in steps.iter().enumerate() {
                match step {
                    Step::Put(key) => {
                        server.put("data", key, number.to_string());
                        expected.push((key, format!("{key} {number}")));
                    }
                    Step::Delete(key) => {
                        server.buckets().remove("data", key);
                        expected.push((key, format!("{key} -")));
                    }
                }
            }
            // By key, and as it happened.
            expected.sort_by_key(|(key, _)| *key);
            let expected: Vec<String> = expected.into_iter().map(|(_, line)| line).collect();
            let source = all(&server, S3SourceOptions::default()).await;
            let whole = run(source.clone(), None).await.unwrap();
            assert_eq!(story(&whole), expected);
            let mut names = whole.names();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), expected.len(), "two versions of one name");
            for (at, got) in whole.entries.iter().enumerate() {
                let cursor: Cursor = got.cursor.clone();
                let rest = run(source.clone(), Some(cursor)).await.unwrap();
                assert_eq!(rest.entries, whole.entries[at + 1..], "behind {}", got.name);
            }
        });
    }
}
