//! What becomes of each entry.

use super::Shared;
use super::collection::{Collection, Place, taken};
use super::insert::{Goal, Inserted, OnOther};
use super::learn::{Learned, group_of};
use super::metadata::Kind;
use crate::layout::Item;
use backup_core::adapter::{RestorePlan, SmallEntry, Written};
use backup_core::{Error, Result};

impl Shared {
    pub(super) async fn write(&self, plan: &RestorePlan, learned: &Learned, small: SmallEntry) -> Result<Written> {
        let SmallEntry { entry, content } = small;
        let item = Item::parse(&entry.name);
        match item {
            None => return Err(Error::invalid("no archive of a MongoDB deployment has such an entry")),
            // It tells where the data comes from; there is nothing to write.
            Some(Item::Prelude) => return Ok(Written::AlreadyThere),
            Some(Item::Oplog { .. }) => return Ok(Written::Deferred),
            Some(Item::Metadata { .. } | Item::Slice { .. }) => {}
        }
        let collection = group_of(&entry).and_then(|group| learned.collections.get(&group));
        let collection = collection.ok_or_else(|| Error::invalid("it is of no collection of the plan"))?;
        collection.check()?;
        if collection.is_of_users {
            return Ok(Written::Deferred);
        }
        let is_slice = matches!(item, Some(Item::Slice { .. }));
        if collection.kind() == Kind::View {
            return if is_slice { Err(Error::invalid("a view has no documents")) } else { Ok(Written::Deferred) };
        }
        let place = self.place(plan, collection).await?;
        match (place, collection.kind()) {
            (place, _) if !is_slice => place.answer(),
            (Place::Taken, _) => Err(taken()),
            (Place::Ours { .. }, Kind::Capped) => Ok(Written::Deferred),
            (Place::Ours { .. }, _) => {
                let on_other = match (plan.overwrite, learned.oplog.0) {
                    (true, _) => OnOther::Replace,
                    (false, 0) => OnOther::Fail,
                    (false, _) => OnOther::Keep,
                };
                let holder = collection.holder();
                let inserted =
                    self.insert(&goal(collection, &holder, on_other), content, &entry.name.to_string()).await?;
                Ok(match inserted {
                    Inserted { replaced: 1.., .. } => Written::Replaced,
                    Inserted { made: 0, there: 1.., .. } => Written::AlreadyThere,
                    _ => Written::Created,
                })
            }
        }
    }
}

pub(super) fn goal<'a>(collection: &'a Collection, holder: &'a str, on_other: OnOther) -> Goal<'a> {
    Goal {
        database: &collection.database,
        holder,
        time_series: (collection.kind() == Kind::TimeSeries).then_some(&*collection.name),
        ordered: collection.kind() == Kind::Capped,
        on_other,
    }
}
