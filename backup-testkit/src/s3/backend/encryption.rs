//! Server-side encryption: who may read what. Nothing is encrypted.

use super::super::object::{Encryption, S3Object};
use super::digest;
use s3s::dto::{SSECustomerAlgorithm, SSECustomerKey, SSECustomerKeyMD5, SSEKMSKeyId, ServerSideEncryption};
use s3s::{S3Result, s3_error};

/// The headers of SSE-C in one request.
pub(super) struct CustomerKey {
    pub(super) algorithm: Option<SSECustomerAlgorithm>,
    pub(super) key: Option<SSECustomerKey>,
    pub(super) md5: Option<SSECustomerKeyMD5>,
}

/// Takes the headers of SSE-C out of an input.
macro_rules! customer_key {
    ($input:expr) => {
        crate::s3::backend::encryption::CustomerKey {
            algorithm: $input.sse_customer_algorithm.take(),
            key: $input.sse_customer_key.take(),
            md5: $input.sse_customer_key_md5.take(),
        }
    };
}
pub(super) use customer_key;

impl CustomerKey {
    /// The key's MD5, if the headers are there and agree with each other.
    fn checked(&self) -> S3Result<Option<String>> {
        let Self { algorithm, key, md5 } = self;
        let (Some(algorithm), Some(key), Some(md5)) = (algorithm, key, md5) else {
            if algorithm.is_none() && key.is_none() && md5.is_none() {
                return Ok(None);
            }
            return Err(s3_error!(InvalidArgument, "Requests with SSE-C need algorithm, key and the key's MD5"));
        };
        if algorithm != "AES256" {
            return Err(s3_error!(InvalidEncryptionAlgorithmError));
        }
        let key = digest::from_base64(key).filter(|key| key.len() == 32);
        let key =
            key.ok_or_else(|| s3_error!(InvalidArgument, "The secret key was invalid for the specified algorithm."))?;
        if *md5 != digest::base64(&digest::md5(&key)) {
            return Err(s3_error!(
                InvalidArgument,
                "The calculated MD5 hash of the key did not match the hash that was provided."
            ));
        }
        Ok(Some(md5.clone()))
    }
}

/// What a write asks for.
pub(super) fn wanted(
    sse: Option<ServerSideEncryption>,
    kms_key: Option<SSEKMSKeyId>,
    customer: &CustomerKey,
) -> S3Result<Encryption> {
    match (sse.as_ref().map(ServerSideEncryption::as_str), customer.checked()?) {
        (Some(_), Some(_)) => Err(s3_error!(InvalidArgument, "SSE-C cannot be combined with other encryption")),
        (None, Some(key_md5)) => Ok(Encryption::Customer { key_md5 }),
        (Some(ServerSideEncryption::AWS_KMS), None) => Ok(Encryption::Kms(kms_key)),
        (Some(ServerSideEncryption::AES256), None) if kms_key.is_none() => Ok(Encryption::Aes256),
        (None, None) if kms_key.is_none() => Ok(Encryption::None),
        _ => Err(s3_error!(InvalidArgument, "The encryption method specified is not supported")),
    }
}

/// Whether a request with these headers may use an object, or an upload.
pub(super) fn check(object: &S3Object, customer: &CustomerKey) -> S3Result<()> {
    match (&object.encryption, customer.checked()?) {
        (Encryption::Customer { key_md5 }, Some(sent)) if *key_md5 == sent => Ok(()),
        (Encryption::Customer { .. }, Some(_)) => Err(s3_error!(AccessDenied, "Access Denied")),
        (Encryption::Customer { .. }, None) => Err(s3_error!(
            InvalidRequest,
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object."
        )),
        (_, Some(_)) => Err(s3_error!(InvalidRequest, "The encryption parameters are not applicable to this object.")),
        (_, None) => Ok(()),
    }
}

/// The ETag of one body: its MD5, unless the encryption forbids it.
pub(super) fn etag(md5: &[u8; 16], encryption: &Encryption) -> String {
    match encryption {
        Encryption::None | Encryption::Aes256 => digest::hex(md5),
        Encryption::Kms(_) | Encryption::Customer { .. } => {
            digest::hex(&digest::md5(&[md5.as_slice(), b"sealed"].concat()))
        }
    }
}

/// The headers that tell of the encryption.
#[derive(Default)]
pub(super) struct Told {
    pub(super) sse: Option<ServerSideEncryption>,
    pub(super) kms_key: Option<SSEKMSKeyId>,
    pub(super) algorithm: Option<SSECustomerAlgorithm>,
    pub(super) key_md5: Option<SSECustomerKeyMD5>,
}

pub(super) fn told(encryption: &Encryption) -> Told {
    let sse = |name| Some(ServerSideEncryption::from_static(name));
    match encryption.clone() {
        Encryption::None => Told::default(),
        Encryption::Aes256 => Told { sse: sse(ServerSideEncryption::AES256), ..Told::default() },
        Encryption::Kms(kms_key) => Told { sse: sse(ServerSideEncryption::AWS_KMS), kms_key, ..Told::default() },
        Encryption::Customer { key_md5 } => {
            Told { algorithm: Some("AES256".to_owned()), key_md5: Some(key_md5), ..Told::default() }
        }
    }
}
