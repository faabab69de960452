//! Keys in a file or an environment variable: one line of text.
//!
//! `backup-key-1.` + 32 random bytes in base64 (URL alphabet, not padded) + `.` + 8 hexadecimal digits of checksum, so that
//! a key that was copied incompletely is noticed before it is used.

use super::keys::{ArchiveKey, KeyProvider, KeyWrap, random_bytes, unwrap_under, wrap_under};
use crate::{Digest, Error, Result};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use zeroize::Zeroizing;

const PREFIX: &str = "backup-key-1.";
const KIND: &str = "key-file";

/// A new key as the one line of a key file, without a line end.
///
/// # Errors
/// `Permanent` when the system gives no random bytes.
pub fn generate_key_file() -> Result<SecretString> {
    let body = Zeroizing::new(BASE64.encode(random_bytes::<32>()?.as_slice()));
    let mut text = Zeroizing::new(format!("{PREFIX}{}", *body));
    let checksum = checksum(&text);
    text.push('.');
    text.push_str(&checksum);
    Ok(SecretString::from(text.as_str()))
}

fn checksum(text: &str) -> String {
    hex::encode(&Digest::of(text.as_bytes()).0[..4])
}

/// Wraps archive keys under the key of a key file.
pub struct KeyFileProvider {
    key: Zeroizing<[u8; 32]>,
    id: String,
}

impl KeyFileProvider {
    /// Takes the text of a key file, or of an environment variable that holds the same; space around it does not count.
    ///
    /// # Errors
    /// `Invalid` when it is not such a text, or not all of it.
    pub fn parse(text: &SecretString) -> Result<Self> {
        parse_key_file(text).map(|(key, id)| Self { key, id })
    }
}

/// The key in the text of a key file, and an id that tells nothing of it.
pub(crate) fn parse_key_file(text: &SecretString) -> Result<(Zeroizing<[u8; 32]>, String)> {
    let text = text.expose_secret().trim();
    let body = text.strip_prefix(PREFIX).ok_or_else(|| {
        if text.starts_with("backup-key-") {
            Error::unsupported("this key file needs a newer version of this program")
        } else {
            Error::invalid(format!("not a key file: its text should start with {PREFIX}"))
        }
    })?;
    let incomplete = || Error::invalid("the key file is incomplete or has a typing error: its checksum is wrong");
    let (body, stated) = body.split_once('.').ok_or_else(incomplete)?;
    if checksum(&text[..PREFIX.len() + body.len()]) != stated {
        return Err(incomplete());
    }
    let bytes = Zeroizing::new(BASE64.decode(body).map_err(|_| incomplete())?);
    let key = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| incomplete())?);
    let marked = Zeroizing::new([&b"backup key id 1\n"[..], &*key].concat());
    let id = hex::encode(&Digest::of(&marked).0[..8]);
    Ok((key, id))
}

impl fmt::Debug for KeyFileProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFileProvider").field("id", &self.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyProvider for KeyFileProvider {
    fn id(&self) -> String {
        format!("key file {}", self.id)
    }

    async fn wrap(&self, key: &ArchiveKey, aad: &[u8]) -> Result<KeyWrap> {
        Ok(KeyWrap {
            provider: KIND.into(),
            key_id: self.id.clone(),
            parameters: serde_json::Value::Null,
            wrapped: wrap_under(&self.key, key, aad)?,
        })
    }

    async fn unwrap(&self, wrap: &KeyWrap, aad: &[u8]) -> Result<Option<ArchiveKey>> {
        if wrap.provider != KIND || wrap.key_id != self.id {
            return Ok(None);
        }
        match unwrap_under(&self.key, &wrap.wrapped, aad)? {
            Some(key) => Ok(Some(key)),
            None => Err(Error::corrupt("the key is right, but header.json or the key wrap was changed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;

    const TEXT: &str = "backup-key-1.BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc.f96b3051";
    const WRAPPED: &str =
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+9WooA5UTbh07OVUjgaMQm0GWiiTg98OJekuAJ55LxslbkB3PvfHoMWKV3o1ZJWmw=";

    fn provider() -> KeyFileProvider {
        KeyFileProvider::parse(&format!(" {TEXT}\n").into()).unwrap()
    }

    #[tokio::test]
    async fn a_wrap_made_in_1_opens_for_ever() {
        // Made by the second reader's cryptography.
        let provider = provider();
        assert_eq!(provider.id(), "key file d3ec540cddcba693");
        let wrap = KeyWrap {
            provider: KIND.into(),
            key_id: "d3ec540cddcba693".into(),
            parameters: serde_json::Value::Null,
            wrapped: WRAPPED.into(),
        };
        let key = provider.unwrap(&wrap, b"header").await.unwrap().unwrap();
        assert_eq!(key.expose(), &[9; 32]);
        assert_eq!(provider.unwrap(&wrap, b"other").await.unwrap_err().class(), ErrorClass::Corrupt);
    }

    #[test]
    fn a_text_with_any_fault_is_refused_without_being_shown() {
        for at in 0..TEXT.len() {
            let mut changed = TEXT.as_bytes().to_vec();
            changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
            let error = KeyFileProvider::parse(&String::from_utf8(changed).unwrap().into()).unwrap_err();
            assert!(!format!("{error:?}").contains("BwcH"), "{error:?}");
            assert!(KeyFileProvider::parse(&TEXT[..at].into()).is_err());
        }
    }

    #[test]
    fn new_keys_differ_and_do_not_show() {
        let (a, b) = (generate_key_file().unwrap(), generate_key_file().unwrap());
        assert_ne!(a.expose_secret(), b.expose_secret());
        let shown = format!("{:?}", KeyFileProvider::parse(&a).unwrap());
        let body = &a.expose_secret()[PREFIX.len()..PREFIX.len() + 43];
        assert!(!shown.contains(body) && !a.expose_secret().contains('\n'));
    }
}
