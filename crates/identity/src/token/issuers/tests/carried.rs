//! How tokens come: in the place of a password or by themselves, and where they count.

use super::*;

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
    let by_header = accepted.offered(&[basic.as_bytes()]);
    let by_header = authenticator.authenticate(&accepted, &peer, &by_header).await;
    let apart = accepted.offered_apart(user.as_bytes(), password.as_bytes());
    let apart = authenticator.authenticate(&accepted, &peer, &apart).await;
    let name = |found: Result<Arc<Principal>, AuthnError>| found.map(|principal| principal.name.to_string());
    let (by_header, apart) = (name(by_header), name(apart));
    assert_eq!(by_header, apart, "{user}");
    by_header
}

#[tokio::test]
async fn a_token_is_a_password_or_a_bearer_and_counts_where_it_belongs() {
    let key = key(SignatureAlgorithm::Es256, "k1");
    let issuers = Issuers::new(vec![spec(&[&key])]);
    let now = crate::token::claims::seconds(SystemTime::now());
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
        let offered = accepted.offered(&[value.as_bytes()]);
        let got = authenticator.authenticate(&accepted, &Peer::default(), &offered).await;
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
    let now = crate::token::claims::seconds(SystemTime::now());
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
        assert_eq!(accepted.offered(&[value.as_bytes()]).claimed(), want, "{value}");
    }
    assert_eq!(accepted.offered(&[b"Bearer a.b.c", b"Bearer a.b.c"]).claimed(), Claimed::Nobody, "twice");
    assert_eq!(accepted.offered_apart(b"container_c", b"jwt_a.b.c").claimed(), token);
    assert_eq!(accepted.offered_apart(b"app", b"\xff").claimed(), Claimed::Nobody);
}
