//! A stream of bytes that breaks off and is taken up where it was.

use super::early_end;
use super::policy::Attempts;
use crate::adapter::ByteStream;
use crate::{Error, Result};
use async_trait::async_trait;
use futures::StreamExt;
use std::fmt::Display;

/// Opens the rest of a stream.
#[async_trait]
pub(super) trait Reopen: Send + 'static {
    /// Opens it from `at` on. When this finds out where the stream must end, it changes `end`.
    async fn reopen(&mut self, at: u64, end: &mut Option<u64>) -> Result<ByteStream>;
}

/// The bytes of `stream`, which starts at offset `at` and must reach `end`, if that is known.
///
/// Failure modes, and what the reader of the stream sees of them:
/// - an error that may pass: nothing; the rest is opened at the offset reached, again and again until no byte comes any more
///   for as many attempts as the policy has; then the last error,
/// - an end before `end`: the same, as this is a connection that broke off unseen,
/// - an error that may pass, or none, when all bytes have arrived: nothing,
/// - more bytes than `end`: an error of class `Corrupt`,
/// - any other error: that error.
///
/// Without `end`, an early end cannot be told from the right one.
pub(super) fn resuming(
    mut stream: ByteStream,
    mut at: u64,
    mut end: Option<u64>,
    mut attempts: Attempts,
    subject: impl Display + Send + Sync + 'static,
    mut rest: impl Reopen,
) -> ByteStream {
    async_stream::try_stream! {
        loop {
            let broken = loop {
                let complete = end == Some(at);
                match stream.next().await {
                    Some(Ok(bytes)) if bytes.is_empty() => {}
                    Some(Ok(bytes)) => {
                        let reached = at + bytes.len() as u64;
                        if let Some(end) = end.filter(|end| reached > *end) {
                            Err(Error::corrupt(format!("more bytes arrive than up to {end}")).on(&subject))?;
                        }
                        at = reached;
                        attempts.progress();
                        yield bytes;
                    }
                    None if complete || end.is_none() => return,
                    Some(Err(error)) if complete && error.is_retryable() => return,
                    Some(Err(error)) => break error,
                    None => break early_end(at, end.unwrap_or_default()).on(&subject),
                }
            };
            // The broken connection is given up before the next one is opened.
            drop(std::mem::replace(&mut stream, futures::stream::empty().boxed()));
            attempts.failed(broken).await?;
            stream = loop {
                match rest.reopen(at, &mut end).await {
                    Ok(stream) => break stream,
                    Err(error) => attempts.failed(error).await?,
                }
            };
        }
    }
    .boxed()
}
