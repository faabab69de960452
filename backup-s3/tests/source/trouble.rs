//! What goes wrong on the way: each ends in a clear error or a warning, nothing is lost, nothing is tried for ever.

use crate::fixture::{Access, bytes, source};
use crate::run::{context, retrying, run, run_with};
use backup_core::adapter::{Source, SourceEvent};
use backup_core::{Error, ErrorClass};
use backup_s3::S3SourceOptions;
use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Operation, Quirks, Rule, S3BucketOptions, S3Object, S3Server};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;

const SMALL: usize = 40;

/// A bucket with 40 small objects and a large one in their middle.
async fn server() -> S3Server {
    let server = S3Server::start().await;
    server.create_bucket("data");
    for n in 0..SMALL {
        server.put("data", &format!("{n:02}"), bytes(n * 100));
    }
    server.put("data", "20large", bytes(9 << 20));
    server
}

async fn plain(server: &S3Server) -> Arc<dyn Source> {
    source(Access::of(server).bucket("data", "").await, S3SourceOptions::default())
}

/// Everything is there, once, and as it was put.
async fn all_is_delivered(server: &S3Server) {
    let run = run(retrying(plain(server).await), None).await.unwrap();
    assert_eq!(run.entries.len(), SMALL + 1, "{:?}", run.warnings);
    for got in &run.entries {
        assert_eq!(got.content, server.object("data", &got.name).unwrap().body, "{}", got.name);
    }
    assert!(run.warnings.is_empty(), "{:?}", run.warnings);
}

fn assert_clear(error: &Error, class: ErrorClass, words: &[&str], server: &S3Server) {
    let text = error.chain();
    assert_eq!(error.class(), class, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!text.contains(server.secret_key()) && !text.contains("Authorization"), "{text}");
}

#[tokio::test]
async fn one_get_for_each_small_object_and_one_list_for_each_thousand() {
    let server = S3Server::start().await;
    server.create_bucket("data");
    for n in 0..2500 {
        server.put("data", &format!("{n:04}"), "small");
    }
    let run = run(plain(&server).await, None).await.unwrap();
    assert_eq!(run.entries.len(), 2500);
    let requests = server.requests();
    assert_eq!(requests.count(Operation::GetObject), 2500);
    assert_eq!(requests.count(Operation::ListObjectsV2), 3);
    assert_eq!(requests.total(), 2503);
}

#[tokio::test]
async fn many_small_objects_are_fetched_at_once_but_not_all() {
    let server = server().await;
    server.faults().add(Rule::new(Operation::GetObject, When::Always, Fault::Delay(Duration::from_millis(50))));
    server.buckets().remove("data", "20large");
    run(plain(&server).await, None).await.unwrap();
    let at_once = server.requests().most_at_once(Operation::GetObject);
    assert!((16..SMALL as u64).contains(&at_once), "{at_once} at once");
}

#[tokio::test]
async fn a_large_object_is_read_with_one_get_for_each_range() {
    let server = S3Server::start().await;
    server.create_bucket("data");
    server.put("data", "large", bytes(9 << 20));
    run(plain(&server).await, None).await.unwrap();
    assert_eq!(server.requests().count(Operation::GetObject), 3);
    assert_eq!(server.requests().total(), 4);
}

#[tokio::test]
async fn a_pause_makes_nothing_read_twice() {
    let server = server().await;
    let source = plain(&server).await;
    let ctx = context();
    let mut events = source.clone().events(None, ctx.clone());
    let mut cursor = None;
    let mut inline = 0;
    while let Some(event) = events.next().await.transpose().unwrap() {
        let SourceEvent::Entry(entry) = event else { panic!() };
        // As the engine does: on a pause no content is begun.
        if entry.name.as_str() == Some("20large") {
            break;
        }
        inline += 1;
        cursor = Some(entry.cursor);
        if inline == 3 {
            ctx.stop.cancel();
        }
    }
    let rest = run(source, cursor).await.unwrap();
    assert_eq!(rest.entries.len() + inline, SMALL + 1);
    assert_eq!(server.requests().count(Operation::GetObject), SMALL as u64 + 3);
}

#[tokio::test]
async fn a_storm_of_slow_downs_passes() {
    let server = server().await;
    // A third, so that of those that are fetched at once none meets them all its six times.
    server.faults().add(Rule::new(Operation::GetObject, When::Every(3), Fault::slow_down()));
    server.faults().add(Rule::new(Operation::ListObjectsV2, When::First(2), Fault::slow_down()));
    all_is_delivered(&server).await;
}

#[tokio::test]
async fn a_storm_without_end_is_an_error_after_some_attempts() {
    let server = server().await;
    server.faults().add(Rule::new(Operation::GetObject, When::Always, Fault::slow_down()));
    let error = run(retrying(plain(&server).await), None).await.unwrap_err();
    assert_clear(&error, ErrorClass::Throttled { after: None }, &["s3://data/00", "SlowDown", "503"], &server);
    assert!(server.requests().count(Operation::GetObject) < 100);

    server.faults().clear();
    server.faults().add(Rule::new(Operation::ListObjectsV2, When::Always, Fault::slow_down()));
    let error = run(retrying(plain(&server).await), None).await.unwrap_err();
    assert_clear(&error, ErrorClass::Throttled { after: None }, &["s3://data", "SlowDown"], &server);
}

#[tokio::test]
async fn a_service_may_say_how_long_to_wait() {
    let server = server().await;
    let after = Some(Duration::from_secs(7));
    server.faults().add(Rule::any(When::Always, Fault::Fail { status: 503, code: "SlowDown", after }));
    let error = plain(&server).await.check().await.unwrap_err();
    assert_clear(&error, ErrorClass::Throttled { after }, &[], &server);
}

#[tokio::test]
async fn connections_may_drop_at_every_point() {
    for operation in [Operation::GetObject, Operation::ListObjectsV2] {
        for fault in [
            Fault::Drop,
            Fault::LostReply,
            Fault::Break { after: 0 },
            Fault::Break { after: 1 },
            Fault::Break { after: 1000 },
            Fault::fail(500, "InternalError"),
            Fault::fail(409, "OperationAborted"),
            Fault::fail(400, "RequestTimeout"),
        ] {
            let server = server().await;
            server.faults().add(Rule::new(operation, When::Nth(1), fault.clone()));
            server.faults().add(Rule::new(operation, When::Every(5), fault));
            all_is_delivered(&server).await;
            assert!(!server.faults().fired().is_empty());
        }
    }
}

#[tokio::test]
async fn a_stalled_content_is_given_up_and_read_again() {
    let server = server().await;
    server.faults().add(Rule::new(Operation::GetObject, When::Nth(1), Fault::Stall { after: 100 }).about("data/3"));
    server.faults().add(Rule::new(Operation::GetObject, When::Nth(2), Fault::Stall { after: 100 }).about("large"));
    all_is_delivered(&server).await;
}

#[tokio::test]
async fn denied_objects_are_skipped_with_a_warning() {
    let server = server().await;
    server.faults().add(Rule::new(Operation::GetObject, When::Always, Fault::denied()).about("data/07"));
    let run_1 = run(retrying(plain(&server).await), None).await.unwrap();
    assert_eq!(run_1.entries.len(), SMALL);
    assert!(run_1.warnings["07"].starts_with("skipped: it cannot be read: s3://data/07"), "{:?}", run_1.warnings);
    assert!(run_1.warnings["07"].contains("s3:GetObject"));

    // All small ones. A large one is reported by whoever reads it.
    server.faults().add(Rule::new(Operation::GetObject, When::Always, Fault::denied()));
    server.buckets().remove("data", "20large");
    let run_2 = run(retrying(plain(&server).await), None).await.unwrap();
    assert_eq!((run_2.entries.len(), run_2.warnings.len()), (0, SMALL));
}

#[tokio::test]
async fn objects_whose_key_of_encryption_is_denied_are_skipped() {
    let server = server().await;
    let fault = Fault::fail(400, "KMS.DisabledException");
    server.faults().add(Rule::new(Operation::GetObject, When::Always, fault).about("data/07"));
    let run = run(retrying(plain(&server).await), None).await.unwrap();
    assert!(run.warnings["07"].contains("KMS.DisabledException"), "{:?}", run.warnings);
    assert_eq!(run.entries.len(), SMALL);
}

#[tokio::test]
async fn archived_objects_are_skipped_with_a_hint() {
    let server = server().await;
    for key in ["05", "20large"] {
        let mut object = server.object("data", key).unwrap();
        object.storage_class = "GLACIER".to_owned();
        object.archived = true;
        server.buckets().put("data", object);
    }
    let source = plain(&server).await;
    let error = run(source.clone(), None).await.unwrap_err();
    assert_clear(&error, ErrorClass::Permanent, &["s3://data/20large", "archived", "restore"], &server);
    server.buckets().remove("data", "20large");
    let run = run(source, None).await.unwrap();
    assert!(run.warnings["05"].contains("archived"), "{:?}", run.warnings);
    assert_eq!(run.entries.len(), SMALL - 1);
}

#[tokio::test]
async fn objects_that_vanish_behind_the_listing_are_skipped() {
    let server = server().await;
    server.faults().add(Rule::new(Operation::GetObject, When::Nth(1), Fault::act(|b| b.remove("data", "30"))));
    let run = run(retrying(plain(&server).await), None).await.unwrap();
    assert!(run.warnings["30"].contains("vanished"), "{:?}", run.warnings);
    assert_eq!(run.entries.len(), SMALL);
}

#[tokio::test]
async fn a_bucket_that_vanishes_is_not_taken_for_its_objects() {
    let server = server().await;
    server.faults().add(Rule::new(Operation::GetObject, When::From(5), Fault::fail(404, "NoSuchBucket")));
    let error = run(retrying(plain(&server).await), None).await.unwrap_err();
    assert_clear(&error, ErrorClass::Unauthorized, &["bucket is not there"], &server);
}

#[tokio::test]
async fn credentials_that_expire_end_the_run_and_skip_nothing() {
    for code in ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"] {
        let server = server().await;
        server.faults().add(Rule::new(Operation::GetObject, When::Always, Fault::fail(403, code)).about("data/3"));
        let source = retrying(plain(&server).await);
        let mut events = source.events(None, context());
        let mut delivered = 0;
        let error = loop {
            match events.next().await.unwrap() {
                Ok(SourceEvent::Entry(_)) => delivered += 1,
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert_clear(&error, ErrorClass::Unauthorized, &[code], &server);
        assert_eq!(delivered, 31, "what lies before is delivered");
    }
}

#[tokio::test]
async fn an_object_that_is_replaced_between_two_ranges_is_changed() {
    let server = server().await;
    let replace = Fault::act(|buckets| {
        buckets.put("data", S3Object::new("20large", bytes(10 << 20)));
    });
    server.faults().add(Rule::new(Operation::GetObject, When::Nth(2), replace).about("20large"));
    let error = run(retrying(plain(&server).await), None).await.unwrap_err();
    assert_clear(&error, ErrorClass::Changed, &["s3://data/20large", "another version"], &server);
    // Also where the server does not compare.
    server.set_quirks(Quirks { ignores_if_match: true, ..Quirks::default() });
    let source = plain(&server).await;
    let version = backup_core::adapter::Version("of earlier".into());
    let error = source.read(&"20large".into(), Some(&version), 0..10, &context()).await.unwrap_err();
    assert_clear(&error, ErrorClass::Changed, &["20large"], &server);
}

#[tokio::test]
async fn a_small_object_that_is_replaced_is_read_as_it_is_now() {
    let server = server().await;
    let smaller = Fault::act(|buckets| {
        buckets.put("data", S3Object::new("10", "other"));
    });
    server.faults().add(Rule::new(Operation::GetObject, When::Nth(1), smaller).about("data/10"));
    all_is_delivered(&server).await;
    assert_eq!(server.object("data", "10").unwrap().body, "other");
}

#[tokio::test]
async fn a_small_object_that_grows_is_left_to_the_reader() {
    let server = server().await;
    let larger = Fault::act(|buckets| {
        buckets.put("data", S3Object::new("10", bytes(5 << 20)));
    });
    server.faults().add(Rule::new(Operation::GetObject, When::Nth(1), larger).about("data/10"));
    let error = run(retrying(plain(&server).await), None).await.unwrap_err();
    assert_clear(&error, ErrorClass::Changed, &["data/10"], &server);
}

#[tokio::test]
async fn a_wrong_secret_is_named() {
    let server = server().await;
    let access = Access { secret_key: "wrong/secret".to_owned(), ..Access::of(&server) };
    let wrong = source(access.bucket("data", "").await, S3SourceOptions::default());
    let error = wrong.check().await.unwrap_err();
    assert_clear(&error, ErrorClass::Unauthorized, &["check the secret key", "SignatureDoesNotMatch"], &server);
    assert!(!error.chain().contains("wrong/secret"));
    let access = Access { access_key: "NOBODY".to_owned(), ..Access::of(&server) };
    let wrong = source(access.bucket("data", "").await, S3SourceOptions::default());
    let error = wrong.check().await.unwrap_err();
    assert_clear(&error, ErrorClass::Unauthorized, &["does not know the access key"], &server);
}

#[tokio::test]
async fn a_wrong_region_is_named_with_the_right_one() {
    let server = server().await;
    let region = Some("eu-central-1".to_owned());
    server.create_bucket_with("far", S3BucketOptions { region, ..Default::default() });
    let far = source(Access::of(&server).bucket("far", "").await, S3SourceOptions::default());
    let error = far.check().await.unwrap_err();
    assert_clear(&error, ErrorClass::Unauthorized, &["region eu-central-1", "s3://far"], &server);
}

#[tokio::test]
async fn a_bucket_that_is_not_there_or_may_not_be_listed_is_named() {
    let server = server().await;
    let missing = source(Access::of(&server).bucket("missing", "").await, S3SourceOptions::default());
    let error = missing.check().await.unwrap_err();
    assert_clear(&error, ErrorClass::NotFound, &["s3://missing", "no such bucket"], &server);
    server.faults().add(Rule::new(Operation::ListObjectsV2, When::Always, Fault::denied()));
    let error = plain(&server).await.check().await.unwrap_err();
    assert_clear(&error, ErrorClass::Permanent, &["s3:ListBucket"], &server);
    let error = run(retrying(plain(&server).await), None).await.unwrap_err();
    assert_clear(&error, ErrorClass::Permanent, &["s3:ListBucket"], &server);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let access =
        Access { endpoint: "http://127.0.0.1:9".to_owned(), access_key: "a".to_owned(), secret_key: "b".to_owned() };
    let nowhere = source(access.bucket("data", "").await, S3SourceOptions::default());
    let error = nowhere.check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{}", error.chain());
    assert!(error.chain().contains("cannot be reached"), "{}", error.chain());
}

#[tokio::test]
async fn a_wrong_clock_is_followed_and_otherwise_named() {
    let server = server().await;
    server.faults().skew_clock(Duration::from_secs(3600));
    let error = plain(&server).await.check().await.unwrap_err();
    assert_clear(&error, ErrorClass::Transient, &["clock", "RequestTimeTooSkewed"], &server);
    // The answer has told the time.
    all_is_delivered(&server).await;
    server.faults().clear();
    server.faults().add(Rule::any(When::Always, Fault::fail(403, "RequestTimeTooSkewed")));
    let error = retrying(plain(&server).await).check().await.unwrap_err();
    assert_clear(&error, ErrorClass::Transient, &["clock"], &server);
}

#[tokio::test]
async fn little_memory_is_enough_for_large_and_small() {
    let server = server().await;
    let ctx = backup_core::adapter::ReadContext { budget: backup_core::budget::ByteBudget::new(1), ..context() };
    let run = run_with(plain(&server).await, None, &ctx).await.unwrap();
    assert_eq!(run.entries.len(), SMALL + 1);
}
