//! What a dump is made of, whatever its form, and how its files are read.

use crate::documents::{MAX_DOCUMENT, document_length};
use backup_core::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// Documents are handed out in pieces of about so many bytes.
const PIECE: usize = 4 << 20;
/// A description is never longer.
const MAX_JSON: u64 = 64 << 20;

/// A part of a dump.
#[derive(Debug)]
pub(super) enum Piece {
    /// `prelude.json`.
    Prelude(Vec<u8>),
    /// A collection's description; the name is what the place of the description says, and may be cut.
    Metadata { database: String, collection: Option<String>, json: Vec<u8> },
    /// Whole documents of a collection.
    Documents { database: String, holder: String, documents: Vec<u8> },
    /// Whole entries of the oplog.
    Oplog(Vec<u8>),
}

/// Takes the pieces of a dump; an error ends the reading.
pub(super) type Take<'a> = &'a mut dyn FnMut(Piece) -> Result<()>;

/// Whether documents are wanted: of a database and the collection that holds them, or, without one, of the oplog.
pub(super) type Wants<'a> = &'a dyn Fn(Option<(&str, &str)>) -> bool;

/// Opens a file, which is unpacked if it is gzip, whatever its name says.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    let failed = |e| Error::io(e, "cannot read the file").on(path.display());
    let mut file = BufReader::with_capacity(256 << 10, File::open(path).map_err(failed)?);
    let is_gzip = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    if is_gzip {
        Ok(Box::new(BufReader::with_capacity(256 << 10, MultiGzDecoder::new(file))))
    } else {
        Ok(Box::new(file))
    }
}

pub(super) fn read_error(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::corrupt("it is cut off").because(error),
        _ => Error::io(error, "it cannot be read"),
    }
}

/// Reads a whole small file.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.take(MAX_JSON + 1).read_to_end(&mut content).map_err(|e| read_error(e).on(path.display()))?;
    if content.len() as u64 > MAX_JSON {
        return Err(Error::corrupt("it is too long").on(path.display()));
    }
    Ok(content)
}

/// The first four bytes of what comes next; `None` at the end.
pub(super) fn read_head(reader: &mut dyn Read) -> Result<Option<[u8; 4]>> {
    let mut head = [0; 4];
    let mut filled = 0;
    while filled < 4 {
        match reader.read(&mut head[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(Error::corrupt("it is cut off")),
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(read_error(e)),
        }
    }
    Ok(Some(head))
}

/// Reads the rest of a document behind its head, and appends all of it.
pub(super) fn read_document(reader: &mut dyn Read, head: [u8; 4], into: &mut Vec<u8>) -> Result<()> {
    let length = document_length(head)?;
    debug_assert!(length <= MAX_DOCUMENT);
    let start = into.len();
    into.extend_from_slice(&head);
    into.resize(start + length, 0);
    reader.read_exact(&mut into[start + 4..]).map_err(read_error)?;
    if into.last() == Some(&0) { Ok(()) } else { Err(Error::corrupt("it holds what is no document")) }
}

/// Reads documents up to the end, and hands them out in pieces.
pub(super) fn read_documents(reader: &mut dyn Read, give: &mut dyn FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
    let mut piece = Vec::new();
    while let Some(head) = read_head(reader)? {
        let length = document_length(head)?;
        if !piece.is_empty() && piece.len() + length > PIECE {
            give(std::mem::take(&mut piece))?;
        }
        read_document(reader, head, &mut piece)?;
    }
    if piece.is_empty() { Ok(()) } else { give(piece) }
}

/// Whether a piece of this length is long enough to be handed out.
pub(super) fn is_full(length: usize) -> bool {
    length >= PIECE
}
