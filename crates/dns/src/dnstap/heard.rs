//! What one message of a stream says: who was told what. Pure.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use exeat_model::DnsName;
use hickory_proto::{
    op::{Message as DnsMessage, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Record, RecordType},
};
use prost::Message as _;

use super::schema::{self, Dnstap, message_type};
use crate::{
    chain::{ADDRESSES_MAX, Family, Found, Walk},
    resolve::ResolveError,
    server::{Head, Question},
};

/// An answer that somebody was given by another name server.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Who asked, as that server saw it.
    pub(crate) client: SocketAddr,
    pub(crate) question: Question,
    pub(crate) code: ResponseCode,
    answers: Vec<Record>,
    /// When it was given, by that server's clock.
    pub(crate) at: Option<SystemTime>,
    /// Whether a server asked that may be the one which tells of it.
    pub(crate) is_for_a_server: bool,
}

/// Why nothing is to be learned of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unheard {
    /// It is no message of dnstap, or what it holds is none of DNS.
    Malformed,
    /// It is an answer, and does not say which, or to whom: its server has to be told to put all of it in.
    Incomplete,
    /// It is something else: a question, a part of an answer, an answer about nothing that has addresses.
    PassedOver,
}

/// The addresses that an answer tells of the asked name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HeardAddresses {
    /// Each once, in the order of the answer; at most [`ADDRESSES_MAX`].
    pub(crate) addrs: Vec<IpAddr>,
    pub(crate) ttl: Duration,
}

impl Heard {
    /// Reads one message.
    ///
    /// # Errors
    /// Why nothing is to be learned of it.
    pub fn read(frame: &[u8]) -> Result<Self, Unheard> {
        let wrapper = Dnstap::decode(frame).map_err(|_| Unheard::Malformed)?;
        if wrapper.r#type != Some(schema::TYPE_MESSAGE) {
            return Err(Unheard::PassedOver);
        }
        let message = wrapper.message.ok_or(Unheard::Malformed)?;
        let is_for_a_server = match message.r#type {
            Some(message_type::CLIENT_RESPONSE | message_type::AUTH_RESPONSE) => false,
            Some(message_type::FORWARDER_RESPONSE | message_type::RESOLVER_RESPONSE) => true,
            Some(_) => return Err(Unheard::PassedOver),
            None => return Err(Unheard::Malformed),
        };
        let address = message.query_address.ok_or(Unheard::Incomplete)?;
        let address = read_address(&address).ok_or(Unheard::Malformed)?;
        let port = message.query_port.unwrap_or(0);
        let port = u16::try_from(port).map_err(|_| Unheard::Malformed)?;
        let response = message.response_message.ok_or(Unheard::Incomplete)?;
        let (question, code, answers) = read_response(&response)?;
        let at = message.response_time_sec.and_then(|seconds| {
            let nanos = u64::from(message.response_time_nsec.unwrap_or(0));
            let since = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos))?;
            SystemTime::UNIX_EPOCH.checked_add(since)
        });
        let client = SocketAddr::new(address, port);
        Ok(Self { client, question, code, answers, at, is_for_a_server })
    }

    /// The name that was asked for, as it was written.
    #[must_use]
    pub fn name(&self) -> Option<DnsName> {
        DnsName::parse(&self.question.name.to_ascii()).ok()
    }

    /// Returns the addresses that the answer tells of the asked name, along its aliases; none if it asked for something else.
    ///
    /// # Errors
    /// If the name leads nowhere, or to more addresses than are used: then it is not known what it leads to.
    pub(crate) fn addresses(&self) -> Result<HeardAddresses, ResolveError> {
        let nothing = HeardAddresses { addrs: Vec::new(), ttl: Duration::ZERO };
        let families = [Family::V4, Family::V6].into_iter();
        let family = families.into_iter().find(|family| family.record_type() == self.question.kind);
        let Some(family) = family.filter(|_| self.code == ResponseCode::NoError) else { return Ok(nothing) };
        let mut walk = Walk::new(self.question.name.clone());
        let Found::Records(records) = walk.read(&self.answers, |record| family.address(record))? else {
            return Ok(nothing);
        };
        let mut addrs: Vec<IpAddr> = Vec::new();
        for address in records {
            if !addrs.contains(&address) {
                addrs.push(address);
            }
            if addrs.len() > ADDRESSES_MAX {
                return Err(ResolveError::TooManyAddresses { count: addrs.len() });
            }
        }
        Ok(HeardAddresses { addrs, ttl: Duration::from_secs(walk.ttl().into()) })
    }
}

fn read_address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let v6 = || <[u8; 16]>::try_from(octets).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    v4.or_else(|_| v6()).ok()
}

fn read_response(octets: &[u8]) -> Result<(Question, ResponseCode, Vec<Record>), Unheard> {
    let message = DnsMessage::from_vec(octets).map_err(|_| Unheard::Malformed)?;
    let metadata = message.metadata;
    let is_plain = metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query;
    let query = match <[_; 1]>::try_from(message.queries) {
        Ok([query]) if is_plain => query,
        Ok(_) | Err(_) => return Err(Unheard::PassedOver),
    };
    let code = metadata.response_code;
    let is_decided = [
        ResponseCode::NoError,
        ResponseCode::NXDomain,
        ResponseCode::ServFail,
        ResponseCode::Refused,
        ResponseCode::FormErr,
    ]
    .contains(&code);
    // Who is told that there is more asks again.
    let is_whole = !metadata.truncation && query.query_class == DNSClass::IN;
    if !is_decided || !is_whole || query.query_type == RecordType::PTR {
        return Err(Unheard::PassedOver);
    }
    let head = Head {
        id: metadata.id,
        op_code: metadata.op_code,
        recursion_desired: metadata.recursion_desired,
        checking_disabled: metadata.checking_disabled,
    };
    let question =
        Question { head, name: query.name, kind: query.query_type, class: query.query_class, edns: None };
    Ok((question, code, message.answers))
}
