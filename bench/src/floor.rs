//! The floor: the least work that a CONNECT proxy can do, as the yardstick for one that does more.
//!
//! It compares the credentials as text, looks the name up in a hash set and knows its address without asking. One
//! thread for each core, each with a listener of its own, and nothing is held for a connection while it is idle. No
//! limits, no time-outs, no records: this is no proxy to use.

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::thread;

use anyhow::{Result, anyhow};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};

use crate::socket::{failed, listen, read_more, with_buffer};
use crate::{load, names};

/// Longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What every connection is checked against.
struct Checks {
    credentials: String,
    names: HashSet<Box<str>>,
}

/// Serves on `at` with the first `rules` names allowed, until the process ends.
///
/// # Errors
/// If the address cannot be had.
pub(crate) fn serve(at: SocketAddr, rules: u64) -> Result<()> {
    let names = (0..rules).map(|rule| names::listed(rule).into_boxed_str()).collect();
    let checks = Arc::new(Checks { credentials: load::basic_credentials(), names });
    let cores = thread::available_parallelism()?.get();
    let threads: Vec<_> = (0..cores)
        .map(|_| {
            let checks = Arc::clone(&checks);
            thread::spawn(move || -> io::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(accept(at, checks))
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread of the floor ended"))??;
    }
    Ok(())
}

async fn accept(at: SocketAddr, checks: Arc<Checks>) -> io::Result<()> {
    let listener = listen(at, true)?;
    loop {
        let (client, _) = listener.accept().await?;
        let checks = Arc::clone(&checks);
        tokio::spawn(async move { connection(client, &checks).await });
    }
}

async fn connection(mut client: TcpStream, checks: &Checks) -> io::Result<()> {
    client.set_nodelay(true)?;
    let head = read_head(&mut client).await?;
    let target = match checks.target(&head) {
        Ok(target) => target,
        Err(status) => {
            let challenge = if status.starts_with("407") { "Proxy-Authenticate: Basic\r\n" } else { "" };
            let refusal =
                format!("HTTP/1.1 {status}\r\n{challenge}Content-Length: 0\r\nConnection: close\r\n\r\n");
            return client.write_all(refusal.as_bytes()).await;
        }
    };
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    let mut upstream = socket.connect(target).await?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    let (from_client, to_client) = client.split();
    let (from_upstream, to_upstream) = upstream.split();
    tokio::try_join!(relay(from_client, to_upstream), relay(from_upstream, to_client))?;
    Ok(())
}

async fn read_head(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX {
            return Err(failed("a head that does not end"));
        }
        if read_more(client, &mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

impl Checks {
    /// Where a CONNECT request may go, or the status that refuses it.
    fn target(&self, head: &[u8]) -> Result<SocketAddr, &'static str> {
        let head = std::str::from_utf8(head).map_err(|_| "400 Bad Request")?;
        let mut lines = head.split("\r\n");
        let authority = lines.next().and_then(|line| line.strip_prefix("CONNECT ")?.split(' ').next());
        let (name, port) = authority.and_then(|text| text.rsplit_once(':')).ok_or("400 Bad Request")?;
        let port: u16 = port.parse().map_err(|_| "400 Bad Request")?;
        let field = |line: &str| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim() == self.credentials)
        };
        if lines.find_map(field) != Some(true) {
            return Err("407 Proxy Authentication Required");
        }
        if !self.names.contains(name) {
            return Err("403 Forbidden");
        }
        Ok((names::address(name), port).into())
    }
}

/// Moves one direction to its end, then closes that half of the other side.
async fn relay(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    loop {
        let (read, unwritten) =
            poll_fn(|context| with_buffer(|buffer| pass(&mut from, &to, buffer, context))).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&unwritten).await?;
    }
}

/// Reads into the thread's buffer and writes at once what the other side takes; the rest is all that is ever copied.
fn pass(
    from: &mut ReadHalf<'_>,
    to: &WriteHalf<'_>,
    buffer: &mut [u8],
    context: &mut std::task::Context<'_>,
) -> Poll<io::Result<(usize, Vec<u8>)>> {
    let mut read = ReadBuf::new(buffer);
    // After a short read this does not read again only to learn that there is no more.
    ready!(Pin::new(from).poll_read(context, &mut read))?;
    let read = read.filled();
    if read.is_empty() {
        return Poll::Ready(Ok((0, Vec::new())));
    }
    let written = match to.try_write(read) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        result => result?,
    };
    Poll::Ready(Ok((read.len(), read.get(written..).unwrap_or_default().to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_names_with_the_right_credentials_pass() {
        let name = names::listed(0);
        let names = [name.clone().into_boxed_str()].into();
        let checks = Checks { credentials: "Basic abc".to_owned(), names };
        let want = Ok(SocketAddr::from((names::address(&name), 9080)));
        for (line, authorization, want) in [
            (format!("CONNECT {name}:9080 HTTP/1.1"), "Proxy-Authorization: Basic abc\r\n", want),
            (
                format!("CONNECT x{name}:9080 HTTP/1.1"),
                "Proxy-Authorization: Basic abc\r\n",
                Err("403 Forbidden"),
            ),
            (
                format!("CONNECT {name}:9080 HTTP/1.1"),
                "Proxy-Authorization: Basic abd\r\n",
                Err("407 Proxy Authentication Required"),
            ),
            (format!("CONNECT {name}:9080 HTTP/1.1"), "", Err("407 Proxy Authentication Required")),
            (format!("GET {name}:9080 HTTP/1.1"), "", Err("400 Bad Request")),
        ] {
            let head = format!("{line}\r\n{authorization}\r\n");
            assert_eq!(checks.target(head.as_bytes()), want, "{head:?}");
        }
    }
}
