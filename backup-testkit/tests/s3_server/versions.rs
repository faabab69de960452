//! Buckets with versions and object lock.

use crate::client::{BUCKET, error, refused, start};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use backup_testkit::s3::{S3BucketOptions, Versioning};

#[tokio::test]
async fn versions_and_delete_markers_are_kept_and_listed() {
    let (server, client) = start().await;
    server.put(BUCKET, "k", "before");
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    client.put_bucket_versioning().bucket(BUCKET).versioning_configuration(enabled).send().await.unwrap();
    let put =
        |body: &'static [u8]| client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(body)).send();
    let first = put(b"first").await.unwrap().version_id.unwrap();
    put(b"second").await.unwrap();
    let deleted = client.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(deleted.delete_marker(), Some(true));
    server.put(BUCKET, "l", "");

    let get = || client.get_object().bucket(BUCKET).key("k");
    assert_eq!(refused(get().send().await), error(404, "NoSuchKey"));
    let old = get().version_id(&first).send().await.unwrap();
    assert_eq!(old.version_id(), Some(first.as_str()));
    assert_eq!(old.body.collect().await.unwrap().to_vec(), b"first");
    get().version_id("null").send().await.unwrap();
    let marker = deleted.version_id().unwrap();
    assert_eq!(refused(get().version_id(marker).send().await), error(405, "MethodNotAllowed"));
    assert_eq!(refused(get().version_id("unknown").send().await), error(404, "NoSuchVersion"));

    let (mut seen, mut key, mut id) = (Vec::new(), None, None);
    loop {
        let page = client.list_object_versions().bucket(BUCKET).max_keys(2);
        let page = page.set_key_marker(key).set_version_id_marker(id).send().await.unwrap();
        seen.extend(page.delete_markers().iter().map(|one| (one.key().unwrap().to_owned(), one.is_latest(), None)));
        seen.extend(page.versions().iter().map(|one| (one.key().unwrap().to_owned(), one.is_latest(), one.size())));
        (key, id) = (page.next_key_marker, page.next_version_id_marker);
        if page.is_truncated != Some(true) {
            break;
        }
    }
    let k = |latest, size| ("k".to_owned(), Some(latest), size);
    let expected =
        [k(true, None), k(false, Some(6)), k(false, Some(5)), k(false, Some(6)), ("l".to_owned(), Some(true), Some(0))];
    assert_eq!(seen, expected);

    // Without its marker the object is there again.
    client.delete_object().bucket(BUCKET).key("k").version_id(marker).send().await.unwrap();
    assert_eq!(get().send().await.unwrap().body.collect().await.unwrap().to_vec(), b"second");
}

#[tokio::test]
async fn suspended_versioning_replaces_the_version_null() {
    let (server, client) = start().await;
    server.create_bucket_with("other", S3BucketOptions { versioning: Versioning::Suspended, ..Default::default() });
    for body in [b"1", b"2"] {
        client.put_object().bucket("other").key("k").body(ByteStream::from_static(body)).send().await.unwrap();
    }
    assert_eq!(server.buckets().versions("other").len(), 1);
    client.delete_object().bucket("other").key("k").send().await.unwrap();
    let versions = server.buckets().versions("other");
    assert!(versions.len() == 1 && versions[0].delete_marker);
}

#[tokio::test]
async fn locked_buckets_want_digests_and_keep_versions() {
    let (server, client) = start().await;
    server.create_bucket_with("locked", S3BucketOptions { object_lock: true, ..Default::default() });
    let put = || client.put_object().bucket("locked").key("k").body(ByteStream::from_static(b"content"));
    assert_eq!(refused(put().send().await), error(400, "InvalidRequest"));
    let stored = put().content_md5("mgNkuembtIDdJeHwKEyFVQ==").send().await.unwrap();
    let delete = || client.delete_object().bucket("locked").key("k");
    let version = delete().version_id(stored.version_id().unwrap()).send().await;
    assert_eq!(refused(version), error(403, "AccessDenied"));
    delete().send().await.unwrap();
    assert_eq!(server.buckets().versions("locked").len(), 2);
}
