//! The mark of this process's own connections, by which the kernel's rules tell them from those of processes that are held
//! to the policy, where they hold this process, too.

use std::{
    future::Future,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    pin::Pin,
    sync::OnceLock,
    time::Duration,
};

use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider, iocompat::AsyncIoTokioAsStd};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// Once and for the whole process, since every socket that begins a connection needs it.
static MARK: OnceLock<u32> = OnceLock::new();

/// Marks every socket that begins a connection from now on. To be called before there is one.
///
/// # Errors
/// If this process may not mark sockets, for which it needs `CAP_NET_ADMIN`.
pub fn mark_own_sockets(mark: u32) -> io::Result<()> {
    let mark = *MARK.get_or_init(|| mark);
    SockRef::from(&UdpSocket::bind("127.0.0.1:0")?).set_mark(mark)
}

/// Marks a socket that is to begin a connection, if that is wanted.
///
/// # Errors
/// If this process may not.
pub fn mark(socket: &impl AsFd) -> io::Result<()> {
    match MARK.get() {
        Some(mark) => SockRef::from(socket).set_mark(*mark),
        None => Ok(()),
    }
}

/// The sockets of the resolver.
#[derive(Clone, Default)]
pub(crate) struct Sockets(TokioRuntimeProvider);

type Connecting<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Connecting<Self::Tcp> {
        if MARK.get().is_none() {
            return self.0.connect_tcp(server, from, limit);
        }
        Box::pin(async move {
            let connecting = connect(server, from);
            let stream = match limit {
                Some(limit) => tokio::time::timeout(limit, connecting).await??,
                None => connecting.await?,
            };
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Connecting<Self::Udp> {
        let binding = self.0.bind_udp(local, server);
        Box::pin(async move {
            let socket = binding.await?;
            mark(&socket)?;
            Ok(socket)
        })
    }
}

async fn connect(server: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    mark(&socket)?;
    socket.set_nodelay(true)?;
    if let Some(from) = from {
        socket.bind(from)?;
    }
    socket.connect(server).await
}
