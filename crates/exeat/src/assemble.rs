//! The only place that sees every crate: it puts them together once and hands each its parts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use exeat_api::{Admin, ReloadOrder, Reloaded, Socket, SocketFile, Status};
use exeat_audit::{AuditLog, AuditWriter, Sink};
use exeat_cli::Source;
use exeat_dns::Resolver;
use exeat_identity::Authenticator;
use exeat_policy::Revision;
use exeat_proxy::{Parts, Proxy, Snapshot, Tls};
use exeat_store::{Loaded, Options, Report, Settings};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::cores::{self, Cores};
use crate::descriptors;
use crate::inherited::Inherited;
use crate::listening::{Listening, listen};
use crate::log::Log;
use crate::notify;
use crate::signals::{Signal, Signals};

/// How long the last audit records may take to reach their sink when the program ends.
const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Reloads that are asked for over the admin API while one is under way.
const RELOADS_WAITING: usize = 8;

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
            Sink::File(path) => format!("cannot open the audit log `{}`", path.display()),
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
    // Before the proxy's own, so that whoever finds that open finds these too.
    let socket = loaded.settings.api.socket.as_deref().map(Socket::bind).transpose();
    let socket = socket.context("cannot open the admin API")?;
    let health = loaded.settings.api.listen.map(|address| listen(address, 1, &mut inherited)).transpose()?;
    let listening: Vec<Listening> = asked
        .iter()
        .map(|address| listen(*address, cores::count(), &mut inherited))
        .collect::<Result<_, _>>()?;
    inherited.check_all_taken(asked.iter().chain(&loaded.settings.api.listen))?;
    let bound: Vec<SocketAddr> = listening.iter().map(|listening| listening.address).collect();
    let health_bound = health.as_ref().map(|health| health.address);
    let ours: Vec<SocketAddr> = bound.iter().copied().chain(health_bound).collect();
    if bound != asked || health_bound != loaded.settings.api.listen {
        // A configured port 0 has got its number only now, and the floor must know it.
        let options = Options { revision: Revision(1), listeners: ours.clone() };
        loaded = source.load(&options).context("the configuration changed while starting")?;
    }
    exeat_cli::announce(&source, &loaded, &bound, health_bound);

    let settings = loaded.settings.clone();
    let proxy = Proxy::new(Parts {
        authenticator: Authenticator::new()?,
        resolver: Resolver::new(settings.resolver.clone()).context("cannot set up the resolver")?,
        audit: audit.clone(),
        limits: descriptors::raise_limit()
            .map_or(settings.limits, |most| descriptors::fit(settings.limits, most)),
        http2: settings.http2,
        pac: settings.pac,
        proxy_protocol_from: settings.proxy_protocol_from.clone(),
        snapshot: snapshot(loaded),
    })
    .context("cannot set up the proxy")?;
    if let Some(directory) = &settings.state {
        let quarantined = proxy.keep_state(directory).context("cannot take over the state")?;
        tracing::info!(quarantined, "state taken over");
    }
    let certificates = certificates(&settings)?;
    certificates.iter().flatten().for_each(|tls| drop(tokio::spawn(tls.clone().watch())));
    let listeners = listening.into_iter().map(|listening| listening.sockets).zip(certificates.clone());
    let cores = Cores::start(&proxy, listeners.collect())?;
    let shown = certificates.iter().flatten().cloned().collect();
    let status = Arc::new(Status::new(source.describe(), shown).with_lost_lines(stderr.lost()));
    let (reloads, mut orders) = mpsc::channel(RELOADS_WAITING);
    let admin = Admin { proxy: proxy.clone(), status: Arc::clone(&status), reloads };
    let _socket = socket.map(|socket| serve_admin(socket, admin));
    for socket in health.into_iter().flat_map(|health| health.sockets) {
        let listener = TcpListener::from_std(socket).context("cannot serve health")?;
        tokio::spawn(exeat_api::serve_health(listener, proxy.clone(), Arc::clone(&status)));
    }
    tracing::info!(revision = 1, instance = proxy.instance(), "ready");
    notify::ready("revision 1");
    notify::start_watchdog();

    let mut reloader = Reloader {
        source,
        settings,
        bound: ours,
        status,
        certificates,
        revision: Revision(1),
        proxy: proxy.clone(),
        audit,
        stderr: stderr.clone(),
    };
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                // What came of it is in the log.
                Signal::Reload => drop(reloader.reload()),
                Signal::Stop => break,
            },
            Some(ReloadOrder { reply }) = orders.recv() => {
                // Whoever asked may have left.
                let _ = reply.send(reloader.reload());
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
    Ok(())
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

fn snapshot(loaded: Loaded) -> Snapshot {
    Snapshot {
        policy: loaded.policy,
        hops: loaded.hops,
        clients: loaded.clients,
        anonymous: loaded.anonymous,
        disclose: loaded.settings.disclose,
    }
}

/// Swaps the whole policy when the configuration loads, and changes nothing when it does not.
struct Reloader {
    source: Source,
    settings: Settings,
    /// Every address that is listened on, for the floor.
    bound: Vec<SocketAddr>,
    status: Arc<Status>,
    certificates: Vec<Option<Tls>>,
    revision: Revision,
    proxy: Proxy,
    audit: AuditLog,
    stderr: Log,
}

impl Reloader {
    fn reload(&mut self) -> Result<Reloaded, Report> {
        notify::reloading();
        let result = self.swap();
        notify::ready(&format!("revision {}", self.revision));
        result
    }

    fn swap(&mut self) -> Result<Reloaded, Report> {
        self.audit.reopen();
        // Whatever comes of the rest: a renewed certificate is not part of the policy.
        self.certificates.iter().flatten().for_each(Tls::reload);
        let next = Revision(self.revision.0 + 1);
        let options = Options { revision: next, listeners: self.bound.clone() };
        let loaded = match self.source.load(&options) {
            Ok(loaded) => loaded,
            Err(report) => {
                self.status.note_reload(false);
                self.stderr.say(&exeat_cli::report_text(&report));
                tracing::error!(revision = %self.revision, "reload refused: the configuration has errors; the old one stays");
                return Err(report);
            }
        };
        self.stderr.say(&exeat_cli::report_text(&loaded.warnings));
        self.warn_of_fixed_settings(&loaded.settings);
        let warnings = loaded.warnings.clone();
        self.proxy.replace(snapshot(loaded));
        self.revision = next;
        self.status.note_reload(true);
        tracing::info!(revision = %next, "reloaded");
        Ok(Reloaded { revision: next, warnings })
    }

    /// Says which changed settings wait for a restart: what is bound and opened at the start.
    fn warn_of_fixed_settings(&self, new: &Settings) {
        let old = &self.settings;
        let fixed = [
            ("proxy.listen", old.listen != new.listen),
            ("proxy.http2", old.http2 != new.http2),
            ("proxy.pac", old.pac != new.pac),
            ("proxy.proxy_protocol_from", old.proxy_protocol_from != new.proxy_protocol_from),
            ("limits", old.limits != new.limits),
            ("resolver", old.resolver != new.resolver),
            ("audit", old.audit != new.audit),
            ("state", old.state != new.state),
            ("api", old.api != new.api),
        ];
        for (section, _) in fixed.into_iter().filter(|(_, changed)| *changed) {
            tracing::warn!(section, "changed, but takes effect after a restart only");
        }
    }
}

fn flush(writer: AuditWriter) {
    if !writer.shutdown(AUDIT_FLUSH_TIMEOUT) {
        tracing::error!("the last audit records could not be written");
    }
}
