//! Cases of credentials and of running it, as far as passwords go.

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use exeat_tests::fixture::{CLIENT, PASSWORD, auth, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::{Raw, authorization};

use crate::stage::{Case, Refusal, Stage, case, refusal};

const REQUIRED: Refusal = refusal(407, "auth_required");
const INVALID: Refusal = refusal(407, "auth_invalid");
const DELAYED: Refusal = refusal(429, "rate_limited");

pub(crate) const CASES: &[Case] = &[
    case("AUTH-01", |s| {
        for line in ["CONNECT example.com:443", "GET http://example.com/", "CONNECT evil.test:443"] {
            let reply = s.refuses_bytes(request_with(line, ""), REQUIRED)?;
            let challenge = reply.head.field("proxy-authenticate").unwrap_or_default();
            ensure!(challenge.starts_with("Basic realm="), "{reply:?}");
        }
        Ok(())
    }),
    case("AUTH-21", decoding)
        .differs("these credentials are passwords; AUTH-21-tokens has those of containers"),
    case("AUTH-27", |s| {
        let unknown = refused_body(s, "nobody", PASSWORD)?;
        let wrong = refused_body(s, CLIENT, "wrong")?;
        ensure!(unknown == wrong, "{unknown} and {wrong}");
        Ok(())
    })
    .differs("these credentials are passwords: an unknown user and a wrong password look the same"),
    case("AUTH-26", |s| {
        let wrong = request_with("GET http://example.com/", &authorization(CLIENT, "wrong"));
        for _ in 0..6 {
            s.refuses_bytes(&wrong, INVALID)?;
        }
        s.refuses_bytes(&wrong, DELAYED)?;
        // Another source, and another name from this one, are not held up.
        let mut elsewhere = Raw::from("93.184.216.109:0".parse()?, PROXY.parse()?)?;
        let right = elsewhere.ask(request_with("GET http://example.com/", &auth()))?;
        ensure!(right.status == 200, "{right:?}");
        let other = request_with("GET http://example.com/", &authorization("other", "wrong"));
        s.refuses_bytes(other, INVALID).map(drop)
    }),
    case("AUTH-29", |s| {
        let spoofed = format!(
            "PROXY TCP4 10.99.0.2 10.99.0.1 4242 3128\r\n{}",
            request_with("GET http://example.com/", &auth())
        );
        s.refuses_bytes(spoofed, refusal(400, "request_malformed")).map(drop)
    }),
];

/// Credentials that are not exactly one user, colon and password in standard base64 are refused.
fn decoding(stage: &mut Stage) -> Result<()> {
    let right = STANDARD.encode(format!("{CLIENT}:{PASSWORD}"));
    let unpadded = right.trim_end_matches('=');
    let odd = STANDARD.encode(format!("{CLIENT}:{PASSWORD}>>>???"));
    let url_safe = odd.replace('+', "-").replace('/', "_");
    for (name, value) in [
        ("no colon", format!("Basic {}", STANDARD.encode(CLIENT))),
        ("two colons", format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{PASSWORD}:")))),
        ("bad base64", format!("Basic {}", right.replacen(|c: char| c.is_ascii_alphanumeric(), "!", 1))),
        ("base64url", format!("Basic {url_safe}")),
        ("trailing garbage", format!("Basic {right} x")),
        ("not UTF-8", format!("Basic {}", STANDARD.encode(b"app:\xff\xfe"))),
        ("empty", "Basic ".to_owned()),
        ("no scheme", right.clone()),
        ("another scheme", "Bearer abc".to_owned()),
        ("upper-case user", format!("Basic {}", STANDARD.encode(format!("APP:{PASSWORD}")))),
        ("NUL", format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{PASSWORD}\0")))),
    ] {
        let fields = format!("Proxy-Authorization: {value}\r\n");
        let reply = stage.refuses_bytes(request_with("GET http://example.com/", &fields), INVALID);
        ensure!(reply.is_ok(), "{name}: {reply:?}");
    }
    if unpadded != right {
        let fields = format!("Proxy-Authorization: Basic {unpadded}\r\n");
        stage.refuses_bytes(request_with("GET http://example.com/", &fields), INVALID)?;
    }
    let twice = format!("{}{}", auth(), authorization(CLIENT, "wrong"));
    stage.refuses_bytes(request_with("GET http://example.com/", &twice), INVALID)?;
    for scheme in ["basic", "BASIC"] {
        let fields = auth().replace("Basic", scheme);
        stage.passes_on(&mut Raw::proxy()?, request_with("GET http://example.com/", &fields))?;
    }
    Ok(())
}

/// What a client with these credentials is told, without what differs from request to request.
fn refused_body(stage: &mut Stage, user: &str, password: &str) -> Result<String> {
    let request = request_with("GET http://example.com/", &authorization(user, password));
    let mut reply = stage.refuses_bytes(request, INVALID)?;
    let id = reply.head.field("x-exeat-request-id").unwrap_or_default().to_owned();
    reply.head.fields.retain(|(name, _)| name != "date");
    Ok(format!("{reply:?}").replace(&id, "ID"))
}
