//! Reads the slices of a plan's oplog, an entry at a time.

use super::super::Shared;
use super::super::learn::Learned;
use super::reader::{Reader, Step};
use crate::documents::Documents;
use crate::layout::Item;
use backup_core::adapter::{RestorePlan, SmallEntry};
use backup_core::model::{Entry, EntryName};
use backup_core::{Error, Result};
use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use mongodb::bson::RawDocument;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The oplog of a plan.
pub(super) struct Log {
    slices: BoxStream<'static, Result<SmallEntry>>,
    reader: Reader,
    /// Where each database goes.
    databases: BTreeMap<String, String>,
    /// What is left of the slice that was read last.
    rest: Bytes,
    name: Option<EntryName>,
}

impl Log {
    /// What the next entry does; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Step>>> {
        while self.rest.is_empty() {
            let Some(slice) = self.slices.try_next().await? else { return Ok(None) };
            (self.rest, self.name) = (slice.content, Some(slice.entry.name));
        }
        self.entry().map(Some).map_err(|e| match &self.name {
            Some(name) => e.on(name),
            None => e,
        })
    }

    fn entry(&mut self) -> Result<Vec<Step>> {
        let rest = self.rest.clone();
        let Some(entry) = Documents::new(&rest).next().transpose()? else { return Ok(Vec::new()) };
        self.rest.advance(entry.len());
        let entry = RawDocument::from_bytes(entry)
            .map_err(|e| Error::corrupt("an entry of the oplog is damaged").because(e))?;
        let mut steps = Vec::new();
        self.reader.entry(entry, &|database| self.databases.get(database).cloned(), &mut steps)?;
        Ok(steps)
    }
}

impl Shared {
    /// The oplog of a plan, from its beginning.
    pub(super) fn log(&self, plan: &RestorePlan, learned: &Learned) -> Log {
        let restored = learned.collections.values().filter(|c| c.trouble.is_none() && !c.is_of_users);
        let databases = restored.filter_map(|c| Some((c.group.split_once('.')?.0.to_owned(), c.database.clone())));
        let is_oplog = |entry: &Entry| matches!(Item::parse(&entry.name), Some(Item::Oplog { .. }));
        Log {
            slices: plan.entries.contents(Arc::new(is_oplog)),
            reader: Reader::default(),
            databases: databases.collect(),
            rest: Bytes::new(),
            name: None,
        }
    }
}
