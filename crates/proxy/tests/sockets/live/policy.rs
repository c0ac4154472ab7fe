//! What a new policy ends, and what it leaves alone.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_ends_what_it_does_not_allow_and_nothing_else() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = |host: &str| format!("{host}:{}", origin.port);
    let mut idle = tunnel(&world, &target("example.com")).await;
    echoes(&mut idle).await;
    let busy = tunnel(&world, &target("b.example.org")).await;
    let (mut busy_read, mut busy_write) = busy.into_split();
    let sending = tokio::spawn(async move { while busy_write.write_all(&[7; 65_536]).await.is_ok() {} });
    let allowed = tunnel(&world, &target("a.example.org")).await;
    let (mut allowed_read, mut allowed_write) = allowed.into_split();
    let sent = pattern(32 << 20);
    let sending_allowed = tokio::spawn({
        let sent = sent.clone();
        async move {
            allowed_write.write_all(&sent).await.unwrap();
            allowed_write.shutdown().await.unwrap();
        }
    });
    // Both are moving when the policy changes.
    let mut begun = vec![0; 1 << 20];
    timeout(LONG, busy_read.read_exact(&mut begun)).await.unwrap().unwrap();
    timeout(LONG, allowed_read.read_exact(&mut begun)).await.unwrap().unwrap();

    let changed = Instant::now();
    world.proxy.replace(Rules { allow: vec!["a.example.org"], ..Rules::new(8) }.snapshot());
    assert_eq!(read_to_reset(&mut idle).await, b"");
    let drained = async {
        let mut bytes = vec![0; 65_536];
        while busy_read.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    };
    timeout(BOUND, drained).await.expect("the busy one ends in time");
    assert!(changed.elapsed() < BOUND);
    sending.await.unwrap();
    timeout(LONG, allowed_read.read_to_end(&mut begun)).await.unwrap().unwrap();
    sending_allowed.await.unwrap();
    assert!(begun == sent, "every byte of the one that stays");

    world.proxy.drain().await;
    let records = world.records();
    let mut ends = told(&records, "end");
    ends.sort();
    let text = |end: &BTreeMap<_, String>, key| end.get(key).cloned().unwrap_or_default();
    let ends: Vec<_> = ends
        .iter()
        .map(|end| ["name", "verdict", "reason", "end"].map(|key| text(end, key)).join(" "))
        .collect();
    let mut want = [
        "example.com deny policy_changed policy_changed",
        "b.example.org deny policy_changed policy_changed",
        "a.example.org allow  finished",
    ];
    want.sort_unstable();
    let mut got = ends.clone();
    got.sort();
    assert_eq!(got, want, "{records:#?}");
    assert_eq!(revisions(&records, "decision"), [7, 7, 7]);
    assert_eq!(revisions(&records, "end"), [8, 8, 8], "{records:#?}");
}

#[tokio::test]
async fn what_a_principal_was_proved_by_must_still_prove_it() {
    let open = |rules: Rules| rules.snapshot();
    let clients = |clients: &[(&'static str, &[&'static str])]| Rules {
        clients: clients.iter().map(|(name, passwords)| (*name, passwords.to_vec())).collect(),
        ..Rules::new(9)
    };
    for (case, then, old_lasts, new_lasts) in [
        ("nothing changed", clients(&[("app", &["secret", "new"])]), true, true),
        ("in another order", clients(&[("app", &["new", "secret"])]), true, true),
        ("the rotation ends", clients(&[("app", &["new"])]), false, true),
        ("the rotation is taken back", clients(&[("app", &["secret"])]), true, false),
        ("both replaced", clients(&[("app", &["newer"])]), false, false),
        ("locked", clients(&[("app", &[])]), false, false),
        ("gone", clients(&[("other", &["secret", "new"])]), false, false),
        ("gone, but anonymous is let in", Rules { anonymous: true, ..clients(&[]) }, false, false),
    ] {
        let (world, origin) = (World::start().await, Origin::echo().await);
        world.proxy.replace(open(Rules { clients: vec![("app", vec!["secret", "new"])], ..Rules::new(8) }));
        let target = format!("example.com:{}", origin.port);
        let mut by_old = tunnel(&world, &target).await;
        let mut by_new = tunnel_as(&world, NEW, &target).await;
        world.proxy.replace(open(then));
        decided_again(&world, 9).await;
        for (tunnel, lasts) in [(&mut by_old, old_lasts), (&mut by_new, new_lasts)] {
            if lasts {
                echoes(tunnel).await;
            } else {
                assert_eq!(read_to_reset(tunnel).await, b"", "{case}");
            }
        }
        let left: Vec<_> = world.proxy.flows();
        assert_eq!(left.len(), usize::from(old_lasts) + usize::from(new_lasts), "{case}: {left:#?}");
        assert!(left.iter().all(|flow| flow.revision.0 == 9), "{case}: {left:#?}");
    }
}

#[tokio::test]
async fn a_rotation_with_an_overlap_ends_nothing_that_the_new_password_opened() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = format!("example.com:{}", origin.port);
    let mut before = tunnel(&world, &target).await;
    let rotation = |revision, passwords: &[&'static str]| {
        let clients = vec![("app", passwords.to_vec())];
        world.proxy.replace(Rules { clients, ..Rules::new(revision) }.snapshot());
    };
    rotation(8, &["secret", "new"]);
    decided_again(&world, 8).await;
    echoes(&mut before).await;
    let mut during = tunnel_as(&world, NEW, &target).await;
    echoes(&mut before).await;
    rotation(9, &["new"]);
    decided_again(&world, 9).await;
    // Its password proves nothing any more.
    read_to_reset(&mut before).await;
    echoes(&mut during).await;
}

#[tokio::test]
async fn anonymous_flows_last_as_long_as_anonymous_clients_are_let_in() {
    for (anonymous, lasts) in [(true, true), (false, false)] {
        let world = World::with(Setup { anonymous: true, ..Setup::default() }).await;
        let origin = Origin::echo().await;
        let mut open = tunnel_as(&world, "", &format!("example.com:{}", origin.port)).await;
        world.proxy.replace(Rules { anonymous, ..Rules::new(8) }.snapshot());
        decided_again(&world, 8).await;
        if lasts {
            echoes(&mut open).await;
        } else {
            read_to_reset(&mut open).await;
        }
    }
}

#[tokio::test]
async fn policies_bound_by_labels_count() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let rules = |revision, label| Rules {
        allow: Vec::new(),
        labels: vec![(Label::Space, label)],
        bound: Some((Label::Space, "prod", vec!["example.com"])),
        ..Rules::new(revision)
    };
    world.proxy.replace(rules(8, "prod").snapshot());
    let mut open = tunnel(&world, &format!("example.com:{}", origin.port)).await;
    world.proxy.replace(rules(9, "prod").snapshot());
    decided_again(&world, 9).await;
    echoes(&mut open).await;
    world.proxy.replace(rules(10, "dev").snapshot());
    read_to_reset(&mut open).await;
}

#[tokio::test]
async fn ports_addresses_denies_and_modes_count() {
    let port = |port: u16| port.to_string();
    type Change = fn(Rules, u16) -> Rules;
    let cases: [(&str, &str, Change, bool); 9] = [
        ("the same", "example.com", |rules, _| rules, true),
        (
            "another entry allows it",
            "a.example.org",
            |rules, _| Rules { allow: vec!["a.example.org"], ..rules },
            true,
        ),
        ("denied", "example.com", |rules, _| Rules { deny: vec!["example.com"], ..rules }, false),
        (
            "the address is denied",
            "example.com",
            |rules, _| Rules { deny: vec!["127.0.0.1/32"], ..rules },
            false,
        ),
        (
            "another address is denied",
            "example.com",
            |rules, _| Rules { deny: vec!["127.0.0.9/32"], ..rules },
            true,
        ),
        ("another port", "example.com", |rules, _| Rules { ports: "1".to_owned(), ..rules }, false),
        ("this port alone", "example.com", |rules, port| Rules { ports: port.to_string(), ..rules }, true),
        ("addresses elsewhere", "example.com", |rules, _| Rules { addresses: "10.0.0.0/8", ..rules }, false),
        (
            "reported, though special-use",
            "example.com",
            |rules, _| Rules { allow: vec![], mode: Mode::Report, ..rules },
            false,
        ),
    ];
    for (case, host, change, lasts) in cases {
        let (world, origin) = (World::start().await, Origin::echo().await);
        let mut open = tunnel(&world, &format!("{host}:{}", port(origin.port))).await;
        world.proxy.replace(change(Rules::new(8), origin.port).snapshot());
        decided_again(&world, 8).await;
        if lasts {
            echoes(&mut open).await;
        } else {
            assert_eq!(read_to_reset(&mut open).await, b"", "{case}");
        }
    }
}

#[tokio::test]
async fn literal_targets_are_decided_on_by_the_literal() {
    for (allow, lasts) in [("127.0.0.1/32", true), ("127.0.0.2/32", false), ("example.com", false)] {
        let (world, origin) = (World::start().await, Origin::echo().await);
        world.proxy.replace(Rules { allow: vec!["127.0.0.0/8"], ..Rules::new(8) }.snapshot());
        let mut open = tunnel(&world, &format!("127.0.0.1:{}", origin.port)).await;
        world.proxy.replace(Rules { allow: vec![allow], ..Rules::new(9) }.snapshot());
        decided_again(&world, 9).await;
        if lasts {
            echoes(&mut open).await;
        } else {
            assert_eq!(read_to_reset(&mut open).await, b"", "{allow}");
        }
    }
}

#[tokio::test]
async fn what_opened_a_tunnel_must_satisfy_the_new_rule() {
    for (before, after, lasts) in [
        (Expect::Http, Expect::Http, true),
        (Expect::Http, Expect::Any, true),
        (Expect::Http, Expect::Tls, false),
        (Expect::Any, Expect::Any, true),
        // Nobody asked for it then, but it was seen.
        (Expect::Any, Expect::Http, true),
        (Expect::Any, Expect::Tls, false),
    ] {
        let world = World::with(Setup { expect: before, ..Setup::default() }).await;
        let origin = Origin::echo().await;
        let mut open = tunnel(&world, &format!("example.com:{}", origin.port)).await;
        let head = format!("GET / HTTP/1.1\r\nHost: example.com:{}\r\n\r\n", origin.port);
        open.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_head(&mut open).await.unwrap(), head);
        world.proxy.replace(Rules { expect: after, ..Rules::new(8) }.snapshot());
        if lasts {
            decided_again(&world, 8).await;
            echoes(&mut open).await;
        } else {
            assert_eq!(read_to_reset(&mut open).await, b"", "{before:?} → {after:?}");
        }
    }
}

#[tokio::test]
async fn a_tunnel_that_is_not_opened_yet_is_cut_or_judged_by_the_new_rule() {
    for (after, allow, want) in [
        (Expect::Http, "example.com", "lasts"),
        (Expect::Tls, "example.com", "reset when it speaks"),
        (Expect::Http, "a.example.org", "reset at once"),
    ] {
        let world = World::with(Setup { expect: Expect::Http, ..Setup::default() }).await;
        let origin = Origin::echo().await;
        let mut open = tunnel(&world, &format!("example.com:{}", origin.port)).await;
        world.proxy.replace(Rules { expect: after, allow: vec![allow], ..Rules::new(8) }.snapshot());
        if want != "reset at once" {
            decided_again(&world, 8).await;
            let head = format!("GET / HTTP/1.1\r\nHost: example.com:{}\r\n\r\n", origin.port);
            open.write_all(head.as_bytes()).await.unwrap();
        }
        if want == "lasts" {
            assert!(read_head(&mut open).await.is_some());
        } else {
            assert_eq!(read_to_reset(&mut open).await, b"", "{want}");
        }
    }
}
