//! What a plan holds: collections with their descriptions, and where each goes.

use super::MongoTargetOptions;
use super::collection::Collection;
use super::marks::STAGE_PREFIX;
use super::metadata::Metadata;
use crate::layout::{self, Item};
use backup_core::adapter::RestorePlan;
use backup_core::model::{Entry, EntryName};
use backup_core::{Error, ErrorClass, Result};
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a plan holds.
#[derive(Debug)]
pub(super) struct Learned {
    pub(super) tag: String,
    /// By group: `database.collection` as in the archive.
    pub(super) collections: BTreeMap<String, Arc<Collection>>,
    /// Number and length of the oplog's slices.
    pub(super) oplog: (u64, u64),
    /// Entries that are no MongoDB data.
    pub(super) others: u64,
    /// `prelude.json` is among the entries.
    pub(super) prelude: Option<u64>,
}

/// What is known of a collection while the plan is read.
#[derive(Debug, Default)]
struct Found {
    description: Option<Entry>,
    slices: u64,
    next: u64,
    bytes: u64,
    first: Option<EntryName>,
}

impl Learned {
    /// Whether nothing of the plan is MongoDB data, although it has entries.
    pub(super) fn is_foreign(&self) -> bool {
        self.others > 0 && self.collections.is_empty() && self.oplog.0 == 0
    }
}

/// The group of an entry: `database.collection` with the collection's true name as far as it is known.
pub(super) fn group_of(entry: &Entry) -> Option<String> {
    let (database, folder) = match Item::parse(&entry.name)? {
        Item::Metadata { database, folder } | Item::Slice { database, folder, .. } => (database, folder),
        Item::Prelude | Item::Oplog { .. } => return None,
    };
    let group = entry.group.as_ref().map(|group| group.0.to_string());
    // What the group says must be of the folder, so that entries of one folder never go to two places.
    let fits = |group: &String| {
        let Some((db, name)) = group.split_once('.') else { return false };
        db == database
            && (layout::escape(name) == folder
                || layout::escape(&format!("{}{name}", layout::BUCKETS_PREFIX)) == folder)
    };
    group.filter(fits).or_else(|| {
        let name = unescape(folder)?;
        let name = name.strip_prefix(layout::BUCKETS_PREFIX).unwrap_or(&name);
        Some(format!("{database}.{name}"))
    })
}

/// The name that was escaped, unless it was cut.
pub(crate) fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Whether a server takes this as a database's name.
pub(super) fn check_database(name: &str) -> Result<()> {
    let bad = |c: char| matches!(c, '/' | '\\' | '.' | ' ' | '"' | '$' | '\0');
    if name.is_empty() || name.len() > 63 || name.contains(bad) {
        return Err(Error::invalid("no database can have this name").on(name.escape_debug()));
    }
    Ok(())
}

/// Why a collection is not restored whatever the plan says.
pub(super) fn refused(database: &str, name: &str) -> Option<&'static str> {
    if matches!(database, "local" | "config") {
        Some("it belongs to the server and is not restored")
    } else if name.is_empty() || name.contains(['$', '\0']) || name.starts_with('.') {
        Some("no collection can have this name")
    } else if name.starts_with(STAGE_PREFIX) {
        Some("it is a leftover of a restore")
    } else if database == "admin" && matches!(name, "system.users" | "system.roles" | "system.version") {
        Some("users and roles are only restored when that is asked for")
    } else if name.starts_with("system.") && name != "system.js" {
        Some("it belongs to the server and is not restored")
    } else {
        None
    }
}

/// Collections that hold users and roles.
pub(super) fn is_of_users(group: &str) -> bool {
    matches!(group, "admin.system.users" | "admin.system.roles" | "admin.system.version")
}

pub(super) async fn learn(options: &MongoTargetOptions, plan: &RestorePlan) -> Result<Learned> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let (mut oplog, mut others, mut prelude) = ((0, 0), 0, None);
    let mut entries = plan.entries.entries();
    while let Some(entry) = entries.try_next().await? {
        match (Item::parse(&entry.name), group_of(&entry)) {
            (Some(Item::Prelude), _) => prelude = Some(entry.size),
            (Some(Item::Oplog { .. }), _) => oplog = (oplog.0 + 1, oplog.1 + entry.size),
            (Some(Item::Metadata { .. }), Some(group)) => found.entry(group).or_default().description = Some(entry),
            (Some(Item::Slice { number, .. }), Some(group)) => {
                let found = found.entry(group).or_default();
                found.slices += 1;
                found.next = found.next.max(number.saturating_add(1));
                found.bytes += entry.size;
                found.first.get_or_insert(entry.name);
            }
            _ => others += 1,
        }
    }
    drop(entries);
    let mut descriptions = BTreeMap::new();
    let wanted = |entry: &Entry| matches!(Item::parse(&entry.name), Some(Item::Metadata { .. }));
    if found.values().any(|found| found.description.is_some()) {
        let mut contents = plan.entries.contents(Arc::new(wanted));
        while let Some(small) = contents.try_next().await? {
            if let Some(group) = group_of(&small.entry) {
                let parsed = Metadata::parse(&small.content).map_err(|e| e.chain());
                descriptions.insert(group, parsed);
            }
        }
    }
    let databases: BTreeSet<&str> = found.keys().filter_map(|group| Some(group.split_once('.')?.0)).collect();
    let users = options.users_and_roles;
    let moved = databases.iter().filter(|d| !matches!(**d, "admin" | "config" | "local")).copied().collect::<Vec<_>>();
    if let (Some(to), [_, _, ..]) = (&options.database, &moved[..]) {
        let text = format!(
            "there are several databases to restore ({}), and one to restore them to: choose one of them, or name none in \
             the connection string",
            moved.join(", ")
        );
        return Err(Error::invalid(text).on(to));
    }
    let mut collections = BTreeMap::new();
    let mut places = BTreeSet::new();
    for (group, Found { description, slices, next, bytes, first }) in found {
        let Some((database, name)) = group.split_once('.') else { continue };
        let metadata = descriptions.remove(&group).unwrap_or_else(|| Ok(Metadata::default()));
        let name = match &metadata {
            // A name that was cut in the archive stands in the description.
            Ok(Metadata { name: Some(true_name), .. }) if layout::escape(true_name) == layout::escape(name) => {
                true_name.clone()
            }
            _ => name.to_owned(),
        };
        let target = options.database.as_ref().or_else(|| options.rename.get(database));
        let target = target.map_or(database, String::as_str).to_owned();
        let mut refusal = refused(database, &name).or_else(|| refused(&target, &name));
        if users && is_of_users(&group) {
            refusal = None;
        }
        let trouble = if let Err(error) = check_database(&target) {
            Some((error.class(), error.chain()))
        } else if let Err(text) = &metadata {
            Some((ErrorClass::Corrupt, text.clone()))
        } else if let Some(text) = refusal {
            Some((ErrorClass::Unsupported, text.to_owned()))
        } else if !places.insert((target.clone(), name.clone())) {
            Some((ErrorClass::Invalid, "another collection of the archive goes to the same place".to_owned()))
        } else {
            None
        };
        let collection = Collection {
            database: target,
            name,
            metadata: metadata.unwrap_or_default(),
            is_of_users: is_of_users(&group),
            trouble,
            description: description.map(|entry| (entry.name, entry.size)),
            slices,
            next,
            bytes,
            first,
            group: group.clone(),
            place: Default::default(),
        };
        collections.insert(group, Arc::new(collection));
    }
    Ok(Learned { tag: plan.tag.clone(), collections, oplog, others, prelude })
}

/// Patterns of entries for a pattern of collections: `shop.order*` as `database.collection` becomes what a selection of entries
/// understands. Users' characters besides `*`, `?`, `[…]` and `{…}` are escaped as they are in entries' names.
pub fn entry_patterns(pattern: &str) -> Vec<String> {
    let (database, collection) = match pattern.split_once('.') {
        Some((database, collection)) => (database, Some(collection)),
        None => (pattern, None),
    };
    let Some(collection) = collection else { return vec![database.to_owned()] };
    let mut escaped = String::new();
    let mut buffer = [0; 4];
    for c in collection.chars() {
        match c {
            '*' | '?' | '[' | ']' | '{' | '}' | ',' | '!' | '\\' => escaped.push(c),
            c => escaped.push_str(&layout::escape(c.encode_utf8(&mut buffer))),
        }
    }
    vec![format!("{database}/{escaped}"), format!("{database}/{}{escaped}", layout::BUCKETS_PREFIX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_were_escaped_are_read_back() {
        for name in ["orders", "per%cent", "sl/ash", "sp ace", "ünï", "a\nb", "%2F", "+"] {
            assert_eq!(unescape(&layout::escape(name)).as_deref(), Some(name));
        }
        for bad in ["%", "%4", "%zz", "%FF"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_belongs_to_the_server_is_refused() {
        for (database, name) in [
            ("local", "oplog.rs"),
            ("config", "shards"),
            ("admin", "system.users"),
            ("shop", "system.views"),
            ("shop", "a$b"),
            ("shop", ""),
            ("shop", ".x"),
            ("shop", "system.profile"),
            ("shop", "backup-tmp-x"),
        ] {
            assert!(refused(database, name).is_some(), "{database}.{name}");
        }
        for (database, name) in [("shop", "orders"), ("admin", "mine"), ("shop", "system.js"), ("shop", "a.b/c %")] {
            assert!(refused(database, name).is_none(), "{database}.{name}");
        }
        for bad in ["", "a/b", "a.b", "a b", "$a", "a\\b", &"x".repeat(64)] {
            assert!(check_database(bad).is_err(), "{bad}");
        }
        assert!(check_database("shop_ünï%").is_ok());
    }

    #[test]
    fn patterns_of_collections_become_patterns_of_entries() {
        assert_eq!(entry_patterns("shop.order*"), ["shop/order*", "shop/system.buckets.order*"]);
        assert_eq!(entry_patterns("*.a/b %"), ["*/a%2Fb+%25", "*/system.buckets.a%2Fb+%25"]);
        assert_eq!(entry_patterns("shop"), ["shop"]);
    }
}
