//! Bodies that meet faults.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use hyper::body::{Body as HttpBody, Frame};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// What happens to an answer's body.
#[derive(Clone, Copy)]
pub(super) enum Trouble {
    /// An error after so many bytes, which closes the connection.
    Break(u64),
    /// The end after so many bytes.
    Short(u64),
    /// Nothing more after so many bytes.
    Stall(u64),
    /// Pieces of so many bytes with pauses.
    Slow(usize, Duration),
    /// A bit of this byte is another.
    Flip(u64),
}

/// A body out of a stream of pieces.
pub(super) struct Pieces(BoxStream<'static, io::Result<Bytes>>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_next_unpin(cx).map_ok(Frame::data)
    }
}

/// The body, with its trouble.
pub(super) fn troubled(mut body: s3s::Body, trouble: Trouble) -> s3s::Body {
    let stream = async_stream::stream! {
        let mut sent = 0_u64;
        while let Some(piece) = body.next().await {
            let mut piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    yield Err(io::Error::other(error));
                    return;
                }
            };
            let end = sent + piece.len() as u64;
            match trouble {
                Trouble::Break(after) | Trouble::Short(after) | Trouble::Stall(after) if end >= after => {
                    yield Ok(piece.split_to((after - sent) as usize));
                    match trouble {
                        Trouble::Break(_) => {
                            // What was sent is to arrive first.
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            yield Err(io::Error::other("a fault of the test's script"));
                        }
                        Trouble::Stall(_) => std::future::pending::<()>().await,
                        _ => {}
                    }
                    return;
                }
                Trouble::Slow(size, pause) => {
                    while !piece.is_empty() {
                        tokio::time::sleep(pause).await;
                        yield Ok(piece.split_to(size.clamp(1, piece.len())));
                    }
                }
                Trouble::Flip(at) if (sent..end).contains(&at) => {
                    let mut bytes = Vec::from(piece);
                    bytes[(at - sent) as usize] ^= 1;
                    yield Ok(bytes.into());
                }
                _ => yield Ok(piece),
            }
            sent = end;
        }
    };
    s3s::Body::http_body_unsync(Pieces(stream.boxed()))
}
