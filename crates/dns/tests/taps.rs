//! Streams of dnstap: replays of the fuzzer's committed inputs, among them what unbound and BIND have sent, and a tap with
//! writers of the test's.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path, path::PathBuf, sync::Arc, time::Duration};

use exeat_dns::{Feed, GateError, Heard, Next, Server, Tap};
use exeat_policy::{Entry, Reason};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

#[path = "../../../fuzz/checks/dnstap.rs"]
mod dnstap;
#[expect(dead_code, reason = "the policy does not change here, and nobody asks")]
#[path = "../../../fuzz/checks/names_world.rs"]
mod names_world;

use names_world::{CLIENT, Snapshot, Watched, World};

const PATIENCE: Duration = Duration::from_secs(20);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/dnstap")
}

fn input(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

#[test]
fn every_stream_its_prefixes_and_edits_open_what_is_allowed_alone() {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let inputs: Vec<_> = files.map(|path| fs::read(path).unwrap()).collect();
    assert!(inputs.len() >= 100, "{} inputs", inputs.len());
    let opened: usize = inputs.iter().map(|bytes| dnstap::check(bytes)).sum();
    assert!(opened > 32, "{opened} ways");
    for bytes in inputs {
        for at in (0..bytes.len().min(400)).step_by(3) {
            dnstap::check(&bytes[..at]);
            for byte in [0, 1, 0x0c, 0x7f, 0xc0, 0xff] {
                let mut edited = bytes.clone();
                edited[at] = byte;
                dnstap::check(&edited);
            }
        }
    }
}

fn stage(allow: &[&str]) -> (Arc<World>, Arc<Watched>, Server) {
    let entries: Vec<Entry> = allow.iter().map(|text| Entry::parse(text).unwrap()).collect();
    let world = World::new(Snapshot::new(1, &entries, &[]));
    let gate = Arc::new(Watched::default());
    let nobody = "127.0.0.1:9".parse().unwrap();
    let server = names_world::server(&world, Arc::clone(&gate) as _, nobody, PATIENCE);
    (world, gate, server)
}

/// What the one message of a committed stream comes to: the word for it, the reason on record, and what was opened.
async fn learn(name: &str, fails: Option<GateError>) -> String {
    learn_of(name, &input(name), fails).await
}

async fn learn_of(name: &str, stream: &[u8], fails: Option<GateError>) -> String {
    let (world, gate, server) = stage(&["*.example.com"]);
    gate.says.lock().unwrap().extend(fails);
    let (mut feed, mut buffer) = (Feed::default(), bytes::BytesMut::from(stream));
    let message = loop {
        match feed.next(&mut buffer).unwrap() {
            Next::Message(message) => break message,
            Next::Reply(_) => {}
            other @ (Next::Wait | Next::TooLong | Next::End(_)) => panic!("{name}: {other:?}"),
        }
    };
    let tapped = match Heard::read(&message) {
        Ok(heard) => server.learn(&heard).await.token().to_owned(),
        Err(unheard) => format!("{unheard:?}"),
    };
    let records = world.records.lock().unwrap();
    let reason = records.last().and_then(|record| record.reason).map_or("", Reason::token);
    assert!(records.iter().all(|record| record.learned == Some("dnstap")), "{name}");
    let openings = gate.openings.lock().unwrap();
    let open: Vec<String> = openings
        .iter()
        .flat_map(|opening| opening.reach.iter().flat_map(|reach| &reach.addrs).map(ToString::to_string))
        .collect();
    let words = [&*tapped, reason].into_iter().chain(open.iter().map(String::as_str));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn an_ipv4_address_in_the_form_of_ipv6_opens_nothing() {
    let told: [u8; 16] = "2606:2800:220:1::34".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let stream = input("v6");
    let at = stream.windows(16).position(|octets| octets == told).unwrap();
    for (address, want) in [
        ("2606:2800:220:1::35", "opened 2606:2800:220:1::35"),
        ("::ffff:93.184.216.34", "nothing"),
        ("::ffff:10.0.0.1", "denied address_not_allowed"),
    ] {
        let mut stream = stream.clone();
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        stream[at..at + 16].copy_from_slice(&address.octets());
        let got = learn_of("v6", &stream, None).await;
        // Once for each port.
        let mut words: Vec<&str> = got.split(' ').collect();
        words.dedup();
        assert_eq!(words.join(" "), want, "{address}");
    }
}

#[tokio::test]
async fn an_answer_is_decided_on_by_the_asked_name_and_all_of_its_addresses() {
    for (name, want) in [
        ("made_one", "opened 93.184.216.34"),
        ("type_02", "opened 93.184.216.34"),
        ("type_04", "opened 93.184.216.34"),
        ("type_05", "PassedOver"),
        ("type_08", "opened 93.184.216.34"),
        ("type_12", "PassedOver"),
        ("mapped_client", "opened 93.184.216.34"),
        ("other_client", "denied auth_required"),
        ("no_client", "Incomplete"),
        ("short_client", "Malformed"),
        ("port_too_high", "Malformed"),
        ("no_message", "Incomplete"),
        ("other_wrapper", "PassedOver"),
        ("unknown_fields", "opened 93.184.216.34"),
        ("chain", "opened 93.184.216.37"),
        ("chain_reversed", "opened 93.184.216.37"),
        ("chain_loop", "nothing dns_failed"),
        ("chain_into_allowed", "denied host_not_allowed"),
        ("foreign_owner", "opened 93.184.216.34"),
        ("only_foreign", "nothing"),
        ("private", "denied address_not_allowed"),
        ("one_private", "denied address_not_allowed"),
        ("metadata", "denied address_not_allowed"),
        ("mapped_answer", "denied address_not_allowed"),
        ("v6", "opened 2606:2800:220:1::34"),
        ("sixty_five", "nothing dns_failed"),
        ("same_twice", "opened 93.184.216.34"),
        ("truncated", "PassedOver"),
        ("question", "PassedOver"),
        ("nxdomain", "nothing"),
        ("nxdomain_with_answer", "nothing"),
        ("two_questions", "PassedOver"),
        ("no_question", "PassedOver"),
        ("chaos", "PassedOver"),
        ("ptr", "PassedOver"),
        ("txt", "nothing"),
        ("strange_name", "denied host_invalid"),
        ("bad_dns", "Malformed"),
    ] {
        // Each port and transport that the rule opens has its own piece; the addresses are those of the first.
        let got = learn(name, None).await;
        let mut words: Vec<&str> = got.split(' ').collect();
        words.dedup();
        assert_eq!(words.join(" "), want, "{name}");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_on_record() {
    assert_eq!(learn("made_one", Some(GateError::Full)).await.split(' ').next(), Some("unopened"));
    assert!(learn("made_one", Some(GateError::Full)).await.contains("policy_unavailable"));
    // Something else decides by then: it is decided on again.
    assert!(learn("made_one", Some(GateError::Outdated)).await.starts_with("opened 93.184.216.34"));
}

/// A tap for this user, and what it opens.
fn tap(uid: u32) -> (tempfile::TempDir, PathBuf, Arc<Watched>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tap.sock");
    let (_, gate, server) = stage(&["*.example.com"]);
    let listener = UnixListener::bind(&path).unwrap();
    drop(tokio::spawn(Tap::new(server, uid).serve(listener)));
    (folder, path, gate)
}

async fn until_open(gate: &Watched, count: usize) {
    let opened = async {
        while gate.openings.lock().unwrap().len() < count {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, opened).await.unwrap();
}

async fn answer(stream: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut answer = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn a_writer_is_answered_and_a_bad_message_ends_nothing() {
    let (_folder, path, gate) = tap(nix::unistd::geteuid().as_raw());
    // None of these ends the others.
    for bad in ["garbage", "other_content", "finish_first", "frame_too_long", "control_too_long"] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(&input(bad)).await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().ok();
        assert!(rest.is_empty(), "{bad}: {rest:?}");
    }
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let both_ways = input("made_both_ways");
    // READY, and no more until it was accepted.
    let (ready, rest) = both_ways.split_at(42);
    stream.write_all(ready).await.unwrap();
    let accept = answer(&mut stream, 42).await;
    assert_eq!((&accept[8..12], &accept[20..]), (&[0, 0, 0, 1][..], &b"protobuf:dnstap.Dnstap"[..]));
    let (data, stop) = rest.split_at(rest.len() - 12);
    stream.write_all(data).await.unwrap();
    until_open(&gate, 2).await;
    let bad_between = input("bad_between");
    stream.write_all(&bad_between[42..bad_between.len() - 12]).await.unwrap();
    until_open(&gate, 4).await;
    assert!(gate.openings.lock().unwrap().iter().all(|opening| opening.client == CLIENT.ip()));
    stream.write_all(stop).await.unwrap();
    assert_eq!(answer(&mut stream, 12).await, [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5], "FINISH");
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "and the end");
}

#[tokio::test]
async fn a_stream_of_another_user_is_closed() {
    let (_folder, path, gate) = tap(nix::unistd::geteuid().as_raw() + 1);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let sent = stream.write_all(&input("made_one")).await;
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty() && (sent.is_err() || read.is_err() || read.is_ok_and(|length| length == 0)));
    assert!(gate.openings.lock().unwrap().is_empty());
}
