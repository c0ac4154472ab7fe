//! The only place that sees every crate: it puts them together once and hands each its parts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use exeat_api::{Access, Admin, Order, Socket, SocketFile, Status};
use exeat_audit::{AuditLog, AuditWriter, Sink};
use exeat_cli::Source;
use exeat_dns::{
    Answers, Collector, Entrance, Gate, NoGate, Resolver, Server, Tap, TapOut, TapOutTask, VirtualNames,
};
use exeat_identity::Authenticator;
use exeat_policy::Revision;
use exeat_proxy::{Door, Parts, Proxy, Tls};
use exeat_store::{History, Loaded, Options, Settings, SocketListener, TapOutSettings, TapSettings};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cores::{self, Cores, DnsDoor, UnixDoor};
use crate::descriptors;
use crate::firewall;
use crate::inherited::Inherited;
use crate::listening::{At, DnsListening, Listening, listen, listen_dns, take_any_address};
use crate::local;
use crate::log::Log;
use crate::notify;
use crate::reloader::{Reloader, snapshot, warn_unkept};
use crate::signals::{Signal, Signals};

/// How long the last audit records may take to reach their sink when the program ends.
pub(crate) const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Changes that are asked for over the admin API while one is under way.
const ORDERS_WAITING: usize = 8;

/// How long the start waits for the keys of issuers that are fetched. Longer than a server takes that is there; with one
/// that is not, the proxy starts all the same, and refuses the tokens.
const KEYS_WAIT: Duration = Duration::from_secs(2);

/// Connections that wait on a unix socket; the kernel keeps no more than `net.core.somaxconn`.
const UNIX_BACKLOG: u32 = 4096;

/// Streams of dnstap that wait to be read.
const TAP_BACKLOG: u32 = 16;

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// If a listener, the audit sink, the resolver or the runtime cannot be had.
pub(crate) fn run(source: Source, loaded: Loaded, stderr: &Log) -> anyhow::Result<()> {
    // Before there is a second thread, since it changes the environment.
    let inherited = Inherited::from_env()?;
    // For all that is not a client's connection: signals, reloads, the admin API, certificates. One thread waits for
    // signals and reloads, the other one answers meanwhile.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let audit = &loaded.settings.audit;
    let (log, writer) =
        AuditLog::start(audit.sink.clone(), audit.required).with_context(|| match &audit.sink {
            Sink::File(path) | Sink::Plain(path) => format!("cannot open the audit log `{}`", path.display()),
            Sink::Stdout => "cannot start the audit log".to_owned(),
        })?;
    let result = runtime.block_on(serve(source, loaded, log, inherited, stderr));
    runtime.shutdown_timeout(Duration::ZERO);
    flush(writer);
    result
}

async fn serve(
    source: Source,
    mut loaded: Loaded,
    audit: AuditLog,
    mut inherited: Inherited,
    stderr: &Log,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let asked: Vec<SocketAddr> = loaded.settings.listen.iter().map(|listener| listener.address).collect();
    // All of these before the proxy's own, so that whoever finds that open finds these too.
    let socket = loaded.settings.api.socket.as_deref().map(Socket::bind).transpose();
    let socket = socket.context("cannot open the admin API")?;
    let health = loaded.settings.api.listen.map(|address| listen(At::everywhere(address), 1, &mut inherited));
    let health = health.transpose()?;
    let dns_asked: Vec<SocketAddr> =
        loaded.settings.dns.listen.iter().map(|listener| listener.address).collect();
    let all = loaded.settings.dns.listen.iter().map(|one| (one.address, one.interface.as_deref()));
    let dns: Vec<DnsListening> =
        At::all(all).into_iter().map(|at| listen_dns(at, cores::count())).collect::<Result<_, _>>()?;
    let dns_bound: Vec<SocketAddr> = dns.iter().map(|listening| listening.address).collect();
    let groups = local::listen_for_groups(loaded.settings.firewall.as_ref())?;
    let (unix, _files) = unix_doors(&loaded.settings)?;
    let all = loaded.settings.listen.iter().map(|one| (one.address, one.interface.as_deref()));
    let listening: Vec<Listening> = At::all(all)
        .into_iter()
        .map(|at| listen(at, cores::count(), &mut inherited))
        .collect::<Result<_, _>>()?;
    let listeners = loaded.settings.listen.iter().zip(&listening);
    listeners.filter(|(listener, _)| listener.is_redirected).for_each(|(_, at)| take_any_address(at));
    inherited.check_all_taken(asked.iter().chain(&loaded.settings.api.listen))?;
    let bound: Vec<SocketAddr> = listening.iter().map(|listening| listening.address).collect();
    let health_bound = health.as_ref().map(|health| health.address);
    let ours: Vec<SocketAddr> = bound.iter().chain(&dns_bound).copied().chain(health_bound).collect();
    let ours: Vec<SocketAddr> = ours.into_iter().chain(groups.addresses()).collect();
    if !groups.is_empty()
        || bound != asked
        || dns_bound != dns_asked
        || health_bound != loaded.settings.api.listen
    {
        // A configured port 0 has got its number only now, as every listener for a group has, and the floor must know it.
        let options = Options { listeners: ours.clone(), ..Options::new(Revision(1)) };
        loaded = source.load(&options).context("the configuration changed while starting")?;
    }
    exeat_cli::announce(&source, &loaded, &bound, &dns_bound, health_bound);
    let history = Arc::new(History::default());
    number(&history, &mut loaded);
    let revision = loaded.policy.revision();

    let settings = loaded.settings.clone();
    let resolver = Resolver::new(settings.resolver.clone()).context("cannot set up the resolver")?;
    let virtual_names =
        settings.dns.virtual_ranges.map(|ranges| Arc::new(VirtualNames::new(ranges, Instant::now())));
    let answers = settings.answers_held().map(|hold| Arc::new(Answers::new(hold)));
    let proxy = Proxy::new(Parts {
        authenticator: Authenticator::new()?,
        resolver: resolver.clone(),
        audit: audit.clone(),
        limits: descriptors::fitting(settings.limits),
        http2: settings.http2,
        pac: settings.pac,
        proxy_protocol_from: settings.proxy_protocol_from.clone(),
        virtual_names: virtual_names.clone(),
        answers: answers.clone(),
        snapshot: snapshot(loaded),
    })
    .context("cannot set up the proxy")?;
    if let Some(directory) = &settings.state {
        let quarantined = proxy.keep_state(directory).context("cannot take over the state")?;
        tracing::info!(quarantined, "state taken over");
    }
    tokio::spawn(proxy.clone().watch_keys());
    // What comes of it is in the log.
    let _ = timeout(KEYS_WAIT, proxy.keys_tried()).await;
    let certificates = certificates(&settings)?;
    for tls in certificates.iter().flatten().cloned() {
        let proxy = proxy.clone();
        tokio::spawn(tls.watch(move || proxy.end_unproven()));
    }
    let doors = settings.listen.iter().zip(&certificates).map(|(listener, tls)| Door {
        tls: tls.clone(),
        interface: listener.interface.as_deref().map(Arc::from),
        demand: listener.demand,
        is_redirected: listener.is_redirected,
    });
    let listeners = listening.into_iter().map(|listening| listening.sockets).zip(doors);
    let tap = settings.dns.tap.as_ref();
    let listeners_of_firewall = firewall::Listeners {
        dns: &dns_bound,
        dns_elsewhere: tap.map(|tap| tap.servers.as_slice()).unwrap_or_default(),
        doors: &bound,
        health: health_bound,
        groups: &groups,
        relay: firewall::Relay::of(&settings, &bound),
    };
    let firewall = match &settings.firewall {
        Some(found) => Some(firewall::start(found, listeners_of_firewall, &proxy).await?),
        None => None,
    };
    if let (Some(firewall), Some(answers)) = (&firewall, &answers) {
        firewall::recall(firewall, answers, &proxy).await;
    }
    let gate: Arc<dyn Gate> = match &firewall {
        Some(firewall) => Arc::clone(firewall) as _,
        None => Arc::new(NoGate),
    };
    let gate = answers.map_or(Arc::clone(&gate), |answers| answers.before(gate));
    let (tap_out, tap_out_task) = settings.dns.tap_out.as_ref().map(|out| tell(out, &proxy)).unzip();
    let server = Server::new(
        settings.dns.server.clone(),
        resolver,
        proxy.surroundings(),
        gate,
        virtual_names,
        tap_out,
    );
    let _tap = tap.map(|tap| listen_to(tap, &server)).transpose()?;
    let dns = dns.into_iter().zip(&settings.dns.listen).map(|(listening, listener)| {
        let interface = listener.interface.as_deref().map(Arc::from);
        let entrance = interface.map_or(Entrance::Open, Entrance::Interface);
        (listening.sockets, DnsDoor { entrance, server: server.clone(), is_for_one: false })
    });
    let dns = dns.chain(groups.into_doors(&server)).collect();
    let cores = Cores::start(&proxy, listeners.collect(), unix, dns)?;
    let shown = certificates.iter().flatten().cloned().collect();
    let counts = firewall.as_ref().map(|firewall| Arc::clone(firewall.counts()));
    let status = Status::new(source.describe(), shown).with_lost_lines(stderr.lost()).with_firewall(counts);
    let status = Arc::new(status);
    let (ordered, mut orders) = mpsc::channel(ORDERS_WAITING);
    let admin = Admin::new(exeat_api::Parts {
        proxy: proxy.clone(),
        status: Arc::clone(&status),
        orders: ordered,
        history: Arc::clone(&history),
        base_dir: &base_dir(&source),
        listeners: &ours,
        firewall,
    });
    let _socket = socket.map(|socket| serve_admin(socket, admin));
    for socket in health.into_iter().flat_map(|health| health.sockets) {
        let listener = TcpListener::from_std(socket).context("cannot serve health")?;
        tokio::spawn(exeat_api::serve_health(listener, proxy.clone(), Arc::clone(&status)));
    }
    tracing::info!(%revision, instance = proxy.instance(), "ready");
    notify::ready(&format!("revision {revision}"));
    notify::start_watchdog();

    let mut reloader = Reloader {
        source,
        settings,
        bound: ours,
        status,
        certificates,
        history,
        proxy: proxy.clone(),
        audit,
        stderr: stderr.clone(),
    };
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => reloader.on_signal(),
                Signal::Stop => break,
            },
            Some(Order { what, uid, reply }) = orders.recv() => {
                // Whoever asked may have left.
                let _ = reply.send(reloader.carry_out(what, uid));
            }
        }
    }
    drop(orders);
    notify::stopping();
    tracing::info!("draining: no new connections, running ones may finish");
    tokio::select! {
        cut = proxy.drain() => tracing::info!(cut, "drained"),
        _ = signals.stop() => tracing::warn!("told again to stop; running connections are cut"),
    }
    cores.stop();
    if let Some(task) = tap_out_task {
        task.finish().await;
    }
    Ok(())
}

/// Gives what was loaded its number in the history. That may be damaged or out of reach: it decides nothing.
fn number(history: &History, loaded: &mut Loaded) {
    if let Some(directory) = &loaded.settings.state {
        match history.open(directory) {
            Ok(damaged) => damaged.iter().for_each(|error| tracing::warn!(%error, "a revision is lost")),
            Err(error) => warn_unkept(&error),
        }
    }
    let Some(written) = loaded.written.clone() else { return };
    let (revision, kept) = history.start(written, SystemTime::now());
    loaded.policy.renumber(revision);
    if let Err(error) = kept {
        warn_unkept(&error);
    }
}

/// The folder of the configuration file.
fn base_dir(source: &Source) -> PathBuf {
    match source {
        Source::File(path) => path.parent().unwrap_or(Path::new("")).to_owned(),
        Source::Attached { .. } | Source::Flags { .. } => PathBuf::new(),
    }
}

/// Listens on the unix sockets for clients. Their files live as long as what is returned second.
fn unix_doors(settings: &Settings) -> anyhow::Result<(Vec<UnixDoor>, Vec<SocketFile>)> {
    let mut doors = Vec::new();
    let mut files = Vec::new();
    for SocketListener { path, mode, owner, group, demand } in &settings.sockets {
        let access = Access { mode: *mode, owner: *owner, group: *group, backlog: UNIX_BACKLOG };
        let Socket { listener, file } =
            Socket::bind_for(path, access).context("cannot listen for clients")?;
        let socket = listener.into_std().context("cannot listen for clients")?;
        doors.push(UnixDoor { socket, path: path.clone(), demand: *demand });
        files.push(file);
    }
    Ok((doors, files))
}

/// Reads what other name servers tell of their answers. The file of the socket lives as long as what is returned.
fn listen_to(tap: &TapSettings, server: &Server) -> anyhow::Result<SocketFile> {
    // Who connects is looked at with each connection: a folder is not always there to keep the others out.
    let access = Access { mode: 0o666, owner: None, group: None, backlog: TAP_BACKLOG };
    let Socket { listener, file } =
        Socket::bind_for(&tap.socket, access).context("cannot listen for dnstap")?;
    tokio::spawn(Tap::new(server.clone(), tap.uid).serve(listener));
    Ok(file)
}

/// Tells a collector what is asked, from now on.
fn tell(out: &TapOutSettings, proxy: &Proxy) -> (TapOut, TapOutTask) {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let collector = Collector {
        socket: out.socket.clone(),
        uid: out.uid,
        identity: out.identity.clone().unwrap_or_else(|| host().trim_end().to_owned()),
        version: concat!("exeat ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    TapOut::start(collector, proxy.surroundings())
}

/// Serves the admin API. The file of the socket lives as long as what is returned.
fn serve_admin(socket: Socket, admin: Admin) -> SocketFile {
    let Socket { listener, file } = socket;
    tokio::spawn(exeat_api::serve_admin(listener, admin));
    file
}

/// Reads the certificate and key of each listener that has them.
fn certificates(settings: &Settings) -> anyhow::Result<Vec<Option<Tls>>> {
    let files = settings.listen.iter().map(|listener| listener.tls.clone());
    let tls = |files| Tls::new(files, settings.http2).context("cannot set up TLS");
    files.map(|files| files.map(tls).transpose()).collect()
}

fn flush(writer: AuditWriter) {
    if !writer.shutdown(AUDIT_FLUSH_TIMEOUT) {
        tracing::error!("the last audit records could not be written");
    }
}
