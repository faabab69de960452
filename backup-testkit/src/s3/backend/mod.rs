//! The operations, on the buckets in memory. `mod` says which there are; each file does one kind of them.

mod bucket;
mod delete;
pub(super) mod digest;
mod encryption;
mod list;
mod list_versions;
mod multipart;
mod multipart_lists;
mod read;
mod tags;
mod upload;
mod write;

use super::buckets::{Bucket, State};
use super::{Faults, Quirks, S3Buckets};
use hyper::StatusCode;
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use std::sync::{Arc, Mutex, PoisonError};

/// The service's backend.
pub(super) struct Backend {
    buckets: S3Buckets,
    faults: Faults,
    quirks: Arc<Mutex<Quirks>>,
}

impl Backend {
    pub(super) fn new(buckets: S3Buckets, faults: Faults, quirks: Arc<Mutex<Quirks>>) -> Self {
        Self { buckets, faults, quirks }
    }

    pub(super) fn buckets(&self) -> &S3Buckets {
        &self.buckets
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    fn quirks(&self) -> Quirks {
        self.quirks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A bucket that exists.
fn find<'a>(state: &'a State, name: &str) -> S3Result<&'a Bucket> {
    state.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))
}

/// A bucket that exists and can be written to.
fn find_mut<'a>(state: &'a mut State, name: &str) -> S3Result<&'a mut Bucket> {
    let bucket = state.buckets.get_mut(name);
    let bucket = bucket.ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))?;
    if bucket.can_be_written() {
        Ok(bucket)
    } else {
        Err(s3_error!(AccessDenied, "A synthetic bucket can only be read"))
    }
}

/// The error of a code of the API.
fn coded(code: &'static str, message: &'static str) -> S3Error {
    let mut error = S3Error::with_message(code.parse().unwrap_or(S3ErrorCode::InternalError), message);
    // Of codes that the crate does not know it does not know the status either.
    if error.status_code().is_none() {
        error.set_status_code(StatusCode::BAD_REQUEST);
    }
    error
}

fn answer<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

/// Hands each operation on to the method that does it.
macro_rules! operations {
    ($($name:ident: $input:ty => $output:ty;)*) => {
        #[async_trait::async_trait]
        impl S3 for Backend {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.$name(request).await
            })*
        }
    };
}

operations! {
    head_bucket: HeadBucketInput => HeadBucketOutput;
    list_buckets: ListBucketsInput => ListBucketsOutput;
    create_bucket: CreateBucketInput => CreateBucketOutput;
    delete_bucket: DeleteBucketInput => DeleteBucketOutput;
    get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput;
    get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput;
    put_bucket_versioning: PutBucketVersioningInput => PutBucketVersioningOutput;
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output;
    list_object_versions: ListObjectVersionsInput => ListObjectVersionsOutput;
    get_object: GetObjectInput => GetObjectOutput;
    head_object: HeadObjectInput => HeadObjectOutput;
    put_object: PutObjectInput => PutObjectOutput;
    delete_object: DeleteObjectInput => DeleteObjectOutput;
    delete_objects: DeleteObjectsInput => DeleteObjectsOutput;
    get_object_tagging: GetObjectTaggingInput => GetObjectTaggingOutput;
    put_object_tagging: PutObjectTaggingInput => PutObjectTaggingOutput;
    delete_object_tagging: DeleteObjectTaggingInput => DeleteObjectTaggingOutput;
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput;
    upload_part: UploadPartInput => UploadPartOutput;
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput;
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput;
    list_parts: ListPartsInput => ListPartsOutput;
    list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput;
}
