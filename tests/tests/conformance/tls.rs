//! What opens a tunnel.

use anyhow::{Result, ensure};
use exeat_tests::hello::Hello;

use crate::stage::{Case, Stage, case, exchange, refusal};

const TARGET: &str = "example.com:443";

pub(crate) const CASES: &[Case] = &[
    case("TLS-01", |s| alerts(s, &Hello::to("evil.test").record(), &["sni_mismatch"])),
    case("TLS-02", |s| s.refuses_connect("evil.test:443", refusal(403, "host_not_allowed"))),
    case("TLS-04", |s| {
        // RFC 6066 section 3 forbids literals, so a server name of that form is malformed as much as it is another name.
        for name in ["10.0.0.1", "93.184.216.34", "fd00::1"] {
            alerts(s, &Hello::to(name).record(), &["sni_mismatch", "request_malformed"])?;
        }
        Ok(())
    }),
    case("TLS-05", |s| {
        for name in ["example.com.", "example.com\0.evil.test", ""] {
            alerts(s, &Hello::to(name).record(), &["sni_mismatch", "sni_missing", "request_malformed"])?;
        }
        s.carries(TARGET, &Hello::to("EXAMPLE.COM").record())
    }),
    case("TLS-06", |s| {
        let twice = Hello::to("example.com").names(&[b"evil.test"]);
        alerts(s, &twice.record(), &["request_malformed"])?;
        let two = Hello::new().names(&[b"example.com", b"evil.test"]);
        alerts(s, &two.record(), &["request_malformed"])
    }),
    case("TLS-08", |s| {
        let mut tunnel = s.opens(TARGET)?;
        tunnel.rest()?;
        drop(tunnel);
        s.record("the end of a silent tunnel", |r| r["reason"] == "head_timeout")?;
        ensure!(s.world.https.seen().iter().all(|seen| seen.received.is_empty()));
        Ok(())
    })
    .with("[limits]\nopening_timeout = \"300ms\"\n"),
    case("TLS-10", |s| {
        // The name stands some 170 bytes into the message: records of 100 bytes put it in the second.
        s.carries(TARGET, &Hello::to("example.com").records(100))?;
        alerts(s, &Hello::to("evil.test").records(100), &["sni_mismatch"])?;
        alerts(s, &Hello::to("evil.test").records(1), &["sni_mismatch"])
    }),
    case("TLS-11", |s| {
        s.carries(TARGET, &Hello::to("example.com").encrypted_client_hello().padded(2000).record())?;
        s.carries(TARGET, &Hello::to("example.com").padded(60_000).records(16_000))?;
        alerts(s, &Hello::to("evil.test").padded(60_000).records(16_000), &["sni_mismatch"])
    }),
    case("TLS-15", |s| {
        let tunnel = s.opens(TARGET)?;
        let mut session = s.world.authority.connect("example.com", tunnel)?;
        let reply = exchange(&mut session, "GET / HTTP/1.1\r\nHost: other.example.net\r\n\r\n")?;
        ensure!(reply.body == b"hello from other.example.net\n", "{reply:?}");
        Ok(())
    })
    .differs(
        "without interception the inner Host cannot be seen, so the tunnel is allowed, as the case says",
    ),
    case("TLS-18", |s| {
        s.carries(TARGET, &Hello::to("example.com").encrypted_client_hello().record())?;
        alerts(s, &Hello::to("evil.test").encrypted_client_hello().record(), &["sni_mismatch"])
    }),
];

/// The tunnel ends with a fatal alert (RFC 8446 section 6) and nothing goes upstream that was not there before.
fn alerts(stage: &mut Stage, opening: &[u8], reasons: &[&str]) -> Result<()> {
    let got = stage.closes(TARGET, opening, reasons)?;
    ensure!(matches!(got.as_slice(), [21, 3, _, 0, 2, 2, _]), "want one fatal alert, got {got:?}");
    Ok(())
}
