//! Deleting.

use super::super::Operation;
use super::super::buckets::State;
use super::super::faults::Fault;
use super::{Backend, answer, find, find_mut};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// So many keys in one request.
const MAX_KEYS: usize = 1000;

/// What a deletion did.
struct Done {
    /// What was deleted, or made, is a delete marker.
    marker: bool,
    version_id: Option<String>,
}

fn delete(state: &mut State, bucket: &str, key: &str, version: Option<&str>) -> S3Result<Done> {
    let id = state.next_id();
    let bucket = find_mut(state, bucket)?;
    let Some(version) = version else {
        let marker = bucket.remove(key, id);
        return Ok(Done { marker: marker.is_some(), version_id: marker });
    };
    let there = bucket.version(key, version);
    if bucket.object_lock && there.is_some_and(|object| !object.delete_marker) {
        return Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock."));
    }
    let gone = bucket.remove_version(key, version);
    Ok(Done { marker: gone.is_some_and(|object| object.delete_marker), version_id: Some(version.to_owned()) })
}

impl Backend {
    pub(super) async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        let done = delete(&mut self.buckets.lock(), &input.bucket, &input.key, input.version_id.as_deref())?;
        answer(DeleteObjectOutput {
            delete_marker: done.marker.then_some(true),
            version_id: done.version_id,
            ..Default::default()
        })
    }

    pub(super) async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete: list, .. } = request.input;
        if list.objects.is_empty() || list.objects.len() > MAX_KEYS {
            return Err(s3_error!(
                MalformedXML,
                "The XML you provided was not well-formed or did not validate against our published schema"
            ));
        }
        let mut state = self.buckets.lock();
        find(&state, &bucket)?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for ObjectIdentifier { key, version_id, .. } in list.objects {
            let subject = format!("{bucket}/{key}");
            let result = match self.faults.decide(Operation::DeleteObjectsKey, &subject) {
                Some(Fault::Fail { code, .. }) => Err(super::coded(code, "A fault of the test's script.")),
                _ => delete(&mut state, &bucket, &key, version_id.as_deref()),
            };
            match result {
                Ok(Done { marker, version_id: about }) => deleted.push(DeletedObject {
                    key: Some(key),
                    delete_marker: marker.then_some(true),
                    delete_marker_version_id: about.filter(|_| marker),
                    version_id,
                }),
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    message: error.message().map(str::to_owned),
                    key: Some(key),
                    version_id,
                }),
            }
        }
        if list.quiet.unwrap_or_default() {
            deleted.clear();
        }
        answer(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..Default::default() })
    }
}
