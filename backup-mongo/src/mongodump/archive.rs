//! A dump that is one file: a header, the descriptions, then blocks of documents of several collections in turns.

use super::crc64::Crc64;
use super::input::{Piece, Take, is_full, open, read_document, read_head};
use crate::layout::BUCKETS_PREFIX;
use crate::restore_target::has_documents;
use backup_core::{Error, Result};
use mongodb::bson::RawDocument;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

const MAGIC: [u8; 4] = 0x8199_e26d_u32.to_le_bytes();
const TERMINATOR: [u8; 4] = [0xff; 4];

fn damaged() -> Error {
    Error::corrupt("it is no archive of mongodump, or a damaged one")
}

/// Whether a file begins as such an archive does.
pub(super) fn is_archive(path: &Path) -> Result<bool> {
    Ok(read_head(&mut open(path)?)? == Some(MAGIC))
}

fn text<'a>(document: &'a RawDocument, key: &str) -> Result<&'a str> {
    document.get_str(key).map_err(|e| damaged().because(e))
}

fn parse(bytes: &[u8]) -> Result<&RawDocument> {
    RawDocument::from_bytes(bytes).map_err(|e| damaged().because(e))
}

/// Reads the documents up to the next terminator; `None` at the end of the file.
fn block(reader: &mut dyn Read, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Option<()>> {
    let mut document = Vec::new();
    let mut any = false;
    loop {
        match read_head(reader)? {
            None if !any => return Ok(None),
            None => return Err(Error::corrupt("it is cut off")),
            Some(TERMINATOR) => return Ok(Some(())),
            Some(head) => {
                any = true;
                document.clear();
                read_document(reader, head, &mut document)?;
                each(&document)?;
            }
        }
    }
}

/// Reads an archive. Every collection has to come to its end, with the right checksum.
pub(super) fn walk(path: &Path, take: Take<'_>) -> Result<()> {
    walk_reader(&mut open(path)?, take).map_err(|e| e.on(path.display()))
}

fn walk_reader(reader: &mut dyn Read, take: Take<'_>) -> Result<()> {
    if read_head(reader)? != Some(MAGIC) {
        return Err(damaged());
    }
    let mut is_first = true;
    // Every collection that is declared comes to an end of its own, also a view and an empty one.
    let mut open: BTreeSet<(String, String)> = BTreeSet::new();
    // Of a time-series, that is the end of its buckets; newer servers show its documents under its own name.
    let mut series: BTreeSet<(String, String)> = BTreeSet::new();
    let headers = block(reader, &mut |document| {
        let document = parse(document)?;
        if std::mem::take(&mut is_first) {
            let version = text(document, "server_version")?;
            let tool = document.get_str("tool_version").unwrap_or_default();
            let prelude = serde_json::json!({ "ServerVersion": version, "ToolVersion": tool });
            return take(Piece::Prelude(prelude.to_string().into_bytes()));
        }
        let (database, collection) = (text(document, "db")?.to_owned(), text(document, "collection")?.to_owned());
        let namespace = (database.clone(), collection.clone());
        if database.is_empty() {
            open.insert(namespace);
            return Ok(());
        }
        let json = document.get_str("metadata").unwrap_or_default();
        let json = if json.is_empty() { "{}" } else { json }.as_bytes().to_vec();
        let is_series = document.get_str("type").is_ok_and(|kind| kind == "timeseries")
            || matches!(has_documents(&json), Ok(Some(true)));
        if is_series {
            series.insert(namespace)
        } else {
            open.insert(namespace)
        };
        take(Piece::Metadata { database, collection: Some(collection), json })
    })?;
    headers.ok_or_else(damaged)?;
    let mut sums: BTreeMap<(String, String), Crc64> = BTreeMap::new();
    loop {
        let (mut header, mut documents) = (None, Vec::new());
        let more = block(reader, &mut |document| {
            let Some((namespace, is_end, crc)) = &header else {
                let document = parse(document)?;
                let namespace = (text(document, "db")?.to_owned(), text(document, "collection")?.to_owned());
                let is_end = document.get_bool("EOF").map_err(|e| damaged().because(e))?;
                header = Some((namespace, is_end, document.get_i64("CRC").unwrap_or_default()));
                return Ok(());
            };
            let _ = crc;
            if *is_end {
                return Err(damaged());
            }
            sums.entry(namespace.clone()).or_default().add(document);
            documents.extend_from_slice(document);
            if is_full(documents.len()) { take(piece(namespace, std::mem::take(&mut documents))) } else { Ok(()) }
        })?;
        if more.is_none() {
            break;
        }
        let Some((namespace, is_end, crc)) = header else { return Err(damaged()) };
        if !documents.is_empty() {
            take(piece(&namespace, documents))?;
        }
        if is_end {
            open.remove(&namespace);
            let holder = namespace.1.strip_prefix(BUCKETS_PREFIX).unwrap_or(&namespace.1).to_owned();
            series.remove(&(namespace.0.clone(), holder));
            let sum = sums.remove(&namespace).map_or(0, Crc64::value);
            if sum != crc.cast_unsigned() {
                let text = "the checksum of its documents is not the recorded one";
                return Err(Error::corrupt(text).on(format!("{}.{}", namespace.0, namespace.1)));
            }
        } else {
            open.insert(namespace);
        }
    }
    match open.into_iter().chain(series).next() {
        Some((database, collection)) => {
            Err(Error::corrupt(format!("it is cut off: {database}.{collection} has no end")))
        }
        None => Ok(()),
    }
}

fn piece((database, collection): &(String, String), documents: Vec<u8>) -> Piece {
    if database.is_empty() && collection == "oplog" {
        Piece::Oplog(documents)
    } else {
        Piece::Documents { database: database.clone(), holder: collection.clone(), documents }
    }
}
