//! Keys made of a passphrase by Argon2id (RFC 9106).

use super::keys::{ArchiveKey, KeyProvider, KeyWrap, random_bytes, unwrap_under, wrap_under};
use crate::{Error, Result};
use argon2::{Algorithm, Argon2, Params, Version};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use zeroize::Zeroizing;

const KIND: &str = "passphrase";
const SALT: usize = 16;

/// What a reader is willing to spend, whatever an archive asks for.
const MEMORY_KIB: RangeInclusive<u32> = 8..=128 << 10;
const PASSES: RangeInclusive<u32> = 1..=16;
const LANES: RangeInclusive<u32> = 1..=8;
const SALTS: RangeInclusive<usize> = 8..=64;

/// What making a key of a passphrase costs, the owner and the guesser alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseParameters {
    /// Memory in KiB, 8 for each lane to 131,072 (128 MiB).
    pub memory_kib: u32,
    /// Passes over the memory, 1 to 16.
    pub passes: u32,
    /// Lanes, 1 to 8.
    pub lanes: u32,
}

impl Default for PassphraseParameters {
    /// 64 MiB, three passes, one lane: some tenths of a second.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 1 }
    }
}

impl PassphraseParameters {
    fn argon2(self) -> Result<Argon2<'static>> {
        let Self { memory_kib, passes, lanes } = self;
        let out_of_bounds = || {
            Error::unsupported(format!(
                "Argon2id with {memory_kib} KiB, {passes} passes and {lanes} lanes is outside of what is allowed"
            ))
        };
        if !MEMORY_KIB.contains(&memory_kib) || !PASSES.contains(&passes) || !LANES.contains(&lanes) {
            return Err(out_of_bounds());
        }
        let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| out_of_bounds())?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

/// As it stands in the wrap.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    cost: PassphraseParameters,
    /// Base64.
    salt: String,
}

/// Wraps archive keys under a key made of a passphrase. The work is done on a blocking thread.
pub struct PassphraseProvider {
    passphrase: Arc<SecretString>,
    cost: PassphraseParameters,
}

impl PassphraseProvider {
    /// A provider with the default cost. The passphrase counts byte by byte, as UTF-8.
    ///
    /// # Errors
    /// `Invalid` when it is empty.
    pub fn new(passphrase: SecretString) -> Result<Self> {
        Self::with_parameters(passphrase, PassphraseParameters::default())
    }

    /// A provider that wraps at another cost; what it unwraps has its own.
    ///
    /// # Errors
    /// `Invalid` when the passphrase is empty; `Unsupported` when the cost is outside of what readers allow.
    pub fn with_parameters(passphrase: SecretString, cost: PassphraseParameters) -> Result<Self> {
        if passphrase.expose_secret().is_empty() {
            return Err(Error::invalid("the passphrase is empty"));
        }
        cost.argon2()?;
        Ok(Self { passphrase: Arc::new(passphrase), cost })
    }

    async fn wrapping_key(&self, cost: PassphraseParameters, salt: Vec<u8>) -> Result<Zeroizing<[u8; 32]>> {
        let passphrase = Arc::clone(&self.passphrase);
        let made = tokio::task::spawn_blocking(move || {
            let mut key = Zeroizing::new([0; 32]);
            cost.argon2()?
                .hash_password_into(passphrase.expose_secret().as_bytes(), &salt, &mut *key)
                .map_err(|e| Error::permanent(format!("Argon2id failed: {e}")))?;
            Ok(key)
        });
        made.await.map_err(|e| Error::permanent("making a key of the passphrase failed").because(e))?
    }
}

impl fmt::Debug for PassphraseProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassphraseProvider").field("cost", &self.cost).finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyProvider for PassphraseProvider {
    fn id(&self) -> String {
        "a passphrase".into()
    }

    async fn wrap(&self, key: &ArchiveKey, aad: &[u8]) -> Result<KeyWrap> {
        let salt = random_bytes::<SALT>()?.to_vec();
        let stored = Stored { cost: self.cost, salt: BASE64.encode(&salt) };
        let wrapping_key = self.wrapping_key(self.cost, salt).await?;
        Ok(KeyWrap {
            provider: KIND.into(),
            key_id: String::new(),
            parameters: serde_json::to_value(stored)
                .map_err(|e| Error::permanent("cannot write the parameters of a key wrap").because(e))?,
            wrapped: wrap_under(&wrapping_key, key, aad)?,
        })
    }

    async fn unwrap(&self, wrap: &KeyWrap, aad: &[u8]) -> Result<Option<ArchiveKey>> {
        if wrap.provider != KIND {
            return Ok(None);
        }
        let unreadable = || Error::corrupt("the parameters of a passphrase's key wrap cannot be read");
        let stored = Stored::deserialize(&wrap.parameters).map_err(|e| unreadable().because(e))?;
        let salt = BASE64.decode(&stored.salt).map_err(|e| unreadable().because(e))?;
        if !SALTS.contains(&salt.len()) {
            return Err(unreadable());
        }
        // Before a thread and memory are taken.
        stored.cost.argon2()?;
        let wrapping_key = self.wrapping_key(stored.cost, salt).await?;
        match unwrap_under(&wrapping_key, &wrap.wrapped, aad)? {
            Some(key) => Ok(Some(key)),
            None => Err(Error::unauthorized("the passphrase is wrong (or header.json was changed)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;

    fn provider(passphrase: &str) -> PassphraseProvider {
        let cost = PassphraseParameters { memory_kib: 64, passes: 1, lanes: 1 };
        PassphraseProvider::with_parameters(passphrase.into(), cost).unwrap()
    }

    #[tokio::test]
    async fn a_wrap_made_in_1_opens_for_ever() {
        // Made by the second reader's cryptography.
        let wrap: KeyWrap = serde_json::from_value(serde_json::json!({
            "provider": "passphrase",
            "key_id": "",
            "parameters": {"memory_kib": 64, "passes": 2, "lanes": 2, "salt": "AAECAwQFBgcICQoLDA0ODw=="},
            "wrapped": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+y0TKVZc+dHGx/jt0B4HMaDwvfPoud1mDqeylvk1gpmKnrDHcZ+OsBt6FMZThfS2E=",
        }))
        .unwrap();
        let key = provider("correct horse").unwrap(&wrap, b"header").await.unwrap().unwrap();
        assert_eq!(key.expose(), &[9; 32]);
        let error = provider("battery staple").unwrap(&wrap, b"header").await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unauthorized);
        assert_eq!(error.to_string(), "the passphrase is wrong (or header.json was changed)");
    }

    #[tokio::test]
    async fn a_wrap_that_asks_for_too_much_is_refused_before_any_work() {
        let good = provider("x").wrap(&ArchiveKey::from_bytes([1; 32]), b"").await.unwrap();
        for (name, value) in [
            ("memory_kib", 128 * 1024 + 1),
            ("memory_kib", u32::MAX),
            ("memory_kib", 0),
            ("passes", 0),
            ("passes", 17),
            ("lanes", 0),
            ("lanes", 9),
        ] {
            let mut wrap = good.clone();
            wrap.parameters[name] = value.into();
            let error = provider("x").unwrap(&wrap, b"").await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Unsupported, "{name} {value}");
        }
        for (name, value) in [("salt", "AAAA"), ("salt", "?"), ("memory_kib", "many")] {
            let mut wrap = good.clone();
            wrap.parameters[name] = value.into();
            assert_eq!(provider("x").unwrap(&wrap, b"").await.unwrap_err().class(), ErrorClass::Corrupt);
        }
    }

    #[tokio::test]
    async fn the_default_cost_works_and_an_empty_passphrase_does_not() {
        let provider = PassphraseProvider::new("x".into()).unwrap();
        let key = ArchiveKey::generate().unwrap();
        let wrap = provider.wrap(&key, b"header").await.unwrap();
        assert_eq!(wrap.parameters["memory_kib"], 65536);
        assert!(provider.unwrap(&wrap, b"header").await.unwrap() == Some(key));
        assert!(PassphraseProvider::new("".into()).is_err());
        assert!(!format!("{:?}", PassphraseProvider::new("secret words".into())).contains("secret"));
    }
}
