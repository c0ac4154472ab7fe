//! Tokens that are issued here.

use super::*;

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
