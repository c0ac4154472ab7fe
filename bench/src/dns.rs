//! The name server: every name below `test` has the one address that [`crate::names`] gives it.

use std::net::{SocketAddr, UdpSocket};
use std::str::FromStr;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::names;

/// Seconds for which an answer may be kept: longer than a round.
const TTL: u32 = 3600;

/// Answers on `at` until the process ends.
///
/// # Errors
/// If the address cannot be had, or the socket breaks.
pub(crate) fn serve(at: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("bind {at}"))?;
    let mut buffer = [0; 1500];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).context("receive a query")?;
        let reply = buffer.get(..length).and_then(answer).and_then(|reply| reply.to_vec().ok());
        if let Some(bytes) = reply {
            // Who asked may be gone.
            drop(socket.send_to(&bytes, peer));
        }
    }
}

/// The reply to one query; `None` for what is none. There are no IPv6 addresses, and nothing outside `test`.
fn answer(query: &[u8]) -> Option<Message> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?;
    let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_query(question.clone());
    let exists = name.ends_with(".test");
    if !exists {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    if exists && question.query_type() == RecordType::A {
        let data = RData::A(names::address(&name).into());
        reply.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
    } else {
        // Says for how long there is nothing (RFC 2308 §5).
        let zone = Name::from_str("test.").ok()?;
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 86400, TTL);
        reply.add_authority(Record::from_rdata(zone, TTL, RData::SOA(soa)));
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        answer(&query.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn names_have_one_address_and_nothing_else() {
        let name = names::listed(42);
        let reply = ask(&format!("{name}."), RecordType::A);
        let [record] = reply.answers.as_slice() else { panic!("{reply:?}") };
        assert_eq!(record.data, RData::A(names::address(&name).into()));
        for (name, kind, code) in [
            (format!("{name}."), RecordType::AAAA, ResponseCode::NoError),
            ("example.com.".to_owned(), RecordType::A, ResponseCode::NXDomain),
        ] {
            let reply = ask(&name, kind);
            assert_eq!((reply.answers.len(), reply.authorities.len()), (0, 1), "{name}");
            assert_eq!(reply.metadata.response_code, code, "{name}");
        }
    }

    #[test]
    fn what_is_no_query_gets_no_answer() {
        assert!(answer(&[]).is_none());
        assert!(answer(&[0xff; 40]).is_none());
    }
}
