//! What holds for the answer to a client's message, whatever the bytes are.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::names_world::{self, Snapshot, World};
use exeat_dns::{Carrier, NoGate, Server};
use exeat_model::IpBlock;
use exeat_policy::Entry;
use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::RData;
use tokio::runtime::{Builder, Runtime};

/// Octets of an answer by UDP at most.
const UDP_BYTES_MAX: usize = 1232;

/// A server that never has to ask anybody: the names that it allows are `localhost` and those that do not exist.
static SERVER: LazyLock<(Runtime, Server)> = LazyLock::new(|| {
    let mut local = Entry::parse("localhost").unwrap();
    local.settings.addresses =
        Some(vec![IpBlock::parse("127.0.0.0/8").unwrap(), IpBlock::parse("::1").unwrap()]);
    let allow = [local, Entry::parse("*.invalid").unwrap()];
    let world = World::new(Snapshot::new(1, &allow, &[Entry::parse("no.invalid").unwrap()]));
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let server = names_world::server(&world, Arc::new(NoGate), nobody, Duration::from_millis(1));
    (runtime, server)
});

/// Asks by both carriers.
pub(crate) fn check(bytes: &[u8]) {
    let (runtime, server) = &*SERVER;
    for carrier in [Carrier::Udp, Carrier::Tcp] {
        let answer = runtime.block_on(names_world::ask(server, bytes, carrier));
        check_answer(bytes, carrier, answer.as_deref());
    }
}

fn check_answer(bytes: &[u8], carrier: Carrier, answer: Option<&[u8]>) {
    let is_question = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
    assert_eq!(answer.is_some(), is_question, "{answer:?}");
    let Some(answer) = answer else { return };
    let message = Message::from_vec(answer).expect("an answer can be read");
    assert_eq!(answer[..2], bytes[..2], "the id");
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert!(!message.metadata.authentic_data && !message.metadata.authoritative);
    let is_short = answer.len() <= if carrier == Carrier::Udp { UDP_BYTES_MAX } else { 65_535 };
    // Nothing here is too long even for a client without EDNS.
    assert!(is_short && !message.metadata.truncation, "{}", answer.len());
    for record in &message.answers {
        let asked = &message.queries[0];
        assert!(record.name.eq_case(asked.name()) && record.ttl <= 60, "{record}");
        let local = asked.name().to_ascii().trim_end_matches('.').eq_ignore_ascii_case("localhost");
        if let RData::PTR(name) = &record.data {
            assert_eq!(name.to_ascii(), "localhost.");
        } else {
            let address = record.data.ip_addr();
            assert!(local && address.is_some_and(|address| address.is_loopback()), "{record}");
        }
    }
    if message.metadata.op_code == OpCode::Query && !message.queries.is_empty() {
        let asked = Message::from_vec(bytes).expect("what is answered in substance can be read");
        assert!(asked.queries[0].name().eq_case(message.queries[0].name()), "the letters");
        assert_eq!(asked.queries[0].query_type(), message.queries[0].query_type());
        assert_eq!(asked.edns.is_some(), message.edns.is_some());
    }
}
