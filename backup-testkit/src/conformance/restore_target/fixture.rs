//! What a suite of restore targets works on.

use super::Samples;
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::RestoreTarget;
use backup_core::model::EntryName;
use bytes::Bytes;
use std::sync::Arc;

/// Makes places for a suite. What has a default is a means that some fixtures do not have: without it, its cases are skipped.
#[async_trait]
pub trait TargetFixture: Send + Sync + 'static {
    /// A new, empty place, at each call another; if the adapter can make its root, one whose root does not exist yet.
    async fn place(&self) -> Result<Box<dyn TargetPlace>>;

    /// What is written there.
    fn samples(&self) -> Samples;

    /// A target whose credentials the service refuses.
    async fn unauthorized(&self) -> Result<Option<Arc<dyn RestoreTarget>>> {
        Ok(None)
    }
}

/// An item of a place, seen past the adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenItem {
    /// It has content: a file, an object, a slice; also a hard link, whose content is its target's.
    Content(Bytes),
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Symlink(Bytes),
}

/// A place where a case runs; dropping it may remove it.
#[async_trait]
pub trait TargetPlace: Send + Sync {
    /// The restore target.
    fn target(&self) -> Arc<dyn RestoreTarget>;

    /// The same place as another process sees it: a target that was built anew.
    async fn again(&self) -> Result<Arc<dyn RestoreTarget>>;

    /// What stands under a name, without following a link. A group that is taken whole stands under the group's name.
    async fn look(&self, name: &EntryName) -> Result<Option<SeenItem>>;

    /// Secrets that the target was built with.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Staged leftovers; `None` when the fixture cannot see them.
    async fn staged(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// What was written outside the place, as far as the hostile samples could: those of [`Samples::files`] aim at `escaped…` beside
    /// the root and at `/tmp/.backup-conformance-escaped`, and at `through` in the directory `dir`. `None` when the fixture cannot see it.
    async fn escaped(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Changes a byte of an item's content past the adapter; `false` when the fixture cannot.
    async fn spoil(&self, name: &EntryName) -> Result<bool> {
        let _ = name;
        Ok(false)
    }

    /// Removes an item past the adapter; `false` when the fixture cannot.
    async fn lose(&self, name: &EntryName) -> Result<bool> {
        let _ = name;
        Ok(false)
    }
}
