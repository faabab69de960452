//! What a restore target does when the service, the network or somebody else is in the way.

use crate::common::Access;
use crate::fixture::options;
use backup_core::adapter::{ContentReader, EntryProgress, RestorePlan, RestoreTarget, SmallEntry, Written};
use backup_core::model::{EntryKind, Metadata, Naming};
use backup_core::{Digest, Error, ErrorClass, Result, Sha256};
use backup_s3::{Patience, S3Bucket, S3Config, S3RestoreTarget, S3TargetOptions};
use backup_testkit::conformance::restore_target::{Sample, plan};
use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Operation, Quirks, Rule, S3Server};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::time::Duration;

/// A server, a bucket and a plan in which names are keys.
struct Fixture {
    server: S3Server,
    config: S3Config,
    target: S3RestoreTarget,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(Quirks::default(), options()).await
    }

    async fn with(quirks: Quirks, options: S3TargetOptions) -> Self {
        let server = S3Server::start().await;
        server.create_bucket("bucket");
        server.set_quirks(quirks);
        let config = S3Config { region: Some(server.region().into()), ..Access::of(&server).config("bucket", "in") };
        let bucket = S3Bucket::connect(config.clone()).await.unwrap();
        Self { server, config, target: S3RestoreTarget::new(bucket, options).unwrap() }
    }

    /// The target as another process has it.
    async fn again(&self) -> S3RestoreTarget {
        S3RestoreTarget::new(S3Bucket::connect(self.config.clone()).await.unwrap(), options()).unwrap()
    }

    fn fail(&self, operation: Operation, when: When, fault: Fault) {
        self.server.faults().add(Rule::new(operation, when, fault).about("in/large"));
    }

    fn is_there(&self, sample: &Sample) -> bool {
        let object = self.server.object("bucket", &format!("in/{}", sample.name()));
        object.is_some_and(|object| object.body == sample.content)
    }
}

fn keys(plan: RestorePlan) -> RestorePlan {
    RestorePlan { naming: Naming::Keys, ..plan }
}

/// Four parts, the last a short one.
fn large() -> Sample {
    let content: Bytes = (0..(16u64 << 20) + 77).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    Sample::file("large", content)
}

fn reader(sample: &Sample, progress: &EntryProgress, breaks_at: Option<usize>) -> ContentReader {
    let hash = progress.saved().map_or_else(Sha256::new, |saved| saved.hash);
    let rest = sample.content.slice(hash.length() as usize..breaks_at.unwrap_or(sample.content.len()));
    let pieces: Vec<Result<Bytes>> = rest.chunks(1_000_003).map(|piece| Ok(rest.slice_ref(piece))).collect();
    let broken = breaks_at.map(|_| Err(Error::transient("broken off")));
    let stream = futures::stream::iter(pieces.into_iter().chain(broken)).boxed();
    ContentReader::new(stream, hash, Some(sample.entry.size), Some(Digest::of(&sample.content)))
}

async fn write(
    target: &S3RestoreTarget,
    plan: &RestorePlan,
    sample: &Sample,
    progress: &EntryProgress,
) -> Result<Written> {
    target.write_large(plan, &sample.entry, reader(sample, progress, None), progress).await.flatten()
}

async fn small(target: &S3RestoreTarget, plan: &RestorePlan, samples: &[Sample]) -> Vec<Result<Written>> {
    let batch: Vec<SmallEntry> = samples.iter().map(Sample::small).collect();
    target.write_small(plan, batch).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_gets_through_passing_faults_of_every_call() {
    for (operation, fault) in [
        (Operation::HeadObject, Fault::slow_down()),
        (Operation::HeadObject, Fault::Drop),
        (Operation::CreateMultipartUpload, Fault::slow_down()),
        (Operation::UploadPart, Fault::LostReply),
        (Operation::UploadPart, Fault::slow_down()),
        (Operation::UploadPart, Fault::BreakRequest { after: 1_000_000 }),
        (Operation::UploadPart, Fault::fail(500, "InternalError")),
        (Operation::CompleteMultipartUpload, Fault::LostReply),
        (Operation::CompleteMultipartUpload, Fault::Drop),
        (Operation::CompleteMultipartUpload, Fault::FailWith200 { code: "InternalError", done: false }),
        (Operation::CompleteMultipartUpload, Fault::FailWith200 { code: "InternalError", done: true }),
        (Operation::CompleteMultipartUpload, Fault::FailAfter { status: 503, code: "SlowDown" }),
    ] {
        let f = Fixture::new().await;
        let sample = large();
        let plan = keys(plan([&sample]));
        f.target.prepare(&plan).await.unwrap();
        f.fail(operation, When::Nth(1), fault.clone());
        let written = write(&f.target, &plan, &sample, &EntryProgress::default()).await;
        assert_eq!(written.unwrap(), Written::Created, "{operation:?} {fault:?}");
        assert!(f.is_there(&sample), "{operation:?} {fault:?}");
        assert_eq!(f.server.faults().fired().len(), 1);
        assert!(f.target.finish(&plan).await.unwrap().is_empty());
        assert!(f.server.uploads("bucket").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_id_got_lost_is_given_up_at_the_end() {
    for fault in [Fault::LostReply, Fault::FailAfter { status: 503, code: "SlowDown" }] {
        let f = Fixture::new().await;
        let sample = large();
        let mut plan = keys(plan([&sample]));
        plan.tag = format!("{}-1a2b3c4d", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
        f.target.prepare(&plan).await.unwrap();
        f.fail(Operation::CreateMultipartUpload, When::Nth(1), fault);
        assert_eq!(write(&f.target, &plan, &sample, &EntryProgress::default()).await.unwrap(), Written::Created);
        assert_eq!(f.server.uploads("bucket").len(), 1);
        assert!(f.target.finish(&plan).await.unwrap().is_empty());
        assert!(f.server.uploads("bucket").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_goes_on_inside_a_large_object() {
    for quirks in [Quirks::default(), Quirks { lists_parts_twice: true, wants_equal_parts: true, ..Quirks::default() }]
    {
        let f = Fixture::with(quirks, options()).await;
        let sample = large();
        let mut plan = keys(plan([&sample]));
        f.target.prepare(&plan).await.unwrap();
        // The second part's answers are lost until its attempts are used up.
        let progress = EntryProgress::default();
        let broken = reader(&sample, &progress, Some(11 << 20));
        let error = f.target.write_large(&plan, &sample.entry, broken, &progress).await.unwrap_err();
        assert_eq!(error.to_string(), "broken off");
        let saved = progress.saved().unwrap();
        let text = serde_json::to_string(&saved).unwrap();
        // Another process, much later.
        plan.resumed = true;
        plan.attempt += 1;
        let target = f.again().await;
        target.prepare(&plan).await.unwrap();
        f.server.reset_requests();
        f.fail(Operation::ListParts, When::Nth(1), Fault::slow_down());
        let progress = EntryProgress::resumed(Some(serde_json::from_str(&text).unwrap()));
        assert_eq!(write(&target, &plan, &sample, &progress).await.unwrap(), Written::Created);
        assert!(f.is_there(&sample));
        let sent = f.server.requests().count(Operation::UploadPart);
        assert_eq!(sent, 4 - saved.offset.div_ceil(5 << 20), "parts that were there are not sent again");
        assert!(f.server.uploads("bucket").is_empty());
        // Once more, from the same checkpoint: it is there already.
        let progress = EntryProgress::resumed(Some(serde_json::from_str(&text).unwrap()));
        assert_eq!(write(&target, &plan, &sample, &progress).await.unwrap(), Written::AlreadyThere);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_somebody_has_given_up_starts_over() {
    let f = Fixture::new().await;
    let sample = large();
    let plan = keys(plan([&sample]));
    let progress = EntryProgress::default();
    let broken = reader(&sample, &progress, Some(12 << 20));
    f.target.write_large(&plan, &sample.entry, broken, &progress).await.unwrap_err();
    f.target.discard(&plan).await.unwrap();
    assert!(f.server.uploads("bucket").is_empty());
    let error = write(&f.target, &plan, &sample, &progress).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Changed);
    assert_eq!(write(&f.target, &plan, &sample, &EntryProgress::default()).await.unwrap(), Written::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_put_there_meanwhile_stays() {
    let f = Fixture::new().await;
    let sample = large();
    let plan = keys(plan([&sample]));
    f.target.prepare(&plan).await.unwrap();
    let act = Fault::act(|buckets| {
        buckets.put("bucket", backup_testkit::s3::S3Object::new("in/large", "of somebody else"));
    });
    f.fail(Operation::CompleteMultipartUpload, When::Nth(1), act);
    let error = write(&f.target, &plan, &sample, &EntryProgress::default()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert_eq!(f.server.object("bucket", "in/large").unwrap().body, "of somebody else");
    assert!(f.server.uploads("bucket").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_right_to_write_one_object_leaves_out_that_one_and_none_at_all_fails_the_check() {
    let f = Fixture::new().await;
    let samples = ["a", "denied", "z"].map(|key| Sample::file(key, key.to_owned()));
    let plan = keys(plan(&samples));
    f.server.faults().add(Rule::new(Operation::PutObject, When::Always, Fault::denied()).about("in/denied"));
    let answers = small(&f.target, &plan, &samples).await;
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().class(), ErrorClass::Permanent);
    f.server.faults().add(Rule::new(Operation::CreateMultipartUpload, When::Always, Fault::denied()));
    let error = f.target.check().await.unwrap_err();
    assert!(error.class() == ErrorClass::Permanent && error.chain().contains("may not write"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_takes_one_request() {
    let f = Fixture::new().await;
    let samples: Vec<Sample> = (0..200).map(|n| Sample::file(&format!("k/{n}"), vec![n as u8; 1000])).collect();
    let plan = keys(plan(&samples));
    f.target.prepare(&plan).await.unwrap();
    assert!(small(&f.target, &plan, &samples).await.iter().all(|answer| matches!(answer, Ok(Written::Created))));
    f.target.finish(&plan).await.unwrap();
    let requests = f.server.requests();
    // A listing, and a probe: two puts, a get and a delete.
    assert_eq!(requests.count(Operation::PutObject), 202);
    let all: u64 = [Operation::ListObjectsV2, Operation::GetObject, Operation::DeleteObject, Operation::HeadObject]
        .map(|operation| requests.count(operation))
        .iter()
        .sum();
    assert_eq!(all, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_the_service_does_not_know_are_left_out_with_a_warning() {
    let f = Fixture::with(Quirks { knows_no_tags: true, ..Quirks::default() }, options()).await;
    let mut tagged = Sample::file("tagged", "x");
    tagged.entry.metadata = Metadata {
        tags: BTreeMap::from([("a".into(), "b".into())]),
        user_metadata: BTreeMap::from([("c".into(), "d".into())]),
        ..Metadata::default()
    };
    let mut big = large();
    big.entry.metadata = tagged.entry.metadata.clone();
    let plan = keys(plan([&tagged, &big]));
    assert!(matches!(small(&f.target, &plan, std::slice::from_ref(&tagged)).await[0], Ok(Written::Created)));
    assert_eq!(write(&f.target, &plan, &big, &EntryProgress::default()).await.unwrap(), Written::Created);
    let warnings = f.target.finish(&plan).await.unwrap();
    let names: Vec<_> = warnings.iter().filter_map(|warning| warning.name.clone()).collect();
    assert_eq!(names, ["tagged".into(), "large".into()]);
    assert!(warnings.iter().all(|warning| !warning.left_out && warning.message.contains("tags")));
    let stored = f.server.object("bucket", "in/tagged").unwrap();
    assert_eq!(stored.metadata.get("c").map(String::as_str), Some("d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_key_can_be_is_told_and_nothing_else_suffers() {
    let f = Fixture::new().await;
    let long = "x".repeat(1022);
    let samples = [
        Sample::file("a", "a"),
        Sample::file("a/", "with a slash"),
        Sample::file("a/b", "below"),
        Sample::file("../x", "upwards"),
        Sample::file("//", "slashes"),
        Sample::file("line\nbreak\u{1}\u{7f} +%", "odd"),
        Sample::file(&long, "too long with the prefix"),
        Sample::symlink("link", "a"),
        Sample::new("dir", EntryKind::Directory, Bytes::new()),
    ];
    let mut no_text = Sample::file("no text", "x");
    no_text.entry.name = backup_core::model::EntryName::new(b"\xff".to_vec());
    let all: Vec<Sample> = samples.into_iter().chain([no_text]).collect();
    let plan = keys(plan(&all));
    let answers = small(&f.target, &plan, &all).await;
    let refused: Vec<usize> = (0..all.len()).filter(|n| answers[*n].is_err()).collect();
    assert_eq!(refused, [6, 7, 9]);
    for sample in &all[..6] {
        let object = f.server.object("bucket", &format!("in/{}", sample.entry.name.as_str().unwrap())).unwrap();
        assert_eq!(object.body, sample.content);
    }
    assert!(f.server.object("bucket", "in/dir/").is_some());
    let report = f.target.verify(&plan).await.unwrap();
    let mut wrong: Vec<_> = report.mismatches.iter().map(|m| m.name.clone()).collect();
    wrong.sort();
    let mut expected: Vec<_> = refused.iter().map(|n| all[*n].name().clone()).collect();
    expected.sort();
    assert_eq!(wrong, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_breaks_off_while_verifying_is_taken_up_again() {
    let f = Fixture::new().await;
    let sample = large();
    let plan = keys(plan([&sample]));
    write(&f.target, &plan, &sample, &EntryProgress::default()).await.unwrap();
    // Many more times than one read is tried, but each time it comes further.
    f.fail(Operation::GetObject, When::First(12), Fault::Break { after: 1 << 20 });
    let report = f.target.verify(&plan).await.unwrap();
    assert_eq!((report.entries, report.bytes, report.mismatch_count), (1, sample.entry.size, 0));
    assert_eq!(f.server.faults().fired().len(), 12);
}

/// However a service says that it does not know a class, the object is put.
#[tokio::test(flavor = "multi_thread")]
async fn a_storage_class_that_is_refused_is_replaced_by_that_of_the_bucket() {
    for code in ["InvalidStorageClass", "InvalidArgument", "NotImplemented"] {
        for operation in [Operation::PutObject, Operation::CreateMultipartUpload] {
            let f = Fixture::new().await;
            let mut sample = large();
            if operation == Operation::PutObject {
                sample = Sample::file("large", "small");
            }
            sample.entry.metadata.headers.insert("storage-class".into(), "STANDARD_IA".into());
            let plan = keys(plan([&sample]));
            f.target.prepare(&plan).await.unwrap();
            f.fail(operation, When::Nth(1), Fault::fail(400, code));
            let written = match operation {
                Operation::PutObject => small(&f.target, &plan, std::slice::from_ref(&sample)).await.pop().unwrap(),
                _ => write(&f.target, &plan, &sample, &EntryProgress::default()).await,
            };
            assert_eq!(written.unwrap(), Written::Created, "{operation:?} {code}");
            assert_eq!(f.server.faults().fired().len(), 1);
            assert_eq!(f.server.object("bucket", "in/large").unwrap().storage_class, "STANDARD");
            let warnings = f.target.take_warnings();
            assert!(warnings.iter().any(|warning| warning.message.contains("STANDARD_IA")), "{warnings:?}");
        }
    }
}

/// The service takes the whole request and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_is_never_answered_is_given_up_and_asked_for_again() {
    let f = Fixture::new().await;
    let patience = Patience { written: Duration::from_secs(60), completed: Duration::from_secs(1) };
    let bucket = S3Bucket::connect(f.config.clone()).await.unwrap().with_patience(patience);
    let target = S3RestoreTarget::new(bucket, options()).unwrap();
    let sample = large();
    let plan = keys(plan([&sample]));
    target.prepare(&plan).await.unwrap();
    f.fail(Operation::CompleteMultipartUpload, When::Nth(1), Fault::Hang);
    let progress = EntryProgress::default();
    let written = tokio::time::timeout(Duration::from_secs(30), write(&target, &plan, &sample, &progress));
    assert_eq!(written.await.expect("it is given up in time").unwrap(), Written::Created);
    assert!(f.is_there(&sample));
    assert_eq!(f.server.faults().fired().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_cannot_be_right_are_refused() {
    let f = Fixture::new().await;
    let bucket = || async { S3Bucket::connect(f.config.clone()).await.unwrap() };
    for options in [
        S3TargetOptions { parallel: 0, ..options() },
        S3TargetOptions { part_size: 1 << 20, ..options() },
        S3TargetOptions { part_size: (5 << 30) + 1, ..options() },
        S3TargetOptions { max_parts: 0, ..options() },
        S3TargetOptions { max_parts: 10_001, ..options() },
    ] {
        let error = S3RestoreTarget::new(bucket().await, options).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_completions_pass_over_costs_nobody_an_object() {
    let quirks = Quirks { completes_over_anything: true, ..Quirks::default() };
    let f = Fixture::with(quirks, options()).await;
    let sample = large();
    let plan = keys(plan([&sample]));
    f.target.prepare(&plan).await.unwrap();
    let act = Fault::act(|buckets| {
        buckets.put("bucket", backup_testkit::s3::S3Object::new("in/large", "of somebody else"));
    });
    f.fail(Operation::UploadPart, When::Nth(4), act);
    let error = write(&f.target, &plan, &sample, &EntryProgress::default()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert_eq!(f.server.object("bucket", "in/large").unwrap().body, "of somebody else");
    assert!(f.server.uploads("bucket").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_not_the_ones_sent_make_the_object_start_over() {
    let f = Fixture::new().await;
    let sample = large();
    let plan = keys(plan([&sample]));
    f.target.prepare(&plan).await.unwrap();
    f.fail(Operation::CompleteMultipartUpload, When::Nth(1), Fault::fail(400, "InvalidPart"));
    let error = write(&f.target, &plan, &sample, &EntryProgress::default()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Changed, "{error:?}");
    assert!(f.server.uploads("bucket").is_empty());
    assert_eq!(write(&f.target, &plan, &sample, &EntryProgress::default()).await.unwrap(), Written::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_set_tags_the_objects_come_without_them() {
    let f = Fixture::with(Quirks { denies_tags: true, ..Quirks::default() }, options()).await;
    let tags = Metadata { tags: BTreeMap::from([("a".into(), "b".into())]), ..Metadata::default() };
    let (mut tagged, mut denied, mut big) = (Sample::file("tagged", "x"), Sample::file("denied", "y"), large());
    for sample in [&mut tagged, &mut denied, &mut big] {
        sample.entry.metadata = tags.clone();
    }
    f.server.faults().add(Rule::new(Operation::PutObject, When::Always, Fault::denied()).about("in/denied"));
    let plan = keys(plan([&tagged, &denied, &big]));
    let answers = small(&f.target, &plan, &[tagged.clone(), denied]).await;
    assert!(matches!(answers[0], Ok(Written::Created)));
    assert_eq!(answers[1].as_ref().unwrap_err().class(), ErrorClass::Permanent);
    assert_eq!(write(&f.target, &plan, &big, &EntryProgress::default()).await.unwrap(), Written::Created);
    assert!(f.is_there(&tagged) && f.is_there(&big));
    let warnings = f.target.finish(&plan).await.unwrap();
    let names: Vec<_> = warnings.iter().filter_map(|warning| warning.name.clone()).collect();
    assert_eq!(names, ["tagged".into(), "large".into()]);
    assert!(warnings.iter().all(|warning| warning.message.contains("s3:PutObjectTagging")));
}

#[tokio::test(flavor = "multi_thread")]
async fn blank_keys_are_put_back() {
    let f = Fixture::new().await;
    // Of the bucket as a whole: below a prefix no key is blank.
    let bucket = S3Bucket::connect(S3Config { prefix: String::new(), ..f.config.clone() }).await.unwrap();
    let target = S3RestoreTarget::new(bucket, options()).unwrap();
    let (blank, lines) = (Sample::file(" ", "x"), Sample::file("\n\t", large().content));
    let plan = keys(plan([&blank, &lines]));
    target.prepare(&plan).await.unwrap();
    assert!(matches!(small(&target, &plan, std::slice::from_ref(&blank)).await[0], Ok(Written::Created)));
    assert_eq!(write(&target, &plan, &lines, &EntryProgress::default()).await.unwrap(), Written::Created);
    for sample in [&blank, &lines] {
        let object = f.server.object("bucket", sample.entry.name.as_str().unwrap()).unwrap();
        assert_eq!(object.body, sample.content);
    }
    assert!(target.finish(&plan).await.unwrap().is_empty());
    assert_eq!(target.verify(&plan).await.unwrap().mismatch_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_not_under_the_customers_key_is_looked_at_all_the_same() {
    let f = Fixture::new().await;
    let sample = Sample::file("a", "the same");
    let plan = keys(plan([&sample]));
    small(&f.target, &plan, std::slice::from_ref(&sample)).await;
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 32]);
    let config = S3Config { encryption: backup_s3::Encryption::SseC { key: key.into() }, ..f.config.clone() };
    let target = S3RestoreTarget::new(S3Bucket::connect(config).await.unwrap(), options()).unwrap();
    target.prepare(&plan).await.unwrap();
    let answers = small(&target, &plan, std::slice::from_ref(&sample)).await;
    assert!(matches!(answers[0], Ok(Written::AlreadyThere)), "{answers:?}");
    assert_eq!(target.verify(&plan).await.unwrap().mismatch_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_dropped_leaves_no_upload() {
    let f = Fixture::new().await;
    f.server.faults().add(Rule::new(
        Operation::CreateMultipartUpload,
        When::Always,
        Fault::Delay(std::time::Duration::from_millis(100)),
    ));
    let check = tokio::time::timeout(std::time::Duration::from_millis(60), f.target.check()).await;
    assert!(check.is_err(), "it was too quick to be dropped");
    let plan = keys(plan([]));
    f.target.discard(&plan).await.unwrap();
    assert!(f.server.uploads("bucket").is_empty());
    assert_eq!(f.server.requests().count(Operation::AbortMultipartUpload), 1);
}
