//! What a collector is told of a question and its answer, as messages of dnstap. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use prost::Message as _;

use super::schema::{self, DnsMessage, Dnstap, Policy, action, family, matched, message_type, protocol};
use crate::server::Carrier;

/// What kind of policy has decided; others call theirs `RPZ`.
const POLICY_TYPE: &str = "exeat";

/// Who tells.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    /// Which of many name servers it is; nothing if that is empty.
    pub(crate) identity: Bytes,
    pub(crate) version: Bytes,
}

/// A question, and the way it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) client: SocketAddr,
    /// Where it was asked, if the system tells.
    pub(crate) server: Option<SocketAddr>,
    pub(crate) carrier: Carrier,
    /// The message as it came.
    pub(crate) query: &'a [u8],
    /// When it came.
    pub(crate) at: SystemTime,
}

/// What the policy has decided on a question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Decided {
    /// What that made of the answer; `None` is a failure or a refusal, for which dnstap has no word.
    pub(crate) action: Option<Action>,
    pub(crate) matched: Matched,
    /// The rule that it rests on, as it is written.
    pub(crate) rule: Option<String>,
    /// The record of it, in JSON.
    pub(crate) record: Vec<u8>,
}

/// What a decision made of the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// There is no such name.
    NxDomain,
    /// There is no such record.
    NoData,
    /// What the servers said, or that they said nothing.
    Pass,
    /// What no other server says: an address that stands for a name, or where nothing listens.
    LocalData,
}

/// What was decided by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Matched {
    /// The name that was asked for.
    Name(String),
    /// Who asked.
    Client(IpAddr),
    /// An address of the name.
    Address,
}

impl Exchange<'_> {
    /// Returns the message that somebody has asked.
    pub(crate) fn question(&self, teller: &Teller) -> Bytes {
        let query = Bytes::copy_from_slice(self.query);
        let message = DnsMessage { query_message: Some(query), ..self.begin(message_type::CLIENT_QUERY) };
        wrap(message, teller, None)
    }

    /// Returns the message that it was answered with `response` at this time. Nothing is `decided` about what asks nothing.
    pub(crate) fn answer(
        &self,
        teller: &Teller,
        response: &[u8],
        at: SystemTime,
        decided: Option<Decided>,
    ) -> Bytes {
        let (seconds, nanos) = since_epoch(at);
        let (policy, extra) = match decided {
            Some(decided) => (Some(decided.policy()), Some(Bytes::from(decided.record))),
            None => (None, None),
        };
        let message = DnsMessage {
            response_time_sec: Some(seconds),
            response_time_nsec: Some(nanos),
            response_message: Some(Bytes::copy_from_slice(response)),
            policy,
            ..self.begin(message_type::CLIENT_RESPONSE)
        };
        wrap(message, teller, extra)
    }

    fn begin(&self, kind: i32) -> DnsMessage {
        let (seconds, nanos) = since_epoch(self.at);
        let protocol = match self.carrier {
            Carrier::Udp => protocol::UDP,
            Carrier::Tcp => protocol::TCP,
        };
        let family = if self.client.is_ipv4() { family::INET } else { family::INET6 };
        DnsMessage {
            r#type: Some(kind),
            socket_family: Some(family),
            socket_protocol: Some(protocol),
            query_address: Some(octets(self.client.ip())),
            query_port: Some(self.client.port().into()),
            response_address: self.server.map(|server| octets(server.ip())),
            response_port: self.server.map(|server| server.port().into()),
            query_time_sec: Some(seconds),
            query_time_nsec: Some(nanos),
            ..DnsMessage::default()
        }
    }
}

impl Decided {
    /// Rules and values are text, as they are in a policy; those of an RPZ are names on the wire.
    fn policy(&self) -> Policy {
        let action = self.action.map(|action| match action {
            Action::NxDomain => action::NXDOMAIN,
            Action::NoData => action::NODATA,
            Action::Pass => action::PASS,
            Action::LocalData => action::LOCAL_DATA,
        });
        let (matched, value) = match &self.matched {
            Matched::Name(name) => (matched::QNAME, Some(name.clone())),
            Matched::Client(address) => (matched::CLIENT_IP, Some(address.to_string())),
            Matched::Address => (matched::RESPONSE_IP, None),
        };
        Policy {
            r#type: Some(POLICY_TYPE.to_owned()),
            rule: self.rule.clone().map(Bytes::from),
            action,
            r#match: Some(matched),
            value: value.map(Bytes::from),
        }
    }
}

fn wrap(message: DnsMessage, teller: &Teller, extra: Option<Bytes>) -> Bytes {
    let some = |text: &Bytes| (!text.is_empty()).then(|| text.clone());
    let wrapper = Dnstap {
        identity: some(&teller.identity),
        version: some(&teller.version),
        extra,
        message: Some(message),
        r#type: Some(schema::TYPE_MESSAGE),
    };
    wrapper.encode_to_vec().into()
}

fn octets(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

/// A time before 1970 is none that a clock shows.
fn since_epoch(at: SystemTime) -> (u64, u32) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_message_says_who_asked_where_and_what_was_decided() {
        let teller = Teller { identity: "router".into(), version: Bytes::new() };
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        for (client, server, carrier, want) in [
            ("10.88.1.2:4000", Some("10.88.1.1:53"), Carrier::Udp, (family::INET, 4, protocol::UDP)),
            ("[fd00::2]:4000", Some("[fd00::1]:53"), Carrier::Tcp, (family::INET6, 16, protocol::TCP)),
            ("[fd00::2]:4000", None, Carrier::Tcp, (family::INET6, 16, protocol::TCP)),
        ] {
            let exchange = Exchange {
                client: client.parse().unwrap(),
                server: server.map(|server| server.parse().unwrap()),
                carrier,
                query: b"asked",
                at,
            };
            let asked = Dnstap::decode(exchange.question(&teller)).unwrap();
            assert_eq!((asked.identity, asked.version, asked.extra), (Some("router".into()), None, None));
            let asked = asked.message.unwrap();
            assert_eq!(asked.query_message, Some("asked".into()));
            assert!(asked.policy.is_none() && asked.response_message.is_none());
            let decided = Decided {
                action: Some(Action::Pass),
                matched: Matched::Name("a.example.org".to_owned()),
                rule: Some("*.example.org".to_owned()),
                record: b"{}".to_vec(),
            };
            let later = at + Duration::from_secs(1);
            let told = exchange.answer(&teller, b"answered", later, Some(decided));
            let told = Dnstap::decode(told).unwrap();
            assert_eq!(told.extra, Some("{}".into()));
            let told = told.message.unwrap();
            assert_eq!(told.response_message, Some("answered".into()), "{client}");
            assert_eq!((told.query_time_sec, told.query_time_nsec), (Some(1_700_000_000), Some(5)));
            assert_eq!((told.response_time_sec, told.response_time_nsec), (Some(1_700_000_001), Some(5)));
            for (message, kind) in
                [(&asked, message_type::CLIENT_QUERY), (&told, message_type::CLIENT_RESPONSE)]
            {
                assert_eq!(message.r#type, Some(kind));
                let address = message.query_address.as_ref().unwrap();
                let got = (message.socket_family.unwrap(), address.len(), message.socket_protocol.unwrap());
                assert_eq!((got, message.query_port), (want, Some(4000)), "{client}");
                assert_eq!(message.response_port, server.map(|_| 53), "{client}");
                assert_eq!(message.response_address.is_some(), server.is_some(), "{client}");
            }
            let undecided = Dnstap::decode(exchange.answer(&teller, b"", later, None)).unwrap();
            assert!(told.policy.is_some() && undecided.extra.is_none());
            assert!(undecided.message.unwrap().policy.is_none());
        }
    }

    #[test]
    fn a_decision_is_told_in_the_words_of_the_format() {
        let name = || Matched::Name("x.test".to_owned());
        let client = || Matched::Client("10.88.1.2".parse().unwrap());
        for (action, matched, rule, want) in [
            (Some(Action::NxDomain), name(), None, (Some(1), 1, Some("x.test"))),
            (Some(Action::NoData), name(), Some("*.test"), (Some(2), 1, Some("x.test"))),
            (Some(Action::Pass), name(), Some("x.test"), (Some(3), 1, Some("x.test"))),
            (Some(Action::LocalData), name(), None, (Some(6), 1, Some("x.test"))),
            (None, client(), None, (None, 2, Some("10.88.1.2"))),
            (Some(Action::NxDomain), Matched::Address, Some("x.test"), (Some(1), 3, None)),
        ] {
            let rule = rule.map(str::to_owned);
            let decided = Decided { action, matched, rule: rule.clone(), record: Vec::new() };
            let got = decided.policy();
            assert_eq!(got.r#type.as_deref(), Some("exeat"));
            assert_eq!(got.rule, rule.map(Bytes::from));
            let (action, matched, value) = want;
            assert_eq!((got.action, got.r#match), (action, Some(matched)));
            assert_eq!(got.value.as_deref(), value.map(str::as_bytes));
        }
    }
}
