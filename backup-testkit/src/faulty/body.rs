//! Faults inside a stream.

use super::Fault;
use super::script::error;
use backup_core::Result;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, Stream};

/// How far a piece of a stream counts: bytes of a body, 1 for an item.
trait Piece: Sized + Send {
    fn length(&self) -> u64;
    /// The first part; only of a piece that is longer.
    fn first(self, length: u64) -> Option<Self>;
    fn flip(self, at: u64) -> Self;
}

impl Piece for Bytes {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn first(self, length: u64) -> Option<Self> {
        (length > 0).then(|| self.slice(..length as usize))
    }

    fn flip(self, at: u64) -> Self {
        let mut bytes = self.to_vec();
        if let Some(byte) = bytes.get_mut(at as usize) {
            *byte ^= 1;
        }
        bytes.into()
    }
}

struct Item<T>(T);

impl<T: Send> Piece for Item<T> {
    fn length(&self) -> u64 {
        1
    }

    fn first(self, _: u64) -> Option<Self> {
        None
    }

    fn flip(self, _: u64) -> Self {
        self
    }
}

/// A body with a fault.
pub(super) fn body(
    stream: impl Stream<Item = Result<Bytes>> + Send + 'static,
    fault: Option<Fault>,
) -> BoxStream<'static, Result<Bytes>> {
    match fault {
        None => stream.boxed(),
        Some(fault) => faulty(stream, fault).boxed(),
    }
}

/// A stream of items with a fault, opened only when the fault lets it.
pub(super) fn items<'a, T: Send + 'a>(
    open: impl FnOnce() -> BoxStream<'a, Result<T>> + Send + 'a,
    fault: Option<Fault>,
) -> BoxStream<'a, Result<T>> {
    let Some(fault) = fault else { return open() };
    let items = async_stream::stream! {
        match fault {
            Fault::Fail(class) => {
                yield Err(error(class));
                return;
            }
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Hang => std::future::pending().await,
            _ => {}
        }
        let inner = faulty(open().map(|item| item.map(Item)), fault);
        futures::pin_mut!(inner);
        while let Some(item) = inner.next().await {
            yield item.map(|item| item.0);
        }
    };
    items.boxed()
}

/// Faults that come before the stream are not for here.
fn faulty<P: Piece>(
    stream: impl Stream<Item = Result<P>> + Send,
    fault: Fault,
) -> impl Stream<Item = Result<P>> + Send {
    let stop = match fault {
        Fault::Break { after, .. } | Fault::Short { after } | Fault::Stall { after } => Some(after),
        _ => None,
    };
    async_stream::stream! {
        futures::pin_mut!(stream);
        let mut at = 0;
        while stop.is_none_or(|stop| at < stop) {
            let piece = match stream.next().await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => {
                    yield Err(error);
                    return;
                }
                None => {
                    if let Fault::LostReply(class) = fault {
                        yield Err(error(class));
                    }
                    return;
                }
            };
            let (start, length) = (at, piece.length());
            at += length;
            match (fault, stop) {
                (Fault::Flip { at: flip }, _) if flip >= start && flip < at => yield Ok(piece.flip(flip - start)),
                (_, Some(stop)) if at > stop => {
                    if let Some(first) = piece.first(stop - start) {
                        yield Ok(first);
                    }
                }
                _ => yield Ok(piece),
            }
        }
        match fault {
            Fault::Break { class, .. } => yield Err(error(class)),
            Fault::Stall { .. } => std::future::pending().await,
            _ => {}
        }
    }
}
