//! Sets of keys: what may be in one, and what follows when one is replaced.

use super::*;

#[test]
fn keys_are_public_and_for_one_algorithm() {
    use crate::token::keys::{KeyError, KeySetError};
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
