use std::net::IpAddr;
use std::time::Duration;

use exeat_model::Host;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::*;
use crate::client_hello::tests::hello_for;
use crate::testing::permit_for;

/// What one opening came to: the bytes that go upstream, or the refusal.
type Outcome = Result<Vec<u8>, (Reason, Speaks)>;

/// Name, tunnel, what the client sends, and why it is refused if it is.
type Case<T> = (&'static str, Tunnel, T, Option<(Reason, Speaks)>);

/// A tunnel that is to be opened.
#[derive(Clone, Copy)]
struct Tunnel {
    target: &'static str,
    expect: Option<Expect>,
    sni: &'static [&'static str],
}

const TLS: Tunnel = tunnel("example.com:443", None, &[]);
const HTTP: Tunnel = tunnel("example.com:80", None, &[]);

const fn tunnel(target: &'static str, expect: Option<Expect>, sni: &'static [&'static str]) -> Tunnel {
    Tunnel { target, expect, sni }
}

impl Tunnel {
    /// Opens it for `client`, of whose bytes `early` are already here.
    async fn open(self, early: &[u8], client: &mut DuplexStream, limits: &Limits) -> Opening {
        let asked = Authority::parse(self.target, None).unwrap();
        let address = match asked.host {
            Host::Name(_) => IpAddr::from([127, 0, 0, 1]),
            Host::Address(address) => address.get(),
        };
        let permit = permit_for(self.target, &[address], self.expect, self.sni);
        read_opening(client, early.into(), permit.opening(), &asked, limits).await
    }

    /// What comes of `early` and then `bytes`, at most `step` at a time, from a client that stays.
    async fn outcome_of(self, early: &[u8], bytes: &[u8], step: usize, limits: &Limits) -> Outcome {
        let (mut near, mut far) = tokio::io::duplex(step);
        let bytes = bytes.to_vec();
        let client = tokio::spawn(async move {
            // Fails when the opening was refused before all of it was sent.
            let _ = far.write_all(&bytes).await;
            far
        });
        let opening = self.open(early, &mut near, limits).await;
        drop(near);
        drop(client.await.unwrap());
        outcome(opening)
    }

    async fn outcome(self, bytes: &[u8]) -> Outcome {
        self.outcome_of(b"", bytes, 64 * 1024, &Limits::default()).await
    }
}

fn outcome(opening: Opening) -> Outcome {
    match opening {
        Opening::Agreed(bytes) => Ok(bytes.to_vec()),
        Opening::Refused(Refusal { reason, speaks }) => Err((reason, speaks)),
        Opening::ClientGone(error) => panic!("client gone: {error:?}"),
    }
}

#[tokio::test]
async fn tls_openings() {
    const TO_ADDRESS: Tunnel = tunnel("192.0.2.1:443", None, &[]);
    const LISTED: Tunnel = tunnel("example.com:443", None, &["front.example.org"]);
    const OTHER_PORT: Tunnel = tunnel("example.com:8443", Some(Expect::Tls), &[]);
    let get = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec();
    let too_long = [&[22, 3, 1, 0x40, 0, 1, 1, 0, 0][..], &[0; 20]].concat();
    let cases: &[Case<Vec<u8>>] = &[
        ("the asked name", TLS, hello_for("example.com"), None),
        ("in upper case", TLS, hello_for("EXAMPLE.COM"), None),
        ("on a port with expect", OTHER_PORT, hello_for("example.com"), None),
        ("another name", TLS, hello_for("example.org"), Some((Reason::SniMismatch, Speaks::Tls))),
        ("a name below", TLS, hello_for("www.example.com"), Some((Reason::SniMismatch, Speaks::Tls))),
        (
            "the name with a prefix",
            TLS,
            hello_for("badexample.com"),
            Some((Reason::SniMismatch, Speaks::Tls)),
        ),
        ("a listed name", LISTED, hello_for("front.example.org"), None),
        ("the asked name beside a list", LISTED, hello_for("example.com"), None),
        (
            "a name that is not listed",
            LISTED,
            hello_for("example.org"),
            Some((Reason::SniMismatch, Speaks::Tls)),
        ),
        ("no name", TLS, hello_for("192.0.2.1"), Some((Reason::SniMissing, Speaks::Tls))),
        ("no name to an address", TO_ADDRESS, hello_for("192.0.2.1"), None),
        ("a name to an address", TO_ADDRESS, hello_for("example.com"), None),
        ("HTTP", TLS, get.clone(), Some((Reason::TlsRequired, Speaks::Http))),
        ("HTTP to an address", TO_ADDRESS, get, Some((Reason::TlsRequired, Speaks::Http))),
        ("SSH", TLS, b"SSH-2.0-x\r\n".to_vec(), Some((Reason::TlsRequired, Speaks::Other))),
        ("a hello over the limit", TLS, too_long, Some((Reason::RequestMalformed, Speaks::Tls))),
        ("a broken record", TLS, vec![22, 3, 1, 0, 0], Some((Reason::RequestMalformed, Speaks::Tls))),
    ];
    for (case, tunnel, bytes, refused) in cases {
        let want = refused.map_or(Ok(bytes.clone()), Err);
        assert_eq!(tunnel.outcome(bytes).await, want, "{case}");
    }
}

#[tokio::test]
async fn http_openings() {
    const TO_ADDRESS: Tunnel = tunnel("192.0.2.1:80", None, &[]);
    const OTHER_PORT: Tunnel = tunnel("example.com:8080", Some(Expect::Http), &[]);
    const LISTED: Tunnel = tunnel("example.com:80", None, &["front.example.org"]);
    let mismatch = Some((Reason::HostMismatch, Speaks::Http));
    let malformed = Some((Reason::RequestMalformed, Speaks::Http));
    let not_http = Some((Reason::HttpRequired, Speaks::Other));
    let cases: &[Case<&str>] = &[
        ("the asked name", HTTP, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", None),
        ("in upper case", HTTP, "GET / HTTP/1.1\r\nHOST:EXAMPLE.com\r\n\r\n", None),
        ("with its port", HTTP, "GET / HTTP/1.1\r\nHost: example.com:80\r\n\r\n", None),
        (
            "a WebSocket",
            HTTP,
            "GET /ws HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            None,
        ),
        ("with a body", HTTP, "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nab", None),
        ("asterisk-form", HTTP, "OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n", None),
        ("absolute-form", HTTP, "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", None),
        ("HTTP/1.0", HTTP, "GET / HTTP/1.0\r\nHost: example.com\r\n\r\n", None),
        ("a listed name", LISTED, "GET / HTTP/1.1\r\nHost: front.example.org\r\n\r\n", None),
        ("another port without it", OTHER_PORT, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", None),
        ("another port with it", OTHER_PORT, "GET / HTTP/1.1\r\nHost: example.com:8080\r\n\r\n", None),
        ("the address", TO_ADDRESS, "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", None),
        ("a name to an address", TO_ADDRESS, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", mismatch),
        ("another address", TO_ADDRESS, "GET / HTTP/1.1\r\nHost: 192.0.2.2\r\n\r\n", mismatch),
        ("another name", HTTP, "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", mismatch),
        ("a name below", HTTP, "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", mismatch),
        ("another port", HTTP, "GET / HTTP/1.1\r\nHost: example.com:8080\r\n\r\n", mismatch),
        ("an empty name", HTTP, "GET / HTTP/1.1\r\nHost:\r\n\r\n", mismatch),
        ("userinfo", HTTP, "GET / HTTP/1.1\r\nHost: example.com@example.org\r\n\r\n", mismatch),
        (
            "another in absolute-form",
            HTTP,
            "GET http://example.org/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
            mismatch,
        ),
        (
            "another beside absolute-form",
            HTTP,
            "GET http://example.com/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
            mismatch,
        ),
        (
            "listed beside asked",
            LISTED,
            "GET http://example.com/ HTTP/1.1\r\nHost: front.example.org\r\n\r\n",
            mismatch,
        ),
        ("two names", HTTP, "GET / HTTP/1.1\r\nHost: example.com\r\nHost: example.org\r\n\r\n", malformed),
        (
            "the name twice",
            HTTP,
            "GET / HTTP/1.1\r\nHost: example.com\r\nhost: example.com\r\n\r\n",
            malformed,
        ),
        ("no name", HTTP, "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", malformed),
        ("a bare LF", HTTP, "GET / HTTP/1.1\nHost: example.com\n\n", malformed),
        ("a folded line", HTTP, "GET / HTTP/1.1\r\nHost: example.com\r\n b\r\n\r\n", malformed),
        ("neither form", HTTP, "GET x HTTP/1.1\r\nHost: example.com\r\n\r\n", malformed),
        ("a NUL later", HTTP, "GET / HTTP/1.1\r\nHost: example.com\0\r\n\r\n", malformed),
        (
            "a tunnel in the tunnel",
            HTTP,
            "CONNECT example.org:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
            Some((Reason::MethodNotAllowed, Speaks::Http)),
        ),
        (
            "https in absolute-form",
            HTTP,
            "GET https://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
            Some((Reason::SchemeNotAllowed, Speaks::Http)),
        ),
        ("HTTP/2", HTTP, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", not_http),
        ("SSH", HTTP, "SSH-2.0-x\r\n", not_http),
        ("a zero byte", HTTP, "\0", not_http),
    ];
    for (case, tunnel, text, refused) in cases {
        let want = refused.map_or(Ok(text.as_bytes().to_vec()), Err);
        assert_eq!(tunnel.outcome(text.as_bytes()).await, want, "{case}");
    }
    let tls = HTTP.outcome(&hello_for("example.com")).await;
    assert_eq!(tls, Err((Reason::HttpRequired, Speaks::Tls)));
    let head = format!("GET / HTTP/1.1\r\nHost: example.com\r\nA: {}", "a".repeat(70_000));
    assert_eq!(HTTP.outcome(head.as_bytes()).await, Err((Reason::HeaderTooLarge, Speaks::Http)));
}

#[tokio::test]
async fn bytes_may_come_early_or_one_by_one() {
    let hello = hello_for("example.com");
    let request = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec();
    for (tunnel, bytes) in [(TLS, hello), (HTTP, request)] {
        for split in [0, 1, 30, bytes.len()] {
            let (early, rest) = bytes.split_at(split);
            assert_eq!(
                tunnel.outcome_of(early, rest, 1, &Limits::default()).await,
                Ok(bytes.clone()),
                "{split}"
            );
        }
    }
}

#[tokio::test]
async fn nothing_is_read_where_anything_goes() {
    const SMTP: Tunnel = tunnel("mail.example.com:25", None, &[]);
    let (mut near, _far) = tokio::io::duplex(16);
    let opening = SMTP.open(b"early", &mut near, &Limits::default()).await;
    assert_eq!(outcome(opening), Ok(b"early".to_vec()));
}

#[tokio::test]
async fn a_client_that_says_too_little_is_refused_in_time() {
    let limits = Limits { opening_timeout: Duration::from_millis(50), ..Limits::default() };
    let hello = hello_for("example.com");
    let cases: &[(&str, Tunnel, &[u8], Speaks)] = &[
        ("TLS, silent", TLS, b"", Speaks::Other),
        ("TLS, half a hello", TLS, &hello[..100], Speaks::Tls),
        ("HTTP, silent", HTTP, b"", Speaks::Other),
        ("HTTP, half a head", HTTP, b"GET / HTTP/1.1\r\nHos", Speaks::Http),
    ];
    for (case, tunnel, bytes, speaks) in cases {
        let got = tunnel.outcome_of(b"", bytes, 4096, &limits).await;
        assert_eq!(got, Err((Reason::HeadTimeout, *speaks)), "{case}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_gone() {
    for bytes in [&b""[..], &[22, 3, 1]] {
        let (mut near, mut far) = tokio::io::duplex(16);
        far.write_all(bytes).await.unwrap();
        drop(far);
        let opening = TLS.open(b"", &mut near, &Limits::default()).await;
        assert!(matches!(opening, Opening::ClientGone(None)), "{opening:?}");
    }
}

#[test]
fn an_alert_is_one_fatal_record() {
    assert_eq!(tls_alert(Reason::SniMismatch), [21, 3, 3, 0, 2, 2, 112]);
    assert_eq!(tls_alert(Reason::HostNotAllowed), [21, 3, 3, 0, 2, 2, 49]);
}
