//! Sockets and the bytes on them, as the load generator, the origin and the floor use them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::ready;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// One buffer for each thread: nothing is held for a connection that is idle.
const BUFFER_BYTES: usize = 256 * 1024;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Clients come from this many addresses, so that they do not use up the ephemeral ports of one.
const SOURCES: u64 = 64;

/// A part of a body: nobody looks at what is in it.
pub(crate) static BODY: [u8; BUFFER_BYTES] = [b'a'; BUFFER_BYTES];

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

/// Lends this thread's buffer.
pub(crate) fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// An error with a text of ours.
pub(crate) fn failed(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

/// Opens a listener; `shared` for one on each thread (`SO_REUSEPORT`).
pub(crate) fn listen(at: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects as the client number `nth`, which tells its source address.
pub(crate) async fn dial(to: SocketAddr, nth: u64) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // The port is chosen when the destination is known: each destination has all of them.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.set_nodelay(true)?;
    let last = u8::try_from(1 + nth % SOURCES).unwrap_or(1);
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 2, 0, last)), 0).into())?;
    socket.connect(to).await
}

/// Reads once through the thread's buffer and lends what came to `look`; nothing at the end.
async fn read_with<S, T>(stream: &mut S, most: usize, mut look: impl FnMut(&[u8]) -> T) -> io::Result<T>
where
    S: AsyncRead + Unpin + ?Sized,
{
    poll_fn(|context| {
        with_buffer(|buffer| {
            let most = most.min(buffer.len());
            let mut read = ReadBuf::new(buffer.get_mut(..most).unwrap_or_default());
            ready!(Pin::new(&mut *stream).poll_read(context, &mut read))?;
            std::task::Poll::Ready(Ok(look(read.filled())))
        })
    })
    .await
}

/// Adds what comes to `bytes`. Returns how much it was, 0 at the end.
pub(crate) async fn read_more<S>(stream: &mut S, bytes: &mut Vec<u8>) -> io::Result<usize>
where
    S: AsyncRead + Unpin + ?Sized,
{
    read_with(stream, BUFFER_BYTES, |read| {
        bytes.extend_from_slice(read);
        read.len()
    })
    .await
}

/// Reads at most `most` bytes and drops them. Returns how many they were, 0 at the end.
pub(crate) async fn read_away<S>(stream: &mut S, most: u64) -> io::Result<u64>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let most = usize::try_from(most).unwrap_or(BUFFER_BYTES);
    read_with(stream, most, |read| read.len() as u64).await
}

/// Reads and drops exactly `count` bytes.
///
/// # Errors
/// If the end comes before that.
pub(crate) async fn skip<S>(stream: &mut S, mut count: u64) -> io::Result<()>
where
    S: AsyncRead + Unpin + ?Sized,
{
    while count > 0 {
        match read_away(stream, count).await? {
            0 => return Err(failed("closed inside a body")),
            read => count -= read,
        }
    }
    Ok(())
}

/// Writes a part of a body once. Returns how much was taken.
pub(crate) async fn write_body<S>(stream: &mut S) -> io::Result<u64>
where
    S: AsyncWrite + Unpin + ?Sized,
{
    poll_fn(|context| Pin::new(&mut *stream).poll_write(context, &BODY).map_ok(|taken| taken as u64)).await
}

/// Sends back what comes, until the end.
pub(crate) async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    while read_more(&mut stream, &mut bytes).await? > 0 {
        stream.write_all(&bytes).await?;
        bytes.clear();
        // A connection that was busy once is idle like any other.
        bytes.shrink_to(0);
    }
    Ok(())
}
