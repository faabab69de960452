//! A bucket as a source, on a real server: SeaweedFS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

#[path = "source/fixture.rs"]
#[allow(dead_code, reason = "the other suite needs more of it")]
mod fixture;
#[path = "source/run.rs"]
#[allow(dead_code, reason = "the other suite needs more of it")]
mod run;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use backup_s3::{S3Bucket, S3SourceOptions, S3Versions};
use backup_testkit::conformance::source;
use fixture::{Access, Buckets, bytes};

fn access() -> Access {
    let variable = |name: &str| {
        std::env::var(name)
            .unwrap_or_else(|_| panic!("{name} is not set; scripts/test-servers starts the server and sets it"))
    };
    Access {
        endpoint: variable("BACKUP_TEST_S3"),
        access_key: variable("BACKUP_TEST_S3_ACCESS_KEY"),
        secret_key: variable("BACKUP_TEST_S3_SECRET_KEY"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_keeps_its_promises() {
    let buckets = Buckets::new(access(), None, S3Versions::Current);
    source::run_all(&buckets).await.assert_passed(&[
        // They need a server that misbehaves on demand.
        "a_stop_ends_a_long_stream_soon",
        "an_item_that_may_not_be_read_does_not_end_the_run",
        "a_broken_connection_is_an_error",
        "a_denied_item_is_permanent_or_unauthorized",
    ]);
}

/// An empty bucket of this process.
async fn bucket(name: &str) -> S3Bucket {
    let bucket = access().bucket(&format!("{name}-{}", std::process::id()), "").await;
    bucket.client().create_bucket().bucket(bucket.bucket()).send().await.unwrap();
    bucket
}

async fn put(bucket: &S3Bucket, key: &str, content: &str) {
    let body = ByteStream::from(content.as_bytes().to_vec());
    bucket.client().put_object().bucket(bucket.bucket()).key(key).body(body).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_metadata_and_tags_go_along() {
    let bucket = bucket("metadata").await;
    for (key, length) in [("small", 100), ("large", 5 << 20)] {
        let request = bucket.client().put_object().bucket(bucket.bucket()).key(key).body(bytes(length).into());
        let request = request.content_type("text/html").content_encoding("gzip").cache_control("max-age=60");
        let request = request.content_language("de").content_disposition("inline").metadata("owner", "somebody");
        request.tagging("project=a%20b&empty=").send().await.unwrap();
    }
    let options = S3SourceOptions { tags: true, ..S3SourceOptions::default() };
    let run = run::run(fixture::source(bucket, options), None).await.unwrap();
    assert_eq!(run.names(), ["large", "small"]);
    for got in &run.entries {
        let headers = &got.metadata.headers;
        for (name, value) in [
            ("cache-control", "max-age=60"),
            ("content-disposition", "inline"),
            ("content-encoding", "gzip"),
            ("content-language", "de"),
            ("content-type", "text/html"),
        ] {
            assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name} of {}", got.name);
        }
        assert_eq!(got.metadata.user_metadata["owner"], "somebody");
        assert_eq!(got.metadata.tags["project"], "a b");
        assert_eq!(got.metadata.tags.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_each_key_comes_from_the_oldest_version_to_the_newest() {
    let bucket = bucket("history").await;
    let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let request = bucket.client().put_bucket_versioning().bucket(bucket.bucket()).versioning_configuration(versions);
    request.send().await.unwrap();
    for (key, contents) in [("a", &["1", "-", "2", "3", "-", "-", "4"][..]), ("a b", &["5"]), ("d/e", &["6", "-"])] {
        for content in contents {
            if *content == "-" {
                bucket.client().delete_object().bucket(bucket.bucket()).key(key).send().await.unwrap();
            } else {
                put(&bucket, key, content).await;
            }
        }
    }
    let options = S3SourceOptions { versions: S3Versions::All, ..S3SourceOptions::default() };
    let source = fixture::source(bucket, options);
    let whole = run::run(source.clone(), None).await.unwrap();
    let told: String = whole
        .entries
        .iter()
        .map(|got| match got.metadata.headers.contains_key("delete-marker") {
            true => "-".to_owned(),
            false => String::from_utf8(got.content.to_vec()).unwrap(),
        })
        .collect();
    assert_eq!(told, "1-23--456-", "{:?}", whole.names());
    assert_eq!((&*whole.entries[6].name, &*whole.entries[7].name), ("a", "a b"));
    for (at, got) in whole.entries.iter().enumerate() {
        let rest = run::run(source.clone(), Some(got.cursor.clone())).await.unwrap();
        assert_eq!(rest.entries, whole.entries[at + 1..], "behind {}", got.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pages_are_listed_and_resumed() {
    let bucket = bucket("pages").await;
    let keys: Vec<String> = (0..1100).map(|n| format!("{:03}/{n}", n % 7)).collect();
    futures::StreamExt::for_each_concurrent(futures::stream::iter(&keys), 16, |key| put(&bucket, key, key)).await;
    let mut expected: Vec<&str> = keys.iter().map(String::as_str).collect();
    expected.sort_unstable();
    let source = fixture::source(bucket, S3SourceOptions::default());
    let whole = run::run(source.clone(), None).await.unwrap();
    assert_eq!(whole.names(), expected);
    for at in [0, 500, 998, 999, 1000, 1099] {
        let rest = run::run(source.clone(), Some(whole.entries[at].cursor.clone())).await.unwrap();
        assert_eq!(rest.names(), &expected[at + 1..]);
    }
}

/// Keys beside and below an object, as this server lists them: it keeps directories, and `folder/a` stands where `folder` does. By their
/// bytes, `folder-x` and `folder.x` would be first. Asked for what comes behind `folder`, it leaves out what lies below it.
const SIBLINGS: [&str; 8] =
    ["folder", "folder/a", "folder/b", "folder/b/c", "folder-x", "folder.x", "folder0", "folders"];

#[tokio::test(flavor = "multi_thread")]
async fn siblings_of_a_folder_are_read_once_each_from_every_cursor() {
    let bucket = bucket("siblings").await;
    for key in SIBLINGS {
        put(&bucket, key, key).await;
    }
    let all = SIBLINGS.map(str::to_owned).to_vec();
    let below = |prefix: &str| SIBLINGS.iter().filter(|key| key.starts_with(prefix)).map(|k| (*k).to_owned()).collect();
    let cases: Vec<(Vec<&str>, Vec<String>)> = vec![
        (vec![], all),
        (vec!["folder"], below("folder")),
        (vec!["folder/"], below("folder/")),
        (vec!["folder-", "folder/", "folder0"], [below("folder-"), below("folder/"), below("folder0")].concat()),
    ];
    for (prefixes, expected) in cases {
        let options = S3SourceOptions {
            prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(),
            ..S3SourceOptions::default()
        };
        let source = fixture::source(bucket.clone(), options);
        let whole = run::run(source.clone(), None).await.unwrap();
        assert_eq!(whole.names(), expected, "{prefixes:?}");
        for (at, got) in whole.entries.iter().enumerate() {
            let rest = run::run(source.clone(), Some(got.cursor.clone())).await.unwrap();
            assert_eq!(rest.names(), &expected[at + 1..], "{prefixes:?} behind {}", got.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn siblings_of_folders_go_over_the_ends_of_pages() {
    let bucket = bucket("siblings-pages").await;
    let ends = ["", "/a", "/b/c", "-x", ".x", "0"];
    let siblings = (0..1206).map(|n| format!("{:03}{}", n / ends.len(), ends[n % ends.len()]));
    // So that a page ends with an object that has others below it.
    let keys: Vec<String> = ["!1", "!2", "!3"].map(str::to_owned).into_iter().chain(siblings).collect();
    // Put at the same moment, of an object and what lies below it this server may lose the one.
    let (below, beside): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| key.contains('/'));
    for some in [beside, below] {
        futures::StreamExt::for_each_concurrent(futures::stream::iter(some), 16, |key| put(&bucket, key, key)).await;
    }
    let mut expected: Vec<&str> = keys.iter().map(String::as_str).collect();
    expected.sort_by(|a, b| a.split('/').cmp(b.split('/')));
    assert_eq!((expected[999], expected[1000]), ("166", "166/a"));
    let source = fixture::source(bucket, S3SourceOptions::default());
    let whole = run::run(source.clone(), None).await.unwrap();
    assert_eq!(whole.names(), expected);
    for at in [0, 2, 3, 4, 5, 6, 7, 8, 998, 999, 1000, 1001, 1203, 1207, 1208] {
        let rest = run::run(source.clone(), Some(whole.entries[at].cursor.clone())).await.unwrap();
        assert_eq!(rest.names(), &expected[at + 1..], "behind {}", expected[at]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_versions_of_siblings_are_read_or_refused_with_the_reason() {
    let bucket = bucket("siblings-history").await;
    let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let request = bucket.client().put_bucket_versioning().bucket(bucket.bucket()).versioning_configuration(versions);
    request.send().await.unwrap();
    for content in ["1", "2"] {
        for key in SIBLINGS {
            put(&bucket, key, content).await;
        }
    }
    let options = S3SourceOptions { versions: S3Versions::All, ..S3SourceOptions::default() };
    match run::run(fixture::source(bucket, options), None).await {
        Ok(whole) => assert_eq!(whole.entries.len(), 2 * SIBLINGS.len(), "{:?}", whole.names()),
        Err(error) => assert!(error.chain().contains("in the order of their bytes"), "{}", error.chain()),
    }
}
