//! Files with several names: which of them have been delivered, and under which name.

use super::metadata::{FileVersion, Inode};
use crate::model::EntryName;
use std::collections::{BTreeMap, HashMap};

/// Memory of a link beside its name, about.
const LINK: usize = 240;

/// A file of which not all names have been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The name under which its content was delivered.
    pub(crate) name: EntryName,
    /// The state that was delivered.
    pub(crate) version: FileVersion,
    /// How many names have been seen.
    pub(crate) seen: u64,
}

/// How an entry changes the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Not at all.
    None,
    /// This link, by the entry's own name, is added or replaces that of the same file.
    Set(FileVersion, u64),
    /// One more name of this file has been seen.
    Seen(Inode),
    /// All names of this file have been seen.
    Closed(Inode),
    /// A link had no room.
    Lost,
}

/// What an entry with several names is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The first name that is seen: a file.
    First,
    /// Another name of this earlier entry.
    Another(EntryName),
    /// Another name of an earlier entry, whose content has changed since: a file again.
    Changed,
}

/// The files of which not all names have been seen, in bounded memory.
///
/// What is in the table was delivered, so a hard link made from it never points to nothing.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    links: HashMap<Inode, (Link, u64)>,
    /// By age, the newest last.
    order: BTreeMap<u64, Inode>,
    next: u64,
    bytes: usize,
    bound: usize,
    /// Some file is missing here, so that a further name of it will not be recognised.
    pub(crate) lost: bool,
}

impl Links {
    /// An empty table that may occupy `bound` bytes.
    pub(crate) fn new(bound: usize) -> Self {
        Self { links: HashMap::new(), order: BTreeMap::new(), next: 0, bytes: 0, bound, lost: false }
    }

    /// Decides what a regular file with several names is, and what is to be applied then. One whose content is
    /// `trustworthy` may be the target of later names.
    pub(crate) fn meet(
        &self,
        name: &EntryName,
        version: &FileVersion,
        links: u64,
        trustworthy: bool,
    ) -> (Role, Change) {
        let inode = version.inode;
        let (role, seen) = match self.links.get(&inode) {
            None => (Role::First, 1),
            Some((link, _)) if link.version == *version => {
                let role = Role::Another(link.name.clone());
                let change = if link.seen + 1 >= links { Change::Closed(inode) } else { Change::Seen(inode) };
                return (role, change);
            }
            Some((link, _)) => (Role::Changed, link.seen + 1),
        };
        let change = if !trustworthy || seen >= links {
            if role == Role::Changed { Change::Closed(inode) } else { Change::None }
        } else if self.links.contains_key(&inode) || self.bytes + LINK + name.as_bytes().len() <= self.bound {
            Change::Set(*version, seen)
        } else {
            Change::Lost
        };
        (role, change)
    }

    /// Applies what an entry of this name changed.
    pub(crate) fn apply(&mut self, name: &EntryName, change: &Change) {
        match change {
            Change::None => {}
            Change::Set(version, seen) => {
                self.insert(Link { name: name.clone(), version: *version, seen: *seen });
            }
            Change::Seen(inode) => {
                if let Some((link, _)) = self.links.get_mut(inode) {
                    link.seen += 1;
                }
            }
            Change::Closed(inode) => self.remove(inode),
            Change::Lost => self.lost = true,
        }
    }

    /// Adds a link, as the newest.
    pub(crate) fn insert(&mut self, link: Link) {
        let inode = link.version.inode;
        self.remove(&inode);
        self.bytes += LINK + link.name.as_bytes().len();
        self.order.insert(self.next, inode);
        self.links.insert(inode, (link, self.next));
        self.next += 1;
    }

    fn remove(&mut self, inode: &Inode) {
        if let Some((link, age)) = self.links.remove(inode) {
            self.order.remove(&age);
            self.bytes -= LINK + link.name.as_bytes().len();
        }
    }

    /// Whether nothing is in it, and nothing was lost.
    pub(crate) fn is_blank(&self) -> bool {
        self.links.is_empty() && !self.lost
    }

    /// The links, the newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Link> {
        self.order.values().rev().filter_map(|inode| self.links.get(inode)).map(|(link, _)| link)
    }

    /// The files in it.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = Inode> {
        self.links.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn version(ino: u64, size: u64) -> FileVersion {
        let time = Timestamp { seconds: 1, nanos: 2 };
        FileVersion { inode: Inode { dev: 1, ino }, size, mtime: time, ctime: time }
    }

    fn name(text: &str) -> EntryName {
        text.into()
    }

    /// What this file is; records it.
    fn meet(links: &mut Links, file: &str, version: FileVersion, names: u64, trustworthy: bool) -> Role {
        let (role, change) = links.meet(&name(file), &version, names, trustworthy);
        links.apply(&name(file), &change);
        role
    }

    #[test]
    fn later_names_point_to_the_first_until_all_have_been_seen() {
        let mut links = Links::new(1 << 20);
        assert_eq!(meet(&mut links, "a", version(7, 1), 3, true), Role::First);
        assert_eq!(meet(&mut links, "b", version(7, 1), 3, true), Role::Another(name("a")));
        assert!(!links.is_blank());
        assert_eq!(meet(&mut links, "c", version(7, 1), 3, true), Role::Another(name("a")));
        assert!(links.is_blank());
        assert_eq!(links.bytes, 0);
        assert_eq!(meet(&mut links, "d", version(7, 1), 3, true), Role::First, "the number may be in use again");
    }

    #[test]
    fn a_changed_file_becomes_the_new_target() {
        let mut links = Links::new(1 << 20);
        meet(&mut links, "a", version(7, 1), 4, true);
        assert_eq!(meet(&mut links, "b", version(7, 2), 4, true), Role::Changed);
        assert_eq!(meet(&mut links, "c", version(7, 2), 4, true), Role::Another(name("b")));
        assert_eq!(meet(&mut links, "d", version(7, 2), 4, true), Role::Another(name("b")));
        assert!(links.is_blank());
    }

    #[test]
    fn content_that_was_torn_is_no_target() {
        let mut links = Links::new(1 << 20);
        meet(&mut links, "a", version(7, 1), 3, false);
        assert!(links.is_blank());
        assert_eq!(meet(&mut links, "b", version(7, 1), 3, true), Role::First);
        assert_eq!(meet(&mut links, "c", version(7, 2), 3, false), Role::Changed);
        assert!(links.is_blank());
    }

    #[test]
    fn a_full_table_says_so_and_keeps_what_it_has() {
        let mut links = Links::new(2 * (LINK + 1));
        for (i, file) in ["a", "b", "c"].into_iter().enumerate() {
            assert!(!links.lost);
            meet(&mut links, file, version(i as u64, 1), 2, true);
        }
        assert!(links.lost);
        assert_eq!(meet(&mut links, "x", version(0, 1), 2, true), Role::Another(name("a")));
        assert_eq!(meet(&mut links, "y", version(2, 1), 2, true), Role::First);
        let open: Vec<_> = links.newest_first().map(|l| l.name.clone()).collect();
        assert_eq!(open, [name("y"), name("b")]);
    }
}
