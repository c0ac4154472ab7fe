//! Reads into a buffer that each thread has one of, so that ten thousand quiet tunnels cost no buffers. What a reader
//! does not take at once is set aside, and the buffer is the next one's.

use std::{
    cell::Cell,
    future::poll_fn,
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes asked for in one read. A connection that has as many is sending in bulk.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes asked for in one read of bulk. Measured: 256 KiB costs three quarters of the processor time of 64 KiB, and half
/// of that of 8 KiB.
pub(crate) const BULK_BYTES: usize = 256 * 1024;

thread_local! {
    static KEPT: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// A buffer of [`BULK_BYTES`] that goes back to its thread when dropped.
#[derive(Debug)]
struct Buffer(Box<[u8]>);

impl Buffer {
    fn take() -> Self {
        // The kernel gives its pages only when they are written to.
        Self(KEPT.take().unwrap_or_else(|| vec![0; BULK_BYTES].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = mem::take(&mut self.0);
        // While a thread ends there is nothing left to keep it for.
        let _ = KEPT.try_with(|kept| kept.set(Some(bytes)));
    }
}

/// The bytes of one read, or what is left of them.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// Those from `start` to `end` of the thread's buffer.
    Read(Buffered),
    /// Bytes with a place of their own.
    Aside(Bytes),
}

/// A part of a [`Buffer`].
#[derive(Debug)]
pub(crate) struct Buffered {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl Chunk {
    /// The bytes; empty at the end of the stream.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Read(read) => read.buffer.0.get(read.start..read.end).unwrap_or_default(),
            Self::Aside(bytes) => bytes,
        }
    }

    /// Drops the first `count` bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        match self {
            Self::Read(read) => read.start = read.end.min(read.start.saturating_add(count)),
            Self::Aside(bytes) => bytes.advance(count.min(bytes.len())),
        }
    }

    /// Makes room for what others read while these bytes have to wait: copies them.
    pub(crate) fn set_aside(&mut self) {
        match self {
            Self::Read(_) => *self = Self::Aside(Bytes::copy_from_slice(self.bytes())),
            Self::Aside(_) => {}
        }
    }
}

/// Reads what is there, up to `most` bytes or [`BULK_BYTES`], and waits without a buffer until something is.
///
/// # Errors
/// Those of the read.
///
/// # Cancel safety
/// A dropped future has read nothing.
pub(crate) async fn read_chunk(from: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Chunk> {
    poll_fn(|cx| poll_chunk(cx, from, most)).await
}

/// [`read_chunk`] for who waits for something else too.
pub(crate) fn poll_chunk(
    cx: &mut Context<'_>,
    from: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> Poll<io::Result<Chunk>> {
    let mut buffer = Buffer::take();
    let most = most.min(buffer.0.len());
    let mut read = ReadBuf::new(buffer.0.get_mut(..most).unwrap_or_default());
    ready!(Pin::new(from).poll_read(cx, &mut read))?;
    let end = read.filled().len();
    Poll::Ready(Ok(Chunk::Read(Buffered { buffer, start: 0, end })))
}

/// Whether the thread has its buffer, so that nobody holds it.
#[cfg(test)]
pub(crate) fn is_kept() -> bool {
    let kept = KEPT.take();
    let is_kept = kept.is_some();
    KEPT.set(kept);
    is_kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_read_that_waits_holds_no_buffer() {
        let (mut near, mut far) = tokio::io::duplex(16);
        let mut read = Box::pin(read_chunk(&mut near, CHUNK_BYTES));
        let waiting = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx).is_pending())).await;
        assert!(waiting);
        assert!(is_kept(), "the buffer of the first try is back");

        far.write_all(b"abc").await.unwrap();
        let chunk = read.await.unwrap();
        assert_eq!(chunk.bytes(), b"abc");
        assert!(!is_kept(), "it is in use");
        drop(chunk);
        assert!(is_kept());

        drop(far);
        assert_eq!(read_chunk(&mut near, CHUNK_BYTES).await.unwrap().bytes(), b"");
    }

    #[tokio::test]
    async fn what_waits_to_be_written_holds_no_buffer() {
        let (mut near, mut far) = tokio::io::duplex(16);
        far.write_all(b"abcdef").await.unwrap();
        let mut chunk = read_chunk(&mut near, 5).await.unwrap();
        chunk.advance(2);
        assert_eq!((chunk.bytes(), is_kept()), (&b"cde"[..], false), "no more than was asked for");
        chunk.set_aside();
        assert_eq!((chunk.bytes(), is_kept()), (&b"cde"[..], true));
        chunk.advance(1);
        assert_eq!(chunk.bytes(), b"de");

        let other = read_chunk(&mut near, 5).await.unwrap();
        assert_eq!((other.bytes(), chunk.bytes()), (&b"f"[..], &b"de"[..]), "each has its own");
    }
}
