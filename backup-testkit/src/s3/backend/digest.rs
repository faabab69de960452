//! MD5 and checksums of what clients send.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::Checksum;

/// MD5.
pub(in crate::s3) fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::checksum(bytes)
}

/// In lower-case hexadecimal digits.
pub(in crate::s3) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Standard base64.
pub(in crate::s3) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Out of standard base64.
pub(in crate::s3) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Compares a Content-MD5 with the digest of what came. The error is the API's code.
pub(in crate::s3) fn check_md5(sent: &str, md5: &[u8; 16]) -> Result<(), &'static str> {
    match from_base64(sent) {
        Some(bytes) if bytes == md5 => Ok(()),
        Some(bytes) if bytes.len() == md5.len() => Err("BadDigest"),
        _ => Err("InvalidDigest"),
    }
}

/// The checksums under their names in headers: `crc32`, `crc32c`, `crc64nvme`, `sha1`, `sha256`.
pub(in crate::s3) fn named(value: impl Fn(&str) -> Option<String>) -> Checksum {
    Checksum {
        checksum_crc32: value("crc32"),
        checksum_crc32c: value("crc32c"),
        checksum_crc64nvme: value("crc64nvme"),
        checksum_sha1: value("sha1"),
        checksum_sha256: value("sha256"),
        checksum_type: None,
    }
}

/// Compares the checksums that were sent with those of what came. The error is the API's code.
pub(in crate::s3) fn check_checksums(sent: &Checksum, bytes: &[u8]) -> Result<(), &'static str> {
    let Checksum { checksum_crc32, checksum_crc32c, checksum_crc64nvme, checksum_sha1, checksum_sha256, .. } = sent;
    let mut hasher = ChecksumHasher {
        crc32: checksum_crc32.as_ref().map(|_| Crc32::new()),
        crc32c: checksum_crc32c.as_ref().map(|_| Crc32c::new()),
        crc64nvme: checksum_crc64nvme.as_ref().map(|_| Crc64Nvme::new()),
        sha1: checksum_sha1.as_ref().map(|_| Sha1::new()),
        sha256: checksum_sha256.as_ref().map(|_| Sha256::new()),
    };
    hasher.update(bytes);
    let came = hasher.finalize();
    let equal = *checksum_crc32 == came.checksum_crc32
        && *checksum_crc32c == came.checksum_crc32c
        && *checksum_crc64nvme == came.checksum_crc64nvme
        && *checksum_sha1 == came.checksum_sha1
        && *checksum_sha256 == came.checksum_sha256;
    if equal { Ok(()) } else { Err("BadDigest") }
}

/// Whether there is any.
pub(in crate::s3) fn any(sums: &Checksum) -> bool {
    let Checksum { checksum_crc32, checksum_crc32c, checksum_crc64nvme, checksum_sha1, checksum_sha256, .. } = sums;
    [checksum_crc32, checksum_crc32c, checksum_crc64nvme, checksum_sha1, checksum_sha256]
        .into_iter()
        .any(Option::is_some)
}
