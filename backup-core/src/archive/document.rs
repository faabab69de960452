//! JSON documents that carry a checksum of their own bytes.
//!
//! The last member of such a document is `"sha256"`: the SHA-256 of all bytes before the comma in front of it. After it
//! come `}` and a line end. So a reader checks the very bytes, without agreeing with the writer on how JSON is written.

use crate::{Digest, Error, Result};
use serde::{Deserialize, Serialize};

const KEY: &[u8] = b",\"sha256\":\"";
const END: &[u8] = b"\"}\n";
const DIGITS: usize = 64;

/// What the checksum of a document says.
pub(super) enum Checksum {
    Right,
    Wrong,
    /// There is none where one should be: the document was cut off, or is of a format that we do not know.
    Absent,
}

/// The bytes of a document; `value` must be an object with at least one member.
pub(super) fn encode(value: &impl Serialize, what: &'static str) -> Result<Vec<u8>> {
    let mut out =
        serde_json::to_vec(value).map_err(|e| Error::invalid("cannot be written as JSON").on(what).because(e))?;
    out.pop();
    let digest = Digest::of(&out);
    out.extend_from_slice(KEY);
    out.extend_from_slice(digest.to_string().as_bytes());
    out.extend_from_slice(END);
    Ok(out)
}

/// Compares the checksum.
pub(super) fn checksum(bytes: &[u8]) -> Checksum {
    let stated = |bytes: &[u8]| {
        let (body, digits) = bytes.strip_suffix(END)?.split_last_chunk::<DIGITS>()?;
        let digest: Digest = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(body.strip_suffix(KEY).map(|body| Digest::of(body) == digest))
    };
    match stated(bytes).flatten() {
        Some(true) => Checksum::Right,
        Some(false) => Checksum::Wrong,
        None => Checksum::Absent,
    }
}

/// A document that must have a checksum, and the right one.
pub(super) fn check(bytes: &[u8], what: &'static str) -> Result<()> {
    match checksum(bytes) {
        Checksum::Right => Ok(()),
        Checksum::Wrong => Err(Error::corrupt("its checksum is wrong, it was changed").on(what)),
        Checksum::Absent => Err(Error::corrupt("it has no checksum at its end, it was cut off").on(what)),
    }
}

/// The reader version that this build is: it reads archives that ask for this version or less.
pub const READER_VERSION: u32 = 1;
/// The features that this build can read; format 1 has none.
const FEATURES: &[&str] = &[];

/// What decides whether the rest can be understood at all.
#[derive(Deserialize)]
struct Versions {
    min_reader: u32,
    features: Vec<String>,
}

/// Reads a document that says which reader it asks for: damage is `Corrupt`, a newer one `Unsupported`, whatever else it holds.
pub(super) fn parse_versioned<'de, T: Deserialize<'de>>(bytes: &'de [u8], what: &'static str) -> Result<T> {
    // A wrong checksum is damage. An absent one may be the way of a newer format, which then says so.
    if !matches!(checksum(bytes), Checksum::Wrong)
        && let Ok(versions) = serde_json::from_slice::<Versions>(bytes)
    {
        supported(&versions).map_err(|e| e.on(what))?;
    }
    check(bytes, what)?;
    members(bytes, what)
}

fn supported(versions: &Versions) -> Result<()> {
    let asked = versions.min_reader;
    if asked > READER_VERSION {
        return Err(Error::unsupported(format!(
            "this archive needs a newer version of this program: it asks for reader version {asked}, this is {READER_VERSION}"
        )));
    }
    match versions.features.iter().find(|feature| !FEATURES.contains(&feature.as_str())) {
        Some(unknown) => Err(Error::unsupported(format!(
            "this archive needs a newer version of this program: it uses the feature \"{}\"",
            unknown.escape_default()
        ))),
        None => Ok(()),
    }
}

/// Reads the members of a document; those that the type does not know are passed over.
pub(super) fn members<'de, T: Deserialize<'de>>(bytes: &'de [u8], what: &'static str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::corrupt("it cannot be read").on(what).because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = encode(&serde_json::json!({"a": "b"}), "test").unwrap();
        assert!(check(&bytes, "test").is_ok());
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(check(&changed, "test").is_err(), "byte {at}");
            assert!(check(&bytes[..at], "test").is_err(), "cut at {at}");
        }
    }
}
