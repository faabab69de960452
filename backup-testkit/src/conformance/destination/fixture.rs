//! What a suite of destinations works on.

use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::Destination;
use bytes::Bytes;
use std::sync::Arc;

/// Makes places for a suite. What has a default is a means that some fixtures do not have: without it, its cases are skipped.
#[async_trait]
pub trait DestinationFixture: Send + Sync + 'static {
    /// A new, empty place, at each call another; if the adapter can make its root, one whose root does not exist yet.
    async fn place(&self) -> Result<Box<dyn DestinationPlace>>;

    /// How many objects a listing is tested with: more than one page of the service.
    fn many(&self) -> usize {
        150
    }

    /// A destination whose credentials the service refuses.
    async fn unauthorized(&self) -> Result<Option<Arc<dyn Destination>>> {
        Ok(None)
    }

    /// A destination that has room for about one MiB.
    async fn nearly_full(&self) -> Result<Option<Box<dyn DestinationPlace>>> {
        Ok(None)
    }

    /// A place whose connection breaks off somewhere inside the body of each object of more than 100 KiB.
    async fn breaking(&self) -> Result<Option<Box<dyn DestinationPlace>>> {
        Ok(None)
    }
}

/// A place where a case runs; dropping it may remove it.
#[async_trait]
pub trait DestinationPlace: Send + Sync {
    /// The destination.
    fn destination(&self) -> Arc<dyn Destination>;

    /// The same place as another process sees it: a destination that was built anew.
    async fn again(&self) -> Result<Arc<dyn Destination>>;

    /// Secrets that the destination was built with.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Puts something there past the adapter, under a path that is no object name; `false` when the fixture cannot.
    async fn plant(&self, path: &str, bytes: Bytes) -> Result<bool> {
        let _ = (path, bytes);
        Ok(false)
    }

    /// All paths that are there, staged and foreign ones too; `None` when the fixture cannot look past the adapter.
    async fn paths(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }
}
