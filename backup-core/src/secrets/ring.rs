//! AES-256-GCM under the newest of several keys.
//!
//! A sealed secret is text: `sealed-1.` + key id + `.` + base64 (URL alphabet, not padded) of a 32-byte salt, the ciphertext and its
//! 16-byte tag. Each one has a key of its own, HKDF-SHA256 (RFC 5869) of the ring's key and the salt, so that the nonce can be zero and no pair
//! of key and nonce is ever used twice. The additional data are the caller's, with the text before the base64 in front.

use crate::archive::{parse_key_file, random_bytes, seal_cipher};
use crate::{Error, Result};
use aes_gcm::Nonce;
use aes_gcm::aead::{Aead, Payload};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use zeroize::Zeroizing;

const PREFIX: &str = "sealed-1.";
const INFO: &[u8] = b"backup secret at rest 1";
const SALT: usize = 32;

/// A key of a ring: 32 bytes, written as the one line of a key file.
pub struct SecretKey {
    key: Zeroizing<[u8; 32]>,
    id: String,
}

impl SecretKey {
    /// Takes the text of a key file, or of an environment variable that holds the same; space around it does not count.
    ///
    /// # Errors
    /// `Invalid` when it is not such a text, or not all of it.
    pub fn parse(text: &SecretString) -> Result<Self> {
        parse_key_file(text).map(|(key, id)| Self { key, id })
    }

    /// Names the key without telling anything of it.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Keys for secrets at rest: the newest seals, each of them opens.
#[derive(Debug)]
pub struct KeyRing {
    newest: SecretKey,
    older: Vec<SecretKey>,
}

impl KeyRing {
    /// A ring of one key.
    pub fn new(newest: SecretKey) -> Self {
        Self { newest, older: Vec::new() }
    }

    /// Keys one on each line, the newest first; empty lines do not count.
    ///
    /// # Errors
    /// `Invalid` when there is none, or one cannot be read.
    pub fn parse(text: &SecretString) -> Result<Self> {
        let lines = text.expose_secret().lines().filter(|line| !line.trim().is_empty());
        let mut keys = lines.map(|line| SecretKey::parse(&SecretString::from(line))).collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Err(Error::invalid("there is no key; make one with `generate_key_file`"));
        }
        let newest = keys.remove(0);
        Ok(Self { newest, older: keys })
    }

    /// The same, with keys that still open what was sealed before they were replaced.
    #[must_use]
    pub fn with_older(self, older: impl IntoIterator<Item = SecretKey>) -> Self {
        Self { older: self.older.into_iter().chain(older).collect(), ..self }
    }

    /// Seals a secret for the place that `aad` names, under the newest key.
    ///
    /// # Errors
    /// `Permanent` when the system gives no random bytes.
    pub fn seal(&self, secret: &[u8], aad: &[u8]) -> Result<String> {
        let head = format!("{PREFIX}{}.", self.newest.id);
        let salt = random_bytes::<SALT>()?;
        let aad = [head.as_bytes(), aad].concat();
        let sealed = seal_cipher(&self.newest.key, &*salt, INFO)?
            .encrypt(&Nonce::default(), Payload { msg: secret, aad: &aad })
            .map_err(|_| Error::permanent("cannot encrypt"))?;
        Ok(format!("{head}{}", BASE64.encode([&salt[..], &sealed].concat())))
    }

    /// Opens what was sealed for the place that `aad` names.
    ///
    /// # Errors
    /// `Unauthorized` when the ring lacks the key, and names it; `Corrupt` when the text was changed or belongs to another place;
    /// `Unsupported` when a newer version wrote it.
    pub fn open(&self, sealed: &str, aad: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let changed = || Error::corrupt("a sealed secret was changed, or belongs to another place");
        let (id, body) = split(sealed)?;
        let key = std::iter::once(&self.newest).chain(&self.older).find(|key| key.id == id).ok_or_else(|| {
            let id = id.escape_default();
            Error::unauthorized(format!("the secret was sealed under the key {id}, which is not among those given"))
        })?;
        let bytes = BASE64.decode(body).map_err(|_| changed())?;
        let (salt, msg) = bytes.split_at_checked(SALT).ok_or_else(changed)?;
        let aad = [&sealed.as_bytes()[..sealed.len() - body.len()], aad].concat();
        let opened = seal_cipher(&key.key, salt, INFO)?.decrypt(&Nonce::default(), Payload { msg, aad: &aad });
        opened.map(Zeroizing::new).map_err(|_| changed())
    }

    /// What the secrets that it opens are sealed under, as [`SealedSecret::sealed_under`](crate::model::SealedSecret::sealed_under) tells it.
    pub fn opens(&self) -> impl Iterator<Item = String> + '_ {
        std::iter::once(&self.newest).chain(&self.older).map(|key| format!("{PREFIX}{}", key.id))
    }

    /// Whether a secret should be sealed anew because the ring has a newer key.
    ///
    /// # Errors
    /// As [`KeyRing::open`], for what the text itself tells.
    pub fn is_outdated(&self, sealed: &str) -> Result<bool> {
        split(sealed).map(|(id, _)| id != self.newest.id)
    }
}

/// Key id and base64.
fn split(sealed: &str) -> Result<(&str, &str)> {
    let Some(rest) = sealed.strip_prefix(PREFIX) else {
        return Err(match sealed.starts_with("sealed-") {
            true => Error::unsupported("a sealed secret needs a newer version of this program"),
            false => Error::corrupt("this is no sealed secret"),
        });
    };
    rest.split_once('.').ok_or_else(|| Error::corrupt("a sealed secret is incomplete"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use crate::archive::generate_key_file;
    use crate::model::SealedSecret;

    fn key() -> SecretKey {
        SecretKey::parse(&generate_key_file().unwrap()).unwrap()
    }

    fn class<T: fmt::Debug>(result: Result<T>) -> ErrorClass {
        result.unwrap_err().class()
    }

    #[test]
    fn a_secret_opens_with_its_key_at_its_place_only() {
        let ring = KeyRing::new(key());
        let sealed = ring.seal(b"secret", b"here").unwrap();
        assert!(!sealed.contains("secret"));
        assert_eq!(*ring.open(&sealed, b"here").unwrap(), b"secret");
        assert_eq!(class(ring.open(&sealed, b"there")), ErrorClass::Corrupt);
        assert_eq!(class(KeyRing::new(key()).open(&sealed, b"here")), ErrorClass::Unauthorized);
        // The same secret again is other text.
        assert_ne!(ring.seal(b"secret", b"here").unwrap(), sealed);
        assert!(!format!("{ring:?}").contains("key: ["));
    }

    #[test]
    fn every_change_is_noticed() {
        let ring = KeyRing::new(key());
        let sealed = ring.seal(b"secret", b"").unwrap();
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            // The last character of base64 has bits that do not count, which a strict decoder refuses.
            assert!(ring.open(std::str::from_utf8(&bytes).unwrap(), b"").is_err(), "byte {at}");
        }
        for cut in 0..sealed.len() {
            assert!(ring.open(&sealed[..cut], b"").is_err(), "{cut} bytes");
        }
        assert_eq!(class(ring.open("sealed-2.x.y", b"")), ErrorClass::Unsupported);
    }

    #[test]
    fn an_older_key_opens_and_the_newest_seals() {
        let (text, newest) = (generate_key_file().unwrap(), key());
        let before = KeyRing::new(SecretKey::parse(&text).unwrap());
        let sealed = before.seal(b"secret", b"").unwrap();
        assert!(!before.is_outdated(&sealed).unwrap());
        let ring = KeyRing::new(newest).with_older([SecretKey::parse(&text).unwrap()]);
        assert!(ring.is_outdated(&sealed).unwrap());
        assert_eq!(*ring.open(&sealed, b"").unwrap(), b"secret");
        let under = |sealed: &str| SealedSecret(sealed.to_owned()).sealed_under().map(str::to_owned);
        assert!(ring.opens().any(|opened| Some(opened) == under(&sealed)));
        let anew = ring.seal(b"secret", b"").unwrap();
        assert!(!ring.is_outdated(&anew).unwrap());
        assert_eq!(class(before.open(&anew, b"")), ErrorClass::Unauthorized);
        assert!(!before.opens().any(|opened| Some(opened) == under(&anew)));
        assert_eq!(under("sealed-2.a.b").unwrap(), "sealed-2.a");
        assert_eq!((under("no secret. At all"), under("sealed-1")), (None, None));
    }
}
