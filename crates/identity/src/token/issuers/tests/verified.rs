//! Which tokens count, and whom they are for.

use super::*;

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
fn no_two_are_called_the_same() {
    let (policy, key) = (policy(), key(SignatureAlgorithm::Es256, "k1"));
    let issuers = Issuers::new(vec![spec(&[&key])]);
    for (container, subject, want) in [
        (Some("x"), Some("y"), "sandboxes/x"),
        (Some("sub=x"), None, "sandboxes/container=sub=x"),
        (None, Some("x"), "sandboxes/sub=x"),
        (Some("jti=j1"), None, "sandboxes/container=jti=j1"),
        (None, None, "sandboxes/jti=j1"),
        (Some("container=x"), None, "sandboxes/container=container=x"),
        (Some("submarine"), None, "sandboxes/submarine"),
    ] {
        let mut claims = claims();
        let object = claims.as_object_mut().unwrap();
        for (name, value) in [("container_id", container), ("sub", subject)] {
            object.remove(name);
            object.extend(value.map(|value| (name.to_owned(), json!(value))));
        }
        let token = key.sign(&claims).unwrap();
        assert_eq!(reason(issuers.verify(&policy, &token, at(NOW))).as_deref(), Ok(want), "{claims}");
    }
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
