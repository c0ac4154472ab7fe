//! What a redirected connection is for: the look at addresses that stand for names, and at what a client was told.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exeat_dns::{Answers, Asker, Ranges, VirtualNames};
use exeat_model::DnsName;

use crate::Criterion;

/// Clients, and names of each.
const CLIENTS: usize = 100;
const NAMES: usize = 10_000;

pub(crate) fn lookups(criterion: &mut Criterion) {
    let now = Instant::now();
    let names: Vec<DnsName> =
        (0..NAMES).map(|n| DnsName::parse(&format!("host-{n}.example.com")).expect("a name")).collect();
    let clients: Vec<Arc<str>> = (0..CLIENTS).map(|n| format!("client-{n}").into()).collect();
    let table = VirtualNames::new(Ranges::default(), now);
    let mut assigned: Vec<(&str, IpAddr)> = Vec::new();
    for client in &clients {
        for name in &names {
            let addresses = table.assign(client, name, now).expect("room");
            assigned.push((client, IpAddr::V4(addresses.v4)));
        }
    }
    // A step that is no divisor of their number: each look is at another client and another name.
    let mut at = 0;
    criterion.bench_function(
        "redirected/a virtual address to its name, of 100 clients with 10,000 each",
        |bench| {
            bench.iter(|| {
                at = (at + 7_919_117) % assigned.len();
                let &(client, address) = assigned.get(at).expect("one of them");
                black_box(table.meaning(client, address, now))
            });
        },
    );

    let answers = Answers::new(Duration::from_secs(1800));
    let principal: Arc<str> = "client".into();
    let last = |n: usize| u16::try_from(n).expect("few").to_be_bytes();
    let address = |n: usize| {
        let [high, low] = last(n);
        IpAddr::from([93, 184, high, low])
    };
    let client = |n: usize| {
        let [high, low] = last(n);
        IpAddr::from([10, 0, high, low])
    };
    for n in 0..16 {
        let asker = Asker { address: client(n), principal: &principal };
        for (place, name) in names.iter().enumerate() {
            answers.note(asker, name, &[address(place)], Duration::ZERO, now).expect("room");
        }
    }
    criterion.bench_function(
        "redirected/an address to what its client was told, of 16 with 10,000 each",
        |bench| {
            bench.iter(|| {
                at = (at + 7_919_117) % (16 * NAMES);
                let asker = Asker { address: client(at / NAMES), principal: &principal };
                black_box(answers.names(asker, address(at % NAMES), now))
            });
        },
    );
}
