//! The messages of the name server, as the resolver reads and writes them.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::str::FromStr;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::world::listed;

pub(crate) fn messages(criterion: &mut crate::Criterion) {
    let name = Name::from_str(&format!("{}.", listed(7))).expect("a name");
    let mut query = Message::query();
    query.add_query(Query::query(name.clone(), RecordType::A));
    criterion.bench_function("dns/write a query", |bencher| {
        bencher.iter(|| black_box(&query).to_vec().expect("a message"));
    });
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.add_query(Query::query(name.clone(), RecordType::A));
    for last in 1..=4 {
        let data = RData::A(Ipv4Addr::new(93, 184, 216, last).into());
        reply.add_answer(Record::from_rdata(name.clone(), 300, data));
    }
    let bytes = reply.to_vec().expect("a message");
    criterion.bench_function("dns/read a reply of 4 addresses", |bencher| {
        bencher.iter(|| Message::from_vec(black_box(&bytes)).expect("a message"));
    });
}
