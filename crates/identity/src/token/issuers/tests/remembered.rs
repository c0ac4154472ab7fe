//! What is remembered of a token, and what another snapshot makes of it.

use super::*;

fn life(seconds: u64) -> Lifetime {
    Lifetime { longest: Duration::from_secs(seconds), leeway: Duration::from_secs(10) }
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
