//! What is behind the proxy: HTTP/1.1 with keep-alive, the same through TLS, and an echo. It costs little beside the
//! proxy, and does nothing that could make a connection end early.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::socket::{BODY, echo, failed, listen, read_more, skip};
use crate::{head, tls};

/// HTTP: `GET /bytes/N` is answered with N bytes, anything else with none, after its body is read.
pub(crate) const HTTP_PORT: u16 = 9080;
/// Sends back what comes.
pub(crate) const ECHO_PORT: u16 = 9007;
/// HTTP through TLS.
pub(crate) const HTTPS_PORT: u16 = 9443;

/// Longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Serves all three on every address of the namespace until the process ends.
///
/// # Errors
/// If a port cannot be had, or there are no certificates.
pub(crate) async fn serve(certificates: &Path) -> Result<()> {
    let acceptor = tls::acceptor(certificates)?;
    let on = |port| listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false);
    let (http_at, echo_at, https_at) = (on(HTTP_PORT)?, on(ECHO_PORT)?, on(HTTPS_PORT)?);
    tokio::spawn(each(echo_at, echo));
    tokio::spawn(each(https_at, move |stream| {
        let acceptor = acceptor.clone();
        async move { http(acceptor.accept(stream).await?).await }
    }));
    each(http_at, http).await;
    Ok(())
}

/// Serves each connection in a task of its own. How one ends is for the client to find out.
async fn each<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        if let Ok((stream, _)) = listener.accept().await
            && stream.set_nodelay(true).is_ok()
        {
            tokio::spawn(serve(stream));
        }
    }
}

async fn http<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let request = loop {
            if let Some(request) = head::request(&bytes)? {
                break request;
            }
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(failed("a head that does not end"));
            }
            if read_more(&mut stream, &mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let read = (bytes.len() - request.length) as u64;
        skip(&mut stream, request.body.saturating_sub(read)).await?;
        bytes.clear();
        respond(&mut stream, &request).await?;
        if !request.persists {
            return stream.shutdown().await;
        }
    }
}

async fn respond<S: AsyncWrite + Unpin>(stream: &mut S, request: &head::Request) -> io::Result<()> {
    let wanted: Option<u64> = request.path.strip_prefix("/bytes/").and_then(|count| count.parse().ok());
    let mut left = wanted.unwrap_or(0);
    let mut first = format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n").into_bytes();
    let block = |left: u64| BODY.get(..usize::try_from(left).unwrap_or(BODY.len())).unwrap_or(&BODY);
    // A short body leaves with its head, as it does from a server that was written with care.
    if left <= 64 * 1024 {
        first.extend_from_slice(block(left));
        left = 0;
    }
    stream.write_all(&first).await?;
    while left > 0 {
        let part = block(left);
        stream.write_all(part).await?;
        left -= part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client gets that sends `requests` and then no more.
    async fn answers(requests: &[u8]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(1024 * 1024);
        client.write_all(requests).await.unwrap();
        client.shutdown().await.unwrap();
        http(server).await.unwrap();
        let mut answers = Vec::new();
        while read_more(&mut client, &mut answers).await.unwrap() > 0 {}
        answers
    }

    #[tokio::test]
    async fn bodies_have_the_size_that_was_asked_for() {
        for size in [0, 1, 100, 65_536, 65_537, 700_000] {
            let request = format!("GET /bytes/{size} HTTP/1.1\r\n\r\n");
            let answer = answers(request.as_bytes()).await;
            let head = head::response(&answer).unwrap().unwrap();
            assert_eq!((head.status, head.body), (200, Some(size)));
            assert_eq!((answer.len() - head.length) as u64, size);
        }
    }

    #[tokio::test]
    async fn an_upload_is_read_to_its_end_before_the_answer() {
        let body = "x".repeat(5000);
        let request =
            format!("POST /sink HTTP/1.1\r\nContent-Length: 5000\r\nConnection: close\r\n\r\n{body}");
        let answer = answers(request.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"), "{answer:?}");
    }
}
