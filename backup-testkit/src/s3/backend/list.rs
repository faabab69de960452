//! Listing current objects, and what all listings share.

use super::super::synthetic::Listed;
use super::{Backend, answer, digest, find};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// So many keys, parts or uploads on a page.
pub(super) const PAGE: i32 = 1000;

/// How many a page is to have.
pub(super) fn page_size(asked: Option<i32>) -> S3Result<usize> {
    match asked.unwrap_or(PAGE) {
        size @ 0.. => Ok(size.min(PAGE) as usize),
        _ => Err(s3_error!(InvalidArgument, "Argument max-keys must be an integer between 0 and 2147483647")),
    }
}

/// How names are written in an answer.
#[derive(Clone, Copy)]
pub(super) struct Names {
    url: bool,
    percent_spaces: bool,
}

impl Names {
    pub(super) fn new(encoding: Option<&EncodingType>, percent_spaces: bool) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self { url: false, percent_spaces }),
            Some(EncodingType::URL) => Ok(Self { url: true, percent_spaces }),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    pub(super) fn write(self, name: &str) -> String {
        if !self.url {
            return name.to_owned();
        }
        let mut out = String::with_capacity(name.len());
        for byte in name.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => out.push(byte as char),
                b' ' if !self.percent_spaces => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    }
}

/// The prefix that a key is summed up in, if it is.
pub(super) fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: Option<&str>) -> Option<&'a str> {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// Where the page before ended.
enum After {
    Key(String),
    /// Behind all keys with this prefix.
    Prefix(String),
}

impl After {
    fn token(&self) -> String {
        digest::base64(
            match self {
                Self::Key(key) => format!("k{key}"),
                Self::Prefix(prefix) => format!("p{prefix}"),
            }
            .as_bytes(),
        )
    }

    fn of_token(token: &str) -> Option<Self> {
        let text = String::from_utf8(digest::from_base64(token)?).ok()?;
        match text.split_at_checked(1)? {
            ("k", key) => Some(Self::Key(key.to_owned())),
            ("p", prefix) => Some(Self::Prefix(prefix.to_owned())),
            _ => None,
        }
    }

    fn start(&self) -> &str {
        match self {
            Self::Key(text) | Self::Prefix(text) => text,
        }
    }

    fn covers(&self, key: &str) -> bool {
        match self {
            Self::Key(last) => key <= last.as_str(),
            Self::Prefix(prefix) => key < prefix.as_str() || key.starts_with(prefix),
        }
    }
}

impl Backend {
    pub(super) async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let names = Names::new(input.encoding_type.as_ref(), self.quirks().percent_spaces)?;
        let size = page_size(input.max_keys)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let mut after = match &input.continuation_token {
            Some(_) if self.quirks().lists_in_circles => None,
            Some(token) => Some(
                After::of_token(token)
                    .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))?,
            ),
            None => input.start_after.clone().map(After::Key),
        };
        let state = self.buckets.lock();
        let bucket = find(&state, &input.bucket)?;
        let start = after.as_ref().map_or("", After::start).max(prefix.as_str()).to_owned();
        let (mut contents, mut prefixes, mut truncated) = (Vec::new(), Vec::new(), false);
        for listed in bucket.list_from(&start) {
            if !listed.key.starts_with(&prefix) {
                break;
            }
            if after.as_ref().is_some_and(|after| after.covers(&listed.key)) {
                continue;
            }
            if contents.len() + prefixes.len() == size {
                truncated = size > 0;
                break;
            }
            if let Some(common) = common_prefix(&listed.key, &prefix, input.delimiter.as_deref()) {
                prefixes.push(CommonPrefix { prefix: Some(names.write(common)) });
                after = Some(After::Prefix(common.to_owned()));
            } else {
                after = Some(After::Key(listed.key.clone()));
                contents.push(object(listed, names));
            }
        }
        answer(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(names.write(&prefix)),
            max_keys: Some(size as i32),
            key_count: Some((contents.len() + prefixes.len()) as i32),
            continuation_token: input.continuation_token,
            is_truncated: Some(truncated),
            next_continuation_token: after.filter(|_| truncated).map(|after| after.token()),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|delimiter| names.write(&delimiter)),
            encoding_type: input.encoding_type,
            start_after: input.start_after.map(|key| names.write(&key)),
            ..Default::default()
        })
    }
}

fn object(listed: Listed, names: Names) -> Object {
    Object {
        key: Some(names.write(&listed.key)),
        e_tag: Some(ETag::Strong(listed.etag)),
        size: Some(listed.size as i64),
        last_modified: Some(listed.modified.into()),
        storage_class: Some(listed.storage_class.into()),
        ..Default::default()
    }
}
