//! What a request asks for.

use hyper::{Method, Uri};

/// The kinds of requests, for faults and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DriveOperation {
    /// The page where a person agrees.
    Authorize,
    /// Codes, refresh tokens or signed claims become access tokens.
    Token,
    /// User and quota.
    About,
    /// A page of files.
    List,
    /// The metadata of a file.
    GetMetadata,
    /// The content of a file, or a range of it.
    Download,
    /// A folder, or a file without content.
    Create,
    /// Metadata of a file changes.
    Update,
    /// A file is removed for good.
    Delete,
    /// A resumable upload begins.
    BeginUpload,
    /// Bytes of an upload.
    UploadChunk,
    /// How far an upload is.
    UploadStatus,
    /// Anything else.
    Other,
}

pub(super) const FILES: &str = "/drive/v3/files";
pub(super) const UPLOAD: &str = "/upload/drive/v3/files";

impl DriveOperation {
    /// Of a request; `content_range` is the header of that name.
    pub(super) fn of(method: &Method, uri: &Uri, content_range: Option<&str>) -> Self {
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let file = path.strip_prefix(FILES).and_then(|rest| rest.strip_prefix('/'));
        match (method.as_str(), path, file) {
            ("GET", "/o/oauth2/v2/auth", _) => Self::Authorize,
            ("POST", "/token", _) => Self::Token,
            ("GET", "/drive/v3/about", _) => Self::About,
            ("GET", FILES, _) => Self::List,
            ("POST", FILES, _) => Self::Create,
            ("POST", UPLOAD, _) => Self::BeginUpload,
            ("PUT", UPLOAD, _) if content_range.is_some_and(|range| range.starts_with("bytes */")) => {
                Self::UploadStatus
            }
            ("PUT", UPLOAD, _) => Self::UploadChunk,
            ("GET", _, Some(_)) if query.split('&').any(|part| part == "alt=media") => Self::Download,
            ("GET", _, Some(_)) => Self::GetMetadata,
            ("PATCH", _, Some(_)) => Self::Update,
            ("DELETE", _, Some(_)) => Self::Delete,
            _ => Self::Other,
        }
    }
}
