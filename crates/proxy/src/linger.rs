//! Closes a connection so that the client reads what was said last. A close with unread bytes in the receive buffer
//! sends a reset, and a reset discards what the client has not read yet (RFC 9112 §9.6).

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use crate::limits::Limits;

/// Bytes thrown away at a time.
const DISCARD_BYTES: usize = 4096;

/// Writes `bytes`, then [`close`]s.
pub(crate) async fn say_and_close(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: &[u8],
    limits: &Limits,
) {
    if say(&mut stream, bytes, limits).await {
        close(stream, limits).await;
    }
}

/// Writes `bytes` and returns whether the kernel took them in time.
pub(crate) async fn say(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], limits: &Limits) -> bool {
    let said = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    matches!(timeout(limits.linger_timeout, said).await, Ok(Ok(())))
}

/// Ends the writing side and throws away what the client still sends, within `linger_bytes` and `linger_timeout`.
pub(crate) async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin, limits: &Limits) {
    if end(&mut stream, limits).await {
        let _ = timeout(limits.linger_timeout, discard(&mut stream, limits.linger_bytes)).await;
    }
}

/// Ends the writing side. Through TLS that writes what is still held and a `close_notify`, without which a client
/// could not tell the end of a response that ends with its connection from a broken one (RFC 8446 §6.1).
pub(crate) async fn end(stream: &mut (impl AsyncWrite + Unpin), limits: &Limits) -> bool {
    matches!(timeout(limits.linger_timeout, stream.shutdown()).await, Ok(Ok(())))
}

async fn discard(stream: &mut (impl AsyncRead + Unpin), mut room: usize) {
    let mut bytes = [0; DISCARD_BYTES];
    while room > 0 {
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(count) => room = room.saturating_sub(count),
        }
    }
}
