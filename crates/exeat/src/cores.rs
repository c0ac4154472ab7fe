//! The threads that serve clients: one for each core, each with a runtime and listening sockets of its own. A connection
//! stays on the core that accepted it, so that nothing on its path waits for another thread or wakes one.

use std::net::TcpListener as Socket;
use std::num::NonZero;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use exeat_proxy::{Proxy, Tls};
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
    /// Serves each of `listeners`, through its TLS if it has some, on as many threads as it has sockets.
    ///
    /// # Errors
    /// If a runtime or a thread cannot be had.
    pub(crate) fn start(proxy: &Proxy, listeners: Vec<(Vec<Socket>, Option<Tls>)>) -> anyhow::Result<Self> {
        let mut shares: Vec<Vec<(Socket, Option<Tls>)>> = Vec::new();
        for (sockets, tls) in listeners {
            for (core, socket) in sockets.into_iter().enumerate() {
                if core == shares.len() {
                    shares.push(Vec::new());
                }
                shares.get_mut(core).context("a core for each socket")?.push((socket, tls.clone()));
            }
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

/// Has the runtime serve `share` once it runs.
fn start_serving(runtime: &Runtime, proxy: &Proxy, share: Vec<(Socket, Option<Tls>)>) -> anyhow::Result<()> {
    let _here = runtime.enter();
    for (socket, tls) in share {
        let listener = TcpListener::from_std(socket).context("cannot use a listener")?;
        let proxy = proxy.clone();
        runtime.spawn(async move { proxy.serve(listener, tls).await });
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
