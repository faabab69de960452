//! Names: of entries in a source, of objects at a destination, of archives.

use crate::{Error, Result};
use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// Every staged file or object that is not yet what it will be starts with this;
/// list and restore ignore such names, resume and sweep remove them.
pub const STAGE_PREFIX: &str = ".backup-tmp-";

/// The name of an entry as its source knows it: an object key, a relative path, `shop/orders/000003.bson`.
///
/// Any bytes but none at all; often UTF-8, never trusted as a path. In JSON a string, or
/// `{"b64": "…"}` when the bytes are not UTF-8. Names order by their bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryName(Bytes);

impl EntryName {
    /// A name of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes of the name, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The name as text if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl From<&str> for EntryName {
    fn from(s: &str) -> Self {
        Self(Bytes::copy_from_slice(s.as_bytes()))
    }
}

/// For people: control characters and bytes that are not UTF-8 are escaped, so that a hostile name
/// cannot write to a terminal.
impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Bytes in JSON: a string when they are UTF-8, else `{"b64": "…"}`.
pub(crate) mod text_or_base64 {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Base64 { b64: String },
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => s.serialize_str(text),
            Err(_) => {
                use serde::ser::SerializeMap;
                let mut map = s.serialize_map(Some(1))?;
                map.serialize_entry("b64", &base64::engine::general_purpose::STANDARD.encode(bytes))?;
                map.end()
            }
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        Ok(match Form::deserialize(d)? {
            Form::Text(text) => Bytes::from(text.into_bytes()),
            Form::Base64 { b64 } => {
                Bytes::from(base64::engine::general_purpose::STANDARD.decode(b64).map_err(serde::de::Error::custom)?)
            }
        })
    }
}

impl Serialize for EntryName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        text_or_base64::serialize(&self.0, s)
    }
}

impl<'de> Deserialize<'de> for EntryName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(text_or_base64::deserialize(d)?))
    }
}

/// The name of a group of entries that belong together, e.g. `shop.orders`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupName(pub Arc<str>);

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an object at a destination, relative to the destination's root.
///
/// Components of ASCII letters, digits, `.`, `_` and `-`, joined by `/`; no component is `.` or `..` or
/// starts with [`STAGE_PREFIX`]; at most 1,000 bytes. So every destination can store it as it is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(Arc<str>);

impl ObjectName {
    /// Checks the rules above.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorClass::Invalid) when the text breaks one.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        let part_ok = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && !part.starts_with(STAGE_PREFIX)
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if name.len() > 1000 || !name.split('/').all(part_ok) {
            return Err(Error::invalid("not a valid object name").on(name.escape_default()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name one level down.
    ///
    /// # Errors
    /// As [`ObjectName::new`].
    pub fn join(&self, below: &str) -> Result<Self> {
        Self::new(format!("{self}/{below}"))
    }

    /// The part after the last `/`.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ObjectName {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        Self::new(s)
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.0.to_string()
    }
}

/// The id of an archive: `20261120T061500Z-1a2b3c4d`, its start in UTC and 32 random bits,
/// so that ids sort by time.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArchiveId(Arc<str>);

impl ArchiveId {
    /// A new id for an archive that starts at `now`.
    pub fn generate(now: jiff::Timestamp) -> Self {
        Self(time_id(now).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `YYYYMMDDTHHMMSSZ-` and 8 hexadecimal digits.
pub(crate) fn time_id(now: jiff::Timestamp) -> String {
    format!("{}-{:08x}", now.strftime("%Y%m%dT%H%M%SZ"), rand::random::<u32>())
}

pub(crate) fn is_time_id(id: &str) -> bool {
    let pattern = b"00000000T000000Z-xxxxxxxx";
    id.len() == pattern.len()
        && id.bytes().zip(pattern).all(|(b, p)| match p {
            b'0' => b.is_ascii_digit(),
            b'x' => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
            p => b == *p,
        })
}

impl std::str::FromStr for ArchiveId {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        if is_time_id(s) {
            Ok(Self(s.into()))
        } else {
            Err(Error::invalid("not an archive id (such as 20261120T061500Z-1a2b3c4d)").on(s.escape_default()))
        }
    }
}

impl TryFrom<String> for ArchiveId {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<ArchiveId> for String {
    fn from(id: ArchiveId) -> Self {
        id.0.to_string()
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names_are_safe_everywhere() {
        for good in ["a", "20261120T061500Z-1a2b3c4d/data/00000000-1x7f3a9c.tar.zst", "a/.hidden"] {
            assert_eq!(ObjectName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "a/.",
            "ä",
            "a b",
            "a\\b",
            ".backup-tmp-x",
            "a/.backup-tmp-x",
            "a:b",
        ] {
            assert!(ObjectName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn entry_names_survive_json_and_do_not_reach_the_terminal_raw() {
        for bytes in [&b"plain"[..], "ünï".as_bytes(), b"\xff\xfe", b"a\nb\x1b[0m"] {
            let name = EntryName::new(bytes.to_vec());
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<EntryName>(&json).unwrap(), name);
            assert!(!name.to_string().contains(['\n', '\x1b']));
        }
    }

    #[test]
    fn archive_ids_parse_what_they_print() {
        let id = ArchiveId::generate(jiff::Timestamp::now());
        assert_eq!(id.as_str().parse::<ArchiveId>().unwrap(), id);
        assert!("../etc".parse::<ArchiveId>().is_err());
    }
}
