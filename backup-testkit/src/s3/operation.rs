//! Which operation of the API a request is, and what it is about.

use hyper::{Method, Uri};

/// An operation of the API, as scripts and counts name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are those of the API")]
pub enum Operation {
    ListBuckets,
    HeadBucket,
    CreateBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketVersioning,
    PutBucketVersioning,
    ListObjectsV2,
    ListObjectVersions,
    ListMultipartUploads,
    DeleteObjects,
    /// One key of a DeleteObjects request: not a request of its own, never counted, but a rule with [`Fault::Fail`](super::Fault::Fail)
    /// makes this key an error in the answer.
    DeleteObjectsKey,
    GetObject,
    HeadObject,
    PutObject,
    DeleteObject,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    /// Anything else.
    Other,
}

/// The operation of a request, with the bucket and key that it is about.
pub(super) struct Target {
    pub(super) operation: Operation,
    /// Without a bucket: empty.
    pub(super) bucket: String,
    pub(super) key: Option<String>,
}

impl Target {
    /// Path-style requests only: `/bucket/key?query`.
    pub(super) fn of(method: &Method, uri: &Uri) -> Self {
        let path = percent_decode(uri.path().strip_prefix('/').unwrap_or(uri.path()));
        let (bucket, key) = match path.split_once('/') {
            Some((bucket, key)) if !key.is_empty() => (bucket.to_owned(), Some(key.to_owned())),
            Some((bucket, _)) => (bucket.to_owned(), None),
            None => (path, None),
        };
        let query = uri.query().unwrap_or_default();
        let operation = match (bucket.is_empty(), &key) {
            (true, _) => service(method),
            (false, None) => of_bucket(method, query),
            (false, Some(_)) => of_object(method, query),
        };
        Self { operation, bucket, key }
    }

    /// `bucket/key`, `bucket`, or nothing.
    pub(super) fn subject(&self) -> String {
        match &self.key {
            Some(key) => format!("{}/{key}", self.bucket),
            None => self.bucket.clone(),
        }
    }
}

fn service(method: &Method) -> Operation {
    if method == Method::GET { Operation::ListBuckets } else { Operation::Other }
}

fn of_bucket(method: &Method, query: &str) -> Operation {
    let has = |name| has(query, name);
    match method.as_str() {
        "HEAD" => Operation::HeadBucket,
        "GET" if has("location") => Operation::GetBucketLocation,
        "GET" if has("versioning") => Operation::GetBucketVersioning,
        "GET" if has("versions") => Operation::ListObjectVersions,
        "GET" if has("uploads") => Operation::ListMultipartUploads,
        "GET" if query.split('&').any(|pair| pair == "list-type=2") => Operation::ListObjectsV2,
        "PUT" if has("versioning") => Operation::PutBucketVersioning,
        "PUT" if query.is_empty() || query.starts_with("x-id=") => Operation::CreateBucket,
        "POST" if has("delete") => Operation::DeleteObjects,
        "DELETE" if query.is_empty() || query.starts_with("x-id=") => Operation::DeleteBucket,
        _ => Operation::Other,
    }
}

fn of_object(method: &Method, query: &str) -> Operation {
    let has = |name| has(query, name);
    match method.as_str() {
        "HEAD" => Operation::HeadObject,
        "GET" if has("tagging") => Operation::GetObjectTagging,
        "GET" if has("uploadId") => Operation::ListParts,
        "GET" if ["attributes", "acl", "legal-hold", "retention", "torrent"].into_iter().any(has) => Operation::Other,
        "GET" => Operation::GetObject,
        "PUT" if has("tagging") => Operation::PutObjectTagging,
        "PUT" if has("uploadId") => Operation::UploadPart,
        "PUT" if ["acl", "legal-hold", "retention"].into_iter().any(has) => Operation::Other,
        "PUT" => Operation::PutObject,
        "POST" if has("uploads") => Operation::CreateMultipartUpload,
        "POST" if has("uploadId") => Operation::CompleteMultipartUpload,
        "DELETE" if has("tagging") => Operation::DeleteObjectTagging,
        "DELETE" if has("uploadId") => Operation::AbortMultipartUpload,
        "DELETE" => Operation::DeleteObject,
        _ => Operation::Other,
    }
}

fn has(query: &str, name: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some(name))
}

/// Bytes that are not UTF-8 become replacement characters: only scripts see the result.
fn percent_decode(text: &str) -> String {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes.get(at + 1).copied().and_then(digit).zip(bytes.get(at + 2).copied().and_then(digit));
        match (byte, pair) {
            (b'%', Some((high, low))) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: Method, uri: &str) -> (Operation, String) {
        let target = Target::of(&method, &uri.parse().unwrap());
        (target.operation, target.subject())
    }

    #[test]
    fn requests_are_told_apart_by_method_path_and_query() {
        use Operation::*;
        for (method, uri, operation, subject) in [
            (Method::GET, "/", ListBuckets, ""),
            (Method::GET, "/b?list-type=2&prefix=a", ListObjectsV2, "b"),
            (Method::GET, "/b/?list-type=2", ListObjectsV2, "b"),
            (Method::GET, "/b?versions", ListObjectVersions, "b"),
            (Method::POST, "/b?delete", DeleteObjects, "b"),
            (Method::PUT, "/b", CreateBucket, "b"),
            (Method::GET, "/b/a%20b/%C3%A4?x-id=GetObject", GetObject, "b/a b/ä"),
            (Method::PUT, "/b//k?x-id=PutObject", PutObject, "b//k"),
            (Method::PUT, "/b/k?partNumber=1&uploadId=u", UploadPart, "b/k"),
            (Method::POST, "/b/k?uploads", CreateMultipartUpload, "b/k"),
            (Method::POST, "/b/k?uploadId=u", CompleteMultipartUpload, "b/k"),
            (Method::DELETE, "/b/k?uploadId=u", AbortMultipartUpload, "b/k"),
            (Method::DELETE, "/b/k", DeleteObject, "b/k"),
            (Method::GET, "/b/k?acl", Other, "b/k"),
        ] {
            assert_eq!(target(method.clone(), uri), (operation, subject.to_owned()), "{method} {uri}");
        }
    }
}
