//! What a destination does when the service, the network or somebody else is in the way.

use crate::common::Access;
use backup_core::adapter::{Destination, Payload};
use backup_core::model::ObjectName;
use backup_core::retry::{RetryPolicy, Retrying};
use backup_core::{Digest, ErrorClass, Result};
use backup_s3::{Encryption, Patience, S3Bucket, S3Config, S3Destination};
use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Operation, Quirks, Rule, S3BucketOptions, S3Server, Versioning};
use futures::TryStreamExt;
use std::sync::Arc;
use std::time::Duration;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

async fn server(options: S3BucketOptions) -> (S3Server, S3Config) {
    let server = S3Server::start().await;
    server.create_bucket_with("bucket", options);
    let config = S3Config { region: Some(server.region().into()), ..Access::of(&server).config("bucket", "in") };
    (server, config)
}

async fn destination(config: &S3Config) -> S3Destination {
    S3Destination::new(S3Bucket::connect(config.clone()).await.unwrap())
}

/// As the engine uses it, without long waits.
async fn retrying(config: &S3Config) -> Arc<Retrying<dyn Destination>> {
    let policy =
        RetryPolicy { initial: Duration::from_millis(1), max: Duration::from_millis(5), ..RetryPolicy::default() };
    let destination: Arc<dyn Destination> = Arc::new(destination(config).await);
    Retrying::new(destination, policy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_is_lost_is_a_put() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let destination = retrying(&config).await;
    destination.check().await.unwrap();
    for (n, fault) in [
        Fault::LostReply,
        Fault::Drop,
        Fault::BreakRequest { after: 50_000 },
        Fault::FailAfter { status: 500, code: "InternalError" },
        Fault::slow_down(),
        Fault::fail(409, "ConditionalRequestConflict"),
        Fault::fail(400, "RequestTimeout"),
    ]
    .into_iter()
    .enumerate()
    {
        let object = format!("fault/{n}");
        server.faults().add(Rule::new(Operation::PutObject, When::Nth(1), fault).about(&object));
        let body = Payload::new(vec![vec![n as u8; 200_000].into(), vec![7; 10].into()]);
        destination.put(&name(&object), body.clone()).await.unwrap();
        assert_eq!(server.object("bucket", &format!("in/{object}")).unwrap().body.len(), 200_010);
        let other = destination.put(&name(&object), Payload::from(b"other".to_vec())).await;
        assert_eq!(other.unwrap_err().class(), ErrorClass::Conflict);
    }
    assert_eq!(server.faults().fired().len(), 7, "all faults were met");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_slow_down_ends_with_the_class_that_says_so() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let destination = retrying(&config).await;
    destination.check().await.unwrap();
    server.faults().add(Rule::new(Operation::PutObject, When::Always, Fault::slow_down()));
    let error = destination.put(&name("a"), Payload::from(b"x".to_vec())).await.unwrap_err();
    assert!(matches!(error.class(), ErrorClass::Throttled { .. }), "{error:?}");
    assert_eq!(server.faults().fired().len(), 6, "it is not tried for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_goes_in_circles_is_an_error() {
    let (server, config) = server(S3BucketOptions::default()).await;
    for n in 0..1200 {
        server.put("bucket", &format!("in/a/{n:04}"), "x");
    }
    server.set_quirks(Quirks { lists_in_circles: true, ..Quirks::default() });
    let listed: Result<Vec<_>> = destination(&config).await.list(Some(&name("a"))).try_collect().await;
    let error = listed.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(error.chain().contains("breaks off"), "{}", error.chain());
    assert!(server.requests().count(Operation::ListObjectsV2) < 20, "it is not tried for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_carries_a_sha256_only_where_the_service_compares_it() {
    for (quirks, compares) in [
        (Quirks::default(), true),
        (Quirks { ignores_checksums: true, ..Quirks::default() }, false),
        (Quirks { refuses_checksums: true, ..Quirks::default() }, false),
    ] {
        let (server, config) = server(S3BucketOptions::default()).await;
        server.set_quirks(quirks.clone());
        let destination = destination(&config).await;
        destination.check().await.unwrap();
        assert!(server.buckets().objects("bucket").is_empty(), "a probe is left: {quirks:?}");
        let payload = Payload::new(vec![vec![1; 100_000].into(), vec![2; 5].into()]);
        destination.put(&name("x/a"), payload.clone()).await.unwrap();
        let kept = server.object("bucket", "in/x/a").unwrap();
        assert_eq!(kept.sha256().is_some(), compares, "{quirks:?}");
        // Whoever hashed it was wrong, or the bytes have changed since: nothing is stored, whatever is sent for comparison.
        if compares {
            let wrong = payload.clone().with_sha256(Digest::of(b"other"));
            let error = destination.put(&name("x/b"), wrong).await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Transient);
            assert!(error.chain().contains("BadDigest"), "{}", error.chain());
            assert!(server.object("bucket", "in/x/b").is_none());
        }
        // The same again is success, something else is not.
        destination.put(&name("x/a"), payload).await.unwrap();
        let error = destination.put(&name("x/a"), Payload::from(vec![3; 100_005])).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Conflict);
    }
}

/// The service takes the whole request and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_never_answered_is_given_up_and_put_again() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let second = Duration::from_secs(1);
    let bucket = S3Bucket::connect(config).await.unwrap();
    let bucket = bucket.with_patience(Patience { written: second, completed: second });
    let policy = RetryPolicy { initial: Duration::from_millis(1), ..RetryPolicy::default() };
    let destination: Arc<dyn Destination> = Arc::new(S3Destination::new(bucket));
    let destination = Retrying::new(destination, policy);
    destination.check().await.unwrap();
    for (object, pieces) in [("one", vec![vec![1; 9000]]), ("two", vec![vec![1; 9000], vec![2; 9000]])] {
        server.faults().add(Rule::new(Operation::PutObject, When::Nth(1), Fault::Hang).about(object));
        let payload = Payload::new(pieces.into_iter().map(Into::into).collect());
        let object_name = name(object);
        let put = tokio::time::timeout(20 * second, destination.put(&object_name, payload.clone()));
        put.await.expect("it is given up in time").unwrap();
        assert_eq!(server.object("bucket", &format!("in/{object}")).unwrap().body.len() as u64, payload.len());
    }
    assert_eq!(server.faults().fired().len(), 2);
}

/// However a service answers a header that it does not know, a Content-MD5 does.
#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_the_probe_of_a_sha256_keeps_nobody_from_putting() {
    for fault in [
        Fault::fail(400, ""),
        Fault::fail(403, "SignatureDoesNotMatch"),
        Fault::fail(500, "InternalError"),
        Fault::LostReply,
    ] {
        let (server, config) = server(S3BucketOptions::default()).await;
        // The first two probe `If-None-Match`. The SDK tries what seems to pass again by itself.
        server.set_quirks(Quirks { ignores_checksums: true, ..Quirks::default() });
        server.faults().add(Rule::new(Operation::PutObject, When::Nth(3), fault));
        let destination = destination(&config).await;
        destination.check().await.unwrap();
        assert_eq!(server.faults().fired().len(), 1);
        assert!(server.buckets().objects("bucket").is_empty(), "a probe is left");
        destination.put(&name("a"), Payload::from(b"x".to_vec())).await.unwrap();
        assert!(server.object("bucket", "in/a").unwrap().sha256().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_versions_are_kept_a_deletion_removes_them_too() {
    let (server, config) = server(S3BucketOptions { versioning: Versioning::Enabled, ..Default::default() }).await;
    let destination = destination(&config).await;
    destination.check().await.unwrap();
    for _ in 0..2 {
        destination.put(&name("x/a"), Payload::from(b"1".to_vec())).await.unwrap();
        destination.put(&name("x/ab"), Payload::from(b"2".to_vec())).await.unwrap();
        destination.delete(&name("x/a")).await.unwrap();
        destination.delete(&name("x/a")).await.unwrap();
        let left: Vec<_> = server.buckets().versions("bucket").into_iter().map(|v| v.key).collect();
        let left: Vec<_> = left.iter().filter(|key| !key.contains(".backup-tmp-")).collect();
        assert_eq!(left, ["in/x/ab"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_locked_bucket_everything_works_but_deleting_which_says_why() {
    let options = S3BucketOptions { versioning: Versioning::Enabled, object_lock: true, ..Default::default() };
    let (server, config) = server(options).await;
    let destination = destination(&config).await;
    destination.check().await.unwrap();
    let object = name("x/a");
    destination.put(&object, Payload::new(vec![vec![1; 100_000].into(), vec![2; 5].into()])).await.unwrap();
    destination.put(&object, Payload::from([vec![1; 100_000], vec![2; 5]].concat())).await.unwrap();
    let error = destination.delete(&object).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert!(
        error.chain().contains("the bucket keeps versions") && error.chain().contains("locked"),
        "{}",
        error.chain()
    );
    let many = destination.delete_many(&[object.clone(), name("x/absent")]).await.unwrap_err();
    assert_eq!(many.class(), ErrorClass::Permanent);
    // It is still there, and not hidden.
    assert!(destination.stat(&object).await.unwrap().is_some());
    assert!(!server.buckets().versions("bucket").iter().any(|v| v.key == "in/x/a" && v.delete_marker));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_a_missing_bucket_from_missing_rights() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let missing = destination(&S3Config { bucket: "nowhere".into(), ..config.clone() }).await;
    assert_eq!(missing.check().await.unwrap_err().class(), ErrorClass::NotFound);
    let destination = destination(&config).await;
    for operation in [Operation::ListObjectsV2, Operation::PutObject, Operation::GetObject, Operation::DeleteObject] {
        server.faults().add(Rule::new(operation, When::Always, Fault::denied()));
        let error = destination.check().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent, "{operation:?}: {error:?}");
        server.faults().clear();
        destination.check().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_has_the_storage_class_and_encryption_of_the_configuration() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 32]);
    for (n, encryption) in
        [Encryption::SseS3, Encryption::SseKms { key_id: Some("a-key".into()) }, Encryption::SseC { key: key.into() }]
            .into_iter()
            .enumerate()
    {
        let config = S3Config {
            storage_class: Some("STANDARD_IA".into()),
            encryption,
            prefix: format!("{n}"),
            ..config.clone()
        };
        let destination = destination(&config).await;
        destination.check().await.unwrap();
        let (object, body) = (name("a"), Payload::from(vec![n as u8; 100_000]));
        destination.put(&object, body.clone()).await.unwrap();
        // The ETag is no MD5 here, so that the bytes are compared.
        destination.put(&object, body).await.unwrap();
        let other = destination.put(&object, Payload::from(vec![9; 100_000])).await;
        assert_eq!(other.unwrap_err().class(), ErrorClass::Conflict);
        let pieces: Vec<_> = destination.get(&object, Some(10..20)).await.unwrap().try_collect().await.unwrap();
        assert_eq!(pieces.concat(), [n as u8; 10]);
        let stored = server.object("bucket", &format!("{n}/a")).unwrap();
        assert_eq!(stored.storage_class, "STANDARD_IA");
        assert_ne!(stored.encryption, backup_testkit::s3::Encryption::None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_or_changed_answer_is_noticed() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let destination = destination(&config).await;
    let object = name("a");
    destination.put(&object, Payload::from(vec![1; 300_000])).await.unwrap();
    // Without a range nobody can know that an answer is too short when it says that it is whole.
    for (fault, ranges) in [
        (Fault::Short { after: 1000 }, vec![Some(5..200_000)]),
        (Fault::Break { after: 1000 }, vec![None, Some(5..200_000)]),
    ] {
        for range in ranges {
            server.faults().add(Rule::new(Operation::GetObject, When::Always, fault.clone()));
            let got = match destination.get(&object, range).await {
                Ok(stream) => stream.try_collect::<Vec<_>>().await.map(|pieces| pieces.concat()),
                Err(e) => Err(e),
            };
            assert!(got.unwrap_err().is_retryable());
            server.faults().clear();
        }
    }
}

async fn put_many(destination: &S3Destination, count: usize) -> Vec<ObjectName> {
    let names: Vec<ObjectName> = (0..count).map(|n| name(&format!("many/{n:04}"))).collect();
    for some in names.chunks(64) {
        let puts = some.iter().map(|name| destination.put(name, Payload::from(b"x".to_vec())));
        futures::future::try_join_all(puts).await.unwrap();
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_are_deleted_with_one_request_for_a_thousand() {
    for versioning in [Versioning::Off, Versioning::Enabled] {
        let (server, config) = server(S3BucketOptions { versioning, ..Default::default() }).await;
        let destination = destination(&config).await;
        let mut names = put_many(&destination, 1001).await;
        destination.put(&name("stays"), Payload::from(b"x".to_vec())).await.unwrap();
        names.push(names[7].clone());
        server.reset_requests();
        destination.delete_many(&names).await.unwrap();
        let batches = if versioning == Versioning::Off { 2 } else { 0 };
        assert_eq!(server.requests().count(Operation::DeleteObjects), batches);
        let left: Vec<_> = server.buckets().versions("bucket").into_iter().map(|v| v.key).collect();
        let left: Vec<_> = left.iter().filter(|key| !key.contains(".backup-tmp-")).collect();
        assert_eq!(left, ["in/stays"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_objects_one_that_stays_is_told_and_passing_faults_are_repeated() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let plain = destination(&config).await;
    let names = put_many(&plain, 20).await;
    let rule = |code| Rule::new(Operation::DeleteObjectsKey, When::Nth(1), Fault::fail(403, code)).about("many/0003");
    server.faults().add(rule("AccessDenied"));
    let error = plain.delete_many(&names).await.unwrap_err();
    assert!(error.class() == ErrorClass::Permanent && error.chain().contains("many/0003"), "{}", error.chain());
    assert_eq!(server.objects("bucket").iter().filter(|o| o.key.contains("/many/")).count(), 1);
    server.faults().clear();
    let names = put_many(&plain, 20).await;
    server.faults().add(rule("InternalError"));
    server.faults().add(Rule::new(Operation::DeleteObjects, When::Nth(1), Fault::LostReply));
    server.faults().add(Rule::new(Operation::DeleteObjects, When::Nth(2), Fault::slow_down()));
    retrying(&config).await.delete_many(&names).await.unwrap();
    assert_eq!(server.objects("bucket").iter().filter(|o| o.key.contains("/many/")).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_deletes_no_batches_is_asked_for_each_object() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let destination = destination(&config).await;
    for fault in [Fault::fail(501, "NotImplemented"), Fault::fail(400, "MalformedXML"), Fault::denied()] {
        let names = put_many(&destination, 20).await;
        server.faults().add(Rule::new(Operation::DeleteObjects, When::Always, fault));
        server.reset_requests();
        for names in names.chunks(10) {
            destination.delete_many(names).await.unwrap();
        }
        assert_eq!(server.requests().count(Operation::DeleteObject), 20);
        assert!(server.requests().count(Operation::DeleteObjects) <= 1, "it was told once");
        assert!(!server.objects("bucket").iter().any(|o| o.key.contains("/many/")));
        server.faults().clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_page_of_a_listing_that_fails_is_asked_for_again() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let plain = destination(&config).await;
    let names = put_many(&plain, 2100).await;
    for (nth, fault) in [(1, Fault::Drop), (2, Fault::slow_down()), (3, Fault::fail(500, "InternalError"))] {
        server.faults().clear();
        server.faults().add(Rule::new(Operation::ListObjectsV2, When::Nth(nth), fault));
        let listed: Vec<_> = retrying(&config).await.list(Some(&name("many"))).try_collect().await.unwrap();
        assert_eq!(listed.into_iter().map(|o| o.name).collect::<Vec<_>>(), names);
        assert_eq!(server.faults().fired().len() as u64, nth);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_credentials_is_told_although_a_head_has_no_body() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let good = destination(&config).await;
    good.put(&name("a"), Payload::from(b"x".to_vec())).await.unwrap();
    let backup_s3::Credentials::Static { access_key, .. } = &config.credentials else { unreachable!() };
    let credentials = backup_s3::Credentials::Static {
        access_key: access_key.clone(),
        secret_key: "wrong".to_owned().into(),
        session_token: None,
    };
    let wrong = destination(&S3Config { credentials, ..config.clone() }).await;
    for object in ["a", "absent"] {
        assert_eq!(wrong.stat(&name(object)).await.unwrap_err().class(), ErrorClass::Unauthorized);
    }
    for (fault, class) in [
        (Fault::fail(400, "ExpiredToken"), ErrorClass::Unauthorized),
        (Fault::fail(403, "RequestTimeTooSkewed"), ErrorClass::Transient),
        (Fault::denied(), ErrorClass::Permanent),
    ] {
        server.faults().clear();
        server.faults().add(Rule::new(Operation::HeadObject, When::Always, fault.clone()));
        server.faults().add(Rule::new(Operation::GetObject, When::Always, fault));
        assert_eq!(good.stat(&name("a")).await.unwrap_err().class(), class);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_a_deletion_has_hidden_are_found_again() {
    let (server, config) = server(S3BucketOptions { versioning: Versioning::Enabled, ..Default::default() }).await;
    // The credentials may not ask whether versions are kept: what is deleted is hidden first.
    server.faults().add(Rule::new(Operation::GetBucketVersioning, When::Always, Fault::denied()));
    let plain = destination(&config).await;
    let names = put_many(&plain, 20).await;
    server.faults().add(Rule::new(Operation::ListObjectVersions, When::Always, Fault::slow_down()));
    assert!(plain.delete_many(&names).await.unwrap_err().is_retryable());
    assert!(server.buckets().versions("bucket").iter().any(|v| v.key.contains("/many/") && !v.delete_marker));
    server.faults().clear();
    // Another process, which sees no object any more.
    let again = destination(&config).await;
    again.remove_staged(&name("many")).await.unwrap();
    assert!(!server.buckets().versions("bucket").iter().any(|v| v.key.contains("/many/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_deletions_of_which_each_may_fail_get_through() {
    let (server, config) = server(S3BucketOptions::default()).await;
    let names = put_many(&destination(&config).await, 100).await;
    server.faults().add(Rule::new(Operation::DeleteObjects, When::Always, Fault::fail(501, "NotImplemented")));
    server.faults().add(Rule::new(Operation::DeleteObject, When::Every(3), Fault::slow_down()));
    retrying(&config).await.delete_many(&names).await.unwrap();
    assert!(!server.objects("bucket").iter().any(|o| o.key.contains("/many/")));
}
