use hickory_proto::op::{EdnsFlags, Query};

use super::*;

/// A question for `www.Example.com`, type A.
fn question() -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii("www.Example.com.").unwrap(), RecordType::A));
    message
}

fn with(change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = question();
    change(&mut message);
    message.to_vec().unwrap()
}

/// A question whose bytes were changed.
fn bent(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = question().to_vec().unwrap();
    change(&mut bytes);
    bytes
}

fn edns(version: u8, room: u16) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(room).set_version(version);
    edns
}

fn show(read: Result<Question, Unasked>) -> String {
    match read {
        Ok(question) => format!("{} {} room {}", question.name, question.kind, question.room()),
        Err(Unasked::Ignored) => "ignored".to_owned(),
        Err(Unasked::Code(head, code)) => format!("{} {code:?}", head.id),
        Err(Unasked::Refused(question, code)) => format!("{} {code:?}", question.name),
    }
}

#[test]
fn every_message_has_its_answer() {
    let (form_err, www) = ("7 FormErr", "www.Example.com. A room 512");
    let a_loop = bent(|bytes| {
        bytes.truncate(12);
        // The name is where it says that it is.
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
    });
    let forward = bent(|bytes| {
        bytes.truncate(12);
        bytes.extend([0xc0, 40, 0, 1, 0, 1]);
    });
    let long_label = bent(|bytes| {
        bytes.truncate(12);
        bytes.extend([0x40, b'a', 0, 0, 1, 0, 1]);
    });
    let two_opts = bent(|bytes| {
        bytes[11] = 2;
        let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
        bytes.extend([opt, opt].concat());
    });
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "ignored"),
        ("less than a header", vec![0; 11], "ignored"),
        ("an answer", with(|m| m.metadata.message_type = MessageType::Response), "ignored"),
        ("a question", with(|_| ()), www),
        ("a status request", with(|m| m.metadata.op_code = OpCode::Status), "7 NotImp"),
        ("a notification", with(|m| m.metadata.op_code = OpCode::Notify), "7 NotImp"),
        ("an update", with(|m| m.metadata.op_code = OpCode::Update), "7 NotImp"),
        ("an operation that does not exist", bent(|b| b[2] = 0x78), "7 NotImp"),
        ("no question", with(|m| m.queries.clear()), form_err),
        ("two questions", with(|m| m.queries.push(m.queries[0].clone())), form_err),
        ("65 535 questions", bent(|b| b[4..6].fill(0xff)), form_err),
        ("65 535 answers", bent(|b| b[6..8].fill(0xff)), form_err),
        ("an authority", bent(|b| b[9] = 1), form_err),
        ("more records than there are", bent(|b| b[11] = 9), form_err),
        ("cut off", with(|m| m.metadata.truncation = true), form_err),
        ("half a name", bent(|b| b.truncate(20)), form_err),
        ("no type", bent(|b| b.truncate(b.len() - 4)), form_err),
        ("a name that is a loop", a_loop, form_err),
        ("a name that is further on", forward, form_err),
        ("a label of a kind that does not exist", long_label, form_err),
        ("two OPT records", two_opts, form_err),
        ("as long as may be", bent(|b| b.resize(QUESTION_BYTES_MAX, 0)), www),
        ("longer than may be", bent(|b| b.resize(QUESTION_BYTES_MAX + 1, 0)), form_err),
        (
            "another class",
            with(|m| {
                m.queries[0].set_query_class(DNSClass::CH);
            }),
            "www.Example.com. Refused",
        ),
        (
            "any class",
            with(|m| {
                m.queries[0].set_query_class(DNSClass::ANY);
            }),
            "www.Example.com. Refused",
        ),
        (
            "EDNS",
            with(|m| {
                m.set_edns(edns(0, 1400));
            }),
            "www.Example.com. A room 1232",
        ),
        (
            "EDNS with room for less",
            with(|m| {
                m.set_edns(edns(0, 1024));
            }),
            "www.Example.com. A room 1024",
        ),
        (
            "EDNS with no room",
            with(|m| {
                m.set_edns(edns(0, 0));
            }),
            www,
        ),
        (
            "EDNS with all room",
            with(|m| {
                m.set_edns(edns(0, 65535));
            }),
            "www.Example.com. A room 1232",
        ),
        (
            "EDNS to come",
            with(|m| {
                m.set_edns(edns(1, 1232));
            }),
            "www.Example.com. BADVERS",
        ),
        (
            "the root",
            with(|m| {
                m.queries[0].set_name(Name::root());
            }),
            ". A room 512",
        ),
    ];
    for (case, message, want) in cases {
        assert_eq!(show(Question::read(&message)), want, "{case}");
    }
}

#[test]
fn what_an_answer_repeats_is_kept() {
    let message = with(|m| {
        m.metadata.checking_disabled = true;
        let mut edns = edns(0, 1232);
        *edns.flags_mut() = EdnsFlags { dnssec_ok: true, z: 0 };
        m.set_edns(edns);
    });
    let question = Question::read(&message).unwrap();
    let head = Head { id: 7, op_code: OpCode::Query, recursion_desired: true, checking_disabled: true };
    assert_eq!(question.head, head);
    assert!(question.edns.is_some_and(|asked| asked.dnssec_ok));
    assert!(question.name.eq_case(&Name::from_ascii("www.Example.com.").unwrap()));
}
