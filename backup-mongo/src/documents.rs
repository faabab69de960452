//! Walks over raw documents without decoding them: invalid UTF-8 and repeated keys are left as they are.
//! The format is specified at <https://bsonspec.org/spec.html>.

use backup_core::{Error, Result};
use mongodb::bson::RawDocumentBuf;

/// The largest document that a server may hold: 16 MiB, and 16 KiB for what it adds to its own.
pub(crate) const MAX_DOCUMENT: usize = (16 << 20) + (16 << 10);

/// The kind of an embedded document.
const DOCUMENT: u8 = 0x03;
const TIMESTAMP: u8 = 0x11;

fn damaged() -> Error {
    Error::corrupt("it is not a sequence of BSON documents")
}

/// Documents one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Documents<'a> {
    rest: &'a [u8],
}

impl<'a> Documents<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Documents<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match document_at(self.rest) {
            Ok(document) => {
                self.rest = &self.rest[document.len()..];
                Some(Ok(document))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

/// The length that a document's first four bytes name, if it can be one.
pub(crate) fn document_length(first: [u8; 4]) -> Result<usize> {
    usize::try_from(i32::from_le_bytes(first)).ok().filter(|n| (5..=MAX_DOCUMENT).contains(n)).ok_or_else(damaged)
}

fn document_at(bytes: &[u8]) -> Result<&[u8]> {
    let first = bytes.first_chunk().ok_or_else(damaged)?;
    let document = bytes.get(..document_length(*first)?).ok_or_else(damaged)?;
    if document.last() == Some(&0) { Ok(document) } else { Err(damaged()) }
}

/// One element of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    /// The type's number.
    pub(crate) kind: u8,
    /// The name, without its NUL.
    pub(crate) name: &'a [u8],
    /// The value's bytes.
    pub(crate) value: &'a [u8],
}

/// The elements of a document, not of those inside it.
#[derive(Clone, Debug)]
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub(crate) fn new(document: &'a [u8]) -> Self {
        Self { rest: document.get(4..document.len().saturating_sub(1)).unwrap_or_default() }
    }

    fn element(&mut self) -> Option<Element<'a>> {
        let (kind, rest) = self.rest.split_first()?;
        let end = rest.iter().position(|b| *b == 0)?;
        let (name, rest) = (&rest[..end], &rest[end + 1..]);
        let value = rest.get(..value_length(*kind, rest)?)?;
        self.rest = &rest[value.len()..];
        Some(Element { kind: *kind, name, value })
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = self.element();
        if element.is_none() {
            self.rest = &[];
        }
        Some(element.ok_or_else(damaged))
    }
}

fn value_length(kind: u8, rest: &[u8]) -> Option<usize> {
    let prefixed = || usize::try_from(i32::from_le_bytes(*rest.first_chunk()?)).ok();
    let c_string = |rest: &[u8]| rest.iter().position(|b| *b == 0).map(|n| n + 1);
    Some(match kind {
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x08 => 1,
        0x10 => 4,
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x07 => 12,
        0x13 => 16,
        0x02 | 0x0d | 0x0e => prefixed()?.checked_add(4)?,
        0x03 | 0x04 | 0x0f => prefixed()?,
        0x05 => prefixed()?.checked_add(5)?,
        0x0b => {
            let pattern = c_string(rest)?;
            pattern.checked_add(c_string(rest.get(pattern..)?)?)?
        }
        0x0c => prefixed()?.checked_add(16)?,
        _ => return None,
    })
}

/// The `_id` of a document.
pub(crate) fn id_of(document: &[u8]) -> Result<Option<Element<'_>>> {
    for element in Elements::new(document) {
        let element = element?;
        if element.name == b"_id" {
            return Ok(Some(element));
        }
    }
    Ok(None)
}

/// Whether an element is a timestamp that a server replaces by the present time when it is inserted.
pub(crate) fn is_empty_timestamp(element: &Element<'_>) -> bool {
    element.kind == TIMESTAMP && element.value == [0; 8] && element.name != b"_id"
}

/// Builds a document out of raw parts.
#[derive(Debug)]
pub(crate) struct Builder {
    bytes: Vec<u8>,
    /// Where the open documents begin.
    open: Vec<usize>,
}

impl Builder {
    pub(crate) fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.saturating_add(64));
        bytes.extend([0; 4]);
        Self { bytes, open: vec![0] }
    }

    fn head(&mut self, kind: u8, name: &str) {
        self.bytes.push(kind);
        // A name with a NUL byte would end there; no caller has one.
        self.bytes.extend(name.bytes().take_while(|b| *b != 0));
        self.bytes.push(0);
    }

    pub(crate) fn element(&mut self, name: &str, kind: u8, value: &[u8]) -> &mut Self {
        self.head(kind, name);
        self.bytes.extend_from_slice(value);
        self
    }

    pub(crate) fn document(&mut self, name: &str, document: &[u8]) -> &mut Self {
        self.element(name, DOCUMENT, document)
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.head(0x02, name);
        self.bytes.extend((text.len() as i32 + 1).to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self
    }

    pub(crate) fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.element(name, 0x08, &[u8::from(value)])
    }

    pub(crate) fn number(&mut self, name: &str, value: i32) -> &mut Self {
        self.element(name, 0x10, &value.to_le_bytes())
    }

    pub(crate) fn open_document(&mut self, name: &str) -> &mut Self {
        self.head(DOCUMENT, name);
        self.begin()
    }

    pub(crate) fn open_array(&mut self, name: &str) -> &mut Self {
        self.head(0x04, name);
        self.begin()
    }

    fn begin(&mut self) -> &mut Self {
        self.open.push(self.bytes.len());
        self.bytes.extend([0; 4]);
        self
    }

    /// Ends the document or array that was opened last.
    pub(crate) fn close(&mut self) -> &mut Self {
        self.bytes.push(0);
        if let Some(start) = self.open.pop() {
            let length = (self.bytes.len() - start) as i32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
        self
    }

    /// Ends everything that is open.
    pub(crate) fn finish(mut self) -> Result<RawDocumentBuf> {
        while !self.open.is_empty() {
            self.close();
        }
        RawDocumentBuf::from_bytes(self.bytes).map_err(|e| Error::invalid("not a document").because(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::ErrorClass;
    use mongodb::bson::{Bson, Decimal128, JavaScriptCodeWithScope, Regex, Timestamp, doc, oid::ObjectId, rawdoc};

    fn bytes(document: &mongodb::bson::Document) -> Vec<u8> {
        mongodb::bson::RawDocumentBuf::try_from(document).unwrap().into_bytes()
    }

    #[test]
    fn every_type_is_walked_over() {
        let scope = JavaScriptCodeWithScope { code: "f()".into(), scope: doc! { "x": 1 } };
        let regex = Regex { pattern: "^a".try_into().unwrap(), options: "i".try_into().unwrap() };
        let document = doc! {
            "double": 1.5, "text": "ü", "document": { "a": 1 }, "array": [1, "x"], "bool": true, "null": null,
            "binary": mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![1, 2] },
            "undefined": Bson::Undefined, "id": ObjectId::new(), "date": mongodb::bson::DateTime::now(),
            "regex": regex, "code": Bson::JavaScriptCode("f()".into()), "symbol": Bson::Symbol("s".into()),
            "scope": scope, "i32": 1, "ts": Timestamp { time: 0, increment: 0 }, "i64": 1_i64,
            "decimal": "1.5".parse::<Decimal128>().unwrap(), "min": Bson::MinKey, "max": Bson::MaxKey, "_id": 7,
        };
        let raw = bytes(&document);
        let names: Vec<_> = Elements::new(&raw).map(|e| String::from_utf8(e.unwrap().name.to_vec()).unwrap()).collect();
        assert_eq!(names, document.keys().cloned().collect::<Vec<_>>());
        assert_eq!(id_of(&raw).unwrap().unwrap().value, 7_i32.to_le_bytes());
        let zero: Vec<_> = Elements::new(&raw).filter(|e| is_empty_timestamp(e.as_ref().unwrap())).collect();
        assert_eq!(zero.len(), 1);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let raw = bytes(&doc! { "_id": 1, "text": "some text", "inner": { "a": [1, 2, 3] } });
        let two = [&raw[..], &raw[..]].concat();
        assert_eq!(Documents::new(&two).map(|d| d.unwrap().len()).sum::<usize>(), two.len());
        for length in 0..two.len() {
            let ok = Documents::new(&two[..length]).all(|d| d.is_ok());
            assert_eq!(ok, length == 0 || length == raw.len(), "{length}");
        }
        for at in 0..raw.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = raw.clone();
                bad[at] = value;
                for document in Documents::new(&bad).flatten() {
                    Elements::new(document).for_each(drop);
                }
            }
        }
        for length in [i32::MIN, -1, 0, 4, i32::MAX] {
            assert_eq!(document_length(length.to_le_bytes()).unwrap_err().class(), ErrorClass::Corrupt);
        }
    }

    #[test]
    fn what_is_built_is_what_the_driver_would_build() {
        let inner = rawdoc! { "x": 1 };
        let mut builder = Builder::new(0);
        builder
            .text("insert", "ünï")
            .boolean("ordered", false)
            .open_document("writeConcern")
            .text("w", "majority")
            .close();
        builder.open_array("documents").document("0", inner.as_bytes()).close().number("n", 5);
        let expected = rawdoc! {
            "insert": "ünï", "ordered": false, "writeConcern": { "w": "majority" }, "documents": [{ "x": 1 }], "n": 5,
        };
        assert_eq!(builder.finish().unwrap(), expected);
    }
}
