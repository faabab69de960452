//! Requests that are turned away: keys, regions, clocks.

use crate::client::{BUCKET, client, error, refused, start};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::error::SdkError;
use backup_testkit::s3::S3BucketOptions;
use std::time::Duration;

#[tokio::test]
async fn a_wrong_key_is_refused() {
    let (server, _) = start().await;
    let wrong = client(&server, "wrong", server.region());
    let result = wrong.get_object().bucket(BUCKET).key("k").send().await;
    assert_eq!(refused(result), error(403, "SignatureDoesNotMatch"));
    let other = backup_testkit::s3::S3Server::start().await;
    let unknown = Credentials::new("UNKNOWN", "x", None, None, "test");
    let config = client(&other, "", other.region()).config().to_builder().credentials_provider(unknown).build();
    let result = Client::from_conf(config).list_objects_v2().bucket(BUCKET).send().await;
    assert_eq!(refused(result), error(403, "InvalidAccessKeyId"));
}

#[tokio::test]
async fn a_bucket_elsewhere_names_its_region() {
    let (server, here) = start().await;
    server.create_bucket_with("far", S3BucketOptions { region: Some("eu-west-1".into()), ..Default::default() });
    let result = here.list_objects_v2().bucket("far").send().await;
    let Err(SdkError::ServiceError(refusal)) = &result else { panic!("{result:?}") };
    assert_eq!(refusal.raw().headers().get("x-amz-bucket-region"), Some("eu-west-1"));
    assert_eq!(refused(result), error(301, "PermanentRedirect"));
    let there = client(&server, server.secret_key(), "eu-west-1");
    there.list_objects_v2().bucket("far").send().await.unwrap();
    let result = there.list_objects_v2().bucket(BUCKET).send().await;
    assert_eq!(refused(result), error(400, "AuthorizationHeaderMalformed"));
    let head = here.head_bucket().bucket("far").send().await;
    assert_eq!(refused(head).0, 301);
}

#[tokio::test]
async fn a_clock_that_is_off_is_refused() {
    let (server, client) = start().await;
    server.faults().skew_clock(Duration::from_secs(3600));
    let result = client.list_objects_v2().bucket(BUCKET).send().await;
    assert_eq!(refused(result), error(403, "RequestTimeTooSkewed"));
    // The answer told the server's time, by which the SDK signs from now on.
    client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    server.faults().clear();
    let result = client.list_objects_v2().bucket(BUCKET).send().await;
    assert_eq!(refused(result), error(403, "RequestTimeTooSkewed"));
}

#[tokio::test]
async fn a_session_needs_its_token() {
    let (server, client) = start().await;
    let session = Credentials::new(server.access_key(), server.secret_key(), Some("token".into()), None, "test");
    let session = Client::from_conf(client.config().to_builder().credentials_provider(session).build());
    let list = |client: &Client| client.list_objects_v2().bucket(BUCKET).send();
    assert_eq!(refused(list(&session).await), error(400, "InvalidToken"));
    server.faults().require_session_token(Some("token"));
    list(&session).await.unwrap();
    assert_eq!(refused(list(&client).await), error(400, "InvalidToken"));
}
