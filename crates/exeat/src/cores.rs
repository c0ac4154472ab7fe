//! The threads that serve clients: one for each core, each with a runtime and listening sockets of its own. A connection
//! stays on the core that accepted it, so that nothing on its path waits for another thread or wakes one.

use std::io;
use std::net::{TcpListener as Socket, UdpSocket};
use std::num::NonZero;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use exeat_dns::{Entrance, Server, UdpListener};
use exeat_identity::Demand;
use exeat_proxy::{Door, Proxy};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// The running threads.
pub(crate) struct Cores {
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// How many there are to be.
pub(crate) fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

impl Cores {
    /// Serves each of `listeners`, as its door says, on as many threads as it has sockets, each of `unix` on all of those,
    /// and the questions at each of `dns` on as many as that has sockets.
    ///
    /// # Errors
    /// If a runtime or a thread cannot be had.
    pub(crate) fn start(
        proxy: &Proxy,
        listeners: Vec<(Vec<Socket>, Door)>,
        unix: Vec<UnixDoor>,
        dns: Vec<(Vec<DnsSockets>, DnsDoor)>,
    ) -> anyhow::Result<Self> {
        let mut shares: Vec<Share> = Vec::new();
        for (sockets, door) in listeners {
            for (core, socket) in sockets.into_iter().enumerate() {
                share_of(core, &mut shares)?.tcp.push((socket, door.clone()));
            }
        }
        for (sockets, door) in dns {
            for (core, sockets) in sockets.into_iter().enumerate() {
                share_of(core, &mut shares)?.dns.push((sockets, door.clone()));
            }
        }
        shares.resize_with(shares.len().max(1), Share::default);
        for share in &mut shares {
            let clones: io::Result<Vec<UnixDoor>> = unix.iter().map(UnixDoor::try_clone).collect();
            share.unix = clones.context("cannot share a unix socket")?;
        }
        let mut cores = Self { threads: Vec::new(), stop: watch::Sender::new(false) };
        for (number, share) in shares.into_iter().enumerate() {
            let runtime =
                Builder::new_current_thread().enable_all().build().context("cannot set up a core")?;
            start_serving(&runtime, proxy, share)?;
            let stop = cores.stop.subscribe();
            let thread = thread::Builder::new()
                .name(format!("core-{number}"))
                .spawn(move || run(runtime, stop))
                .context("cannot start the thread of a core")?;
            cores.threads.push(thread);
        }
        Ok(cores)
    }

    /// Ends the threads, and what still runs on them. Blocks until they have ended.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("the thread of a core panicked");
            }
        }
    }
}

/// What one thread listens on.
#[derive(Default)]
struct Share {
    tcp: Vec<(Socket, Door)>,
    unix: Vec<UnixDoor>,
    dns: Vec<(DnsSockets, DnsDoor)>,
}

/// Returns the share of this core; they are asked for in order.
fn share_of(core: usize, shares: &mut Vec<Share>) -> anyhow::Result<&mut Share> {
    if core == shares.len() {
        shares.push(Share::default());
    }
    shares.get_mut(core).context("a core for each socket")
}

/// What one core takes questions from.
pub(crate) type DnsSockets = (UdpSocket, Socket);

/// How an address takes questions.
#[derive(Clone)]
pub(crate) struct DnsDoor {
    /// What it says of who asks.
    pub(crate) entrance: Entrance,
    pub(crate) server: Server,
    /// Whether there is one client only.
    pub(crate) is_for_one: bool,
}

/// A unix socket that listens, and how it takes its clients in.
pub(crate) struct UnixDoor {
    pub(crate) socket: UnixListener,
    pub(crate) path: PathBuf,
    pub(crate) demand: Demand,
}

impl UnixDoor {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, path: self.path.clone(), demand: self.demand })
    }
}

/// Has the runtime serve `share` once it runs.
fn start_serving(runtime: &Runtime, proxy: &Proxy, share: Share) -> anyhow::Result<()> {
    let _here = runtime.enter();
    for (socket, door) in share.tcp {
        let listener = TcpListener::from_std(socket).context("cannot use a listener")?;
        runtime.spawn(proxy.serve(listener, door));
    }
    for UnixDoor { socket, path, demand } in share.unix {
        let listener = tokio::net::UnixListener::from_std(socket).context("cannot use a unix socket")?;
        runtime.spawn(proxy.serve_unix(listener, &path, demand));
    }
    for ((udp, tcp), DnsDoor { entrance, server, is_for_one }) in share.dns {
        let udp = UdpListener::new(udp, entrance.clone()).context("cannot use a socket for names")?;
        let udp = if is_for_one { udp.one_by_one() } else { udp };
        let tcp = TcpListener::from_std(tcp).context("cannot use a listener for names")?;
        let by_udp = server.clone();
        runtime.spawn(async move { by_udp.serve_udp(udp).await });
        runtime.spawn(async move { server.serve_tcp(tcp, entrance).await });
    }
    Ok(())
}

fn run(runtime: Runtime, mut stop: watch::Receiver<bool>) {
    runtime.block_on(async {
        // Without a sender it is over, too.
        let _ = stop.wait_for(|stop| *stop).await;
    });
    // A password that is being hashed is not waited for.
    runtime.shutdown_timeout(Duration::ZERO);
}
