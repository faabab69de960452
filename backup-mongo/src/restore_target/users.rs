//! Users and roles: they are put beside those that are there, and the server merges them.

use super::Shared;
use super::finish::Notes;
use super::insert::{Goal, OnOther};
use super::learn::{Learned, group_of, is_of_users};
use crate::layout::Item;
use backup_core::Result;
use backup_core::adapter::RestorePlan;
use backup_core::model::Entry;
use futures::TryStreamExt;
use mongodb::bson::doc;
use std::sync::Arc;

/// Collections that the role `restore` may write for this, as `mongorestore` does.
const USERS: &str = "tempusers";
const ROLES: &str = "temproles";

impl Shared {
    pub(super) async fn restore_users(&self, plan: &RestorePlan, learned: &Learned, notes: &mut Notes) -> Result<()> {
        let asked = |c: &&Arc<super::collection::Collection>| c.is_of_users && c.trouble.is_none() && c.slices > 0;
        let Some(first) = learned.collections.values().find(asked) else { return Ok(()) };
        let merged = self.merge_users(plan).await;
        // What was put aside holds hashes of passwords.
        let dropped = [self.drop_collection("admin", USERS).await, self.drop_collection("admin", ROLES).await];
        notes.unless_fatal(first, "users and roles are not restored", merged)?;
        for done in dropped {
            notes.unless_fatal(
                first,
                "a collection with users or roles is left in the database admin; drop it",
                done,
            )?;
        }
        Ok(())
    }

    /// Removes what an attempt that broke off may have put aside: it holds hashes of passwords.
    pub(super) async fn forget_users(&self) -> Result<()> {
        if self.options.users_and_roles {
            for name in [USERS, ROLES] {
                self.drop_collection("admin", name).await?;
            }
        }
        Ok(())
    }

    async fn merge_users(&self, plan: &RestorePlan) -> Result<()> {
        self.forget_users().await?;
        let wanted = |entry: &Entry| {
            matches!(Item::parse(&entry.name), Some(Item::Slice { .. }))
                && group_of(entry).is_some_and(|g| is_of_users(&g))
        };
        let mut slices = plan.entries.contents(Arc::new(wanted));
        let (mut users, mut roles) = (false, false);
        while let Some(slice) = slices.try_next().await? {
            let holder = match group_of(&slice.entry).as_deref() {
                Some("admin.system.users") => USERS,
                Some("admin.system.roles") => ROLES,
                _ => continue,
            };
            users |= holder == USERS;
            roles |= holder == ROLES;
            let goal = Goal { database: "admin", holder, time_series: None, ordered: false, on_other: OnOther::Fail };
            self.insert(&goal, slice.content, &slice.entry.name.to_string()).await?;
        }
        let mut command = doc! { "_mergeAuthzCollections": 1, "db": "", "drop": false };
        if users {
            command.insert("tempUsersCollection", format!("admin.{USERS}"));
        }
        if roles {
            command.insert("tempRolesCollection", format!("admin.{ROLES}"));
        }
        command.insert("writeConcern", doc! { "w": "majority" });
        self.command("admin", command, "merging users and roles").await.map(drop)
    }
}
