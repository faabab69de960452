//! The archive key and who wraps it.

use crate::Result;
use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The random key of a sealed archive.
#[derive(Clone)]
pub struct ArchiveKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for ArchiveKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ArchiveKey")
    }
}

impl ArchiveKey {
    /// A new key from the system's random generator.
    pub fn generate() -> Result<Self> {
        todo!()
    }
    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
    /// From bytes that a provider unwrapped.
    pub fn from_bytes(_bytes: [u8; 32]) -> Self {
        todo!()
    }
}

/// A wrapped archive key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyWrap {
    /// Kind of the provider that made it.
    pub provider: String,
    /// Which key of the provider.
    pub key_id: String,
    /// Whatever the provider needs.
    pub parameters: serde_json::Value,
    /// The wrapped key, base64.
    pub wrapped: String,
}

/// Wraps and unwraps archive keys.
#[async_trait]
pub trait KeyProvider: std::fmt::Debug + Send + Sync + 'static {
    /// For people and logs; no secret.
    fn id(&self) -> String;
    /// Wraps.
    async fn wrap(&self, key: &ArchiveKey, aad: &[u8]) -> Result<KeyWrap>;
    /// Unwraps.
    async fn unwrap(&self, wrap: &KeyWrap, aad: &[u8]) -> Result<Option<ArchiveKey>>;
}

/// A new key file's text.
pub fn generate_key_file() -> Result<SecretString> {
    todo!()
}

/// Wraps under the key of a key file.
#[derive(Debug)]
pub struct KeyFileProvider {}

impl KeyFileProvider {
    /// From a key file's text.
    pub fn parse(_text: &SecretString) -> Result<Self> {
        todo!()
    }
}

#[async_trait]
impl KeyProvider for KeyFileProvider {
    fn id(&self) -> String {
        todo!()
    }
    async fn wrap(&self, _key: &ArchiveKey, _aad: &[u8]) -> Result<KeyWrap> {
        todo!()
    }
    async fn unwrap(&self, _wrap: &KeyWrap, _aad: &[u8]) -> Result<Option<ArchiveKey>> {
        todo!()
    }
}

/// Cost of Argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseParameters {
    /// KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// Wraps under a key made of a passphrase.
#[derive(Debug)]
pub struct PassphraseProvider {}

impl PassphraseProvider {
    /// With the default cost.
    pub fn new(_passphrase: SecretString) -> Result<Self> {
        todo!()
    }
    /// With another cost.
    pub fn with_parameters(_passphrase: SecretString, _parameters: PassphraseParameters) -> Result<Self> {
        todo!()
    }
}

#[async_trait]
impl KeyProvider for PassphraseProvider {
    fn id(&self) -> String {
        todo!()
    }
    async fn wrap(&self, _key: &ArchiveKey, _aad: &[u8]) -> Result<KeyWrap> {
        todo!()
    }
    async fn unwrap(&self, _wrap: &KeyWrap, _aad: &[u8]) -> Result<Option<ArchiveKey>> {
        todo!()
    }
}

/// `keys/0.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyWraps {
    /// 1.
    pub version: u32,
    /// The wraps.
    pub wraps: Vec<KeyWrap>,
}

impl KeyWraps {
    /// The wraps of one key.
    pub fn new(_wraps: Vec<KeyWrap>) -> Self {
        todo!()
    }
    /// Bytes of `keys/0.json`.
    pub fn encode(&self) -> Result<Vec<u8>> {
        todo!()
    }
    /// Reads `keys/0.json`.
    pub fn parse(_bytes: &[u8]) -> Result<Self> {
        todo!()
    }
    /// The archive key, by the first wrap that a provider can open; `Unauthorized` with a text that says which key is needed otherwise.
    pub async fn open(&self, _provider: &dyn KeyProvider, _aad: &[u8]) -> Result<ArchiveKey> {
        todo!()
    }
}
