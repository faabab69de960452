//! The order in which keys are listed.
//!
//! S3 lists keys in the order of their bytes. Servers that keep keys as directories and files (SeaweedFS) list level by level:
//! `folder/a` stands where `folder` does, before `folder-x`. Either is an order in which a listing can be taken up behind a key. One
//! that is neither could not be: keys would be missed.

use super::list::misbehaves;
use backup_core::Result;

/// Sees to it that keys come in one of the known orders, and each once.
#[derive(Clone, Debug)]
pub(super) struct Order {
    last: Option<String>,
    by_bytes: bool,
    by_levels: bool,
}

impl Order {
    /// Keys come behind this one.
    pub(super) fn behind(last: Option<String>) -> Self {
        Self { last, by_bytes: true, by_levels: true }
    }

    /// # Errors
    /// `Unsupported` when the key fits no order of those before it.
    pub(super) fn next(&mut self, key: &str) -> Result<()> {
        if let Some(last) = &self.last {
            self.by_bytes &= last.as_str() < key;
            self.by_levels &= last.split('/').lt(key.split('/'));
        }
        if !self.by_bytes && !self.by_levels {
            return Err(misbehaves("the keys come neither in the order of their bytes nor level by level"));
        }
        key.clone_into(self.last.get_or_insert_default());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::ErrorClass;

    fn listed(keys: &[&str]) -> Result<()> {
        let mut order = Order::behind(None);
        keys.iter().try_for_each(|key| order.next(key))
    }

    #[test]
    fn keys_come_by_their_bytes_or_level_by_level_and_not_in_turns() {
        listed(&["folder", "folder-x", "folder.x", "folder/a", "folder0"]).unwrap();
        listed(&["folder", "folder/", "folder/a", "folder/b/c", "folder-x", "folder.x", "folder0"]).unwrap();
        for keys in [
            &["b", "a"][..],
            &["a", "a"],
            &["folder/a", "folder/a"],
            &["one-x", "one/a", "two/a", "two-x"],
            &["two/a", "two-x", "two/b"],
        ] {
            assert_eq!(listed(keys).unwrap_err().class(), ErrorClass::Unsupported, "{keys:?}");
        }
        let mut order = Order::behind(Some("folder/b".to_owned()));
        order.next("folder-x").unwrap();
        assert!(order.next("folder/c").is_err());
    }
}
