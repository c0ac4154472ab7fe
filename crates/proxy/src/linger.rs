//! Closes a connection so that the client reads what was said last. A close with unread bytes in the receive buffer
//! sends a reset, and a reset discards what the client has not read yet (RFC 9112 §9.6).

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use crate::{
    chunk::{CHUNK_BYTES, read_chunk},
    client_stream::ClientStream,
    limits::Limits,
    within::within,
};

/// Writes `bytes`, then [`close`]s.
pub(crate) async fn say_and_close(stream: impl Into<ClientStream>, bytes: &[u8], limits: &Limits) {
    let mut stream = stream.into();
    let rest = bytes.get(stream.send_before_end(bytes)..).unwrap_or_default();
    if rest.is_empty() || say(&mut stream, rest, limits).await {
        close(stream, limits).await;
    }
}

/// Writes `bytes` and returns whether the kernel took them in time.
pub(crate) async fn say(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], limits: &Limits) -> bool {
    let said = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    matches!(within(limits.linger_timeout, said).await, Ok(Ok(())))
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
    matches!(within(limits.linger_timeout, stream.shutdown()).await, Ok(Ok(())))
}

async fn discard(stream: &mut (impl AsyncRead + Unpin), mut room: usize) {
    while room > 0 {
        match read_chunk(stream, CHUNK_BYTES).await {
            Ok(chunk) if !chunk.bytes().is_empty() => room = room.saturating_sub(chunk.bytes().len()),
            Ok(_) | Err(_) => return,
        }
    }
}
