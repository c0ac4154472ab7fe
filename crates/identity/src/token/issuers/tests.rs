use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use exeat_model::{Authority, Transport};
use exeat_policy::{
    Builder, Defaults, EgressRequest, List, ListBuilder, Mode, Place, PolicySpec, Reason, Revision, Verdict,
    decide,
};
use serde_json::{Value, json};

use super::*;
use crate::authenticator::Authenticator;
use crate::claimed::Claimed;
use crate::clients::Clients;
use crate::peer::Demand;
use crate::principal::Accepted;
use crate::token::{Flags, IssueError, Issued, Order, SignatureAlgorithm, SigningKey};
use crate::workloads::Workload;

const NOW: u64 = 1_900_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn policy() -> PolicySet {
    let list = |entries: &[&str]| -> List {
        let mut list = ListBuilder::new("test.toml", Defaults::default());
        entries.iter().for_each(|entry| list.push_text(entry, 1, 1).unwrap());
        list.finish()
    };
    let mut builder = Builder::new();
    for (name, allow) in [("ceiling", &["*.example.com", "example.com"][..]), ("team", &["a.example.com"])] {
        builder.policy(PolicySpec {
            name: name.to_owned(),
            place: Place { file: "test.toml".into(), line: 1, column: 1 },
            allow: list(allow),
            deny: list(&[]),
            defaults: Defaults::default(),
            mode: Mode::Enforce,
            bind: None,
            metadata: Vec::new(),
            next_hop: None,
        });
    }
    builder.finish(Revision(1)).unwrap()
}

fn spec(keys: &[&SigningKey]) -> IssuerSpec {
    let set = json!({ "keys": keys.iter().map(|key| key.to_jwk()).collect::<Vec<_>>() });
    let keys =
        if keys.is_empty() { Ok(KeySet::default()) } else { KeySet::parse(set.to_string().as_bytes()) };
    IssuerSpec {
        name: "sandboxes".into(),
        issuer: "secure-egress-control".into(),
        audience: "egress-proxy".into(),
        keys: Arc::new(keys.unwrap().into()),
        ceiling: "ceiling".to_owned(),
        policies: Vec::new(),
        lifetime: Lifetime { leeway: Duration::from_secs(10), longest: Duration::from_secs(24 * 3600) },
        user_prefix: "container_".into(),
        password_prefix: "jwt_".into(),
        enforce_container_binding: false,
        signing: None,
    }
}

fn key(algorithm: SignatureAlgorithm, kid: &str) -> SigningKey {
    SigningKey::generate(algorithm, Some(kid)).unwrap()
}

fn claims() -> Value {
    json!({
        "iss": "secure-egress-control",
        "aud": "egress-proxy",
        "iat": NOW,
        "exp": NOW + 4 * 3600,
        "jti": "j1",
        "container_id": "sbx-1",
        "organization_uuid": "org-1",
        "sub": "user-1",
        "allowed_hosts": "example.com,a.example.com",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

/// A token whose header says what it likes, signed with the key all the same.
fn with_header(key: &SigningKey, header: &Value) -> String {
    let usual = key.sign(&claims()).unwrap();
    let (_, rest) = usual.split_once('.').unwrap();
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

fn reason(result: Result<Arc<Principal>, TokenError>) -> Result<String, String> {
    result.map(|principal| principal.name.to_string()).map_err(|error| error.to_string())
}

#[test]
fn what_is_issued_is_verified() {
    let policy = policy();
    for algorithm in [SignatureAlgorithm::Es256, SignatureAlgorithm::EdDsa] {
        let made = key(algorithm, "k1");
        let signing = SigningKey::parse(made.to_pem().as_bytes(), Some("k1")).unwrap();
        assert_eq!(signing.to_jwk(), made.to_jwk());
        let issuers = Issuers::new(vec![spec(&[&made])]);
        let order = Order {
            issuer: "secure-egress-control".to_owned(),
            audience: "egress-proxy".to_owned(),
            container: Some("sbx-1".to_owned()),
            organization: Some("org-1".to_owned()),
            subject: Some("user-1".to_owned()),
            hosts: Some(vec!["example.com".to_owned(), "*.b.example.com:8443".to_owned()]),
            policy: Some("team".to_owned()),
            flags: Flags { is_hipaa_regulated: true, ..Flags::default() },
            life: Duration::from_secs(4 * 3600),
        };
        let token = signing.issue(&order, at(NOW)).unwrap();
        let principal = issuers.verify(&policy, &token, at(NOW)).unwrap();
        assert_eq!((&*principal.name, principal.proof), ("sandboxes/sbx-1", Proof::Token));
        let labels: Vec<_> = principal.labels.iter().map(|(label, value)| (label.key(), value)).collect();
        assert_eq!(
            labels,
            [("organization", "org-1"), ("app", "user-1"), ("instance", "sbx-1"), ("class", "hipaa")]
        );
        let facts = principal.token.as_ref().unwrap();
        assert_eq!((&*facts.issuer, facts.key.as_deref()), ("sandboxes", Some("k1")));
        assert_eq!(facts.ends, at(NOW + 4 * 3600 + 10));
        assert_eq!(facts.claims.flags, order.flags);
        assert_eq!(
            facts.claims.hosts.as_ref().unwrap().items().collect::<Vec<_>>(),
            order.hosts.clone().unwrap()
        );
        assert_ne!(signing.issue(&order, at(NOW)).unwrap(), token, "each has a number of its own");
        assert_eq!(facts.id.as_ref().unwrap().len(), 22);
    }
    assert_eq!(
        SigningKey::generate(SignatureAlgorithm::Rs256, None).err(),
        Some(crate::SigningKeyError::Make)
    );
    assert_eq!(SigningKey::parse(b"nothing", None).err(), Some(crate::SigningKeyError::Read));
    let unnamed = SigningKey::generate(SignatureAlgorithm::Es256, None).unwrap();
    assert_eq!(unnamed.kid().len(), 43, "its thumbprint");
}

#[test]
fn only_tokens_of_the_issuer_count() {
    let policy = policy();
    let (es, ed) = (key(SignatureAlgorithm::Es256, "k1"), key(SignatureAlgorithm::EdDsa, "k2"));
    let (other, impostor) = (key(SignatureAlgorithm::Es256, "k9"), key(SignatureAlgorithm::Es256, "k1"));
    let right = es.sign(&claims()).unwrap();
    let (signed, signature) = right.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let tampered =
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(with("sub", "root".into()).to_string()));
    let twice = r#"{"allowed_hosts":"example.com","allowed_hosts":"evil.test","iss":"secure-egress-control","aud":"egress-proxy","exp":1900000100}"#;
    let duplicate = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(twice));
    let none =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), signed.split_once('.').unwrap().1);
    let sign = |name: &str, value: Value| es.sign(&with(name, value)).unwrap();
    let signature_error = "the signature is not the key's";
    let (no_key, audience) = ("the issuer has no key of this `kid`", "`aud` does not name this proxy");
    let issuer = "no issuer is configured for this `iss`";
    let not_es256 = "the key is for ES256, not for the token's `alg`";
    let alg = |alg: &str| with_header(&es, &json!({ "alg": alg, "kid": "k1" }));
    let cases: Vec<(&str, String, Result<&str, &str>)> = vec![
        ("ES256", right.clone(), Ok("sandboxes/sbx-1")),
        ("EdDSA", ed.sign(&claims()).unwrap(), Ok("sandboxes/sbx-1")),
        ("no signature", none, Err(no_key)),
        ("alg none", alg("none"), Err(not_es256)),
        ("alg HS256", alg("HS256"), Err(not_es256)),
        ("alg RS256", alg("RS256"), Err(not_es256)),
        ("alg ES384", alg("ES384"), Err(not_es256)),
        ("alg of the other key", alg("EdDSA"), Err(not_es256)),
        ("alg in another case", alg("es256"), Err(not_es256)),
        (
            "another header than was signed",
            with_header(&es, &json!({"alg": "ES256", "kid": "k1", "typ": "JWT"})),
            Err(signature_error),
        ),
        (
            "a key of its own",
            with_header(&es, &json!({"alg": "ES256", "kid": "k1", "jwk": es.to_jwk()})),
            Err("the header has `jwk`"),
        ),
        ("no kid, two keys", with_header(&es, &json!({"alg": "ES256"})), Err(no_key)),
        ("an unknown key", other.sign(&claims()).unwrap(), Err(no_key)),
        ("a key of the same name", impostor.sign(&claims()).unwrap(), Err(signature_error)),
        ("other claims", tampered, Err(signature_error)),
        ("no signature at all", format!("{signed}."), Err(signature_error)),
        ("duplicate claims", duplicate, Err("the claims are not a JSON object with each member once")),
        ("another issuer", sign("iss", "Secure-Egress-Control".into()), Err(issuer)),
        ("nearly the issuer", sign("iss", "secure-egress-control/".into()), Err(issuer)),
        ("another audience", sign("aud", "egress-proxy-evil".into()), Err(audience)),
        ("other audiences", sign("aud", json!(["x"])), Err(audience)),
        ("one of the audiences", sign("aud", json!(["x", "egress-proxy"])), Ok("sandboxes/sbx-1")),
        ("expired", sign("exp", (NOW - 10).into()), Err("the token has expired")),
        ("just not expired", sign("exp", (NOW - 9).into()), Ok("sandboxes/sbx-1")),
        (
            "too long a life",
            sign("exp", (NOW + 24 * 3600 + 1).into()),
            Err("the token's time is not acceptable: it lives longer than the issuer's tokens may"),
        ),
        ("not yet", sign("nbf", (NOW + 11).into()), Err("the token's time is not acceptable: not valid yet")),
        (
            "from the future",
            sign("iat", (NOW + 11).into()),
            Err("the token's time is not acceptable: issued in the future"),
        ),
        (
            "an unknown policy",
            sign("policy", "nosuch".into()),
            Err("`policy` names no policy of the configuration"),
        ),
        ("a network", sign("allowed_hosts", "10.0.0.0/8".into()), Err("`allowed_hosts` cannot be used")),
    ];
    let issuers = Issuers::new(vec![spec(&[&es, &ed])]);
    for round in ["checked", "remembered"] {
        for (name, token, want) in &cases {
            let got = reason(issuers.verify(&policy, token, at(NOW)));
            assert_eq!(got.as_deref().map_err(|error| error.as_str()), *want, "{name}, {round}");
        }
    }
    assert_eq!(
        reason(issuers.verify(&policy, &right, at(NOW + 4 * 3600 + 10))),
        Err("the token has expired".to_owned()),
        "what is remembered ends too"
    );
    let only = Issuers::new(vec![spec(&[&impostor])]);
    let header = json!({"alg": "ES256"});
    let unsigned = with_header(&impostor, &header);
    assert_eq!(
        reason(only.verify(&policy, &unsigned, at(NOW))),
        Err(signature_error.to_owned()),
        "the only key is found without a name"
    );
}

#[test]
fn keys_are_public_and_for_one_algorithm() {
    use super::super::keys::{KeyError, KeySetError};
    let es = key(SignatureAlgorithm::Es256, "k1").to_jwk();
    let change = |name: &str, value: Value| {
        let mut key = es.clone();
        if value.is_null() {
            key.as_object_mut().unwrap().remove(name);
        } else {
            key[name] = value;
        }
        key
    };
    let rsa =
        |bytes: usize| json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(vec![0xff; bytes]), "e": "AQAB"});
    let bad = |source| Err(KeySetError::Key { position: 1, source });
    type Case = (&'static str, Value, Result<(), KeySetError>);
    let cases: Vec<Case> = vec![
        ("usual", json!([es]), Ok(())),
        (
            "without alg and use",
            json!([{"kty": es["kty"], "crv": es["crv"], "x": es["x"], "y": es["y"]}]),
            Ok(()),
        ),
        ("RSA", json!([rsa(256)]), Ok(())),
        ("a short RSA key", json!([rsa(255)]), bad(KeyError::Size)),
        ("a long RSA key", json!([rsa(1025)]), bad(KeyError::Size)),
        ("private", json!([change("d", "AAAA".into())]), bad(KeyError::Private)),
        ("secret", json!([{"kty": "oct", "k": "AAAA"}]), bad(KeyError::Private)),
        ("another curve", json!([change("crv", "P-384".into())]), bad(KeyError::Kind)),
        ("another kind", json!([change("kty", "EC2".into())]), bad(KeyError::Kind)),
        ("half a point", json!([change("y", Value::Null)]), bad(KeyError::Member("y"))),
        ("a short half", json!([change("x", "AAAA".into())]), bad(KeyError::Member("x"))),
        ("another algorithm", json!([change("alg", "ES384".into())]), bad(KeyError::Algorithm("ES256"))),
        ("for encryption", json!([change("use", "enc".into())]), bad(KeyError::Use)),
        ("for signing alone", json!([change("key_ops", json!(["sign"]))]), bad(KeyError::Use)),
        ("for verifying", json!([change("key_ops", json!(["verify"]))]), Ok(())),
        ("two of one name", json!([es, es]), Err(KeySetError::Kid { position: 2 })),
        (
            "two, one without a name",
            json!([es, change("kid", Value::Null)]),
            Err(KeySetError::Kid { position: 2 }),
        ),
        ("one that is usable among others", json!([change("use", "enc".into()), es, {"kty": "EC2"}]), Ok(())),
        (
            "one of an unknown kind beside a secret",
            json!([es, {"kty": "oct", "k": "AAAA"}]),
            Err(KeySetError::Key { position: 2, source: KeyError::Private }),
        ),
        ("none", json!([]), Err(KeySetError::Empty)),
        ("no list", json!({}), Err(KeySetError::Form)),
        ("too many", json!(vec![es.clone(); 17]), Err(KeySetError::TooMany)),
    ];
    for (name, keys, want) in cases {
        let set = json!({ "keys": keys }).to_string();
        assert_eq!(KeySet::parse(set.as_bytes()).map(drop), want, "{name}");
    }
    let set = json!({ "keys": [change("use", "enc".into()), es, {"kty": "EC2"}] }).to_string();
    let set = KeySet::parse(set.as_bytes()).unwrap();
    let skipped: Vec<_> = set.skipped().collect();
    assert_eq!(skipped, [(1, &KeyError::Use), (3, &KeyError::Kind)]);
    assert!(set.get(None).is_some(), "of the rest, it is the only one");
}

/// Who comes from the place of this container.
fn workload(container: &str) -> Workload {
    let principal = Principal {
        name: "w".into(),
        proof: Proof::Origin,
        labels: Labels::default(),
        bound: exeat_policy::Bound::default(),
        token: None,
    };
    Workload::new(Arc::new(principal), container, true)
}

/// Asks with a token in each of the ways that it can be carried.
async fn ask(
    issuers: &Issuers,
    origin: Option<&str>,
    is_central: bool,
    user: &str,
    password: &str,
) -> Result<String, AuthnError> {
    let (policy, clients) = (policy(), Clients::new());
    let accepted = Accepted { policy: &policy, clients: &clients, issuers, anonymous: None, is_central };
    let authenticator = Authenticator::new().unwrap();
    let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let workload = origin.map(workload);
    let peer = Peer::new(workload.as_ref(), Demand::default());
    let by_header = authenticator.authenticate(&accepted, &peer, &[basic.as_bytes()]).await;
    let apart =
        authenticator.authenticate_password(&accepted, &peer, user.as_bytes(), password.as_bytes()).await;
    let name = |found: Result<Arc<Principal>, AuthnError>| found.map(|principal| principal.name.to_string());
    let (by_header, apart) = (name(by_header), name(apart));
    assert_eq!(by_header, apart, "{user}");
    by_header
}

#[tokio::test]
async fn a_token_is_a_password_or_a_bearer_and_counts_where_it_belongs() {
    let key = key(SignatureAlgorithm::Es256, "k1");
    let issuers = Issuers::new(vec![spec(&[&key])]);
    let now = super::super::claims::seconds(SystemTime::now());
    let sign = |changes: &[(&str, Value)]| {
        let mut claims = with("iat", now.into());
        claims["exp"] = (now + 3600).into();
        for (name, value) in changes {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(*name);
            } else {
                claims[*name] = value.clone();
            }
        }
        key.sign(&claims).unwrap()
    };
    let (plain, expired) = (sign(&[]), sign(&[("exp", (now - 60).into())]));
    let bound = sign(&[("enforce_container_binding", "true".into())]);
    let loose = sign(&[("enforce_container_binding", "false".into())]);
    let central = sign(&[("enforce_centralized_egress", true.into())]);
    let nameless = sign(&[("container_id", Value::Null)]);
    let ok = || Ok("sandboxes/sbx-1".to_owned());
    let (invalid, mismatch) = (|| Err(AuthnError::Invalid), || Err(AuthnError::ContainerMismatch));
    type Case<'a> = (&'a str, &'a str, &'a str, Option<&'a str>, bool, Result<String, AuthnError>);
    let cases: Vec<Case<'_>> = vec![
        ("its container's name", "container_sbx-1", &plain, None, false, ok()),
        ("another container's name", "container_sbx-2", &plain, None, false, mismatch()),
        ("no container's name", "container_", &plain, None, false, mismatch()),
        ("a name for a token without", "container_sbx-1", &nameless, None, false, mismatch()),
        ("another prefix", "sandbox_sbx-1", &plain, None, false, invalid()),
        ("expired", "container_sbx-1", &expired, None, false, Err(AuthnError::TokenExpired)),
        ("not a token", "container_sbx-1", "secret", None, false, invalid()),
        ("bound, from its container", "container_sbx-1", &bound, Some("sbx-1"), false, ok()),
        ("bound, from another one", "container_sbx-1", &bound, Some("sbx-2"), false, mismatch()),
        ("bound, from nowhere known", "container_sbx-1", &bound, None, false, mismatch()),
        ("bound, another name and place", "container_sbx-2", &bound, Some("sbx-2"), false, mismatch()),
        ("not bound", "container_sbx-1", &loose, Some("sbx-2"), false, ok()),
        ("for central nodes, on one", "container_sbx-1", &central, None, true, ok()),
        (
            "for central nodes, elsewhere",
            "container_sbx-1",
            &central,
            None,
            false,
            Err(AuthnError::NotCentral),
        ),
    ];
    for (name, user, token, origin, is_central, want) in cases {
        let password = format!("jwt_{token}");
        assert_eq!(ask(&issuers, origin, is_central, user, &password).await, want, "{name}");
    }
    assert_eq!(ask(&issuers, None, false, "container_sbx-1", &plain).await, invalid(), "no jwt_");
    let always = Issuers::new(vec![IssuerSpec { enforce_container_binding: true, ..spec(&[&key]) }]);
    for (origin, want) in [(Some("sbx-1"), ok()), (Some("sbx-2"), mismatch()), (None, mismatch())] {
        let password = format!("jwt_{loose}");
        let got = ask(&always, origin, false, "container_sbx-1", &password).await;
        assert_eq!(got, want, "every token of the issuer is bound: {origin:?}");
    }

    let (policy, clients) = (policy(), Clients::new());
    let accepted = Accepted {
        policy: &policy,
        clients: &clients,
        issuers: &issuers,
        anonymous: None,
        is_central: false,
    };
    let authenticator = Authenticator::new().unwrap();
    for (value, want) in [
        (format!("Bearer {plain}"), ok()),
        (format!("bearer   {plain}"), ok()),
        (format!("Bearer {nameless}"), Ok("sandboxes/sub=user-1".to_owned())),
        (format!("Bearer {bound}"), mismatch()),
        (format!("Bearer {expired}"), Err(AuthnError::TokenExpired)),
        (format!("Bearer jwt_{plain}"), invalid()),
        (format!("Bearer {plain} "), invalid()),
        (format!("Bearer {plain} x"), invalid()),
        ("Bearer ".to_owned(), invalid()),
        ("Bearer".to_owned(), invalid()),
        (format!("Token {plain}"), invalid()),
    ] {
        let got = authenticator.authenticate(&accepted, &Peer::default(), &[value.as_bytes()]).await;
        assert_eq!(got.map(|principal| principal.name.to_string()), want, "{value}");
    }
}

#[tokio::test]
async fn a_token_belongs_to_the_prefixes_of_its_issuer() {
    let (one, two) = (key(SignatureAlgorithm::Es256, "k1"), key(SignatureAlgorithm::Es256, "k2"));
    let second = IssuerSpec {
        name: "jobs".into(),
        issuer: "ci".into(),
        user_prefix: "job_".into(),
        password_prefix: "t.".into(),
        ..spec(&[&two])
    };
    let issuers = Issuers::new(vec![spec(&[&one]), second]);
    let now = super::super::claims::seconds(SystemTime::now());
    let token = |key: &SigningKey, issuer: &str| {
        let mut claims = with("iat", now.into());
        claims["exp"] = (now + 3600).into();
        claims["iss"] = issuer.into();
        key.sign(&claims).unwrap()
    };
    let (ours, theirs) = (token(&one, "secure-egress-control"), token(&two, "ci"));
    for (name, user, password, want) in [
        ("first", "container_sbx-1", format!("jwt_{ours}"), Ok("sandboxes/sbx-1")),
        ("second", "job_sbx-1", format!("t.{theirs}"), Ok("jobs/sbx-1")),
        (
            "second under the first's name",
            "container_sbx-1",
            format!("jwt_{theirs}"),
            Err(AuthnError::Invalid),
        ),
        ("mixed", "job_sbx-1", format!("jwt_{ours}"), Err(AuthnError::Invalid)),
        ("signed by the other", "job_sbx-1", format!("t.{}", token(&one, "ci")), Err(AuthnError::Invalid)),
    ] {
        assert_eq!(ask(&issuers, None, false, user, &password).await, want.map(str::to_owned), "{name}");
    }
}

fn life(seconds: u64) -> Lifetime {
    Lifetime { longest: Duration::from_secs(seconds), leeway: Duration::from_secs(10) }
}

#[test]
fn whoever_is_no_container_has_no_containers_name() {
    let (policy, key) = (policy(), key(SignatureAlgorithm::Es256, "k1"));
    let issuers = Issuers::new(vec![spec(&[&key])]);
    for (container, subject, want) in [
        (json!("sbx-1"), json!("user-1"), "sandboxes/sbx-1"),
        (Value::Null, json!("sbx-1"), "sandboxes/sub=sbx-1"),
        (Value::Null, Value::Null, "sandboxes/jti=j1"),
    ] {
        let mut claims = claims();
        for (name, value) in [("container_id", container), ("sub", subject)] {
            let members = claims.as_object_mut().unwrap();
            members.remove(name);
            members.extend((!value.is_null()).then(|| (name.to_owned(), value)));
        }
        let got = reason(issuers.verify(&policy, &key.sign(&claims).unwrap(), at(NOW)));
        assert_eq!(got.as_deref(), Ok(want));
    }
}

#[test]
fn another_snapshot_knows_a_token_by_its_issuer_and_key() {
    let policy = policy();
    let (key, other) = (key(SignatureAlgorithm::Es256, "k1"), key(SignatureAlgorithm::Es256, "k1"));
    let before = Issuers::new(vec![spec(&[&key])]);
    let principal = before.verify(&policy, &key.sign(&claims()).unwrap(), at(NOW)).unwrap();
    let renamed = |keys: &SigningKey| SigningKey::parse(keys.to_pem().as_bytes(), Some("new")).unwrap();
    let cases = [
        ("the same", spec(&[&key]), true),
        ("one more key", spec(&[&key, &self::key(SignatureAlgorithm::EdDsa, "k2")]), true),
        ("the key has another name", spec(&[&renamed(&key)]), true),
        ("another key of the name", spec(&[&other]), false),
        ("another iss", IssuerSpec { issuer: "x".into(), ..spec(&[&key]) }, false),
        ("another aud", IssuerSpec { audience: "x".into(), ..spec(&[&key]) }, false),
        ("another section", IssuerSpec { name: "x".into(), ..spec(&[&key]) }, false),
        ("a ceiling that is gone", IssuerSpec { ceiling: "x".to_owned(), ..spec(&[&key]) }, false),
        ("a life that long", IssuerSpec { lifetime: life(4 * 3600), ..spec(&[&key]) }, true),
        ("only shorter lives", IssuerSpec { lifetime: life(4 * 3600 - 1), ..spec(&[&key]) }, false),
    ];
    for (name, spec, want) in cases {
        let after = Issuers::new(vec![spec]);
        assert_eq!(after.again(&policy, &principal, at(NOW)).is_some(), want, "{name}");
        let late = after.again(&policy, &principal, at(NOW + 5 * 3600));
        assert!(late.is_none(), "{name}: its time is over");
    }
    let named = Issuers::new(vec![spec(&[&renamed(&key)])]).again(&policy, &principal, at(NOW)).unwrap();
    assert_eq!(named.token.as_ref().unwrap().key.as_deref(), Some("new"), "it is revoked by the name in use");
    // What the issuer asks of its tokens is asked of those that are held already, and not for longer than it does.
    let binds = Issuers::new(vec![IssuerSpec { enforce_container_binding: true, ..spec(&[&key]) }]);
    let bound = binds.again(&policy, &principal, at(NOW)).unwrap();
    let free = before.again(&policy, &bound, at(NOW)).unwrap();
    let nowhere = Peer::new(None, Demand::default());
    let counts = |principal: &Principal| principal.token.as_ref().unwrap().counts_at(&nowhere, false);
    assert_eq!([counts(&principal), counts(&bound), counts(&free)], [true, false, true]);
    let (here, elsewhere) = (workload("sbx-1"), workload("sbx-2"));
    let bound = Issuers::new(vec![IssuerSpec { enforce_container_binding: true, ..spec(&[&key]) }]);
    let bound = bound.verify(&policy, &key.sign(&claims()).unwrap(), at(NOW)).unwrap();
    for (name, workload, proof, want) in [
        ("its container", Some(&here), Proof::Token, true),
        ("another one", Some(&elsewhere), Proof::Token, false),
        ("none", None, Proof::Token, false),
        ("its container, where a password is demanded", Some(&here), Proof::Password, false),
    ] {
        let peer = Peer::new(workload, Demand::default().and(proof));
        assert_eq!(bound.token.as_ref().unwrap().counts_at(&peer, false), want, "{name}");
    }
    // A narrower ceiling narrows the token.
    let narrower = Issuers::new(vec![IssuerSpec { ceiling: "team".to_owned(), ..spec(&[&key]) }]);
    let now = narrower.again(&policy, &principal, at(NOW)).unwrap();
    let target = Authority::parse("example.com:443", None).unwrap();
    let verdict =
        |bound| decide(&policy, &EgressRequest { bound, target: &target, transport: Transport::Tcp });
    assert!(matches!(verdict(&principal.bound), Verdict::Allow(_)));
    assert!(matches!(verdict(&now.bound), Verdict::Deny(denial) if denial.reason == Reason::HostNotAllowed));
}

#[test]
fn a_token_that_has_ended_costs_one_signature_and_a_forged_one_is_not_remembered() {
    let (policy, made) = (policy(), key(SignatureAlgorithm::Es256, "k1"));
    let issuers = Issuers::new(vec![spec(&[&made])]);
    let (token, other) = (made.sign(&claims()).unwrap(), made.sign(&with("jti", json!("j2"))).unwrap());
    let (body, _) = token.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    let forged = format!("{body}.{signature}");
    let later = at(NOW + 5 * 3600);
    for _ in ["first", "again"] {
        assert_eq!(reason(issuers.verify(&policy, &token, later)), Err("the token has expired".to_owned()));
        assert!(matches!(issuers.verify(&policy, &forged, later), Err(TokenError::Signature)));
    }
    issuers.over.run_pending_tasks();
    assert_eq!(issuers.over.entry_count(), 1);
    assert!(issuers.over.contains_key(&claimed::hash(&token)));
    assert!(!issuers.remembers(&claimed::hash(&token)), "nor is it right");
    let now = Issuers::new(vec![spec(&[&made])]);
    assert!(now.verify(&policy, &token, at(NOW)).is_ok() && now.remembers(&claimed::hash(&token)));
}

#[test]
fn what_credentials_claim_is_a_name_or_a_token() {
    let (policy, made) = (policy(), key(SignatureAlgorithm::Es256, "k1"));
    let (clients, issuers) = (Clients::new(), Issuers::new(vec![spec(&[&made])]));
    let accepted = Accepted {
        policy: &policy,
        clients: &clients,
        issuers: &issuers,
        anonymous: None,
        is_central: false,
    };
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let (name, token) = (|name: &str| Claimed::Name(name.to_owned()), Claimed::Token(claimed::hash("a.b.c")));
    for (value, want) in [
        (basic("app:secret"), name("app")),
        (basic("container_c:secret"), name("container_c")),
        (basic("container_c:jwt_a.b.c"), token.clone()),
        (basic("app:jwt_a.b.c"), name("app")),
        ("Bearer a.b.c".to_owned(), token.clone()),
        ("Bearer ".to_owned(), Claimed::Nobody),
        ("Basic app".to_owned(), Claimed::Nobody),
    ] {
        assert_eq!(accepted.claimed(&[value.as_bytes()]), want, "{value}");
    }
    assert_eq!(accepted.claimed(&[b"Bearer a.b.c", b"Bearer a.b.c"]), Claimed::Nobody, "twice");
    assert_eq!(accepted.claimed_apart(b"container_c", b"jwt_a.b.c"), token);
    assert_eq!(accepted.claimed_apart(b"app", b"\xff"), Claimed::Nobody);
}

#[tokio::test]
async fn keys_that_are_replaced_are_asked_at_once() {
    let policy = policy();
    let (old, new) = (key(SignatureAlgorithm::Es256, "old"), key(SignatureAlgorithm::EdDsa, "new"));
    let set = |keys: &[&SigningKey]| {
        let set = json!({ "keys": keys.iter().map(|key| key.to_jwk()).collect::<Vec<_>>() });
        KeySet::parse(set.to_string().as_bytes()).unwrap()
    };
    let keyring = Arc::<Keyring>::default();
    let issuers = Issuers::new(vec![IssuerSpec { keys: Arc::clone(&keyring), ..spec(&[]) }]);
    let tokens = [&old, &new].map(|key| key.sign(&claims()).unwrap());
    let verify = || tokens.each_ref().map(|token| reason(issuers.verify(&policy, token, at(NOW))));
    let (right, unknown) = (|| Ok("sandboxes/sbx-1".to_owned()), || Err(TokenError::Key.to_string()));
    let nothing = || Err(TokenError::NoKeys.to_string());
    assert_eq!(verify(), [nothing(), nothing()]);
    keyring.replace(set(&[&old]));
    assert_eq!(verify(), [right(), unknown()]);
    keyring.missed().await;
    let principal = issuers.verify(&policy, &tokens[0], at(NOW)).unwrap();
    for (name, keys, want, is_known) in [
        ("both", set(&[&old, &new]), [right(), right()], true),
        ("the new one alone", set(&[&new]), [unknown(), right()], false),
        ("the old one comes back", set(&[&old, &new]), [right(), right()], true),
    ] {
        keyring.replace(keys);
        assert_eq!(verify(), want, "{name}");
        assert_eq!(issuers.again(&policy, &principal, at(NOW)).is_some(), is_known, "{name}");
    }
    let second = Keyring::default();
    second.adopt(&keyring);
    assert!(second.load().get(Some("old")).is_some());
}

#[test]
fn tokens_are_issued_by_an_issuer_whose_key_is_here() {
    let policy = policy();
    let (made, other) = (key(SignatureAlgorithm::Es256, "k1"), key(SignatureAlgorithm::Es256, "k2"));
    // The file with the key does not say what the key is called in the set.
    let signing = |key: &SigningKey| Some(SigningKey::parse(key.to_pem().as_bytes(), None).unwrap());
    let order = |container: &str, host: &str| Order {
        issuer: String::new(),
        audience: String::new(),
        container: Some(container.to_owned()),
        organization: None,
        subject: None,
        hosts: Some(vec![host.to_owned()]),
        policy: None,
        flags: Flags::default(),
        life: Duration::from_secs(4 * 3600),
    };
    let long = Order { life: Duration::from_secs(25 * 3600), ..order("c", "example.com") };
    let unknown = Order { hosts: None, policy: Some("x".to_owned()), ..order("c", "example.com") };
    let with = |signing| Issuers::new(vec![IssuerSpec { signing, ..spec(&[&made, &other]) }]);
    type Case<'a> = (&'a str, Issuers, Option<&'a str>, Order, Result<&'a str, &'a str>);
    let cases: Vec<Case<'_>> = vec![
        ("by name", with(signing(&made)), Some("sandboxes"), order("c", "example.com"), Ok("sandboxes/c")),
        ("the only one", with(signing(&other)), None, order("c", "x.test"), Ok("sandboxes/c")),
        (
            "no such issuer",
            with(signing(&made)),
            Some("x"),
            order("c", "x.test"),
            Err("there is no issuer of this name"),
        ),
        (
            "no key",
            with(None),
            Some("sandboxes"),
            order("c", "x.test"),
            Err("the issuer has no signing key here"),
        ),
        ("no key of any", with(None), None, order("c", "x.test"), Err("the issuer has no signing key here")),
        (
            "a key that nobody knows",
            with(signing(&key(SignatureAlgorithm::Es256, "k1"))),
            None,
            order("c", "x.test"),
            Err("the public half of the signing key is not among the issuer's keys"),
        ),
        ("too long", with(signing(&made)), None, long, Err("such a token would not be accepted")),
        ("no such policy", with(signing(&made)), None, unknown, Err("such a token would not be accepted")),
        (
            "a network",
            with(signing(&made)),
            None,
            order("c", "10.0.0.0/8"),
            Err("such a token would not be accepted"),
        ),
    ];
    for (name, issuers, issuer, order, want) in cases {
        let issued = issuers.issue(&policy, issuer, order, at(NOW));
        let got = issued.as_ref().map(|issued| issued.principal.name.to_string());
        assert_eq!(
            got.map_err(ToString::to_string),
            want.map(str::to_owned).map_err(str::to_owned),
            "{name}"
        );
        if let Ok(Issued { token, expires, .. }) = issued {
            assert_eq!(expires, NOW + 4 * 3600, "{name}");
            assert!(issuers.verify(&policy, &token, at(expires - 1)).is_ok(), "{name}");
        }
    }
    let second =
        IssuerSpec { name: "b".into(), issuer: "b".into(), signing: signing(&other), ..spec(&[&other]) };
    let two = Issuers::new(vec![IssuerSpec { signing: signing(&made), ..spec(&[&made]) }, second]);
    let unnamed = two.issue(&policy, None, order("c", "example.com"), at(NOW));
    assert!(matches!(unnamed, Err(IssueError::Unnamed)));
    assert_eq!(
        &*two.issue(&policy, Some("b"), order("c", "example.com"), at(NOW)).unwrap().principal.name,
        "b/c"
    );
}
