//! Refusals at the edges, where another parser than ours would be the first to object, or what was allowed is taken back:
//! each is ours, with its reason, in the audit log and in the numbers, and the upstream is what it is told to be.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{auth, configuration, request, request_with};
use exeat_tests::http::Reply;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::World;
use exeat_tests::{harness, scenarios};
use serde_json::Value;

fn main() -> ExitCode {
    harness::main(scenarios![
        a_head_that_is_one_byte_too_long_is_refused_on_every_path,
    ])
}

/// Status and reason of a reply.
fn told(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.head.field("x-deny-reason").unwrap_or_default())
}

/// Waits for one more denial with this reason than `before`, and checks that no other record has it.
fn denied(exeat: &mut Exeat, reason: &str, before: usize) -> Result<Value> {
    let of = |records: &[Value]| -> Vec<Value> {
        records.iter().filter(|record| record["reason"] == reason).cloned().collect()
    };
    let records = exeat.audit_until(reason, |records| of(records).len() > before)?;
    let mut found = of(&records);
    ensure!(found.len() == before + 1, "{found:#?}");
    let last = found.pop().context("no record")?;
    ensure!(last["verdict"] == "deny", "{last:#}");
    Ok(last)
}

fn a_head_that_is_one_byte_too_long_is_refused_on_every_path() -> Result<()> {
    const HEAD_BYTES: usize = 2048;
    let padded = |line: &str, fields: &str, length: usize| {
        let with = |pad: &str| request_with(line, &format!("{fields}X-Pad: {pad}\r\n"));
        with(&"a".repeat(length - with("").len()))
    };
    let world = World::new()?;
    let extra = format!("[limits]\nhead_bytes = {HEAD_BYTES}\nuri_bytes = 1024\n");
    let mut exeat =
        Exeat::serve(world.directory(), &configuration("allow = [\"example.com\"]", &extra), PROXY)?;
    let get = "GET http://example.com/";
    let (ours, theirs) = (auth(), String::new());
    // What is said before, on the same connection, and then.
    let cases = [
        ("a first request", None, get, &ours),
        ("a second request", Some(request(get)), get, &ours),
        ("CONNECT", None, "CONNECT example.com:443", &ours),
        ("CONNECT after a request", Some(request(get)), "CONNECT example.com:443", &ours),
        ("in a tunnel", Some(request("CONNECT example.com:80")), "GET /", &theirs),
    ];
    for (count, (case, before, line, fields)) in cases.into_iter().enumerate() {
        let fields = if case == "in a tunnel" { "Host: example.com\r\n" } else { fields };
        let fit = |length: usize| match case {
            "in a tunnel" => {
                let empty = format!("{line} HTTP/1.1\r\n{fields}X-Pad: \r\n\r\n").len();
                format!("{line} HTTP/1.1\r\n{fields}X-Pad: {}\r\n\r\n", "a".repeat(length - empty))
            }
            _ => padded(line, fields, length),
        };
        for (length, want) in [(HEAD_BYTES, (200, "")), (HEAD_BYTES + 1, (431, "header_too_large"))] {
            let mut client = Raw::proxy()?;
            if let Some(before) = &before {
                let reply = client.ask(before)?;
                ensure!(reply.status == 200, "{case}: {reply:?}");
            }
            let requests = world.http.requests().len();
            let reply = client.ask(fit(length)).with_context(|| format!("{case}, {length} bytes"))?;
            ensure!(told(&reply) == want, "{case}, {length} bytes: {reply:?}");
            if want.0 != 200 {
                client.closed().with_context(|| case.to_owned())?;
                ensure!(world.http.requests().len() == requests, "{case}: it went upstream");
                denied(&mut exeat, want.1, count).with_context(|| case.to_owned())?;
            }
        }
    }
    exeat.stop()
}
