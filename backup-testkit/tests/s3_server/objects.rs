//! Writing, reading and deleting single objects.

use crate::client::{BUCKET, error, plain, refused, start};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, Delete, ObjectIdentifier, StorageClass, Tag, Tagging};
use backup_testkit::s3::{Encryption, Headers, Operation, Quirks, S3Object};

#[tokio::test]
async fn an_object_comes_back_with_all_that_was_stored_with_it() {
    let (server, client) = start().await;
    let put = client
        .put_object()
        .bucket(BUCKET)
        .key("a b/ü+%.txt")
        .body(ByteStream::from_static(b"content"))
        .content_type("text/plain; charset=utf-8")
        .content_encoding("gzip")
        .content_language("de")
        .content_disposition("attachment; filename=\"x\"")
        .cache_control("no-cache")
        .expires(DateTime::from_secs(1_900_000_000))
        .metadata("colour", "blue")
        .metadata("empty", "")
        .tagging("one=1&two+words=%C3%BC")
        .storage_class(StorageClass::StandardIa)
        .send()
        .await
        .unwrap();
    assert_eq!(put.e_tag(), Some("\"9a0364b9e99bb480dd25e1f0284c8555\""));
    let got = client.get_object().bucket(BUCKET).key("a b/ü+%.txt").send().await.unwrap();
    assert_eq!(got.content_type(), Some("text/plain; charset=utf-8"));
    assert_eq!(got.content_encoding(), Some("gzip"));
    assert_eq!(got.content_language(), Some("de"));
    assert_eq!(got.content_disposition(), Some("attachment; filename=\"x\""));
    assert_eq!(got.cache_control(), Some("no-cache"));
    assert_eq!(got.expires_string(), Some("Sun, 17 Mar 2030 17:46:40 GMT"));
    assert_eq!(got.metadata().unwrap()["colour"], "blue");
    assert_eq!(got.metadata().unwrap()["empty"], "");
    assert_eq!(got.storage_class(), Some(&StorageClass::StandardIa));
    assert_eq!(got.tag_count(), Some(2));
    assert_eq!(got.version_id(), None);
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"content");
    let stored = server.object(BUCKET, "a b/ü+%.txt").unwrap();
    assert_eq!(stored.tags["two words"], "ü");
    let head = client.head_object().bucket(BUCKET).key("a b/ü+%.txt").send().await.unwrap();
    assert_eq!((head.content_length(), head.e_tag()), (Some(7), put.e_tag()));
    assert_eq!(server.requests().count(Operation::GetObject), 1);
    assert_eq!(server.requests().total(), 3);
}

#[tokio::test]
async fn any_key_is_its_own_object() {
    let (server, client) = start().await;
    let long = "k".repeat(1024);
    let keys = [
        "a",
        "a/",
        "a/b",
        "../x",
        "/",
        "//",
        "a//b",
        "./a",
        "\u{1}\n\t",
        "%2F",
        "\u{10ffff}",
        "日本",
        "a?b#c&d=e",
        &long,
    ];
    for key in keys {
        client.put_object().bucket(BUCKET).key(key).body(key.as_bytes().to_vec().into()).send().await.unwrap();
    }
    assert_eq!(server.objects(BUCKET).len(), keys.len());
    for key in keys {
        let got = client.get_object().bucket(BUCKET).key(key).send().await.unwrap();
        assert_eq!(got.body.collect().await.unwrap().to_vec(), key.as_bytes(), "{key:?}");
    }
    let over = client.put_object().bucket(BUCKET).key("k".repeat(1025)).send().await;
    assert_eq!(refused(over), error(400, "KeyTooLongError"));
}

#[tokio::test]
async fn ranges_are_exact_and_those_outside_are_refused() {
    let (server, client) = start().await;
    server.put(BUCKET, "k", "0123456789");
    server.put(BUCKET, "empty", "");
    let get = |key: &str, range: &str| client.get_object().bucket(BUCKET).key(key).range(range).send();
    for (range, content, told) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
    ] {
        let got = get("k", range).await.unwrap();
        assert_eq!(got.content_range(), Some(told));
        assert_eq!(got.body.collect().await.unwrap().to_vec(), content.as_bytes());
    }
    assert_eq!(refused(get("k", "bytes=10-").await), error(416, "InvalidRange"));
    assert_eq!(refused(get("empty", "bytes=0-").await), error(416, "InvalidRange"));
}

#[tokio::test]
async fn a_body_that_does_not_agree_with_its_digest_is_not_stored() {
    let (server, client) = start().await;
    let put = || client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"content"));
    let good = "mgNkuembtIDdJeHwKEyFVQ==";
    assert_eq!(refused(put().content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send().await), error(400, "BadDigest"));
    assert_eq!(refused(put().content_md5("short").send().await), error(400, "InvalidDigest"));
    assert_eq!(refused(put().checksum_crc32("AAAAAA==").send().await), error(400, "BadDigest"));
    assert!(server.objects(BUCKET).is_empty());
    put().content_md5(good).send().await.unwrap();
    assert_eq!(server.object(BUCKET, "k").unwrap().body, "content");
}

#[tokio::test]
async fn checksums_in_headers_and_trailers_are_checked_and_kept() {
    let (server, client) = start().await;
    let config = client.config().to_builder().request_checksum_calculation(RequestChecksumCalculation::WhenSupported);
    let client = Client::from_conf(config.build());
    let put = |body| {
        client.put_object().bucket(BUCKET).key("k").checksum_algorithm(ChecksumAlgorithm::Sha256).body(body).send()
    };
    put(ByteStream::from_static(b"content")).await.unwrap();
    let head = || client.head_object().bucket(BUCKET).key("k").checksum_mode(ChecksumMode::Enabled).send();
    assert_eq!(head().await.unwrap().checksum_sha256(), Some("7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M="));
    // Of a file the checksum comes behind the body, which is then in pieces.
    let headers = Headers { content_type: Some("application/octet-stream".into()), ..Headers::default() };
    put(ByteStream::from_path("Cargo.toml").await.unwrap()).await.unwrap();
    let stored = server.object(BUCKET, "k").unwrap();
    assert_eq!((stored.body.to_vec(), stored.headers), (std::fs::read("Cargo.toml").unwrap(), headers));
    assert_ne!(head().await.unwrap().checksum_sha256(), Some("7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M="));
    server.set_quirks(Quirks { refuses_checksums: true, ..Quirks::default() });
    assert_eq!(refused(put(ByteStream::from_static(b"content")).await), error(400, "InvalidRequest"));
    assert_eq!(refused(put(ByteStream::from_path("Cargo.toml").await.unwrap()).await), error(400, "InvalidRequest"));
}

#[tokio::test]
async fn what_the_service_would_refuse_is_refused() {
    let (_server, client) = start().await;
    let put = || client.put_object().bucket(BUCKET).key("k");
    let large = put().metadata("large", "x".repeat(2048)).send().await;
    assert_eq!(refused(large), error(400, "MetadataTooLarge"));
    assert_eq!(refused(put().storage_class("COLD".into()).send().await), error(400, "InvalidStorageClass"));
    let eleven = (0..11).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join("&");
    assert_eq!(refused(put().tagging(eleven).send().await), error(400, "BadRequest"));
    let missing = client.put_object().bucket("missing").key("k").send().await;
    assert_eq!(refused(missing), error(404, "NoSuchBucket"));
    let missing = client.get_object().bucket(BUCKET).key("missing").send().await;
    assert_eq!(refused(missing), error(404, "NoSuchKey"));
}

#[tokio::test]
async fn archived_objects_are_listed_but_not_read() {
    let (server, client) = start().await;
    for class in [StorageClass::Glacier, StorageClass::DeepArchive, StorageClass::GlacierIr] {
        let put = client.put_object().bucket(BUCKET).key(class.as_str()).storage_class(class.clone());
        put.send().await.unwrap();
    }
    let mut tiered = S3Object::new("tiered", "x");
    tiered.storage_class = "INTELLIGENT_TIERING".into();
    tiered.archived = true;
    server.buckets().put(BUCKET, tiered);
    let get = |key: &str| client.get_object().bucket(BUCKET).key(key).send();
    for key in ["GLACIER", "DEEP_ARCHIVE", "tiered"] {
        assert_eq!(refused(get(key).await), error(403, "InvalidObjectState"), "{key}");
        client.head_object().bucket(BUCKET).key(key).send().await.unwrap();
    }
    get("GLACIER_IR").await.unwrap();
}

#[tokio::test]
async fn an_object_with_a_customers_key_is_read_with_that_key_only() {
    let (server, client) = start().await;
    // 32 bytes in base64.
    let key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let put = || client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x"));
    let wrong = put().sse_customer_algorithm("AES256").sse_customer_key(key).sse_customer_key_md5("AAAA");
    assert_eq!(refused(wrong.send().await), error(400, "InvalidArgument"));
    let right = server_md5(key);
    let put =
        put().sse_customer_algorithm("AES256").sse_customer_key(key).sse_customer_key_md5(&right).send().await.unwrap();
    assert_ne!(put.e_tag(), Some("\"9dd4e461268c8034f5c8564e155c67a6\""), "not the MD5");
    let get = || client.get_object().bucket(BUCKET).key("k");
    assert_eq!(refused(get().send().await), error(400, "InvalidRequest"));
    let other = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=";
    let get_other =
        get().sse_customer_algorithm("AES256").sse_customer_key(other).sse_customer_key_md5(server_md5(other));
    assert_eq!(refused(get_other.send().await), error(403, "AccessDenied"));
    let got =
        get().sse_customer_algorithm("AES256").sse_customer_key(key).sse_customer_key_md5(&right).send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"x");
    assert!(matches!(server.object(BUCKET, "k").unwrap().encryption, Encryption::Customer { .. }));
}

/// The MD5 of a key, as the server computes it: the ETag of the key as an object.
fn server_md5(key: &str) -> String {
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD;
    let etag = S3Object::new("", engine.decode(key).unwrap()).etag;
    let bytes: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&etag[2 * at..2 * at + 2], 16).unwrap()).collect();
    engine.encode(bytes)
}

#[tokio::test]
async fn deletions_of_many_keys_report_each_error() {
    use backup_testkit::faulty::When;
    use backup_testkit::s3::{Fault, Rule};
    let (server, client) = start().await;
    for key in ["a", "b", "c"] {
        server.put(BUCKET, key, key);
    }
    server.faults().add(Rule::new(Operation::DeleteObjectsKey, When::Always, Fault::denied()).about("/b"));
    let objects = ["a", "b", "missing"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder().set_objects(Some(objects.to_vec())).build().unwrap();
    let done = client.delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
    assert_eq!(done.deleted().iter().filter_map(|one| one.key()).collect::<Vec<_>>(), ["a", "missing"]);
    assert_eq!((done.errors()[0].key(), done.errors()[0].code()), (Some("b"), Some("AccessDenied")));
    assert_eq!(server.objects(BUCKET).iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    client.delete_object().bucket(BUCKET).key("c").send().await.unwrap();
    client.delete_object().bucket(BUCKET).key("c").send().await.unwrap();
    assert_eq!(server.objects(BUCKET).len(), 1);
}

#[tokio::test]
async fn tags_are_replaced_as_a_whole() {
    let (server, client) = start().await;
    server.put(BUCKET, "k", "x");
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build().unwrap();
    let put = |tags: Vec<Tag>| {
        let tags = Tagging::builder().set_tag_set(Some(tags)).build().unwrap();
        client.put_object_tagging().bucket(BUCKET).key("k").tagging(tags).send()
    };
    put(vec![tag("a", "1"), tag("b", "")]).await.unwrap();
    put(vec![tag("c", "ä & ö")]).await.unwrap();
    let got = client.get_object_tagging().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(got.tag_set(), [tag("c", "ä & ö")]);
    assert_eq!(refused(put(vec![tag("a", "1"), tag("a", "2")]).await), error(400, "InvalidTag"));
    client.delete_object_tagging().bucket(BUCKET).key("k").send().await.unwrap();
    assert!(server.object(BUCKET, "k").unwrap().tags.is_empty());
}

#[tokio::test]
async fn a_request_without_a_signature_is_denied() {
    let (server, _client) = start().await;
    server.put(BUCKET, "k", "x");
    let answer = plain(&server, "GET /bucket/k HTTP/1.1");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("<Code>AccessDenied</Code>"), "{answer}");
}
