//! Joins the firewall to what decides: it begins before anybody is answered, and follows every change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use exeat_audit::{Event, Outcome, PrincipalRecord, Record, Text};
use exeat_dns::{Answers, Asker};
use exeat_firewall::{Client, Config, Fate, Firewall, Packet, Packets};
use exeat_identity::{Place, Principal};
use exeat_model::IpBlock;
use exeat_policy::PolicySet;
use exeat_proxy::Proxy;
use exeat_store::{FirewallSettings, Settings};
use ipnet::IpNet;

use crate::local::Groups;

/// Between two looks whether something else decides: a change reaches the kernel within a second, with time to spare for a
/// large table of flows.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What decides at one time, as the kernel's part sees it.
struct Decides {
    deciding: Arc<dyn exeat_dns::Deciding>,
    networks: Vec<IpBlock>,
}

impl Decides {
    fn now(proxy: &Proxy) -> Arc<Self> {
        let snapshot = proxy.snapshot();
        let networks = snapshot.workloads.networks();
        let networks =
            networks.filter_map(|network| IpBlock::between(network.network(), network.broadcast()));
        Arc::new(Self { deciding: proxy.surroundings().now(), networks: networks.collect() })
    }
}

impl exeat_firewall::Deciding for Decides {
    fn policy(&self) -> &PolicySet {
        self.deciding.policy()
    }

    fn asker(&self, place: &Place) -> Option<Arc<Principal>> {
        self.deciding.asker(place).ok()
    }

    fn networks(&self) -> Vec<IpBlock> {
        self.networks.clone()
    }
}

/// The proxy, as the kernel is told to redirect connections to it.
pub(crate) struct Relay {
    listeners: Vec<SocketAddr>,
    stand_ins: Vec<IpNet>,
}

impl Relay {
    /// Returns what the kernel needs to know: the redirected ones of the listeners, which are `bound` in their order, and
    /// the networks of virtual addresses.
    pub(crate) fn of(settings: &Settings, bound: &[SocketAddr]) -> Self {
        let listeners = settings.listen.iter().zip(bound).filter(|(listener, _)| listener.is_redirected);
        let stand_ins = settings.dns.virtual_ranges.iter();
        Self {
            listeners: listeners.map(|(_, bound)| *bound).collect(),
            stand_ins: stand_ins.flat_map(|ranges| [ranges.v4().into(), ranges.v6().into()]).collect(),
        }
    }
}

/// Has `answers` know what an earlier process has opened and the kernel still lets through: it is the same clients that
/// connect by it. Connections of control groups are not redirected.
pub(crate) async fn recall(firewall: &Arc<Firewall>, answers: &Answers, proxy: &Proxy) {
    let opened = Arc::clone(firewall);
    // Should that panic, they have to ask again.
    let opened = tokio::task::spawn_blocking(move || opened.opened()).await.unwrap_or_default();
    let (deciding, now) = (proxy.surroundings().now(), Instant::now());
    for view in opened {
        let Client::Address(address) = view.client else { continue };
        let place = Place { address: Some(address), ..Place::default() };
        let Ok(principal) = deciding.asker(&place) else { continue };
        let asker = Asker { address, principal: &principal.name };
        if answers.note(asker, &view.name, &[view.address], view.remaining, now).is_err() {
            tracing::warn!("some clients have to ask for their names again: too many answers are remembered");
            return;
        }
    }
}

/// What we listen on.
pub(crate) struct Listeners<'a> {
    /// For names.
    pub(crate) dns: &'a [SocketAddr],
    /// The name servers that we hear of by dnstap, which clients ask in place of ours.
    pub(crate) dns_elsewhere: &'a [SocketAddr],
    /// As a proxy.
    pub(crate) doors: &'a [SocketAddr],
    /// For health and metrics.
    pub(crate) health: Option<SocketAddr>,
    /// For what processes of groups ask.
    pub(crate) groups: &'a Groups,
    /// For connections that the kernel redirects.
    pub(crate) relay: Relay,
}

/// Puts the rules in force.
///
/// # Errors
/// If `nft` is missing, or the kernel refuses.
pub(crate) async fn start(
    settings: &FirewallSettings,
    listeners: Listeners<'_>,
    proxy: &Proxy,
) -> anyhow::Result<Arc<Firewall>> {
    let config = Config {
        devices: settings.devices.clone(),
        groups: listeners.groups.attached(),
        closed: listeners.health.into_iter().chain(listeners.dns.iter().copied()).collect(),
        lifetime: settings.lifetime,
        size: settings.elements,
        is_counted: settings.is_counted,
        dns_elsewhere: listeners.dns_elsewhere.to_vec(),
        dns: listeners.dns.iter().chain(listeners.dns_elsewhere).copied().collect(),
        doors: listeners.doors.to_vec(),
        relay: listeners.relay.listeners,
        stand_ins: listeners.relay.stand_ins,
    };
    let epoch = proxy.epoch();
    let decides = Decides::now(proxy);
    // It talks to the kernel for as long as that takes.
    let started = tokio::task::spawn_blocking(move || Firewall::start(config, decides)).await;
    let firewall = Arc::new(started?.context("cannot start the firewall")?);
    let around = proxy.surroundings();
    let packets = Packets::listen(&firewall, move |packet| around.note(record(&packet)));
    if let Err(error) = &packets {
        tracing::warn!(%error, "refused packets are not in the audit log");
    }
    let follows = (Arc::clone(&firewall), proxy.clone());
    let name = "firewall-policy".to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        // For as long as the program runs.
        let _packets = packets;
        follow(&follows.0, &follows.1, epoch);
    });
    thread.context("cannot start a thread for the firewall")?;
    Ok(firewall)
}

/// Tells the firewall of every change, for as long as the program runs.
fn follow(firewall: &Firewall, proxy: &Proxy, mut told: u64) {
    loop {
        std::thread::sleep(LOOK_EVERY);
        let epoch = proxy.epoch();
        if epoch == told {
            continue;
        }
        let decides = Decides::now(proxy);
        match firewall.replace(decides) {
            Ok(swept) => {
                told = epoch;
                tracing::info!(kept = swept.kept, cut = swept.cut, "the firewall follows what decides now");
            }
            // What is in force is older; nothing more is opened by name until it is not.
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the firewall does not follow what decides now"
                );
            }
        }
    }
}

/// The record of a packet that the policy does not allow.
fn record(packet: &Packet) -> Record {
    let mut record = Record::new(Event::Packet, SystemTime::now());
    record.revision = Some(packet.revision);
    record.source = Some(packet.source);
    record.principal = packet.principal.as_ref().map(|principal| PrincipalRecord {
        name: Arc::clone(&principal.name),
        proof: principal.proof.name(),
        labels: principal.labels.clone(),
        token: None,
    });
    record.method = packet.transport.map(|transport| Text::from(transport.word()));
    record.target = Some(Text::from(packet.target.to_string().as_str()));
    record.port = Some(packet.target.port()).filter(|port| *port != 0);
    record.address = Some(packet.target);
    match packet.fate {
        Fate::Refused | Fate::Spoofed => {
            record.verdict = Some(Outcome::Deny);
            record.reason = Some(packet.reason);
        }
        Fate::Watched => {
            record.verdict = Some(Outcome::Allow);
            record.would_deny = Some(packet.reason);
        }
    }
    record.names = Some(packet.names.iter().map(|name| name.as_str().into()).collect());
    record.names = record.names.filter(|names| !names.is_empty());
    record.end = packet.is_late.then_some("name_expired");
    record
}
