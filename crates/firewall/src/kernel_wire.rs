//! What the kernel's datagrams say, read from bytes. Nothing here does input or output; the firewall reads by the same
//! functions what its sockets give.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use exeat_model::{Port, Transport};

pub use crate::refused::Headers;
use crate::{
    conntrack,
    element::{Element, Station},
    kernel, neighbours,
    refused::{self, Fate},
    wire,
};

/// An element of a set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// What it lets through.
    pub element: Element,
    /// How long it still does.
    pub remaining: Duration,
    /// The name that it was opened for, if it is known.
    pub name: Option<String>,
}

/// A flow that has our label and has not been cut, as its first packet was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tracked {
    /// From where.
    pub client: SocketAddr,
    /// To where.
    pub address: IpAddr,
    /// To which port.
    pub port: Port,
    /// How.
    pub transport: Transport,
}

/// Reads one datagram of the log of refused packets.
///
/// # Errors
/// If the kernel does not write so.
pub fn packets(datagram: &[u8]) -> io::Result<Vec<(Fate, Headers)>> {
    let mut found = Vec::new();
    refused::packets(datagram, |fate, _, headers| found.push((fate, headers)))?;
    Ok(found)
}

/// Reads one datagram of a list of elements, the question for which has the number `sequence`.
///
/// # Errors
/// If it is an error, or the kernel does not write so.
pub fn elements(datagram: &[u8], sequence: u32) -> io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    kernel::read(datagram, sequence, true, |_, payload| {
        found.extend(wire::held(payload)?);
        Ok(())
    })?;
    let listed =
        |held: wire::Held| Listed { element: held.element, remaining: held.remaining, name: held.name };
    Ok(found.into_iter().map(listed).collect())
}

/// Reads the answer to the question of the number `sequence` for the newest change; `None` if it does not say.
///
/// # Errors
/// If it is an error, or the kernel does not write so.
pub fn generation(datagram: &[u8], sequence: u32) -> io::Result<Option<u32>> {
    let mut found = None;
    kernel::read(datagram, sequence, false, |bytes, _| {
        found = kernel::generation(bytes)?.or(found);
        Ok(())
    })?;
    Ok(found)
}

/// Reads one datagram of a list of flows.
///
/// # Errors
/// If it is an error, or the kernel does not write so.
pub fn flows(datagram: &[u8]) -> io::Result<Vec<Tracked>> {
    let mut found = Vec::new();
    conntrack::read(datagram, |message| found.extend(conntrack::flow_of(message)))?;
    let tracked = |flow: conntrack::Flow| Tracked {
        client: SocketAddr::new(flow.client, flow.client_port),
        address: flow.address,
        port: flow.port,
        transport: flow.transport,
    };
    Ok(found.into_iter().map(tracked).collect())
}

/// Reads one datagram of a list of neighbours.
///
/// # Errors
/// If it is an error, or the kernel does not write so.
pub fn neighbours(datagram: &[u8]) -> io::Result<Vec<(IpAddr, Station)>> {
    let mut found = Vec::new();
    neighbours::read(datagram, true, |neighbour| found.push(neighbour))?;
    Ok(found)
}
