//! A collection of the plan, and where it goes.

use super::metadata::{Kind, Metadata};
use crate::layout::BUCKETS_PREFIX;
use backup_core::adapter::Written;
use backup_core::model::EntryName;
use backup_core::{Error, ErrorClass, Result};
use mongodb::bson::Uuid;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OnceCell;

/// A collection of the plan.
#[derive(Debug)]
pub(super) struct Collection {
    /// `database.collection` in the archive.
    pub(super) group: String,
    /// The database that it goes to.
    pub(super) database: String,
    /// Its name there.
    pub(super) name: String,
    pub(super) metadata: Metadata,
    /// It holds users or roles, which are merged and not written.
    pub(super) is_of_users: bool,
    /// Why it is not restored.
    pub(super) trouble: Option<(ErrorClass, String)>,
    /// Name and size of the entry that describes it.
    pub(super) description: Option<(EntryName, u64)>,
    /// Its slices: how many, …
    pub(super) slices: u64,
    /// … the number behind the last of them, …
    pub(super) next: u64,
    /// … and how long they are together.
    pub(super) bytes: u64,
    /// The first slice.
    pub(super) first: Option<EntryName>,
    /// What is there, once it was looked at.
    pub(super) place: OnceCell<Place>,
}

/// What is at the place of a collection.
#[derive(Debug)]
pub(super) enum Place {
    /// A collection that this restore has made, in this process or another one.
    Ours {
        uuid: Uuid,
        /// What became of the place; told once.
        how: Written,
        told: AtomicBool,
    },
    /// Something else, which stays.
    Taken,
}

impl Place {
    pub(super) fn ours(uuid: Uuid, how: Written) -> Self {
        Self::Ours { uuid, how, told: AtomicBool::new(false) }
    }

    /// What to answer for the collection's description.
    pub(super) fn answer(&self) -> Result<Written> {
        match self {
            Self::Ours { how, told, .. } if !told.swap(true, Ordering::Relaxed) => Ok(*how),
            Self::Ours { .. } => Ok(Written::AlreadyThere),
            Self::Taken => Err(taken()),
        }
    }
}

pub(super) fn taken() -> Error {
    Error::conflict("a collection or view of this name is there already (it stays, unless the restore may overwrite)")
}

impl Collection {
    /// One that was made while the backup ran, so that the archive has no entries of it.
    pub(super) fn late(from: &str, database: &str, name: &str, metadata: Metadata) -> Self {
        Self {
            group: format!("{from}.{name}"),
            database: database.to_owned(),
            name: name.to_owned(),
            metadata,
            is_of_users: false,
            trouble: None,
            description: None,
            slices: 0,
            next: 0,
            bytes: 0,
            first: None,
            place: OnceCell::new(),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.metadata.kind()
    }

    /// The collection that holds its documents.
    pub(super) fn holder(&self) -> String {
        match self.kind() {
            Kind::TimeSeries => format!("{BUCKETS_PREFIX}{}", self.name),
            _ => self.name.clone(),
        }
    }

    /// `database.collection` at the target.
    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }

    /// The entry that stands for it in warnings.
    pub(super) fn entry(&self) -> Option<&EntryName> {
        self.description.as_ref().map(|(name, _)| name).or(self.first.as_ref())
    }

    pub(super) fn check(&self) -> Result<()> {
        match &self.trouble {
            Some((class, text)) => Err(Error::new(*class, text.clone())),
            None => Ok(()),
        }
    }
}
