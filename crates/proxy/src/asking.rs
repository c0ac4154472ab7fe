//! Requests that no rule covers, put to somebody who may allow them now: the user of `exeat run --ask`. The request waits
//! meanwhile. Nothing but the answer's own snapshot is decided by, so what is allowed is in the policy like all else.

use std::{fmt::Debug, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use exeat_model::{Authority, Host, Transport};
use exeat_policy::{Denial, EgressRequest, Reason, smallest_entry};

use crate::{Proxy, shared::Snapshot};

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Unknown {
    /// The name and port.
    pub target: Authority,
    /// The smallest entry that allows it, as `--allow` takes it.
    pub entry: String,
    /// The other end of the client's connection.
    pub client: SocketAddr,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It stays refused.
    Refuse,
    /// This request alone is decided on by this snapshot.
    Once(Arc<Snapshot>),
    /// Something else decides by now.
    Changed,
}

/// An answer, later.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Somebody who can be asked.
pub trait Asks: Debug + Send + Sync {
    /// Asks about a request, and answers in bounded time. As many may wait as there are connections: it is for the one who is
    /// asked to bound what is open, and to ask the same thing once.
    fn ask(&self, unknown: Unknown) -> Answering<'_>;
}

impl Proxy {
    /// Has what no rule covers asked about from now on. To be called once.
    pub fn ask_about_unknown(&self, asks: Arc<dyn Asks>) {
        let _only_once = self.shared.asks.set(asks);
    }
}

/// Returns what to ask about a request that was refused, if somebody may allow it: no rule covers its name, or the port of it.
pub(crate) fn unknown(request: &EgressRequest<'_>, denial: Denial, client: SocketAddr) -> Option<Unknown> {
    let is_uncovered = matches!(denial.reason, Reason::HostNotAllowed | Reason::PortNotAllowed);
    let is_name = matches!(request.target.host, Host::Name(_));
    if !is_uncovered || !is_name || request.transport != Transport::Tcp {
        return None;
    }
    let entry = smallest_entry(request, denial.reason, &[])?.to_string();
    // What takes more than a line of text is not for a question.
    (!entry.contains('{')).then(|| Unknown { target: request.target.clone(), entry, client })
}

#[cfg(test)]
mod tests {
    use exeat_model::Port;
    use exeat_policy::{Bound, Builder, Labels, Revision};

    use super::*;

    #[test]
    fn names_and_ports_that_no_rule_covers_are_asked_about_and_nothing_else() {
        let set = Builder::new().finish(Revision(1)).unwrap();
        let bound: Bound = set.bind(&["none"; 0], &Labels::default());
        for (target, reason, want) in [
            ("example.com:443", Reason::HostNotAllowed, Some("example.com:443")),
            ("example.com:80", Reason::HostNotAllowed, Some("example.com:80")),
            ("example.com:8443", Reason::PortNotAllowed, Some("example.com:8443")),
            ("example.com:443", Reason::HostDenied, None),
            ("example.com:443", Reason::PolicyChanged, None),
            ("93.184.216.34:443", Reason::IpLiteralNotAllowed, None),
            ("93.184.216.34:8443", Reason::PortNotAllowed, None),
            // It takes an entry that says where it may live.
            ("intranet:443", Reason::HostNotAllowed, None),
        ] {
            let target = Authority::parse(target, Some(Port::HTTPS)).unwrap();
            let request = EgressRequest { bound: &bound, target: &target, transport: Transport::Tcp };
            let unknown = unknown(&request, Denial::of(reason), SocketAddr::from(([127, 0, 0, 1], 1)));
            assert_eq!(unknown.map(|unknown| unknown.entry).as_deref(), want, "{target} {reason}");
        }
    }
}
