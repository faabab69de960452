//! Each fault happens as it says.

use crate::client::{BUCKET, error, refused, start};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Operation, Rule, S3Object};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn errors_come_before_or_after_the_effect() {
    let (server, client) = start().await;
    let put = || client.put_object().bucket(BUCKET).key("k").body(vec![0; 1 << 20].into()).send();
    let fault = |fault| {
        server.faults().clear();
        server.faults().add(Rule::new(Operation::PutObject, When::Nth(1), fault));
    };
    fault(Fault::Fail { status: 503, code: "SlowDown", after: Some(Duration::from_secs(7)) });
    let result = put().await;
    let Err(SdkError::ServiceError(refusal)) = &result else { panic!("{result:?}") };
    assert_eq!(refusal.raw().headers().get("retry-after"), Some("7"));
    assert_eq!(refused(result), error(503, "SlowDown"));
    fault(Fault::Drop);
    assert!(matches!(put().await, Err(SdkError::DispatchFailure(_))));
    fault(Fault::BreakRequest { after: 1000 });
    assert!(matches!(put().await, Err(SdkError::DispatchFailure(_))));
    fault(Fault::Hang);
    tokio::time::timeout(SHORT, put()).await.unwrap_err();
    assert!(server.objects(BUCKET).is_empty());
    fault(Fault::LostReply);
    assert!(matches!(put().await, Err(SdkError::DispatchFailure(_))));
    assert_eq!(server.objects(BUCKET).len(), 1);
    server.buckets().remove(BUCKET, "k");
    fault(Fault::FailAfter { status: 500, code: "InternalError" });
    assert_eq!(refused(put().await), error(500, "InternalError"));
    assert_eq!(server.objects(BUCKET).len(), 1);
    put().await.unwrap();
    assert_eq!((server.faults().fired().len(), server.requests().count(Operation::PutObject)), (6, 7));
}

#[tokio::test]
async fn bodies_break_end_early_stall_change_or_trickle() {
    let (server, client) = start().await;
    server.put(BUCKET, "k", vec![0; 100_000]);
    let get = || async { client.get_object().bucket(BUCKET).key("k").send().await.unwrap() };
    let fault = |fault| {
        server.faults().clear();
        server.faults().add(Rule::new(Operation::GetObject, When::Always, fault));
    };
    fault(Fault::Break { after: 50_000 });
    let mut body = get().await.body;
    let mut read = 0;
    let broken = loop {
        match body.next().await {
            Some(Ok(piece)) => read += piece.len(),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert_eq!((read, broken), (50_000, true));
    fault(Fault::Short { after: 10 });
    assert_eq!(get().await.body.collect().await.unwrap().into_bytes().len(), 10);
    fault(Fault::Stall { after: 10 });
    tokio::time::timeout(SHORT, get().await.body.collect()).await.unwrap_err();
    fault(Fault::Flip { at: 99_999 });
    let flipped = get().await.body.collect().await.unwrap().into_bytes();
    assert!(flipped[99_999] == 1 && flipped[..99_999].iter().all(|byte| *byte == 0));
    fault(Fault::Slow { piece: 50_000, pause: Duration::from_millis(100) });
    let start = Instant::now();
    assert_eq!(get().await.body.collect().await.unwrap().into_bytes().len(), 100_000);
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn something_may_happen_between_two_requests() {
    let (server, client) = start().await;
    server.put(BUCKET, "k", "old");
    let etag = server.object(BUCKET, "k").unwrap().etag;
    let replace = Fault::act(|buckets| {
        buckets.put(BUCKET, S3Object::new("k", "new"));
    });
    server.faults().add(Rule::new(Operation::GetObject, When::Nth(2), replace).about("/k"));
    let get = || client.get_object().bucket(BUCKET).key("k").if_match(&etag).send();
    get().await.unwrap();
    assert_eq!(refused(get().await), error(412, "PreconditionFailed"));
}

#[tokio::test]
async fn a_completion_can_fail_with_status_200() {
    let (server, client) = start().await;
    for done in [false, true] {
        let id = client.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap().upload_id.unwrap();
        let part = client.upload_part().bucket(BUCKET).key("k").upload_id(&id).part_number(1);
        let etag = part.body(ByteStream::from_static(b"x")).send().await.unwrap().e_tag;
        let parts =
            CompletedMultipartUpload::builder().parts(CompletedPart::builder().part_number(1).set_e_tag(etag).build());
        server.faults().clear();
        let fault = Fault::FailWith200 { code: "InternalError", done };
        server.faults().add(Rule::new(Operation::CompleteMultipartUpload, When::Nth(1), fault));
        let complete =
            client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).multipart_upload(parts.build());
        assert_eq!(refused(complete.send().await), error(200, "InternalError"));
        assert_eq!(server.object(BUCKET, "k").is_some(), done);
    }
}

#[tokio::test]
async fn requests_at_the_same_time_are_counted() {
    let (server, client) = start().await;
    server.faults().add(Rule::new(Operation::HeadObject, When::Always, Fault::Delay(SHORT)));
    let head = || client.head_object().bucket(BUCKET).key("k").send();
    let _ = tokio::join!(head(), head(), head());
    assert_eq!(server.requests().most_at_once(Operation::HeadObject), 3);
    assert_eq!(server.requests().count_in(BUCKET, Operation::HeadObject), 3);
    assert_eq!(server.requests().count_in("other", Operation::HeadObject), 0);
    server.reset_requests();
    assert_eq!(server.requests().total(), 0);
}
