//! A dump that is a directory: `DATABASE/COLLECTION.bson` and `DATABASE/COLLECTION.metadata.json`, both perhaps with `.gz`.

use super::input::{Piece, Take, Wants, open, read_documents, read_small};
use crate::restore_target::unescape;
use backup_core::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of a collection.
#[derive(Debug, Default)]
struct Files {
    metadata: Option<PathBuf>,
    documents: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default, rename = "collectionName")]
    name: Option<String>,
}

/// What a file of a dump is, by its name.
fn stem(name: &str) -> Option<(&str, bool)> {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.strip_suffix(".metadata.json")
        .map(|stem| (stem, true))
        .or_else(|| name.strip_suffix(".bson").map(|stem| (stem, false)))
}

fn list(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |e| Error::io(e, "cannot list the directory").on(path.display());
    let mut items = Vec::new();
    for item in std::fs::read_dir(path).map_err(failed)? {
        let item = item.map_err(failed)?;
        match item.file_name().into_string() {
            Ok(name) => items.push((name, item.path())),
            Err(name) => return Err(Error::invalid("no dump has a file of this name").on(name.display())),
        }
    }
    items.sort();
    Ok(items)
}

/// Reads a dump.
pub(super) fn walk(root: &Path, wants: Wants<'_>, take: Take<'_>) -> Result<()> {
    let items = list(root)?;
    // In the directory of one database it may be a collection of this name, which then is described beside it.
    let is_described =
        items.iter().any(|(name, _)| matches!(&**name, "oplog.metadata.json" | "oplog.metadata.json.gz"));
    let is_oplog = |name: &str| !is_described && matches!(name, "oplog.bson" | "oplog.bson.gz");
    let is_prelude = |name: &str| matches!(name, "prelude.json" | "prelude.json.gz");
    let is_collection = |(name, path): &&(String, PathBuf)| stem(name).is_some() && !is_oplog(name) && path.is_file();
    let mut databases: Vec<(String, PathBuf)> = Vec::new();
    if items.iter().any(|item| is_collection(&item)) {
        // The directory of one database.
        let name = root.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let name = name.ok_or_else(|| Error::invalid("its name cannot be that of a database").on(root.display()))?;
        databases.push((name, root.to_owned()));
    }
    databases.extend(items.iter().filter(|(_, path)| path.is_dir()).cloned());
    if let Some((_, path)) = items.iter().find(|(name, _)| is_prelude(name)) {
        take(Piece::Prelude(read_small(path)?))?;
    }
    for (database, path) in databases {
        let is_root = path == root;
        walk_database(&database, &path, &|name| is_root && is_oplog(name), wants, take)?;
    }
    if let Some((_, path)) = items.iter().find(|(name, path)| is_oplog(name) && path.is_file())
        && wants(None)
    {
        read_documents(&mut open(path)?, &mut |entries| take(Piece::Oplog(entries)))
            .map_err(|e| e.on(path.display()))?;
    }
    Ok(())
}

fn walk_database(
    database: &str,
    path: &Path,
    is_oplog: &dyn Fn(&str) -> bool,
    wants: Wants<'_>,
    take: Take<'_>,
) -> Result<()> {
    let mut collections: BTreeMap<String, Files> = BTreeMap::new();
    for (name, path) in list(path)? {
        let Some((stem, is_metadata)) = stem(&name).filter(|_| path.is_file() && !is_oplog(&name)) else {
            continue;
        };
        let files = collections.entry(stem.to_owned()).or_default();
        if is_metadata { files.metadata = Some(path) } else { files.documents = Some(path) }
    }
    for (stem, Files { metadata, documents }) in collections {
        let mut name = None;
        let mut json = None;
        if let Some(path) = metadata {
            let content = read_small(&path)?;
            let named: Named = serde_json::from_slice(&content)
                .map_err(|e| Error::corrupt("it is no description of a collection").on(path.display()).because(e))?;
            // The file's name may have been cut.
            name = named.name;
            json = Some(content);
        }
        let odd = || Error::invalid("its name cannot be that of a collection's file").on(&stem);
        let name = match name {
            Some(name) => name,
            None => unescape(&stem).ok_or_else(odd)?,
        };
        if let Some(json) = json {
            take(Piece::Metadata { database: database.to_owned(), collection: Some(name.clone()), json })?;
        }
        if let Some(path) = documents
            && wants(Some((database, &name)))
        {
            let mut give =
                |documents| take(Piece::Documents { database: database.to_owned(), holder: name.clone(), documents });
            read_documents(&mut open(&path)?, &mut give).map_err(|e| e.on(path.display()))?;
        }
    }
    Ok(())
}
