//! Cases of tokens: which count, from where, and until when.

use std::net::SocketAddr;
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use exeat_identity::SignatureAlgorithm::Es256;
use exeat_tests::client::Client;
use exeat_tests::exeat::binary;
use exeat_tests::fixture::request_with;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::tokens::{CONTAINER, TokenIssuer, basic, bearer, claims};
use exeat_tests::world::GREETING;
use serde_json::{Value, json};

use crate::stage::{Case, Refusal, Stage, case, refusal};

const INVALID: Refusal = refusal(407, "auth_invalid");
const MISMATCH: Refusal = refusal(403, "container_mismatch");
/// The header of a token as it should be.
const HEADER: &str = r#"{"alg":"ES256","kid":"k1"}"#;
/// Where the two containers are.
const SBX_1: &str = "93.184.216.151:0";
const SBX_2: &str = "93.184.216.152:0";

/// The issuer whose public key stands in the configurations for `ISSUER_KEY`.
pub(crate) static ISSUER: LazyLock<TokenIssuer> =
    LazyLock::new(|| TokenIssuer::new(Es256, "k1").unwrap_or_else(|error| panic!("a key: {error}")));

const ISSUER_SECTION: &str = r#"
[issuer.sandboxes]
issuer = "secure-egress-control"
audience = "egress-proxy"
jwks = { keys = [ISSUER_KEY] }
ceiling = "app"
[workload.sbx-1]
addresses = ["93.184.216.151"]
alone = false
[workload.sbx-2]
addresses = ["93.184.216.152"]
alone = false
[api]
socket = "s"
"#;
/// The same, for bound tokens alone.
const BOUND_SECTION: &str = r#"
[issuer.sandboxes]
issuer = "secure-egress-control"
audience = "egress-proxy"
jwks = { keys = [ISSUER_KEY] }
ceiling = "app"
enforce_container_binding = true
[workload.sbx-1]
addresses = ["93.184.216.151"]
alone = false
"#;
const OPEN: &str = r#"allow = ["example.com", "mail.example.org:25"]"#;

const fn token_case(id: &'static str, act: fn(&mut Stage) -> Result<()>) -> Case {
    case(id, act).with(ISSUER_SECTION)
}

pub(crate) const CASES: &[Case] = &[
    token_case("AUTH-03", |s| {
        let forge = |alg: &str| ISSUER.forged(&format!(r#"{{"alg":"{alg}","kid":"k1"}}"#), &usual()?);
        for alg in ["none", "None", "nOnE"] {
            let signed = forge(alg)?;
            let (unsigned, _) = signed.rsplit_once('.').context("a signature")?;
            refuses(s, &[format!("{unsigned}."), unsigned.to_owned(), signed], INVALID)?;
        }
        counts(s, &ISSUER.forged(HEADER, &usual()?)?)
    }),
    token_case("AUTH-05", |s| {
        let forge = |alg: &str| ISSUER.forged(&format!(r#"{{"alg":"{alg}","kid":"k1"}}"#), &usual()?);
        let other = TokenIssuer::new(exeat_identity::SignatureAlgorithm::EdDsa, "k1")?.token(json!({}))?;
        let algs = ["RS256", "ES384", "ES256K", "EdDSA", "HS256", "es256"];
        let mut tokens = algs.into_iter().map(forge).collect::<Result<Vec<_>>>()?;
        tokens.push(other);
        refuses(s, &tokens, INVALID)
    }),
    token_case("AUTH-08", |s| {
        let jwk = ISSUER.key.to_jwk();
        headers(
            s,
            &[
                &format!(r#""jwk":{jwk}"#),
                r#""jku":"https://example.com/jwks.json""#,
                r#""x5u":"https://example.com/x5""#,
                r#""x5c":["AAAA"]"#,
            ],
        )
    }),
    token_case("AUTH-09", |s| {
        headers(
            s,
            &[
                r#""crit":["x"],"x":1"#,
                r#""crit":[]"#,
                r#""crit":["b64"],"b64":false"#,
                r#""b64":false"#,
                r#""zip":"DEF""#,
                r#""cty":"JWT""#,
                r#""alg":"ES256""#,
            ],
        )?;
        let token = ISSUER.token(json!({}))?;
        refuses(s, &[format!("{token}.a.b"), format!("{token}.a"), token.replacen('.', "..", 1)], INVALID)
    }),
    token_case("AUTH-11", |s| {
        claimed(s, &[("exp", Value::Null), ("exp", json!("4102444800")), ("exp", json!(4_102_444_800_u64))])
    }),
    token_case("AUTH-12", |s| {
        claimed(s, &[("aud", Value::Null), ("aud", json!("egress-proxy-evil")), ("aud", json!(["x"]))])?;
        counts(s, &ISSUER.token(json!({"aud": ["x", "egress-proxy"]}))?)
    }),
    token_case("AUTH-13", |s| {
        claimed(s, &[("iss", json!("Secure-Egress-Control")), ("iss", json!("secure-egress-control/"))])
    }),
    token_case("AUTH-14", |s| {
        let token = ISSUER.token(json!({"enforce_container_binding": "true"}))?;
        for fields in [basic(CONTAINER, &token), bearer(&token)] {
            passes(s, SBX_1, &fields)?;
            for elsewhere in [SBX_2, "93.184.216.153:0"] {
                s.refuses_on(&mut from(elsewhere)?, connect(&fields), MISMATCH)?;
            }
        }
        Ok(())
    }),
    token_case("AUTH-15", |s| {
        let token = ISSUER.token(json!({}))?;
        passes(s, SBX_1, &basic(CONTAINER, &token))?;
        s.refuses_on(&mut from(SBX_1)?, connect(&basic("sbx-2", &token)), MISMATCH).map(drop)
    }),
    token_case("AUTH-16", |s| {
        for container in [Value::Null, json!("")] {
            let token =
                ISSUER.token(json!({"enforce_container_binding": true, "container_id": container}))?;
            s.refuses_on(&mut from(SBX_1)?, connect(&bearer(&token)), INVALID)?;
        }
        Ok(())
    }),
    token_case("AUTH-17", |s| {
        for flag in [
            "enforce_container_binding",
            "use_egress_gateway",
            "enforce_centralized_egress",
            "is_hipaa_regulated",
        ] {
            let with = |value: &str| ISSUER.forged(HEADER, &with_member(&format!(r#""{flag}":{value}"#))?);
            let odd = ["\"False\"", "\"TRUE\"", "0", "1", "\"no\"", "null", "\"\"", "[]", "\"true \""];
            refuses(s, &odd.into_iter().map(with).collect::<Result<Vec<_>>>()?, INVALID)?;
            for unset in ["false", "\"false\""] {
                counts(s, &with(unset)?)?;
            }
        }
        Ok(())
    }),
    case("AUTH-17-bound", |s| {
        for unset in ["false", "\"false\""] {
            let member = format!(r#""enforce_container_binding":{unset}"#);
            let token = ISSUER.forged(HEADER, &with_member(&member)?)?;
            passes(s, SBX_1, &bearer(&token))?;
            s.refuses_on(&mut from(SBX_2)?, connect(&bearer(&token)), MISMATCH)?;
        }
        Ok(())
    })
    .with(BOUND_SECTION),
    token_case("AUTH-18", |s| {
        let gateway = ISSUER.token(json!({"use_egress_gateway": "true"}))?;
        refuses(s, &[gateway], refusal(503, "egress_gateway_unavailable"))?;
        let central = ISSUER.token(json!({"enforce_centralized_egress": true}))?;
        refuses(s, &[central], refusal(403, "centralized_egress_required"))
    }),
    token_case("AUTH-19", |s| {
        let token = ISSUER.token(json!({"is_hipaa_regulated": "true"}))?;
        let mut client = from(SBX_1)?;
        let unmarked = request_with("CONNECT example.com:443", &bearer(&token));
        s.refuses_on(&mut client, unmarked, refusal(403, "class_mismatch"))?;
        let plain = request_with("GET http://a.example.org/patients/7", &bearer(&token));
        let tls = Refusal { names: &["a.example.org"], ..refusal(403, "tls_required") };
        s.refuses_on(&mut from(SBX_1)?, plain, tls)?;
        let marked = request_with("CONNECT a.example.org:443", &bearer(&token));
        let reply = from(SBX_1)?.ask(marked)?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(())
    })
    .policy(r#"allow = ["example.com", { host = "*.example.org", class = "hipaa" }]"#),
    token_case("AUTH-21-tokens", |s| {
        let token = ISSUER.token(json!({}))?;
        let carried = |text: &str| format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(text));
        for (number, text) in (160..).zip([
            format!("container_{CONTAINER}:{token}"),
            format!("{CONTAINER}:jwt_{token}"),
            format!("container_{CONTAINER}:JWT_{token}"),
            format!("container_{CONTAINER}:jwt_{token}:"),
            format!("container_{CONTAINER}:jwt_ {token}"),
            format!("container_{CONTAINER}:jwt_"),
            format!("container_{CONTAINER}"),
            format!("jwt_{token}"),
        ]) {
            let mut client = from(&format!("93.184.216.{number}:0"))?;
            s.refuses_on(&mut client, connect(&carried(&text)), INVALID)?;
        }
        passes(s, SBX_1, &basic(CONTAINER, &token).replace("Basic", "basic"))
    }),
    token_case("AUTH-27-tokens", |s| {
        let good = ISSUER.token(json!({}))?;
        let (signed, _) = good.rsplit_once('.').context("a signature")?;
        let other = ISSUER.token(json!({"jti": "j2"}))?;
        let (_, foreign) = other.rsplit_once('.').context("a signature")?;
        let mut told = Vec::new();
        for (number, token) in (160..).zip([
            format!("{signed}.{foreign}"),
            ISSUER.token(json!({"aud": "another"}))?,
            ISSUER.token(json!({"iss": "another"}))?,
            TokenIssuer::new(Es256, "unknown")?.token(json!({}))?,
            "nonsense".to_owned(),
        ]) {
            let mut client = from(&format!("93.184.216.{number}:0"))?;
            let mut reply = s.refuses_on(&mut client, connect(&bearer(&token)), INVALID)?;
            let id = reply.head.field("x-exeat-request-id").unwrap_or_default().to_owned();
            reply.head.fields.retain(|(name, _)| name != "date");
            told.push(format!("{reply:?}").replace(&id, "ID"));
        }
        ensure!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:#?}");
        let expired = ISSUER.token(json!({"iat": 1_700_000_000, "exp": 1_700_014_400}))?;
        refuses(s, &[expired], refusal(407, "token_expired"))
    }),
    token_case("AUTH-22", |s| {
        let token = ISSUER.token(json!({}))?;
        counts(s, &token)?;
        passes(s, SBX_1, &bearer(&token).replace("Bearer", "bearer"))?;
        let elsewhere = request_with("CONNECT evil.test:443", &bearer(&token));
        s.refuses_on(&mut from(SBX_1)?, elsewhere, refusal(403, "host_not_allowed"))?;
        let (signed, signature) = token.rsplit_once('.').context("a signature")?;
        let first = if signature.starts_with('A') { 'B' } else { 'A' };
        let tampered = format!("{signed}.{first}{}", &signature[1..]);
        refuses(s, &[tampered, format!("{token} x"), String::new()], INVALID)
    }),
    token_case("AUTH-25", |s| {
        let twice = |member: &str| ISSUER.forged(HEADER, &with_member(member)?);
        refuses(
            s,
            &[
                twice(r#""allowed_hosts":"evil.test""#)?,
                twice(r#""exp":4102444800"#)?,
                twice(r#""container_id":"sbx-2""#)?,
                twice(r#""x":{"a":1,"a":2},"x":1"#)?,
            ],
            INVALID,
        )
    }),
    token_case("TUN-02", |s| {
        let token = ISSUER.token(json!({"allowed_hosts": "mail.example.org:25"}))?;
        let other = ISSUER.token(json!({"allowed_hosts": "mail.example.org:25", "jti": "j2"}))?;
        let (mut goes, mut stays) = (tunnel(&token)?, tunnel(&other)?);
        revoke(s, "jti=j1")?;
        goes.closed()?;
        s.record("the close", |r| r["event"] == "end" && r["end"] == "token_revoked")?;
        stays.send("still there")?;
        ensure!(stays.exactly(11)? == b"still there");
        refuses(s, &[token], refusal(407, "token_revoked"))
    })
    .policy(OPEN),
    token_case("TUN-04", |s| {
        let token = ISSUER.token(json!({"allowed_hosts": "mail.example.org:25"}))?;
        let next = ISSUER.token(json!({"allowed_hosts": "mail.example.org:25", "container_id": "next"}))?;
        let mut goes = tunnel(&token)?;
        revoke(s, "container=sbx-1")?;
        goes.closed()?;
        s.record("the close", |r| r["event"] == "end" && r["end"] == "token_revoked")?;
        // Whoever has the address next has what their own token gives, and the old one nothing.
        tunnel(&next)?;
        refuses(s, &[token], refusal(407, "token_revoked"))
    })
    .policy(OPEN),
];

fn from(source: &str) -> Result<Raw> {
    let (source, proxy): (SocketAddr, SocketAddr) = (source.parse()?, PROXY.parse()?);
    Raw::from(source, proxy)
}

fn connect(fields: &str) -> String {
    request_with("CONNECT example.com:443", fields)
}

/// The usual claims, as text.
fn usual() -> Result<String> {
    Ok(claims(json!({}))?.to_string())
}

/// The usual claims and one member more, which may be there already.
fn with_member(member: &str) -> Result<String> {
    Ok(usual()?.replacen('{', &format!("{{{member},"), 1))
}

/// Each token is refused in both ways to carry one, each from a source of its own: who is wrong too often has to wait.
fn refuses(stage: &mut Stage, tokens: &[String], want: Refusal) -> Result<()> {
    for (number, token) in (160..).zip(tokens) {
        for fields in [basic(CONTAINER, token), bearer(token)] {
            let mut client = from(&format!("93.184.216.{number}:0"))?;
            let shown = token.split('.').map(|part| {
                let bytes = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            });
            let shown: Vec<String> = shown.collect();
            stage.refuses_on(&mut client, connect(&fields), want).with_context(|| format!("{shown:?}"))?;
        }
    }
    Ok(())
}

/// A token counts in both ways to carry one.
fn counts(stage: &mut Stage, token: &str) -> Result<()> {
    passes(stage, SBX_1, &basic(CONTAINER, token))?;
    passes(stage, SBX_1, &bearer(token))
}

fn passes(stage: &mut Stage, source: &str, fields: &str) -> Result<()> {
    stage.passes_on(&mut from(source)?, request_with("GET http://example.com/", fields)).map(drop)
}

/// Tokens with more in their headers are refused, though they are signed.
fn headers(stage: &mut Stage, members: &[&str]) -> Result<()> {
    let forge = |member: &&str| ISSUER.forged(&HEADER.replacen('{', &format!("{{{member},"), 1), &usual()?);
    let tokens = members.iter().map(forge).collect::<Result<Vec<_>>>()?;
    refuses(stage, &tokens, INVALID)
}

/// Tokens with another claim are refused, though they are signed; without any of these they count.
fn claimed(stage: &mut Stage, changes: &[(&str, Value)]) -> Result<()> {
    let issue = |(name, value): &(&str, Value)| {
        let mut change = json!({});
        change[*name] = value.clone();
        ISSUER.token(change)
    };
    let tokens = changes.iter().map(issue).collect::<Result<Vec<_>>>()?;
    refuses(stage, &tokens, INVALID)?;
    counts(stage, &ISSUER.token(json!({}))?)
}

fn tunnel(token: &str) -> Result<Raw> {
    let mut tunnel = from(SBX_1)?;
    let reply = tunnel.ask(request_with("CONNECT mail.example.org:25", &bearer(token)))?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    Ok(tunnel)
}

fn revoke(stage: &Stage, tokens: &str) -> Result<()> {
    let socket = stage.world.directory().join("s").to_string_lossy().into_owned();
    let args = ["token", "revoke", tokens, "--socket", &socket];
    let done = Client::new(binary()?, stage.world.directory()).args(args).run()?;
    ensure!(done.code == 0 && done.out.contains("1 flow ends"), "{done:?}");
    Ok(())
}
