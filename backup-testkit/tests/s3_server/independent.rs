//! Another vendor's client, boto3, agrees with the server; and `scripts/s3-check`, which tests use, sees what differs.

use crate::client::BUCKET;
use backup_testkit::s3::{Operation, S3Server};
use std::path::Path;
use std::process::{Command, Output};

/// `scripts/s3-check` with the server's address.
fn check(server: &S3Server, args: &[&str]) -> Output {
    let python = std::env::var("BACKUP_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import boto3"]).output();
    assert!(
        found.is_ok_and(|out| out.status.success()),
        "boto3 is missing: run the tests with scripts/test, which installs it"
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/s3-check");
    let mut command = Command::new(python);
    command.arg(script).args(args).env("BACKUP_TEST_S3", server.endpoint());
    command.env("BACKUP_TEST_S3_ACCESS_KEY", server.access_key()).env("BACKUP_TEST_S3_SECRET_KEY", server.secret_key());
    command.output().unwrap()
}

fn succeeded(out: &Output) {
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
async fn a_bucket_filled_by_boto3_is_equal_to_its_copy_alone() {
    let server = S3Server::start().await;
    server.create_bucket(BUCKET);
    server.create_bucket("copy");
    succeeded(&check(&server, &["fill", "--odd", BUCKET]));
    assert_eq!(server.requests().count(Operation::UploadPart), 3);
    let objects = server.objects(BUCKET);
    assert_eq!(objects.len(), 36);
    for object in &objects {
        let mut copy = object.clone();
        copy.key = format!("below/{}", object.key);
        server.buckets().put("copy", copy);
    }
    succeeded(&check(&server, &["compare", BUCKET, "copy/below/"]));

    let mut changed = server.object("copy", "below/everything").unwrap();
    changed.set_body("is really gzip!");
    changed.headers.content_language = None;
    changed.metadata.remove("empty");
    changed.tags.insert("one".into(), "2".into());
    changed.storage_class = "STANDARD_IA".into();
    server.buckets().put("copy", changed);
    server.buckets().remove("copy", "below/large");
    let out = check(&server, &["compare", BUCKET, "copy/below/"]);
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert_eq!(told.lines().next(), Some("'large' is missing in copy"));
    let differ: Vec<_> =
        told.lines().filter_map(|line| line.strip_prefix("'everything': ")?.split(" is ").next()).collect();
    assert_eq!(differ, ["ContentLanguage", "StorageClass", "Metadata", "SHA-256", "Tags"]);
    assert_eq!(told.lines().count(), 6);
}
