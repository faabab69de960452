//! What goes along with the content.

use crate::fixture::{Access, bytes, source};
use crate::run::{retrying, run};
use backup_core::adapter::Source;
use backup_s3::{Encryption, S3Bucket, S3Config, S3SourceOptions};
use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Operation, Rule, S3Object, S3Server};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn dressed(key: &str, content: Bytes) -> S3Object {
    let mut object = S3Object::new(key, content);
    object.headers.content_type = Some("text/html; charset=utf-8".to_owned());
    object.headers.content_encoding = Some("gzip".to_owned());
    object.headers.content_language = Some("de".to_owned());
    object.headers.content_disposition = Some("attachment; filename=\"x\"".to_owned());
    object.headers.cache_control = Some("max-age=60".to_owned());
    object.storage_class = "STANDARD_IA".to_owned();
    object.metadata = map(&[("owner", "somebody"), ("empty", "")]);
    object.tags = map(&[("project", "a b+c"), ("empty", "")]);
    object
}

#[tokio::test]
async fn headers_metadata_and_storage_class_go_along_and_tags_on_request() {
    let server = S3Server::start().await;
    server.create_bucket("data");
    // That the content is no gzip shows that nobody unpacks it.
    server.buckets().put("data", dressed("large", bytes(5 << 20)));
    server.buckets().put("data", dressed("small", bytes(100)));
    let headers = map(&[
        ("cache-control", "max-age=60"),
        ("content-disposition", "attachment; filename=\"x\""),
        ("content-encoding", "gzip"),
        ("content-language", "de"),
        ("content-type", "text/html; charset=utf-8"),
        ("storage-class", "STANDARD_IA"),
    ]);
    for tags in [false, true] {
        let options = S3SourceOptions { tags, ..S3SourceOptions::default() };
        let run = run(source(Access::of(&server).bucket("data", "").await, options), None).await.unwrap();
        for (name, length) in [("large", 5 << 20), ("small", 100)] {
            let got = run.get(name);
            assert_eq!(got.content, bytes(length));
            assert_eq!(got.metadata.headers, headers, "{name}");
            assert_eq!(got.metadata.user_metadata, map(&[("owner", "somebody"), ("empty", "")]));
            let expected = if tags { map(&[("project", "a b+c"), ("empty", "")]) } else { BTreeMap::new() };
            assert_eq!(got.metadata.tags, expected, "{name}");
            assert!(got.mtime.unwrap().seconds > 1_700_000_000);
        }
    }
}

#[tokio::test]
async fn tags_that_may_not_be_read_are_missed_in_a_warning() {
    let server = S3Server::start().await;
    server.create_bucket("data");
    server.buckets().put("data", dressed("large", bytes(5 << 20)));
    server.buckets().put("data", dressed("small", bytes(100)));
    server.faults().add(Rule::new(Operation::GetObjectTagging, When::Always, Fault::denied()));
    let options = S3SourceOptions { tags: true, ..S3SourceOptions::default() };
    let source = source(Access::of(&server).bucket("data", "").await, options);
    let run_1 = run(source.clone(), None).await.unwrap();
    assert_eq!(run_1.names(), ["large", "small"]);
    for name in ["large", "small"] {
        assert!(run_1.warnings[name].starts_with("kept without its tags"), "{:?}", run_1.warnings);
    }
    // A passing fault costs no tags.
    server.faults().clear();
    server.faults().add(Rule::new(Operation::GetObjectTagging, When::Every(2), Fault::slow_down()));
    let run_2 = run(retrying(source), None).await.unwrap();
    assert!(run_2.warnings.is_empty());
    assert_eq!(run_2.get("large").metadata.tags.len(), 2);
    assert_eq!(run_2.get("small").metadata.tags.len(), 2);
}

#[tokio::test]
async fn objects_with_a_key_of_the_customer_are_read_beside_others() {
    let server = S3Server::start().await;
    server.create_bucket("data");
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let md5 = "hRasmdxgYDKV3nvbahU1MA==";
    for n in 0..20 {
        let mut object = S3Object::new(format!("{n:02}"), bytes(n * 10));
        if n % 5 != 0 {
            object.encryption = backup_testkit::s3::Encryption::Customer { key_md5: md5.to_owned() };
        }
        server.buckets().put("data", object);
    }
    let config = S3Config {
        encryption: Encryption::SseC { key: key.to_owned().into() },
        ..Access::of(&server).config("data", "")
    };
    let bucket = S3Bucket::connect(config).await.unwrap();
    let run_1 = run(source(bucket, S3SourceOptions::default()), None).await.unwrap();
    assert_eq!((run_1.entries.len(), run_1.warnings.len()), (20, 0), "{:?}", run_1.warnings);
    // Without the key they are skipped, and the others are not.
    let bucket = Access::of(&server).bucket("data", "").await;
    let run_2 = run(source(bucket, S3SourceOptions::default()), None).await.unwrap();
    assert_eq!((run_2.entries.len(), run_2.warnings.len()), (4, 16));
}

/// A bucket with one object of the customer's key, or of none.
async fn with_customer_key(object: S3Object) -> (S3Server, Arc<dyn Source>) {
    let server = S3Server::start().await;
    server.create_bucket("data");
    server.buckets().put("data", object);
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned().into();
    let config = S3Config { encryption: Encryption::SseC { key }, ..Access::of(&server).config("data", "") };
    let bucket = S3Bucket::connect(config).await.unwrap();
    (server, source(bucket, S3SourceOptions::default()))
}

#[tokio::test]
async fn a_passing_fault_of_the_second_try_without_the_key_loses_nothing() {
    for length in [100, 3 << 20] {
        for fault in [Fault::slow_down(), Fault::fail(500, "InternalError"), Fault::Drop] {
            let (server, source) = with_customer_key(S3Object::new("a", bytes(length))).await;
            // The first try, with the key, is refused by the server itself.
            server.faults().add(Rule::new(Operation::GetObject, When::Nth(2), fault.clone()));
            let run = run(retrying(source), None).await.unwrap();
            assert!(run.warnings.is_empty(), "{fault:?}: {:?}", run.warnings);
            assert!(run.get("a").content == bytes(length));
            assert_eq!(server.faults().fired().len(), 1);
        }
    }
}

#[tokio::test]
async fn what_the_second_try_without_the_key_is_told_is_what_counts() {
    for (fault, why) in [
        (Fault::denied(), "s3:GetObject"),
        (Fault::fail(404, "NoSuchKey"), "vanished"),
        (Fault::fail(403, "InvalidObjectState"), "archived"),
        // Two answers about the key: the first one.
        (Fault::fail(400, "InvalidArgument"), "encryption parameters"),
    ] {
        let (server, source) = with_customer_key(S3Object::new("a", bytes(100))).await;
        server.faults().add(Rule::new(Operation::GetObject, When::Nth(2), fault.clone()));
        let run = run(source, None).await.unwrap();
        assert!(run.warnings["a"].contains(why), "{fault:?}: {:?}", run.warnings);
    }
}
