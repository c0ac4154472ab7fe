//! Listeners for what processes of control groups of this host ask for names: each group has its own, on loopback, so that
//! whoever asks there is known by that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use exeat_dns::{Entrance, Server};
use exeat_firewall::{Attached, Group, OWN_MARK};
use exeat_store::FirewallSettings;

use crate::cores::{self, DnsDoor, DnsSockets};
use crate::listening::{At, DnsListening, listen_dns};

/// The groups that are held, and their listeners.
pub(crate) struct Groups(Vec<(Group, Vec<DnsListening>)>);

/// Listens for each group, on a port of loopback that is free, in each address family that this host has. Where this process
/// is in one of the groups itself, its own connections are marked from now on.
///
/// # Errors
/// If there is no loopback address, or this process may not mark its sockets and must.
pub(crate) fn listen_for_groups(settings: Option<&FirewallSettings>) -> anyhow::Result<Groups> {
    let groups = settings.map(|settings| settings.groups.as_slice()).unwrap_or_default();
    for group in groups {
        if group.is_ours().context("cannot tell which control group this process is in")? {
            exeat_dns::mark_own_sockets(OWN_MARK).with_context(|| {
                format!(
                    "this program is in the control group `{}` that it holds, and may not mark its own connections \
                     (SO_MARK): run it in another group, or give it CAP_NET_ADMIN",
                    group.path()
                )
            })?;
        }
    }
    let listening = groups.iter().map(|group| Ok((group.clone(), listen(group)?)));
    listening.collect::<anyhow::Result<_>>().map(Groups)
}

fn listen(group: &Group) -> anyhow::Result<Vec<DnsListening>> {
    let on = |address: IpAddr| listen_dns(At::everywhere(SocketAddr::new(address, 0)), cores::count());
    let first = on(Ipv4Addr::LOCALHOST.into())
        .with_context(|| format!("cannot listen for what {} asks", group.path()))?;
    let mut listening = vec![first];
    match on(Ipv6Addr::LOCALHOST.into()) {
        Ok(second) => listening.push(second),
        Err(error) => tracing::warn!(
            group = %group.path(), error = %format!("{error:#}"),
            "what the group asks over IPv6 is refused: there is no listener"
        ),
    }
    Ok(listening)
}

impl Groups {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The addresses of all listeners.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().flat_map(|(_, listening)| listening).map(|listening| listening.address)
    }

    /// The groups with their listeners, for the kernel's part.
    pub(crate) fn attached(&self) -> Vec<Attached> {
        let attached = self.0.iter().map(|(group, listening)| Attached {
            group: group.clone(),
            dns: listening.iter().map(|listening| listening.address).collect(),
        });
        attached.collect()
    }

    /// The doors that `server` answers at.
    pub(crate) fn into_doors(self, server: &Server) -> Vec<(Vec<DnsSockets>, DnsDoor)> {
        let doors = self.0.into_iter().flat_map(|(group, listening)| {
            listening.into_iter().map(move |listening| {
                let entrance = Entrance::Group(group.path().clone());
                (listening.sockets, DnsDoor { entrance, server: server.clone(), is_for_one: false })
            })
        });
        doors.collect()
    }
}
