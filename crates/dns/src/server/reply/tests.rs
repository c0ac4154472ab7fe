use hickory_proto::{
    op::MessageType,
    rr::{Name, RData, RecordType, rdata::A},
};

use super::*;

fn question(edns: bool) -> Question {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.queries.push(Query::query(Name::from_ascii("wWw.example.COM.").unwrap(), RecordType::A));
    message.edns = edns.then(|| {
        let mut edns = Edns::new();
        edns.set_max_payload(4096).set_dnssec_ok(true);
        edns
    });
    Question::read(&message.to_vec().unwrap()).unwrap()
}

fn addresses(question: &Question, count: u8) -> Vec<Record> {
    let record = |last| Record::from_rdata(question.name.clone(), 60, RData::A(A::new(192, 0, 2, last)));
    (1..=count).map(record).collect()
}

fn read(written: &Written) -> Message {
    Message::from_vec(&written.bytes).unwrap()
}

#[test]
fn the_question_comes_back_as_it_was() {
    let asked = question(false);
    let reply = Reply { answers: addresses(&asked, 1), ..Reply::code(ResponseCode::NoError) };
    let written = reply.write(&asked, 512).unwrap();
    let message = read(&written);
    assert!(!written.is_cut && message.edns.is_none());
    assert_eq!((message.metadata.id, message.metadata.recursion_available), (7, true));
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert!(message.queries[0].name().eq_case(&asked.name));
    assert!(message.answers[0].name.eq_case(&asked.name), "{}", message.answers[0].name);
}

#[test]
fn what_does_not_fit_is_cut_to_nothing() {
    let asked = question(true);
    // 12 octets before the question, 21 for it, 16 an address and 11 at the end.
    for (count, room, is_cut) in
        [(29, 512, false), (30, 512, true), (70, 1232, false), (90, 1232, true), (90, 65535, false)]
    {
        let reply = Reply { answers: addresses(&asked, count), ..Reply::code(ResponseCode::NoError) };
        let written = reply.write(&asked, room).unwrap();
        let message = read(&written);
        assert!(written.bytes.len() <= room, "{count}: {}", written.bytes.len());
        assert_eq!((written.is_cut, message.metadata.truncation), (is_cut, is_cut), "{count} in {room}");
        assert_eq!(message.answers.len(), if is_cut { 0 } else { count.into() }, "{count} in {room}");
        assert_eq!(message.edns.unwrap().max_payload(), UDP_BYTES_MAX);
    }
}

#[test]
fn why_is_told_to_who_can_read_it() {
    let why = Some(Why { code: 15, text: "host_denied" });
    let reply = || Reply { why, ..Reply::code(ResponseCode::NXDomain) };
    let message = read(&reply().write(&question(true), 512).unwrap());
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    let edns = message.edns.unwrap();
    assert!(edns.flags().dnssec_ok);
    let option = edns.option(EDE.into()).unwrap();
    assert_eq!(option, &EdnsOption::Unknown(15, [&[0, 15][..], b"host_denied"].concat()));
    assert!(read(&reply().write(&question(false), 512).unwrap()).edns.is_none());
}

#[test]
fn who_asks_nothing_gets_a_code() {
    let head = question(false).head;
    let message = Message::from_vec(&write_bare(head, ResponseCode::FormErr).unwrap()).unwrap();
    assert_eq!((message.metadata.id, message.metadata.response_code), (7, ResponseCode::FormErr));
    assert!(message.queries.is_empty());
    let refused = Reply::code(ResponseCode::BADVERS).write(&question(true), 512).unwrap();
    let message = read(&refused);
    // It has two names.
    assert_eq!(u16::from(message.metadata.response_code), 16);
    assert_eq!(message.edns.unwrap().version(), 0);
}
