//! Any key that a bucket can have.

use crate::fixture::{Access, source};
use crate::run::run;
use backup_s3::{S3Source, S3SourceOptions};
use backup_testkit::s3::{Operation, Quirks, S3Server};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

async fn with(server: &S3Server, bucket: &str, prefix: &str, options: S3SourceOptions) -> Arc<S3Source> {
    source(Access::of(server).bucket(bucket, prefix).await, options)
}

#[tokio::test]
async fn odd_keys_are_listed_fetched_and_resumed() {
    let longest = "ä".repeat(512);
    let keys = [
        " ",
        "  ",
        " a ",
        "../x",
        "./y",
        "..",
        ".",
        "/",
        "//",
        "/leading",
        "a",
        "a/",
        "a//",
        "a/b",
        "a/../b",
        "a b",
        "a+b",
        "a%20b",
        "%",
        "\u{1}",
        "tab\tnewline\ncr\r",
        "\u{7f}\u{80}\u{9f}",
        "quote\"'<>&",
        "back\\slash",
        "?versionId=x",
        "#",
        "\u{feff}",
        "\u{10ffff}",
        "日本語",
        "é",
        "e\u{301}",
        "🎉",
        "~",
        &longest,
    ];
    let server = S3Server::start().await;
    server.create_bucket("data");
    for key in keys {
        server.put("data", key, key.to_owned());
    }
    let expected: BTreeSet<&str> = keys.into_iter().collect();
    let source = with(&server, "data", "", S3SourceOptions { tags: true, ..S3SourceOptions::default() }).await;
    let whole = run(source.clone(), None).await.unwrap();
    assert_eq!(whole.names(), expected.iter().copied().collect::<Vec<_>>(), "{:?}", whole.warnings);
    for (at, got) in whole.entries.iter().enumerate() {
        assert_eq!(got.content, got.name);
        let rest = run(source.clone(), Some(got.cursor.clone())).await.unwrap();
        assert_eq!(rest.entries, whole.entries[at + 1..], "behind {:?}", got.name);
    }
    assert!(whole.warnings.is_empty());
}

#[tokio::test]
async fn a_server_may_write_blanks_in_either_way() {
    let server = S3Server::start().await;
    server.create_bucket("data");
    server.put("data", "a b+c%20d", "x");
    server.set_quirks(Quirks { percent_spaces: true, ..Quirks::default() });
    let source = with(&server, "data", "", S3SourceOptions::default()).await;
    assert_eq!(run(source, None).await.unwrap().names(), ["a b+c%20d"]);
}

#[tokio::test]
async fn the_object_that_is_the_prefix_itself_is_no_entry_but_its_content_is_missed() {
    let server = S3Server::start().await;
    server.create_bucket("data");
    server.put("data", "p/", "");
    server.put("data", "p/a", "a");
    let source = with(&server, "data", "p", S3SourceOptions::default()).await;
    let empty = run(source.clone(), None).await.unwrap();
    assert_eq!((empty.names(), empty.warnings.len()), (vec!["a"], 0));
    server.put("data", "p/", "content");
    let full = run(source, None).await.unwrap();
    assert!(full.warnings["p/"].contains("the prefix itself"), "{:?}", full.warnings);
}

#[tokio::test]
async fn prefixes_are_listed_alone_and_patterns_choose_within() {
    let server = S3Server::start().await;
    server.create_bucket("data");
    for key in ["logs/1.gz", "logs/2.txt", "logs2/3.gz", "other/4.gz", "pictures/5.gz", "pictures/6.gz", "q"] {
        server.put("data", key, "x");
    }
    let options = S3SourceOptions {
        prefixes: vec!["pictures/".to_owned(), "logs".to_owned(), "logs/".to_owned()],
        include: vec!["*.gz".to_owned()],
        exclude: vec!["pictures/6*".to_owned()],
        ..S3SourceOptions::default()
    };
    let source = with(&server, "data", "", options).await;
    let whole = run(source.clone(), None).await.unwrap();
    assert_eq!(whole.names(), ["logs/1.gz", "logs2/3.gz", "pictures/5.gz"]);
    assert_eq!(server.requests().count(Operation::ListObjectsV2), 2);
    for (at, got) in whole.entries.iter().enumerate() {
        let rest = run(source.clone(), Some(got.cursor.clone())).await.unwrap();
        assert_eq!(rest.entries, whole.entries[at + 1..]);
    }
}

fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    let key = prop_oneof![
        // Close to each other, so that one is the beginning of another.
        4 => "[a/+%. ]{1,4}",
        2 => "[a-c]{1,2}/[a-c/]{0,3}",
        1 => any::<String>().prop_filter("one that a request can carry", |key| {
            (1..=1024).contains(&key.len()) && !key.contains('\0')
        }),
    ];
    proptest::collection::btree_set(key, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_set_of_keys_is_listed_and_resumed_from_every_cursor(keys in keys(), prefix in prop_oneof!["", "a", "a/b"]) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let server = S3Server::start().await;
            server.create_bucket("data");
            for key in &keys {
                server.put("data", key, key.clone());
            }
            let source = with(&server, "data", &prefix, S3SourceOptions::default()).await;
            let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
            let expected: Vec<&str> =
                keys.iter().filter_map(|key| key.strip_prefix(below.as_str())).filter(|name| !name.is_empty()).collect();
            let whole = run(source.clone(), None).await.unwrap();
            assert_eq!(whole.names(), expected, "{:?}", whole.warnings);
            for (at, got) in whole.entries.iter().enumerate() {
                let rest = run(source.clone(), Some(got.cursor.clone())).await.unwrap();
                assert_eq!(rest.names(), &expected[at + 1..]);
            }
        });
    }
}
