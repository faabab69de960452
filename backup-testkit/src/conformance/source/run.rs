//! A run through a source, and what it must bring.

use super::fixture::{KnownItem, SourcePlace};
use crate::conformance::suite::{collect, ensure, given};
use crate::conformance::{Outcome, Stop};
use backup_core::adapter::{Content, Cursor, ReadContext, Source, SourceEvent, Version};
use backup_core::budget::ByteBudget;
use backup_core::limit::RateLimit;
use backup_core::model::{EntryKind, EntryName, GroupName};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A context without bounds that matter.
pub(super) fn context() -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(512 << 20),
        limit: RateLimit::default(),
        stop: CancellationToken::new(),
        excluded: Arc::new([]),
    }
}

/// An entry as it was delivered, with its content.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: EntryName,
    pub(super) kind: EntryKind,
    pub(super) group: Option<GroupName>,
    pub(super) content: Option<Bytes>,
    pub(super) cursor: Cursor,
}

/// What a source has delivered, in one run or several that went on from each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub(super) entries: Vec<Seen>,
    pub(super) warned: BTreeSet<EntryName>,
    pub(super) superseded: bool,
}

impl Run {
    /// Everything from the start.
    pub(super) async fn whole(source: &Arc<dyn Source>) -> Outcome<Self> {
        let mut run = Self::default();
        run.go_on(source, None, &context()).await?;
        Ok(run)
    }

    /// What follows a cursor, with all content.
    pub(super) async fn go_on(
        &mut self,
        source: &Arc<dyn Source>,
        after: Option<Cursor>,
        ctx: &ReadContext,
    ) -> Outcome {
        let mut events = source.clone().events(after, ctx.clone());
        while let Some(event) = events.next().await.transpose()? {
            self.take(source, event, ctx).await?;
        }
        Ok(())
    }

    pub(super) async fn take(&mut self, source: &Arc<dyn Source>, event: SourceEvent, ctx: &ReadContext) -> Outcome {
        match event {
            SourceEvent::Entry(entry) => {
                let content = match &entry.content {
                    Content::None => None,
                    Content::Inline { bytes, .. } => Some(bytes.clone()),
                    Content::Stored { size, version } => {
                        let opened = source.read(&entry.name, version.as_ref(), 0..*size, ctx).await?;
                        let content = collect(opened.content).await?;
                        let length = content.len() as u64;
                        ensure!(length == *size, "{}: {length} bytes were read of {size}", entry.name);
                        Some(content.into())
                    }
                };
                self.entries.push(Seen {
                    name: entry.name.clone(),
                    kind: entry.kind.clone(),
                    group: entry.group.clone(),
                    content,
                    cursor: entry.cursor.clone(),
                });
            }
            SourceEvent::Supersede { group } => {
                self.superseded = true;
                self.entries.retain(|seen| seen.group.as_ref() != Some(&group));
            }
            SourceEvent::Warning(warning) => self.warned.extend(warning.name),
            SourceEvent::Facts(_) => {}
        }
        Ok(())
    }

    pub(super) fn names(&self) -> Vec<EntryName> {
        self.entries.iter().map(|seen| seen.name.clone()).collect()
    }

    /// Whether this is everything that is there.
    pub(super) fn check(&self, items: &[KnownItem]) -> Outcome {
        self.check_without(items, &[])
    }

    /// Whether this is everything that is there but for some entries.
    pub(super) fn check_without(&self, items: &[KnownItem], without: &[EntryName]) -> Outcome {
        let mut by_name: BTreeMap<&EntryName, &Seen> = BTreeMap::new();
        for seen in &self.entries {
            ensure!(by_name.insert(&seen.name, seen).is_none(), "{} was delivered twice", seen.name);
            ensure!(!without.contains(&seen.name), "{} was delivered", seen.name);
        }
        let mut left: BTreeSet<&EntryName> = by_name.keys().copied().collect();
        for item in items {
            match item {
                KnownItem::Entry { name, .. } if without.contains(name) => {}
                KnownItem::Entry { name, kind, content } => {
                    let seen = found(by_name.get(name).copied(), name)?;
                    ensure!(seen.kind == *kind, "{name} is {:?} instead of {kind:?}", seen.kind);
                    ensure!(seen.content == *content, "{name} has another content");
                    left.remove(name);
                }
                KnownItem::Group { name, content } => {
                    let of_group = self.entries.iter().filter(|seen| seen.group.as_ref() == Some(name));
                    let mut all = Vec::new();
                    for seen in of_group {
                        all.extend_from_slice(seen.content.as_deref().unwrap_or_default());
                        left.remove(&seen.name);
                    }
                    ensure!(all == *content, "group {name}: the slices are not its content");
                }
                KnownItem::Skipped { name } => {
                    ensure!(self.warned.contains(name), "no warning names {name}");
                    ensure!(!by_name.contains_key(name), "{name} was delivered");
                }
            }
        }
        ensure!(left.is_empty(), "delivered, though it is not there: {left:?}");
        Ok(())
    }
}

fn found<'a>(seen: Option<&'a Seen>, name: &EntryName) -> Outcome<&'a Seen> {
    seen.ok_or_else(|| Stop::Failed(format!("{name} was not delivered")))
}

/// An entry whose content is fetched by `read`, as it was listed.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: EntryName,
    pub(super) size: u64,
    pub(super) version: Option<Version>,
    /// The content that the fixture put there.
    pub(super) content: Bytes,
}

/// The largest entry of at least `size` bytes whose content is fetched by `read`; the case is skipped when there is none.
pub(super) async fn stored(place: &dyn SourcePlace, at_least: u64) -> Outcome<Listed> {
    let items = place.items();
    let mut best: Option<Listed> = None;
    let mut events = place.source().events(None, context());
    while let Some(event) = events.next().await.transpose()? {
        let SourceEvent::Entry(entry) = event else { continue };
        let Content::Stored { size, version } = entry.content else { continue };
        let known = items.iter().find_map(|item| match item {
            KnownItem::Entry { name, content: Some(content), .. } if *name == entry.name => Some(content.clone()),
            _ => None,
        });
        if let Some(content) = known.filter(|_| size >= at_least && best.as_ref().is_none_or(|best| size > best.size)) {
            best = Some(Listed { name: entry.name, size, version, content });
        }
    }
    given(best, "the fixture has no item of this size that is fetched by read")
}
