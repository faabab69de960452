//! Listing what lies in a destination.

use super::delete::Removal;
use crate::S3Bucket;
use crate::listing::Pages;
use backup_core::Result;
use backup_core::adapter::ObjectInfo;
use backup_core::model::{ObjectName, STAGE_PREFIX};
use futures::stream::BoxStream;
use jiff::SignedDuration;

/// Age from which a probe is a leftover of a process that died.
const OLD: SignedDuration = SignedDuration::from_hours(24);

fn is_root(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(STAGE_PREFIX)
}

/// What all keys of a prefix start with, below the destination's own.
fn below(prefix: Option<&ObjectName>) -> String {
    prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default()
}

pub(super) fn objects(bucket: S3Bucket, prefix: Option<&ObjectName>) -> BoxStream<'static, Result<ObjectInfo>> {
    let prefix = below(prefix);
    Box::pin(async_stream::try_stream! {
        let mut pages = Pages::new(bucket, &prefix, None);
        while let Some(page) = pages.next().await? {
            for object in page.objects {
                // Others put what they like beside the archives.
                if let Ok(name) = ObjectName::new(&object.name) {
                    yield ObjectInfo { name, size: object.size, modified: object.modified };
                }
            }
        }
    })
}

pub(super) fn roots(bucket: S3Bucket) -> BoxStream<'static, Result<String>> {
    Box::pin(async_stream::try_stream! {
        let mut pages = Pages::new(bucket, "", Some("/"));
        // An object may be called like what lies below it: `x` comes before `x/`, with only what starts with `x` between them.
        let mut objects: Vec<String> = Vec::new();
        while let Some(page) = pages.next().await? {
            let mut keys: Vec<String> = page.objects.into_iter().map(|object| object.name).chain(page.prefixes).collect();
            keys.sort_unstable();
            for key in keys {
                while objects.last().is_some_and(|object| !key.starts_with(object)) {
                    objects.pop();
                }
                let name = key.trim_end_matches('/');
                if is_root(name) && !objects.iter().any(|object| object == name) {
                    if name.len() == key.len() {
                        objects.push(name.to_owned());
                    }
                    yield name.to_owned();
                }
            }
        }
    })
}

/// Objects are put whole, so that nothing of ours is staged below a prefix; what is called so is removed all the same, and so are hidden
/// versions, which no listing of objects shows.
pub(super) async fn remove_staged(bucket: &S3Bucket, removal: &Removal, prefix: &ObjectName) -> Result<()> {
    let prefix = below(Some(prefix));
    let mut pages = Pages::new(bucket.clone(), &prefix, None);
    while let Some(page) = pages.next().await? {
        for object in page.objects {
            if object.name.rsplit('/').next().is_some_and(|last| last.starts_with(STAGE_PREFIX)) {
                removal.one(bucket, &bucket.key(&object.name)).await?;
            }
        }
    }
    removal.hidden(bucket, &bucket.key(&prefix)).await
}

/// Removes probes of processes that died. Lists the destination's root, so that trouble with the bucket is told.
pub(super) async fn remove_old_leftovers(bucket: &S3Bucket) -> Result<()> {
    let now = bucket.now().await?;
    let mut pages = Pages::new(bucket.clone(), STAGE_PREFIX, None);
    while let Some(page) = pages.next().await? {
        for object in page.objects {
            if now.duration_since(object.modified) > OLD {
                bucket.delete(&bucket.key(&object.name)).await?;
            }
        }
    }
    Ok(())
}
