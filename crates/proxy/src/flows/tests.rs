use std::{collections::BTreeSet, net::SocketAddr};

use exeat_identity::{Certificates, Clients, Proof, Workloads};
use exeat_model::{DnsName, Host};
use exeat_policy::{Bound, Builder, Expect, Labels, Revision};

use super::*;
use crate::{client::Client, meter::Meter, route::Grant, shared::Snapshot, testing::permit_for};

/// What decides: nothing is allowed, and anonymous clients are let in or not.
fn current(epoch: u64) -> Arc<Current> {
    let policy = Builder::new().finish(Revision(epoch + 1)).unwrap();
    let principal = Principal {
        name: "anonymous".into(),
        proof: Proof::Anonymous,
        labels: Labels::default(),
        bound: Bound::default(),
        token: None,
    };
    let snapshot = Snapshot {
        policy,
        clients: Clients::new(),
        workloads: Workloads::new(),
        certificates: Certificates::new(),
        issuers: exeat_identity::Issuers::default(),
        key_sources: Vec::new(),
        is_central: false,
        anonymous: Some(Arc::new(principal)),
        disclose: true,
        hops: crate::hop::Hops::new(),
    };
    Arc::new(Current {
        epoch,
        snapshot: Arc::new(snapshot),
        quarantine: Arc::default(),
        revocations: Arc::default(),
        cited: crate::cited::Cited::default(),
        is_for_one: false,
    })
}

fn client() -> Client {
    let peer = SocketAddr::from(([10, 0, 0, 1], 1));
    Client::new(peer, SocketAddr::from(([10, 0, 0, 2], 2)), Arc::default())
}

fn beginning(current: &Arc<Current>) -> Beginning {
    Beginning {
        request_id: "1".into(),
        kind: FlowKind::Tunnel,
        method: "CONNECT".into(),
        target: Authority::parse("example.com:443", None).unwrap(),
        client: client(),
        meter: Arc::new(Meter::new(&Limits::default())),
        current: Arc::clone(current),
        principal: current.snapshot.anonymous.clone().unwrap(),
        grant: Grant::Straight(permit_for("example.com:443", &[[93, 184, 216, 34].into()], None, &[])),
    }
}

#[test]
fn a_flow_that_comes_after_the_sweep_is_decided_on_all_the_same() {
    let flows = Arc::new(Flows::new());
    let (old, new) = (current(0), current(1));
    // Admitted under the old one, in the table before the sweep.
    let early = flows.begin(beginning(&old), || Arc::clone(&old));
    assert_eq!(flows.sweep(&new), Swept { kept: 0, ended: 1 });
    assert_eq!(early.meter().reason(), Some(Reason::PolicyChanged));
    // Admitted under the old one, and there only after it.
    let late = flows.begin(beginning(&old), || Arc::clone(&new));
    assert_eq!(late.meter().reason(), Some(Reason::PolicyChanged));
    // What decides has not changed: nothing is asked.
    let same = flows.begin(beginning(&new), || Arc::clone(&new));
    assert_eq!(same.meter().reason(), None);
    // A sweep that is late changes nothing that a later one has decided.
    assert_eq!(flows.sweep(&old), Swept { kept: 1, ended: 2 });
    assert_eq!(same.view().revision, Revision(2));
    drop((early, late, same));
    assert!(flows.views().is_empty());
}

#[test]
fn a_flow_that_comes_after_everything_was_cut_is_cut() {
    let flows = Arc::new(Flows::new());
    let now = current(0);
    let before = flows.begin(beginning(&now), || Arc::clone(&now));
    flows.cut(Reason::Draining);
    let after = flows.begin(beginning(&now), || Arc::clone(&now));
    for flow in [before, after] {
        assert_eq!(flow.meter().reason(), Some(Reason::Draining));
    }
}

#[test]
fn a_flow_that_comes_after_the_quarantine_is_ended() {
    let flows = Arc::new(Flows::new());
    let before = current(0);
    let quarantine: BTreeSet<_> = [crate::Selector::client("anonymous").unwrap()].into();
    let now = Arc::new(Current {
        epoch: 1,
        snapshot: Arc::clone(&before.snapshot),
        quarantine: Arc::new(quarantine),
        revocations: Arc::default(),
        cited: crate::cited::Cited::default(),
        is_for_one: false,
    });
    let early = flows.begin(beginning(&before), || Arc::clone(&before));
    assert_eq!((flows.end_quarantined(&now), flows.end_quarantined(&now)), (1, 0));
    let late = flows.begin(beginning(&before), || Arc::clone(&now));
    for flow in [early, late] {
        assert_eq!(flow.meter().reason(), Some(Reason::PolicyChanged));
    }
}

#[test]
fn what_was_spoken_is_held_against_a_later_rule() {
    let name = |name: &str| DnsName::parse(name).unwrap();
    let (tls, http) = (|n| Spoken::Tls(Some(name(n))), |n| Spoken::Http(Host::Name(name(n))));
    let literal = Host::Address(exeat_model::CanonicalIp::new([93, 184, 216, 34].into()));
    let (by_name, by_address) = ("example.com:443", "93.184.216.34:443");
    let cases: [(&str, &str, Spoken, Expect, bool); 15] = [
        ("anything goes", by_name, Spoken::Unknown, Expect::Any, true),
        ("TLS goes", by_name, tls("evil.test"), Expect::Any, true),
        ("the asked name", by_name, tls("example.com"), Expect::Tls, true),
        ("a listed name", by_name, tls("cdn.example.org"), Expect::Tls, true),
        ("another name", by_name, tls("evil.test"), Expect::Tls, false),
        ("no name", by_name, Spoken::Tls(None), Expect::Tls, false),
        ("no name, and none asked for", by_address, Spoken::Tls(None), Expect::Tls, true),
        ("HTTP for TLS", by_name, http("example.com"), Expect::Tls, false),
        ("unknown for TLS", by_name, Spoken::Unknown, Expect::Tls, false),
        ("the asked host", by_name, http("example.com"), Expect::Http, true),
        ("another host", by_name, http("evil.test"), Expect::Http, false),
        ("the asked address", by_address, Spoken::Http(literal), Expect::Http, true),
        ("a name for an address", by_address, http("example.com"), Expect::Http, false),
        ("TLS for HTTP", by_name, tls("example.com"), Expect::Http, false),
        ("unknown for HTTP", by_name, Spoken::Unknown, Expect::Http, false),
    ];
    for (case, target, spoken, expect, want) in cases {
        let sni: &[&str] = if target == by_name { &["cdn.example.org"] } else { &[] };
        let permit = permit_for(target, &[[93, 184, 216, 34].into()], Some(expect), sni);
        let target = Authority::parse(target, None).unwrap();
        assert_eq!(spoken.satisfies(permit.opening(), &target), want, "{case}");
    }
}
