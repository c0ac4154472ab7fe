//! Flows that are open when the policy changes, when somebody cuts them, and when they reach a limit of their own.

mod control;
mod limits;
mod many;
mod policy;
mod responses;

use std::{collections::BTreeMap, time::Duration};

use exeat_model::Host;
use exeat_policy::{Expect, Label, Mode, Reason};
use exeat_proxy::{FlowFilter, FlowKind, Limits, Selector, StateError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    common::{
        AUTH, LONG, Origin, Setup, World, assert_refused, page, read_all, read_head, read_response, settle,
    },
    rules::Rules,
};

/// Ten times the second within which a flow that is no longer allowed ends.
const BOUND: Duration = Duration::from_secs(10);
/// `other:secret`
const OTHER: &str = "Proxy-Authorization: Basic b3RoZXI6c2VjcmV0\r\n";
/// `app:new`
const NEW: &str = "Proxy-Authorization: Basic YXBwOm5ldw==\r\n";

/// Opens a tunnel with these credentials.
async fn tunnel_as(world: &World, auth: &str, target: &str) -> TcpStream {
    let mut stream = world.connect().await;
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{auth}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{target}: {head}");
    stream
}

async fn tunnel(world: &World, target: &str) -> TcpStream {
    tunnel_as(world, AUTH, target).await
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    timeout(LONG, stream.read_exact(&mut echo)).await.unwrap().unwrap();
    assert_eq!(&echo, b"ping");
}

/// Waits until the snapshot of this revision has decided on every flow.
async fn decided_again(world: &World, revision: u64) {
    let decided = async {
        while world.proxy.flows().iter().any(|flow| flow.revision.0 != revision) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, decided).await.expect("the sweep in time");
}

/// What a tunnel still says until it breaks, and that it breaks by a reset and in time.
async fn read_to_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = timeout(BOUND, stream.read_to_end(&mut bytes)).await.expect("the end in time");
    assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
    bytes
}

/// Bytes that no loss or repetition leaves the same.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// The part of each record that the tests look at: event, host, verdict, reason, revision and end.
fn told(records: &[String], event: &str) -> Vec<BTreeMap<&'static str, String>> {
    let value = |line: &str, key: &'static str| {
        let (_, rest) = line.split_once(&format!("\"{key}\":"))?;
        let end = rest.find([',', '}'])?;
        Some((key, rest[..end].trim_matches('"').to_owned()))
    };
    let of_event = records.iter().filter(|line| line.contains(&format!("\"event\":\"{event}\"")));
    let keys = ["name", "verdict", "reason", "revision", "end", "status", "bytes_down"];
    of_event
        .map(|line| {
            // The principal has a name, too; the target's comes after it.
            let line = line.split_once("\"source\"").map_or(line.as_str(), |(_, rest)| rest);
            keys.iter().filter_map(|key| value(line, key)).collect()
        })
        .collect()
}

fn revisions(records: &[String], event: &str) -> Vec<u64> {
    let of_event = records.iter().filter(|line| line.contains(&format!("\"event\":\"{event}\"")));
    let number =
        |line: &String| line.split_once("\"revision\":").unwrap().1.split(',').next().unwrap().parse();
    of_event.map(|line| number(line).unwrap()).collect()
}

/// An origin that sends `head`, then a byte now and then for as long as it can. Returns its port.
async fn trickling(head: &'static str, chunk: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = read_head(&mut stream).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(chunk).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
    });
    port
}

fn get(port: u16, version: &str) -> String {
    format!("GET http://example.com:{port}/ HTTP/{version}\r\nHost: example.com\r\n{AUTH}\r\n")
}
