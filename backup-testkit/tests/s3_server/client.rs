//! A server with a bucket, and clients of it.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use backup_testkit::s3::S3Server;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::TcpStream;

pub(crate) const BUCKET: &str = "bucket";

/// A server with an empty bucket, and a client that tries once.
pub(crate) async fn start() -> (S3Server, Client) {
    let server = S3Server::start().await;
    server.create_bucket(BUCKET);
    let client = client(&server, server.secret_key(), server.region());
    (server, client)
}

pub(crate) fn client(server: &S3Server, secret: &str, region: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .credentials_provider(Credentials::new(server.access_key(), secret, None, None, "test"))
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

/// Status and code of an error that came with an answer.
pub(crate) fn refused<T: Debug, E: ProvideErrorMetadata + Debug>(
    result: Result<T, SdkError<E, aws_sdk_s3::config::http::HttpResponse>>,
) -> (u16, String) {
    match result {
        Err(SdkError::ServiceError(error)) => {
            (error.raw().status().as_u16(), error.err().code().unwrap_or_default().to_owned())
        }
        other => panic!("an answer with an error was expected, not {other:?}"),
    }
}

pub(crate) fn error(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// One request without a signature; all of its answer.
pub(crate) fn plain(server: &S3Server, request: &str) -> String {
    let address = server.endpoint();
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    write!(stream, "{request}\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
