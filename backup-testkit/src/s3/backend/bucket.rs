//! Buckets as wholes.

use super::super::buckets::{S3BucketOptions, Versioning};
use super::{Backend, answer, find, find_mut};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

impl Backend {
    pub(super) async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let state = self.buckets.lock();
        let buckets = state.buckets.iter().map(|(name, bucket)| Bucket {
            name: Some(name.clone()),
            creation_date: Some(bucket.made.into()),
            ..Default::default()
        });
        answer(ListBucketsOutput { buckets: Some(buckets.collect()), ..Default::default() })
    }

    pub(super) async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        find(&self.buckets.lock(), &request.input.bucket)?;
        answer(HeadBucketOutput {
            bucket_region: request.region.map(|region| region.as_str().to_owned()),
            ..Default::default()
        })
    }

    pub(super) async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let name = request.input.bucket;
        if self.buckets.lock().buckets.contains_key(&name) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        let object_lock = request.input.object_lock_enabled_for_bucket.unwrap_or_default();
        self.buckets.create_bucket(&name, S3BucketOptions { object_lock, ..Default::default() });
        answer(CreateBucketOutput { location: Some(format!("/{name}")) })
    }

    pub(super) async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let mut state = self.buckets.lock();
        if !find(&state, &request.input.bucket)?.is_empty() {
            return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty"));
        }
        state.buckets.remove(&request.input.bucket);
        answer(DeleteBucketOutput::default())
    }

    pub(super) async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let region = find(&self.buckets.lock(), &request.input.bucket)?.region.clone();
        answer(GetBucketLocationOutput { location_constraint: region.map(Into::into) })
    }

    pub(super) async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let status = match find(&self.buckets.lock(), &request.input.bucket)?.versioning {
            Versioning::Off => None,
            Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
            Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
        };
        answer(GetBucketVersioningOutput { status, ..Default::default() })
    }

    pub(super) async fn put_bucket_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let input = request.input;
        let mut state = self.buckets.lock();
        let bucket = find_mut(&mut state, &input.bucket)?;
        bucket.versioning = match input.versioning_configuration.status.as_ref().map(BucketVersioningStatus::as_str) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) if !bucket.object_lock => Versioning::Suspended,
            Some(BucketVersioningStatus::SUSPENDED) => return Err(s3_error!(InvalidBucketState)),
            _ => return Err(s3_error!(MalformedXML)),
        };
        answer(PutBucketVersioningOutput::default())
    }
}
