//! Packets that have to be refused, and questions that have to come to us. Sent from wherever the thread is that calls.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use crate::{
    doctor::{Finding, NameServer, NameServers, bad, unproven, well},
    kernel::Kernel,
};

/// How long a packet may be without an answer. A refusal comes at once, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it is looked beforehand whether packets of others are being refused.
const QUIET: Duration = Duration::from_millis(500);
/// Addresses for documentation (RFC 5737, RFC 3849), which are nobody's and which no policy opens by accident.
const NOBODY: [(&str, IpAddr); 2] = [
    ("IPv4", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
    ("IPv6", IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
];
/// The port of a service that nobody has (RFC 863), and that of name servers.
const DISCARD: u16 = 9;
const NAMES: u16 = 53;
/// A question for the address of `exeat-doctor.invalid` (RFC 6761 §6.4), with the number 0x4578: all that follows that.
const QUESTION: &[u8] =
    b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0cexeat-doctor\x07invalid\x00\x00\x01\x00\x01";
const NUMBER: [u8; 2] = [0x45, 0x78];

/// What happened to a connection and to a question, of one family.
pub(super) struct Seen {
    family: &'static str,
    connected: io::Result<()>,
    took: Duration,
    /// Packets that our rules refused meanwhile, for whomever, and in some time before that.
    refused: u64,
    refused_before: u64,
    asked: io::Result<()>,
}

/// Sends them. `kernel` is that of the rules, wherever the thread is.
///
/// # Errors
/// If that does not tell what it has counted.
pub(super) fn send(kernel: &mut Kernel) -> io::Result<Vec<Seen>> {
    let sent = NOBODY.iter().map(|&(family, address)| {
        let first = refused(kernel)?;
        std::thread::sleep(QUIET);
        let before = refused(kernel)?;
        let began = Instant::now();
        let connected = TcpStream::connect_timeout(&SocketAddr::new(address, DISCARD), PATIENCE);
        let took = began.elapsed();
        let refused = refused(kernel)?.saturating_sub(before);
        let refused_before = before.saturating_sub(first);
        let asked = ask(SocketAddr::new(address, NAMES));
        Ok(Seen { family, connected: connected.map(|_| ()), took, refused, refused_before, asked })
    });
    sent.collect()
}

fn ask(server: SocketAddr) -> io::Result<()> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&[&NUMBER, QUESTION].concat())?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    if answer.get(..length).is_some_and(|answer| answer.starts_with(&NUMBER)) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
    }
}

/// How many packets our rules have refused.
fn refused(kernel: &mut Kernel) -> io::Result<u64> {
    let counters = kernel.counters()?;
    Ok(counters.into_iter().find(|(name, _)| name == "refused").map_or(0, |(_, count)| count.packets))
}

/// Says what it means.
pub(super) fn judge(who: &str, names: NameServers, seen: &[Seen], findings: &mut Vec<Finding>) {
    for Seen { family, connected, took, refused, refused_before, asked } in seen {
        let is_ours = *refused > 0;
        let what = format!("{family}: what {who} sends to nobody's address");
        findings.push(match connected {
            Err(_) if is_refused(connected) && is_ours && *refused_before > 0 => unproven(format!(
                "{what} was refused; whether by our rules cannot be told, since they refuse packets of others at the same time"
            )),
            Err(_) if is_refused(connected) && is_ours => {
                well(format!("{what} was refused by our rules, in {} ms", took.as_millis()))
            }
            Err(_) if is_refused(connected) => {
                bad(format!("{what} was refused by somebody else, not by our rules"))
            }
            Err(error) if has_no_way(error) => {
                unproven(format!("{what} has no way to go ({error}): nothing could be sent"))
            }
            Err(error) => bad(format!("{what} was not refused: {error}")),
            Ok(()) => bad(format!("{what} was let through, and somebody answered")),
        });
        let what = format!("{family}: what {who} asks a name server");
        let server = if *family == "IPv4" { names.v4 } else { names.v6 };
        findings.push(answered(&what, server, asked));
    }
}

/// Says what it means that a question was answered, or not, where `server` is the one that should.
fn answered(what: &str, server: NameServer, asked: &io::Result<()>) -> Finding {
    match (server, asked) {
        (_, Err(error)) if has_no_way(error) => {
            unproven(format!("{what} has no way to go ({error}): nothing could be asked"))
        }
        (NameServer::Ours, Ok(())) => well(format!("{what} comes to us, and was answered")),
        (NameServer::Ours, Err(error)) => {
            bad(format!("{what} was not answered by us ({error}): does this program run?"))
        }
        (NameServer::Elsewhere, Ok(())) => {
            well(format!("{what} comes to the name server that `tap` names, and was answered"))
        }
        (NameServer::Elsewhere, Err(error)) => bad(format!(
            "{what} was not answered by the name server that `tap` names ({error}): does it run?"
        )),
        (NameServer::Nobody, Ok(())) => {
            bad(format!("{what} was answered by somebody, and no name server of this family is named"))
        }
        (NameServer::Nobody, Err(_)) if is_refused(asked) => {
            well(format!("{what} was refused: no name server of this family is named"))
        }
        (NameServer::Nobody, Err(error)) => {
            unproven(format!("{what} was not answered ({error}), and no name server of this family is named"))
        }
    }
}

fn is_refused(sent: &io::Result<()>) -> bool {
    sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Whether the system knows no way for a packet, so that it met no rules.
fn has_no_way(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn only_what_our_rules_refused_proves_anything() {
        use Grade::{Bad, Unproven, Well};
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut, WouldBlock};
        let failed = |kind: Option<io::ErrorKind>| kind.map_or(Ok(()), |kind| Err(kind.into()));
        for (case, connected, asked, counted, want) in [
            ("as it should be", Some(ConnectionRefused), None, 1, [Well, Well]),
            ("somebody else refused it", Some(ConnectionRefused), None, 0, [Bad, Well]),
            ("let through", None, None, 1, [Bad, Well]),
            ("lost", Some(TimedOut), Some(WouldBlock), 0, [Bad, Bad]),
            (
                "forwarded, and refused further on",
                Some(HostUnreachable),
                Some(HostUnreachable),
                0,
                [Bad, Bad],
            ),
            ("we do not run", Some(ConnectionRefused), Some(ConnectionRefused), 1, [Well, Bad]),
            ("no route", Some(NetworkUnreachable), Some(NetworkUnreachable), 0, [Unproven, Unproven]),
        ] {
            let seen = Seen {
                family: "IPv4",
                connected: failed(connected),
                took: Duration::ZERO,
                refused: counted,
                refused_before: 0,
                asked: failed(asked),
            };
            let mut findings = Vec::new();
            let names = NameServers { v4: NameServer::Ours, v6: NameServer::Nobody };
            judge("br0", names, &[seen], &mut findings);
            let grades: Vec<Grade> = findings.iter().map(|finding| finding.grade).collect();
            assert_eq!(grades, want, "{case}: {findings:?}");
        }
    }

    #[test]
    fn what_others_are_refused_meanwhile_proves_nothing() {
        for (before, want) in [(0, Grade::Well), (1, Grade::Unproven)] {
            let seen = Seen {
                family: "IPv4",
                connected: Err(io::ErrorKind::ConnectionRefused.into()),
                took: Duration::ZERO,
                refused: 3,
                refused_before: before,
                asked: Ok(()),
            };
            let mut findings = Vec::new();
            judge("br0", NameServers::default(), &[seen], &mut findings);
            assert_eq!(findings.first().map(|finding| finding.grade), Some(want), "{before}");
        }
    }

    #[test]
    fn an_answer_is_that_of_the_name_server_which_is_named() {
        use NameServer::{Elsewhere, Nobody, Ours};
        use io::ErrorKind::{ConnectionRefused, NetworkUnreachable, WouldBlock};
        for (server, failed, grade, text) in [
            (Ours, None, Grade::Well, "comes to us"),
            (Ours, Some(WouldBlock), Grade::Bad, "not answered by us"),
            (Elsewhere, None, Grade::Well, "comes to the name server that `tap` names"),
            (
                Elsewhere,
                Some(ConnectionRefused),
                Grade::Bad,
                "not answered by the name server that `tap` names",
            ),
            (Nobody, None, Grade::Bad, "answered by somebody"),
            (Nobody, Some(ConnectionRefused), Grade::Well, "was refused"),
            (Nobody, Some(WouldBlock), Grade::Unproven, "not answered"),
            (Ours, Some(NetworkUnreachable), Grade::Unproven, "no way"),
            (Nobody, Some(NetworkUnreachable), Grade::Unproven, "no way"),
        ] {
            let asked = failed.map_or(Ok(()), |kind| Err(kind.into()));
            let found = answered("x", server, &asked);
            assert!(found.grade == grade && found.text.contains(text), "{server:?} {failed:?}: {found:?}");
        }
    }
}
