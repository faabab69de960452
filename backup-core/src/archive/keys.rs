//! The key of a sealed archive, and how it is wrapped for those who may open it.
//!
//! Each sealed archive has a random key of its own. It lies in the archive only as *wraps*: encrypted under a key that a
//! [`KeyProvider`] has or asks a key service for. A wrap is bound to the archive by the bytes of its header.

use super::document;
use crate::{Error, ErrorClass, Result};
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hkdf::Hkdf;
use rand::TryRng;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

const WHAT: &str = "keys";
const VERSION: u32 = 1;
const SALT: usize = 32;
const WRAP_INFO: &[u8] = b"backup key wrap 1";

/// Random bytes from the system; it is asked each time, so that a forked or copied process repeats none.
pub(crate) fn random_bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::rngs::SysRng
        .try_fill_bytes(&mut *bytes)
        .map_err(|e| Error::permanent("the system gives no random bytes").because(e))?;
    Ok(bytes)
}

/// The random key of a sealed archive; overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ArchiveKey(Zeroizing<[u8; 32]>);

impl ArchiveKey {
    /// A new key.
    ///
    /// # Errors
    /// `Permanent` when the system gives no random bytes.
    pub fn generate() -> Result<Self> {
        Ok(Self(random_bytes()?))
    }

    /// The key with these bytes, which a provider has unwrapped.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// The bytes, for a provider that wraps them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ArchiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArchiveKey")
    }
}

/// An archive key, wrapped by a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyWrap {
    /// Kind of the provider: `key-file`, `passphrase`, or that of a key service.
    pub provider: String,
    /// Which of the provider's keys is needed, without telling anything of it; empty for a passphrase.
    pub key_id: String,
    /// What else the provider must know, in its own form.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub parameters: serde_json::Value,
    /// The wrapped key; for our own providers base64 of what `docs/FORMAT.md` says.
    pub wrapped: String,
}

/// Wraps archive keys and unwraps them: a key file, a passphrase, a key service.
#[async_trait]
pub trait KeyProvider: fmt::Debug + Send + Sync + 'static {
    /// Names the provider and its key for people and logs.
    ///
    /// # Behavior
    /// - Does no I/O, always answers the same, and carries no secret.
    fn id(&self) -> String;

    /// Wraps a key.
    ///
    /// # Behavior
    /// - The wrap opens only together with the same `aad`, the exact bytes of the archive's header.
    /// - Each call draws fresh randomness.
    async fn wrap(&self, key: &ArchiveKey, aad: &[u8]) -> Result<KeyWrap>;

    /// Opens a wrap.
    ///
    /// # Behavior
    /// - A wrap of another kind of provider, or for another of its keys, is `None`.
    /// - A wrong passphrase is `Unauthorized`; a wrap or `aad` that was changed is `Unauthorized` or `Corrupt`.
    /// - Parameters that ask for too much work or memory are refused before anything is done.
    async fn unwrap(&self, wrap: &KeyWrap, aad: &[u8]) -> Result<Option<ArchiveKey>>;
}

/// All wraps of an archive's key: `keys/0.json`, after a change of keys `keys/1.json` and so on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyWraps {
    /// Version of this object.
    pub version: u32,
    /// The wraps; any one will do.
    pub wraps: Vec<KeyWrap>,
}

impl KeyWraps {
    /// The object with these wraps.
    pub fn new(wraps: Vec<KeyWrap>) -> Self {
        Self { version: VERSION, wraps }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// `Invalid` when it cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>> {
        document::encode(self, WHAT)
    }

    /// Reads it.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged; `Unsupported` when it is of a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        document::check(bytes, WHAT)?;
        let wraps: Self = document::members(bytes, WHAT)?;
        match wraps.version {
            VERSION => Ok(wraps),
            newer => Err(Error::unsupported(format!(
                "the keys of this archive need a newer version of this program (version {newer})"
            ))
            .on(WHAT)),
        }
    }

    /// The archive key, from the first wrap that the provider opens.
    ///
    /// # Errors
    /// `Unauthorized`, and which key is needed, when the provider has none of them; else what the provider met.
    pub async fn open(&self, provider: &dyn KeyProvider, aad: &[u8]) -> Result<ArchiveKey> {
        let mut refused = None;
        for wrap in &self.wraps {
            match provider.unwrap(wrap, aad).await {
                Ok(Some(key)) => return Ok(key),
                Ok(None) => {}
                // The next wrap may be the right one; a service that is down is another matter.
                Err(e) if e.is_retryable() || e.class() == ErrorClass::Cancelled => return Err(e),
                Err(e) => refused = refused.or(Some(e)),
            }
        }
        Err(refused.unwrap_or_else(|| {
            let needed: Vec<_> = self.wraps.iter().map(KeyWrap::label).collect();
            Error::unauthorized(format!(
                "the archive opens with {}, but {} was given",
                if needed.is_empty() { "no key at all".into() } else { needed.join(" or ") },
                provider.id()
            ))
        }))
    }
}

impl KeyWrap {
    /// What opens it, for people.
    fn label(&self) -> String {
        match (self.provider.as_str(), self.key_id.as_str()) {
            ("passphrase", _) => "a passphrase".into(),
            ("key-file", id) => format!("the key file {}", id.escape_default()),
            (provider, id) => format!("the key {} of {}", id.escape_default(), provider.escape_default()),
        }
    }
}

/// A cipher for one use: its key is drawn from a lasting key and a fresh salt, so that the nonce can be zero. `info` tells the uses apart.
pub(crate) fn seal_cipher(key: &[u8; 32], salt: &[u8], info: &[u8]) -> Result<Aes256Gcm> {
    let mut derived = Zeroizing::new([0; 32]);
    Hkdf::<sha2::Sha256>::new(Some(salt), key)
        .expand(info, &mut *derived)
        .map_err(|_| Error::permanent("cannot derive a key"))?;
    Aes256Gcm::new_from_slice(&*derived).map_err(|_| Error::permanent("not a key for AES-256"))
}

/// Base64 of salt, encrypted key and tag.
pub(super) fn wrap_under(wrapping_key: &[u8; 32], key: &ArchiveKey, aad: &[u8]) -> Result<String> {
    let salt = random_bytes::<SALT>()?;
    let sealed = seal_cipher(wrapping_key, &*salt, WRAP_INFO)?
        .encrypt(&Nonce::default(), Payload { msg: key.expose(), aad })
        .map_err(|_| Error::permanent("cannot encrypt"))?;
    Ok(BASE64.encode([&salt[..], &sealed].concat()))
}

/// The key in a wrap; `None` when the wrapping key or `aad` is another, or the wrap was changed.
pub(super) fn unwrap_under(wrapping_key: &[u8; 32], wrapped: &str, aad: &[u8]) -> Result<Option<ArchiveKey>> {
    let bytes = BASE64.decode(wrapped).map_err(|e| Error::corrupt("a key wrap is not base64").on(WHAT).because(e))?;
    let Some((salt, msg)) = bytes.split_at_checked(SALT) else { return Ok(None) };
    let opened = seal_cipher(wrapping_key, salt, WRAP_INFO)?.decrypt(&Nonce::default(), Payload { msg, aad });
    let opened = opened.ok().map(Zeroizing::new);
    Ok(opened.and_then(|bytes| Some(ArchiveKey::from_bytes(bytes.as_slice().try_into().ok()?))))
}

#[cfg(test)]
mod tests {
    use super::super::{KeyFileProvider, PassphraseParameters, PassphraseProvider, generate_key_file};
    use super::*;
    use proptest::prelude::*;

    const AAD: &[u8] = b"{\"format\":1}";

    fn cheap(passphrase: &str) -> PassphraseProvider {
        let parameters = PassphraseParameters { memory_kib: 64, passes: 1, lanes: 1 };
        PassphraseProvider::with_parameters(passphrase.into(), parameters).unwrap()
    }

    #[tokio::test]
    async fn any_of_several_wraps_opens_the_archive() {
        let key = ArchiveKey::generate().unwrap();
        let file = KeyFileProvider::parse(&generate_key_file().unwrap()).unwrap();
        let wraps = KeyWraps::new(vec![
            cheap("first").wrap(&key, AAD).await.unwrap(),
            cheap("second").wrap(&key, AAD).await.unwrap(),
            file.wrap(&key, AAD).await.unwrap(),
        ]);
        let wraps = KeyWraps::parse(&wraps.encode().unwrap()).unwrap();
        for provider in [&cheap("first") as &dyn KeyProvider, &cheap("second"), &file] {
            assert!(wraps.open(provider, AAD).await.unwrap() == key);
            assert!(wraps.open(provider, b"another header").await.is_err());
        }
        let error = wraps.open(&cheap("third"), AAD).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unauthorized);
        assert!(error.to_string().contains("passphrase"), "{error}");
    }

    #[tokio::test]
    async fn who_has_the_wrong_key_learns_which_one_is_needed() {
        let key = ArchiveKey::generate().unwrap();
        let right = KeyFileProvider::parse(&generate_key_file().unwrap()).unwrap();
        let wrong = KeyFileProvider::parse(&generate_key_file().unwrap()).unwrap();
        let wraps = KeyWraps::new(vec![right.wrap(&key, AAD).await.unwrap()]);
        let error = wraps.open(&wrong, AAD).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unauthorized);
        assert_eq!(
            error.to_string(),
            format!("the archive opens with the {}, but {} was given", right.id(), wrong.id())
        );
        let error = wraps.open(&cheap("x"), AAD).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unauthorized);
    }

    #[test]
    fn damage_and_newer_versions_are_told_apart() {
        let newer = KeyWraps { version: 2, wraps: Vec::new() }.encode().unwrap();
        assert_eq!(KeyWraps::parse(&newer).unwrap_err().class(), ErrorClass::Unsupported);
        let mut changed = KeyWraps::new(Vec::new()).encode().unwrap();
        changed[3] ^= 1;
        assert_eq!(KeyWraps::parse(&changed).unwrap_err().class(), ErrorClass::Corrupt);
    }

    #[test]
    fn no_key_is_shown() {
        assert_eq!(format!("{:?}", ArchiveKey::from_bytes([0x41; 32])), "ArchiveKey");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,200}") {
            let _ = KeyWraps::parse(&bytes);
            let _ = unwrap_under(&[0; 32], &text, &bytes);
            let _ = unwrap_under(&[0; 32], &BASE64.encode(&bytes), &bytes);
        }
    }
}
