//! Canonical Extended JSON (version 2, specified at <https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/>), as
//! `mongodump` writes metadata. Written from raw documents, so that the order of keys stays.

use backup_core::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mongodb::bson::{RawArray, RawBsonRef, RawDocument};
use std::fmt::Write as _;

/// A document as canonical Extended JSON, without white space.
///
/// # Errors
/// `Corrupt` when the document is damaged or a text in it is not UTF-8.
pub fn canonical_json(document: &RawDocument) -> Result<String> {
    let mut out = String::new();
    write_document(document, &mut out)?;
    Ok(out)
}

/// An array as canonical Extended JSON.
///
/// # Errors
/// As [`canonical_json`].
pub(crate) fn write_array(array: &RawArray, out: &mut String) -> Result<()> {
    out.push('[');
    for (n, value) in array.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        write_value(value.map_err(damaged)?, out)?;
    }
    out.push(']');
    Ok(())
}

pub(crate) fn write_document(document: &RawDocument, out: &mut String) -> Result<()> {
    out.push('{');
    for (n, element) in document.iter().enumerate() {
        let (key, value) = element.map_err(damaged)?;
        if n > 0 {
            out.push(',');
        }
        write_text(key.as_str(), out);
        out.push(':');
        write_value(value, out)?;
    }
    out.push('}');
    Ok(())
}

fn damaged(error: mongodb::bson::error::Error) -> Error {
    Error::corrupt("the document is damaged").because(error)
}

pub(crate) fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || matches!(c, '\u{2028}' | '\u{2029}') => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn write_value(value: RawBsonRef<'_>, out: &mut String) -> Result<()> {
    use RawBsonRef as B;
    let mut wrapped = |key: &str, text: &str| {
        out.push('{');
        write_text(key, out);
        out.push(':');
        write_text(text, out);
        out.push('}');
    };
    match value {
        B::Double(number) => wrapped("$numberDouble", &double(number)),
        B::Int32(number) => wrapped("$numberInt", &number.to_string()),
        B::Int64(number) => wrapped("$numberLong", &number.to_string()),
        B::Decimal128(number) => wrapped("$numberDecimal", &number.to_string()),
        B::ObjectId(id) => wrapped("$oid", &id.to_hex()),
        B::Symbol(text) => wrapped("$symbol", text),
        B::JavaScriptCode(text) => wrapped("$code", text),
        B::String(text) => write_text(text, out),
        B::Boolean(truth) => out.push_str(if truth { "true" } else { "false" }),
        B::Null => out.push_str("null"),
        B::Undefined => out.push_str(r#"{"$undefined":true}"#),
        B::MinKey => out.push_str(r#"{"$minKey":1}"#),
        B::MaxKey => out.push_str(r#"{"$maxKey":1}"#),
        B::Document(document) => write_document(document, out)?,
        B::Array(array) => write_array(array, out)?,
        B::Binary(binary) => {
            let text = STANDARD.encode(binary.bytes);
            let _ = write!(out, r#"{{"$binary":{{"base64":"{text}","subType":"{:02x}"}}}}"#, u8::from(binary.subtype));
        }
        B::DateTime(time) => {
            let _ = write!(out, r#"{{"$date":{{"$numberLong":"{}"}}}}"#, time.timestamp_millis());
        }
        B::Timestamp(time) => {
            let _ = write!(out, r#"{{"$timestamp":{{"t":{},"i":{}}}}}"#, time.time, time.increment);
        }
        B::RegularExpression(regex) => {
            out.push_str(r#"{"$regularExpression":{"pattern":"#);
            write_text(regex.pattern.as_str(), out);
            out.push_str(r#","options":"#);
            write_text(regex.options.as_str(), out);
            out.push_str("}}");
        }
        B::JavaScriptCodeWithScope(code) => {
            out.push_str(r#"{"$code":"#);
            write_text(code.code, out);
            out.push_str(r#","$scope":"#);
            write_document(code.scope, out)?;
            out.push('}');
        }
        // The fields of such a value are private to the driver; no server accepts it in options or indexes.
        B::DbPointer(_) => return Err(Error::unsupported("a DBPointer in options or indexes of a collection")),
    }
    Ok(())
}

/// The shortest text that gives the number back: with an exponent below 1e-4 and from 1e21 on.
fn double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) { format!("{number:E}") } else { format!("{number:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Bson, Decimal128, Regex, Timestamp, doc, oid::ObjectId, spec::BinarySubtype};

    #[test]
    fn every_type_has_its_canonical_form() {
        let document = doc! {
            "z": 1, "a": 2i64, "d": 1.0, "e": 1e30, "n": f64::NAN, "i": f64::NEG_INFINITY,
            "s": "q\"\\\n\u{1}ü", "t": true, "0": Bson::Null,
            "o": ObjectId::from_bytes([1; 12]),
            "b": mongodb::bson::Binary { subtype: BinarySubtype::Uuid, bytes: vec![0xff; 3] },
            "x": mongodb::bson::DateTime::from_millis(-5),
            "ts": Timestamp { time: 7, increment: 8 },
            "re": Regex { pattern: mongodb::bson::raw::CString::try_from("^a/").unwrap(),
                          options: mongodb::bson::raw::CString::try_from("i").unwrap() },
            "c": Bson::JavaScriptCode("f()".into()),
            "dec": "1.50".parse::<Decimal128>().unwrap(),
            "min": Bson::MinKey, "max": Bson::MaxKey,
            "arr": [1, { "k": 2 }],
        };
        let raw = mongodb::bson::RawDocumentBuf::try_from(&document).unwrap();
        let expected = concat!(
            r#"{"z":{"$numberInt":"1"},"a":{"$numberLong":"2"},"d":{"$numberDouble":"1.0"},"e":{"$numberDouble":"1E30"},"#,
            r#""n":{"$numberDouble":"NaN"},"i":{"$numberDouble":"-Infinity"},"s":"q\"\\\n\u0001ü","t":true,"0":null,"#,
            r#""o":{"$oid":"010101010101010101010101"},"b":{"$binary":{"base64":"////","subType":"04"}},"#,
            r#""x":{"$date":{"$numberLong":"-5"}},"ts":{"$timestamp":{"t":7,"i":8}},"#,
            r#""re":{"$regularExpression":{"pattern":"^a/","options":"i"}},"c":{"$code":"f()"},"#,
            r#""dec":{"$numberDecimal":"1.50"},"min":{"$minKey":1},"max":{"$maxKey":1},"#,
            r#""arr":[{"$numberInt":"1"},{"k":{"$numberInt":"2"}}]}"#,
        );
        assert_eq!(canonical_json(&raw).unwrap(), expected);
        serde_json::from_str::<serde_json::Value>(expected).unwrap();
    }
}
