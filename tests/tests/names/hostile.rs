//! Clients and servers that do not keep to the rules.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::thread;

use anyhow::{Context, Result, ensure};
use exeat_tests::asker::{Asker, Told, question, read_framed, receive, write_framed};
use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use serde_json::Value;

use crate::setup::{APP, Setup};

fn changed(change: impl FnOnce(&mut Message)) -> Result<Vec<u8>> {
    let mut message = question("example.com", RecordType::A)?;
    change(&mut message);
    Ok(message.to_vec()?)
}

fn bent(change: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>> {
    let mut bytes = changed(|message| message.edns = None)?;
    change(&mut bytes);
    Ok(bytes)
}

/// A message with the code of its answer; `None` is no answer.
type Case = (&'static str, Vec<u8>, Option<&'static str>);

fn messages() -> Result<Vec<Case>> {
    let pointer = |bytes: &mut Vec<u8>| {
        bytes.truncate(12);
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
    };
    Ok(vec![
        ("nothing", vec![], None),
        ("eleven octets", vec![0; 11], None),
        ("an answer", changed(|m| m.metadata.message_type = MessageType::Response)?, None),
        ("a header alone", bent(|b| b.truncate(12))?, Some("FORMERR")),
        ("no question", changed(|m| m.queries.clear())?, Some("FORMERR")),
        ("two questions", changed(|m| m.queries.extend(m.queries.clone()))?, Some("FORMERR")),
        ("a name in a loop", bent(pointer)?, Some("FORMERR")),
        ("half a name", bent(|b| b.truncate(18))?, Some("FORMERR")),
        ("65 535 records", bent(|b| b[10..12].fill(0xff))?, Some("FORMERR")),
        ("an update", changed(|m| m.metadata.op_code = OpCode::Update)?, Some("NOTIMP")),
        ("a notification", changed(|m| m.metadata.op_code = OpCode::Notify)?, Some("NOTIMP")),
        (
            "class CHAOS",
            changed(|m| m.queries.iter_mut().for_each(|q| q.query_class = DNSClass::CH))?,
            Some("REFUSED method_not_allowed"),
        ),
        (
            "EDNS of the next version",
            changed(|m| {
                if let Some(edns) = &mut m.edns {
                    edns.set_version(1);
                }
            })?,
            Some("16 request_malformed"),
        ),
        (
            "a name that hosts do not have",
            changed(|m| m.queries.iter_mut().for_each(|q| q.name = odd()))?,
            Some("FORMERR host_invalid"),
        ),
        (
            "an address for a name",
            changed(|m| m.queries.iter_mut().for_each(|q| q.name = number()))?,
            Some("FORMERR host_invalid"),
        ),
        (
            "the root",
            changed(|m| m.queries.iter_mut().for_each(|q| q.name = Name::root()))?,
            Some("FORMERR host_invalid"),
        ),
        ("much behind the question", bent(|b| b.resize(4096, 7))?, Some("NOERROR")),
        ("too much behind it", bent(|b| b.resize(4097, 7))?, Some("FORMERR")),
        ("a question", changed(|_| ())?, Some("NOERROR")),
    ])
}

/// A name with a label of `a b.` in it.
fn odd() -> Name {
    Name::from_labels([&b"a b."[..], b"example", b"com"]).unwrap_or_default()
}

fn number() -> Name {
    Name::from_labels([&b"127"[..], b"1"]).unwrap_or_default()
}

/// The response code and the reason of the record of a message that asks nothing.
fn recorded(code: &str) -> Option<(&str, &str)> {
    match code.split_whitespace().next()? {
        "16" => Some(("BADVERS", "request_malformed")),
        "REFUSED" => Some(("REFUSED", "method_not_allowed")),
        "NOTIMP" => Some(("NOTIMP", "method_not_allowed")),
        "FORMERR" if code == "FORMERR" => Some(("FORMERR", "request_malformed")),
        _ => None,
    }
}

pub(crate) fn every_message_has_its_answer_and_its_record() -> Result<()> {
    let mut setup = Setup::new("allow = [\"example.com\"]", "queries_per_second = 0", "")?;
    let mut refused = BTreeMap::new();
    let client = Asker::at(APP)?;
    for (case, message, want) in messages()? {
        let socket = client.udp()?;
        socket.send(&message)?;
        // What comes next tells that nothing came before.
        let marker = question("marker.test", RecordType::A)?;
        if want.is_none() {
            socket.send(&marker.to_vec()?)?;
        }
        let told = Told::read(&receive(&socket)?).context(case)?;
        match want {
            Some(want) => ensure!(told.code() == want, "{case}: {told:?}"),
            None => ensure!(told.message.metadata.id == marker.metadata.id, "{case}: {told:?}"),
        }
        let (mut stream, length) = (client.tcp()?, message.len());
        if let Some(wanted) = want.and_then(recorded) {
            *refused.entry(wanted).or_insert(0) += if length <= 4096 { 2 } else { 1 };
        }
        write_framed(&mut stream, &message)?;
        match want.filter(|_| length <= 4096) {
            Some(want) => ensure!(read_framed(&mut stream)?.code() == want, "{case} by TCP"),
            // No answer is owed: the connection ends.
            None => ensure!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)), "{case} by TCP"),
        }
    }
    setup.asked_for(&["example.com"])?;
    ensure!(refused.len() == 4, "{refused:?}");
    for ((code, reason), count) in refused {
        let is_it = |record: &&Value| {
            record["event"] == "dns" && record["rcode"] == code && record["reason"] == reason
        };
        let of = |records: &[Value]| records.iter().filter(is_it).cloned().collect::<Vec<_>>();
        let records = setup.exeat.audit_until(code, |records| of(records).len() >= count)?;
        let found = of(&records);
        ensure!(found.len() == count, "{code} {reason}: {count} refusals, and {found:#?}");
        ensure!(found.iter().all(|record| record["verdict"] == "deny" && record["source"].is_string()));
    }
    setup.exeat.stop()
}

pub(crate) fn letters_come_back_in_their_case() -> Result<()> {
    let setup = Setup::new("allow = [\"example.com\"]", "", "")?;
    let client = Asker::at(APP)?;
    for name in ["eXaMpLe.CoM.", "EXAMPLE.COM.", "example.com."] {
        let name = Name::from_ascii(name)?;
        let mut query = question("example.com", RecordType::A)?;
        query.queries.iter_mut().for_each(|asked| asked.name = name.clone());
        let told = client.send(&query)?;
        let asked = told.message.queries.first().context("the question")?;
        let owner = &told.message.answers.first().context("the answer")?.name;
        ensure!(asked.name().eq_case(&name) && owner.eq_case(&name), "{told:?}");
    }
    setup.exeat.stop()
}

pub(crate) fn connections_that_are_slow_or_hasty() -> Result<()> {
    let setup = Setup::new("allow = [\"example.com\", \"*.example.org\"]", "", "")?;
    let client = Asker::at(APP)?;
    let mut slow = client.tcp()?;
    slow.write_all(&[0])?;
    let mut half = client.tcp()?;
    half.write_all(&[0, 40, 1, 2, 3])?;
    let mut idle = client.tcp()?;
    write_framed(&mut idle, &changed(|_| ())?)?;
    ensure!(read_framed(&mut idle)?.code() == "NOERROR");

    // Several questions at once, octet by octet: an answer to each, in their order.
    let mut hasty = client.tcp()?;
    hasty.set_nodelay(true)?;
    let queries: Vec<Message> =
        (0..20).map(|n| question(&format!("n{n}.example.org"), RecordType::A)).collect::<Result<_>>()?;
    let mut bytes = Vec::new();
    for query in &queries {
        let message = query.to_vec()?;
        bytes.extend(u16::try_from(message.len())?.to_be_bytes());
        bytes.extend(message);
    }
    for octet in &bytes {
        hasty.write_all(&[*octet])?;
    }
    for query in &queries {
        let told = read_framed(&mut hasty)?;
        ensure!(told.message.metadata.id == query.metadata.id && told.code() == "NOERROR", "{told:?}");
    }

    for (case, stream) in [("a length alone", &mut slow), ("half a question", &mut half), ("idle", &mut idle)]
    {
        ensure!(matches!(stream.read(&mut [0; 1]), Ok(0)), "{case}");
    }
    setup.exeat.stop()
}

/// A server that answers each question from elsewhere, then with another id, then to another question, then with another
/// address, and only then rightly.
fn forge(socket: &UdpSocket, elsewhere: &UdpSocket) -> Option<()> {
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).ok()?;
        let query = Message::from_vec(buffer.get(..length)?).ok()?;
        let asked = query.queries.first()?.clone();
        let reply = |id: u16, name: &Name, last| {
            let mut reply = Message::response(id, OpCode::Query);
            let mut question = asked.clone();
            question.set_name(name.clone());
            if asked.query_type() == RecordType::A {
                let data = RData::A(A::new(93, 184, 216, last));
                reply.add_answer(Record::from_rdata(name.clone(), 60, data));
            }
            reply.add_query(question);
            reply.to_vec().ok()
        };
        let (id, name) = (query.metadata.id, asked.name().clone());
        let other = Name::from_ascii("other.example.com.").ok()?;
        elsewhere.send_to(&reply(id, &name, 66)?, client).ok()?;
        socket.send_to(&reply(id.wrapping_add(1), &name, 66)?, client).ok()?;
        socket.send_to(&reply(id, &other, 66)?, client).ok()?;
        socket.send_to(&reply(id, &name, 34)?, client).ok()?;
    }
}

pub(crate) fn forged_answers_of_servers_are_ignored() -> Result<()> {
    let server = UdpSocket::bind("0.0.0.0:5353")?;
    let elsewhere =
        UdpSocket::bind("93.184.216.61:5353").or_else(|_| UdpSocket::bind("93.184.216.61:5354"))?;
    thread::spawn(move || forge(&server, &elsewhere));
    let extra = "[resolver]\nservers = [\"93.184.216.60:5353\"]\n";
    let setup = Setup::new("allow = [\"example.com\"]", "", extra)?;
    let told = setup.ask("example.com")?;
    ensure!(told.data() == ["93.184.216.34"], "{told:?}");
    setup.exeat.stop()
}
