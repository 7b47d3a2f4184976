//! The body of a response as s3s-fs reads it, in larger pieces and cut to its length.
//!
//! Invariant: a body has no byte more than was announced, and does not wait for more. This file must not
//! know what is in a body.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use futures::StreamExt;
use s3s::dto::StreamingBlob;

/// Bytes a response body is served in. s3s-fs reads 4 KiB at a time, which would be a system call
/// each.
const PIECE: usize = 16 * 1024;

/// Serves the `left` announced bytes of a body in larger pieces, and counts them. s3s-fs reads a file to
/// its end whatever the range is: a single byte of a large object would take as long as all of it.
pub(super) fn in_pieces(body: StreamingBlob, left: u64, sent: Arc<AtomicU64>) -> StreamingBlob {
    StreamingBlob::wrap(futures::stream::unfold(
        (body, left, sent),
        |(mut body, left, sent)| async move {
            let wanted = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            let mut piece = BytesMut::with_capacity(wanted);
            while piece.len() < wanted {
                match body.next().await {
                    Some(Ok(bytes)) => piece.extend_from_slice(&bytes),
                    Some(Err(error)) => {
                        return Some((Err(io::Error::other(error)), (body, left, sent)));
                    }
                    None => break,
                }
            }
            if piece.is_empty() {
                return None;
            }
            let bytes = piece.len() as u64;
            sent.fetch_add(bytes, Ordering::Relaxed);
            Some((Ok(piece.freeze()), (body, left.saturating_sub(bytes), sent)))
        },
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn a_body_ends_with_its_last_announced_byte() {
        // After those bytes nothing follows, not even an end.
        let bytes = || [PIECE, PIECE, 10].map(|n| Ok::<_, io::Error>(Bytes::from(vec![7; n])));
        let body = futures::stream::iter(bytes()).chain(futures::stream::pending());
        let (announced, sent) = (2 * PIECE as u64 + 10, Arc::<AtomicU64>::default());
        let served = in_pieces(StreamingBlob::wrap(body), announced, Arc::clone(&sent));
        let served = served.map(|piece| piece.unwrap().len()).collect::<Vec<_>>();
        let pieces = tokio::time::timeout(Duration::from_secs(10), served).await.unwrap();
        assert_eq!(pieces, [PIECE, PIECE, 10]);
        assert_eq!(sent.load(Ordering::Relaxed), announced);
        // One that is shorter than announced ends where it ends.
        let body = StreamingBlob::wrap(futures::stream::iter(bytes()));
        let pieces = in_pieces(body, announced + PIECE as u64, sent).count().await;
        assert_eq!(pieces, 3);
    }
}
