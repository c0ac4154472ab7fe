//! Flows that an operator looks at, cuts or keeps out.

use super::*;

#[tokio::test]
async fn flows_can_be_looked_at_and_cut() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = |host: &str| format!("{host}:{}", origin.port);
    let mut first = tunnel(&world, &target("example.com")).await;
    let mut second = tunnel_as(&world, OTHER, &target("a.example.org")).await;
    let mut third = tunnel(&world, &target("a.example.org")).await;
    echoes(&mut first).await;
    let flows = world.proxy.flows();
    let seen: Vec<_> = flows
        .iter()
        .map(|flow| format!("{} {} {} {}", flow.principal, flow.method, flow.target, flow.bytes_up))
        .collect();
    let want = [
        format!("app CONNECT {} 4", target("example.com")),
        format!("other CONNECT {} 0", target("a.example.org")),
        format!("app CONNECT {} 0", target("a.example.org")),
    ];
    assert_eq!(seen, want);
    let flow = &flows[0];
    assert_eq!((flow.bytes_down, flow.revision.0, flow.kind), (4, 7, FlowKind::Tunnel));
    assert_eq!(flow.address, Some(([127, 0, 0, 1], origin.port).into()));
    assert_eq!(flow.source, Some(first.local_addr().unwrap()));
    assert!(flow.rule.as_ref().is_some_and(|rule| rule.text.contains("example.com")), "{:?}", flow.rule);

    assert_eq!(world.proxy.cut(&FlowFilter::from(flow.id), Reason::PolicyChanged), 1);
    read_to_reset(&mut first).await;
    echoes(&mut second).await;
    let to_example = FlowFilter {
        host: Some(Host::Name(exeat_model::DnsName::parse("example.com").unwrap())),
        ..FlowFilter::default()
    };
    assert_eq!(world.proxy.cut(&to_example, Reason::PolicyChanged), 0, "gone already");
    let of_other = FlowFilter::from(Selector::client("other").unwrap());
    assert_eq!(world.proxy.cut(&of_other, Reason::PolicyChanged), 1);
    read_to_reset(&mut second).await;
    echoes(&mut third).await;
    let elsewhere = FlowFilter { source: Some([127, 0, 0, 9].into()), ..FlowFilter::default() };
    assert_eq!(world.proxy.cut(&elsewhere, Reason::PolicyChanged), 0);
    assert_eq!(world.proxy.cut(&FlowFilter::default(), Reason::PolicyChanged), 1);
    read_to_reset(&mut third).await;
    while !world.proxy.flows().is_empty() {
        tokio::task::yield_now().await;
    }
    let ends = told(&world.records(), "end");
    // The policy allows them still.
    let want = ("policy_changed", "allow");
    assert!(ends.iter().all(|end| (end["end"].as_str(), end["verdict"].as_str()) == want), "{ends:?}");
}

#[tokio::test]
async fn a_quarantine_ends_everything_of_a_principal_until_it_is_released() {
    let (world, origin) = (World::start().await, Origin::echo().await);
    let target = format!("example.com:{}", origin.port);
    let rules = |revision| Rules { labels: vec![(Label::Space, "prod")], ..Rules::new(revision) };
    world.proxy.replace(rules(8).snapshot());
    let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n");
    for selector in ["client app", "label space=prod"] {
        let selector: Selector = selector.parse().unwrap();
        let of_app = matches!(selector.to_string().as_str(), "client app");
        let mut of_principal = tunnel(&world, &target).await;
        let mut of_other = tunnel_as(&world, OTHER, &target).await;
        let ended = world.proxy.quarantine(selector.clone()).unwrap();
        assert_eq!(ended, if of_app { 1 } else { 2 });
        read_to_reset(&mut of_principal).await;
        if of_app {
            echoes(&mut of_other).await;
        }
        let accepts = origin.accepts();
        assert_refused(&world.talk(&connect).await, 403, "policy_changed");
        assert_refused(&world.talk(get(origin.port, "1.1")).await, 403, "policy_changed");
        // A new policy does not end it.
        world.proxy.replace(rules(9).snapshot());
        assert_refused(&world.talk(&connect).await, 403, "policy_changed");
        assert_eq!(origin.accepts(), accepts, "nothing was dialled");
        assert_eq!(world.proxy.quarantined(), std::slice::from_ref(&selector));
        assert!(world.proxy.release(&selector).unwrap());
        assert!(!world.proxy.release(&selector).unwrap());
        assert!(world.proxy.quarantined().is_empty());
        echoes(&mut tunnel(&world, &target).await).await;
    }
}

#[tokio::test]
async fn a_quarantine_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let selector = Selector::client("app").unwrap();
    let (world, origin) = (World::start().await, Origin::echo().await);
    assert_eq!(world.proxy.keep_state(&directory).unwrap(), 0);
    world.proxy.quarantine(selector.clone()).unwrap();

    let next = World::start().await;
    assert_eq!(next.proxy.keep_state(&directory).unwrap(), 1);
    assert_eq!(next.proxy.quarantined(), std::slice::from_ref(&selector));
    let connect = format!("CONNECT example.com:{} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n", origin.port);
    assert_refused(&next.talk(&connect).await, 403, "policy_changed");
    assert!(next.proxy.release(&selector).unwrap());

    let last = World::start().await;
    assert_eq!(last.proxy.keep_state(&directory).unwrap(), 0);
    // Where nothing can be written, the quarantine holds, and a release does not happen.
    std::fs::remove_dir_all(&directory).unwrap();
    let failed = last.proxy.quarantine(selector.clone());
    assert!(matches!(failed, Err(StateError::Write { .. })), "{failed:?}");
    assert_refused(&last.talk(&connect).await, 403, "policy_changed");
    assert!(last.proxy.release(&selector).is_err());
    assert_refused(&last.talk(&connect).await, 403, "policy_changed");
}
