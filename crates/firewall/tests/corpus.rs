//! Replays the fuzzer's committed inputs, which a kernel has sent, through the fuzzer's own checks, on stable Rust.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::ErrorKind;

use exeat_firewall::Fate;
use exeat_firewall::kernel_wire::{self, Listed};
use proptest::prelude::*;

#[path = "../../../fuzz/replay/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/replay/edited.rs"]
mod edited;
#[path = "../../../fuzz/checks/netlink.rs"]
mod netlink;

use corpus::replay;
use edited::edited;

fn read(name: &str) -> Vec<u8> {
    edited::read("netlink", name)
}

#[test]
fn every_answer_of_the_kernel_and_its_prefixes_pass() {
    replay("netlink", usize::MAX, |bytes| {
        netlink::check(bytes);
    });
}

#[test]
fn captured_answers_say_what_they_said() {
    let logged = kernel_wire::packets(&read("logged_ipv6")).unwrap();
    let told: Vec<_> = logged.iter().map(|(fate, headers)| (*fate, headers.target)).collect();
    assert_eq!(told, [(Fate::Refused, "[2606:2800:220:1::70]:5432".parse().unwrap())]);

    let elements = |name| {
        let bytes = read(name);
        let sequence = u32::from_ne_bytes(*bytes[8..].first_chunk().unwrap());
        let listed = kernel_wire::elements(&bytes, sequence).unwrap();
        let line = |listed: &Listed| {
            (listed.element.set(), listed.element.ports.first().get(), listed.name.clone().unwrap())
        };
        listed.iter().map(line).collect::<Vec<_>>()
    };
    let line = |set: &str, port, name: &str| (set.to_owned(), port, name.to_owned());
    let [four, mail] = ["four.example.com", "mail.example.org"];
    let want = [line("names4", 5432, four), line("names4", 443, mail), line("names4", 25, mail)];
    assert_eq!(elements("elements_of_addresses"), want);
    let want = [line("stations6", 25, mail), line("stations6", 443, mail)];
    assert_eq!(elements("elements_of_stations"), want);
    assert_eq!(elements("elements_none"), []);

    for (name, client, address) in [
        ("flows_ipv4", "10.88.1.2:34048", "93.184.216.70"),
        ("flows_ipv6", "[fd88:1::2]:39234", "2606:2800:220:1::70"),
    ] {
        let flows = kernel_wire::flows(&read(name)).unwrap();
        let told: Vec<_> =
            flows.iter().map(|flow| (flow.client.to_string(), flow.address.to_string())).collect();
        assert_eq!(told, [(client.to_owned(), address.to_owned())], "{name}");
    }
    assert_eq!(kernel_wire::neighbours(&read("neighbours_ipv4")).unwrap().len(), 3);
    assert_eq!(kernel_wire::neighbours(&read("error_2")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_least_number_of_an_error_is_one_too() {
    let mut bytes = read("error_2");
    bytes[16..20].copy_from_slice(&i32::MIN.to_ne_bytes());
    netlink::check(&bytes);
    assert!(kernel_wire::flows(&bytes).is_err());
}

/// Lengths and types of messages and attributes, families and flags, and the numbers of errors.
const TELLING: &[u8] =
    b"\0\x01\x02\x03\x04\x05\x06\x08\x0a\x0c\x10\x11\x14\x16\x18\x20\x40\x45\x60\x7f\x80\xff";

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_that_differ_a_little_pass_too(bytes in edited("netlink", TELLING)) {
        netlink::check(&bytes);
    }
}
