//! All that a query finds, however the service cuts it into pages.
//!
//! "Partial or empty result pages are possible even before the end of the files list has been reached" (`files.list`, parameter `pageSize`):
//! nothing but a page without a token is the end.

use crate::GDrive;
use crate::api::File;
use crate::error::not_understood;
use backup_core::Result;
use futures::TryStreamExt;
use futures::stream::BoxStream;

/// Files of one page where there may be many.
pub(crate) const MANY: u16 = 1000;
/// Files of one page where there should be one.
pub(crate) const FEW: u16 = 100;

/// Everything that a query finds, page by page, in an order.
pub(crate) fn found(drive: GDrive, query: String, order: &'static str, page: u16) -> BoxStream<'static, Result<File>> {
    Box::pin(async_stream::try_stream! {
        let mut token: Option<String> = None;
        loop {
            let page = drive.page(&query, order, page, token.as_deref()).await?;
            for file in page.files {
                yield file;
            }
            match page.next_page_token {
                None => break,
                // It would go on for ever, and to stop here would be to leave out files.
                Some(next) if token.as_ref() == Some(&next) => Err(not_understood())?,
                next => token = next,
            }
        }
    })
}

/// The few files that a query finds.
pub(crate) async fn all(drive: &GDrive, query: String) -> Result<Vec<File>> {
    found(drive.clone(), query, "createdTime", FEW).try_collect().await
}

/// Whether a query finds nothing.
pub(crate) async fn none(drive: &GDrive, query: String) -> Result<bool> {
    Ok(found(drive.clone(), query, "createdTime", 1).try_next().await?.is_none())
}
