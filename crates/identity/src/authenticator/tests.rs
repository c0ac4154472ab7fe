use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use exeat_policy::{Bound, Builder, Labels, PolicySet, Reason, Revision};
use tokio::task::JoinSet;

use super::*;
use crate::{
    password::{PasswordHash, cheap_argon2id, hash_generated},
    peer::Peer,
    principal::{Accepted, AuthnError, Proof},
    token::Issuers,
};

fn principal(name: &str, proof: Proof) -> Arc<Principal> {
    Arc::new(Principal {
        name: name.into(),
        proof,
        labels: Labels::default(),
        bound: Bound::default(),
        token: None,
    })
}

fn clients(entries: &[(&str, &[String])]) -> Clients {
    let mut clients = Clients::new();
    for (name, hashes) in entries {
        let hashes = hashes.iter().map(|hash| PasswordHash::parse(hash).unwrap()).collect();
        assert!(clients.insert(name, principal(name, Proof::Password), hashes));
    }
    clients
}

fn basic(user: &str, password: &str) -> Vec<u8> {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))).into_bytes()
}

async fn log_in(authenticator: &Authenticator, clients: &Clients, user: &str, password: &str) -> Outcome {
    let value = basic(user, password);
    let (policy, issuers) = (Builder::new().finish(Revision(1)).unwrap(), Issuers::default());
    let (accepted, peer) = (accepted(&policy, clients, &issuers, None), Peer::default());
    let principal = authenticator.authenticate(&accepted, &peer, &accepted.offered(&[&value])).await;
    let apart = accepted.offered_apart(user.as_bytes(), password.as_bytes());
    let apart = authenticator.authenticate(&accepted, &peer, &apart).await;
    let name = |found: Result<Arc<Principal>, AuthnError>| found.map(|principal| principal.name.to_string());
    let (principal, apart) = (name(principal), name(apart));
    assert_eq!(principal, apart, "the two ways to send {user:?} and {password:?}");
    principal
}

fn accepted<'a>(
    policy: &'a PolicySet,
    clients: &'a Clients,
    issuers: &'a Issuers,
    anonymous: Option<&'a Arc<Principal>>,
) -> Accepted<'a> {
    Accepted { policy, clients, issuers, anonymous, is_central: false }
}

type Outcome = Result<String, AuthnError>;

fn ok(name: &str) -> Outcome {
    Ok(name.to_owned())
}

/// A queue with room for everything that a test asks.
fn authenticator() -> Authenticator {
    Authenticator::with_places(1, 100).unwrap()
}

#[tokio::test]
async fn only_live_passwords_of_the_named_client_are_right() {
    let clients = clients(&[
        ("human", &[cheap_argon2id("old"), cheap_argon2id("new")]),
        ("machine", &[hash_generated(b"old"), hash_generated(b"new")]),
        ("mixed", &[cheap_argon2id("chosen"), hash_generated(b"generated")]),
        ("empty", &[cheap_argon2id("")]),
        ("locked", &[]),
    ]);
    let invalid = || Err(AuthnError::Invalid);
    let cases: &[(&str, &str, &str, Outcome)] = &[
        ("argon2, first of two", "human", "old", ok("human")),
        ("argon2, second of two", "human", "new", ok("human")),
        ("argon2, wrong", "human", "ne", invalid()),
        ("argon2, another client's", "human", "chosen", invalid()),
        ("argon2, empty", "human", "", invalid()),
        ("sha256, first of two", "machine", "old", ok("machine")),
        ("sha256, second of two", "machine", "new", ok("machine")),
        ("sha256, wrong", "machine", "New", invalid()),
        ("mixed, argon2", "mixed", "chosen", ok("mixed")),
        ("mixed, sha256", "mixed", "generated", ok("mixed")),
        ("mixed, wrong", "mixed", "old", invalid()),
        ("an empty password, if it was hashed", "empty", "", ok("empty")),
        ("no live password", "locked", "", invalid()),
        ("unknown", "nobody", "old", invalid()),
        ("unknown, empty", "", "", invalid()),
        ("names have a case", "Human", "old", invalid()),
    ];
    let authenticator = authenticator();
    for round in ["checked", "remembered"] {
        for (name, user, password, want) in cases {
            assert_eq!(log_in(&authenticator, &clients, user, password).await, *want, "{name}, {round}");
        }
    }
}

#[tokio::test]
async fn only_one_well_formed_header_is_looked_at() {
    let clients = clients(&[("app", &[hash_generated(b"secret")])]);
    let guest = principal("guest", Proof::Anonymous);
    let (right, wrong) = (basic("app", "secret"), basic("app", "guess"));
    type Case<'a> = (&'a str, Option<&'a Arc<Principal>>, &'a [&'a [u8]], Outcome);
    let cases: &[Case<'_>] = &[
        ("none", None, &[], Err(AuthnError::Required)),
        ("none, anonymous", Some(&guest), &[], ok("guest")),
        ("right", None, &[&right], ok("app")),
        ("right, anonymous", Some(&guest), &[&right], ok("app")),
        ("wrong, anonymous", Some(&guest), &[&wrong], Err(AuthnError::Invalid)),
        ("empty value, anonymous", Some(&guest), &[b""], Err(AuthnError::Invalid)),
        ("another scheme", Some(&guest), &[b"Bearer x"], Err(AuthnError::Invalid)),
        ("twice the same", None, &[&right, &right], Err(AuthnError::Invalid)),
        ("two", None, &[&wrong, &right], Err(AuthnError::Invalid)),
    ];
    let authenticator = authenticator();
    let (policy, issuers) = (Builder::new().finish(Revision(1)).unwrap(), Issuers::default());
    for (name, anonymous, values, want) in cases {
        let accepted = accepted(&policy, &clients, &issuers, *anonymous);
        let got = authenticator.authenticate(&accepted, &Peer::default(), &accepted.offered(values)).await;
        assert_eq!(got.map(|principal| principal.name.to_string()), *want, "{name}");
    }
    let empty = Clients::new();
    let empty = accepted(&policy, &empty, &issuers, None);
    let got = authenticator.authenticate(&empty, &Peer::default(), &empty.offered(&[&right])).await;
    assert_eq!(got.map(drop), Err(AuthnError::Invalid), "no clients at all");
}

#[test]
fn every_error_has_its_reason() {
    assert_eq!(AuthnError::Required.reason(), Reason::AuthRequired);
    assert_eq!(AuthnError::Invalid.reason(), Reason::AuthInvalid);
    assert_eq!(AuthnError::TokenExpired.reason(), Reason::TokenExpired);
    assert_eq!(AuthnError::ContainerMismatch.reason(), Reason::ContainerMismatch);
    assert_eq!(AuthnError::NotCentral.reason(), Reason::CentralizedEgressRequired);
    assert_eq!(AuthnError::RateLimited.reason(), Reason::RateLimited);
}

#[tokio::test]
async fn outcomes_are_remembered_right_and_wrong() {
    let clients = clients(&[("app", &[cheap_argon2id("secret")])]);
    let authenticator = authenticator();
    for (user, password, want, checks) in [
        ("app", "secret", ok("app"), 1),
        ("app", "guess", Err(AuthnError::Invalid), 2),
        ("app", "guess 2", Err(AuthnError::Invalid), 3),
        ("nobody", "secret", Err(AuthnError::Invalid), 4),
        ("nobody 2", "secret", Err(AuthnError::Invalid), 5),
    ] {
        for _ in 0..5 {
            assert_eq!(log_in(&authenticator, &clients, user, password).await, want, "{user}:{password}");
            assert_eq!(authenticator.slow_checks(), checks, "{user}:{password}");
        }
    }
}

#[tokio::test]
async fn equal_credentials_at_one_time_are_checked_once() {
    let clients = Arc::new(clients(&[("app", &[cheap_argon2id("secret")])]));
    let authenticator = Arc::new(authenticator());
    for (password, want, checks) in [("secret", ok("app"), 1), ("guess", Err(AuthnError::Invalid), 2)] {
        let worker = Arc::clone(&authenticator.workers).acquire_owned().await.unwrap();
        let mut logins = JoinSet::new();
        for _ in 0..20 {
            let (authenticator, clients) = (Arc::clone(&authenticator), Arc::clone(&clients));
            logins.spawn(async move { log_in(&authenticator, &clients, "app", password).await });
        }
        while authenticator.queue.available_permits() == 101 {
            tokio::task::yield_now().await;
        }
        drop(worker);
        assert_eq!(logins.join_all().await, vec![want; 20]);
        assert_eq!(authenticator.slow_checks(), checks);
    }
}

#[tokio::test]
async fn a_changed_hash_takes_effect_at_once() {
    let (before, after) = (cheap_argon2id("before"), cheap_argon2id("after"));
    let authenticator = authenticator();
    let both = clients(&[("app", &[before.clone(), after.clone()])]);
    let old = clients(&[("app", &[before])]);
    let new = clients(&[("app", &[after])]);
    let invalid = || Err(AuthnError::Invalid);
    for (name, clients, want_before, want_after) in [
        ("before the rotation", &old, ok("app"), invalid()),
        ("during the rotation", &both, ok("app"), ok("app")),
        ("after the rotation", &new, invalid(), ok("app")),
        ("client removed", &Clients::new(), invalid(), invalid()),
        ("back again", &both, ok("app"), ok("app")),
    ] {
        assert_eq!(log_in(&authenticator, clients, "app", "before").await, want_before, "{name}");
        assert_eq!(log_in(&authenticator, clients, "app", "after").await, want_after, "{name}");
    }
}

#[tokio::test]
async fn what_an_unknown_user_tried_is_not_held_against_a_later_client() {
    let hash = cheap_argon2id("shared");
    let authenticator = authenticator();
    let before = clients(&[("app", std::slice::from_ref(&hash))]);
    assert_eq!(log_in(&authenticator, &before, "late", "shared").await, Err(AuthnError::Invalid));
    let after = clients(&[("app", std::slice::from_ref(&hash)), ("late", std::slice::from_ref(&hash))]);
    assert_eq!(log_in(&authenticator, &after, "late", "shared").await, ok("late"));
    assert_eq!(log_in(&authenticator, &before, "late", "shared").await, Err(AuthnError::Invalid));
}

#[tokio::test]
async fn a_full_queue_refuses_what_is_not_remembered() {
    let clients =
        clients(&[("human", &[cheap_argon2id("secret")]), ("machine", &[hash_generated(b"secret")])]);
    let authenticator = Authenticator::with_places(1, 2).unwrap();
    assert_eq!(log_in(&authenticator, &clients, "human", "secret").await, ok("human"));
    assert_eq!(log_in(&authenticator, &clients, "human", "guess").await, Err(AuthnError::Invalid));

    let places = Arc::clone(&authenticator.queue).try_acquire_many_owned(3).unwrap();
    for (name, user, password, want) in [
        ("remembered, right", "human", "secret", ok("human")),
        ("remembered, wrong", "human", "guess", Err(AuthnError::Invalid)),
        ("needs no queue", "machine", "secret", ok("machine")),
        ("new", "human", "another", Err(AuthnError::RateLimited)),
    ] {
        assert_eq!(log_in(&authenticator, &clients, user, password).await, want, "{name}");
    }
    drop(places);
    assert_eq!(log_in(&authenticator, &clients, "human", "another").await, Err(AuthnError::Invalid));
}

#[tokio::test]
async fn a_place_is_free_again_when_the_client_has_gone() {
    let clients = clients(&[("app", &[cheap_argon2id("secret")])]);
    let authenticator = Authenticator::with_places(1, 1).unwrap();
    let worker = Arc::clone(&authenticator.workers).acquire_owned().await.unwrap();
    {
        let waiting = log_in(&authenticator, &clients, "app", "secret");
        tokio::pin!(waiting);
        while authenticator.queue.available_permits() == 2 {
            tokio::select! {
                biased;
                _ = &mut waiting => unreachable!("no worker is free"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    assert_eq!(authenticator.queue.available_permits(), 2);
    drop(worker);
    assert_eq!(log_in(&authenticator, &clients, "app", "secret").await, ok("app"));
}

#[test]
fn debug_shows_no_secret() {
    let (human, machine) = (cheap_argon2id("x"), hash_generated(b"x"));
    let clients =
        clients(&[("human", std::slice::from_ref(&human)), ("machine", std::slice::from_ref(&machine))]);
    let shown = format!("{clients:?} {:?}", authenticator());
    for secret in human.split('$').skip(4).chain([&machine["sha256:".len()..]]) {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn unknown_names_are_spread_over_the_clients() {
    let clients = clients(&[("a", &[]), ("b", &[]), ("c", &[])]);
    let authenticator = authenticator();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..200 {
        let name = format!("user-{number}");
        let draw = authenticator.draw(&name);
        assert_eq!(draw, authenticator.draw(&name));
        seen.insert(clients.stand_in(draw).unwrap().principal.name.clone());
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_name_is_taken_once() {
    let mut clients = Clients::new();
    assert!(clients.is_empty());
    assert!(clients.insert("a", principal("a", Proof::Password), Vec::new()));
    assert!(!clients.insert("a", principal("b", Proof::Password), Vec::new()));
    assert_eq!(clients.len(), 1);
}

#[tokio::test]
async fn a_principal_lasts_as_long_as_the_password_that_proved_it() {
    let authenticator = authenticator();
    for hash in [cheap_argon2id as fn(&str) -> String, |password| hash_generated(password.as_bytes())] {
        let (old, new) = (hash("old"), hash("new"));
        let before = clients(&[("app", &[old.clone(), new.clone()]), ("other", &[hash("old")])]);
        let (policy, issuers) = (Builder::new().finish(Revision(1)).unwrap(), Issuers::default());
        let known = accepted(&policy, &before, &issuers, None);
        let authenticate = async |password| {
            let value = basic("app", password);
            // Twice: what is remembered must know which one it was, too.
            let offered = known.offered(&[&value]);
            let first = authenticator.authenticate(&known, &Peer::default(), &offered).await.unwrap();
            let again = authenticator.authenticate(&known, &Peer::default(), &offered).await.unwrap();
            assert!(Arc::ptr_eq(&first, &again));
            first
        };
        let (by_old, by_new) = (authenticate("old").await, authenticate("new").await);
        for (case, after, (old_lasts, new_lasts)) in [
            ("nothing changed", clients(&[("app", &[old.clone(), new.clone()])]), (true, true)),
            ("in another order", clients(&[("app", &[new.clone(), old.clone()])]), (true, true)),
            ("one more", clients(&[("app", &[hash("newer"), new.clone()])]), (false, true)),
            ("one less", clients(&[("app", &[old])]), (true, false)),
            ("both replaced", clients(&[("app", &[hash("newer")])]), (false, false)),
            ("locked", clients(&[("app", &[])]), (false, false)),
            ("renamed", clients(&[("app2", &[new])]), (false, false)),
            ("gone", clients(&[]), (false, false)),
        ] {
            let lasts = |principal| after.again(principal, &before, &Peer::default()).is_some();
            assert_eq!((lasts(&by_old), lasts(&by_new)), (old_lasts, new_lasts), "{case}");
        }
        assert!(
            before.again(&principal("app", Proof::Password), &before, &Peer::default()).is_none(),
            "of no password"
        );
    }
}
