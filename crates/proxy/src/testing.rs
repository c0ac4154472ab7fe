//! Permits for tests, made the only way there is: by a policy that allows the target.

use std::net::IpAddr;

use exeat_model::{Authority, DnsName, Host, IpBlock, NamePattern, PortSet};
use exeat_policy::{
    Builder, Defaults, Destination, EgressRequest, Entry, Expect, Labels, List, ListBuilder, Mode, Permit,
    Place, PolicySpec, Revision, Verdict, decide, permit,
};

/// The permit of a policy with one rule for `target`, a name or a literal, at these addresses.
pub(crate) fn permit_for(target: &str, addrs: &[IpAddr], expect: Option<Expect>, sni: &[&str]) -> Permit {
    let target = Authority::parse(target, None).unwrap();
    let blocks: Vec<IpBlock> = addrs.iter().map(|addr| IpBlock::parse(&addr.to_string()).unwrap()).collect();
    let destination = match &target.host {
        Host::Name(name) => Destination::Name(NamePattern::Exact(name.clone())),
        Host::Address(_) => Destination::Network(blocks[0]),
    };
    let addresses = match &target.host {
        Host::Name(_) => Some(blocks),
        Host::Address(_) => None,
    };
    let entry = Entry {
        settings: Defaults {
            ports: Some(PortSet::parse(&target.port.to_string()).unwrap()),
            addresses,
            expect,
            answers: None,
        },
        sni: sni.iter().map(|name| DnsName::parse(name).unwrap()).collect(),
        ..Entry::new(destination)
    };
    let place = Place { file: "test.toml".into(), line: 1, column: 1 };
    let mut builder = Builder::new();
    builder.policy(PolicySpec {
        name: "test".to_owned(),
        place,
        allow: list(Some(entry)),
        deny: list(None),
        defaults: Defaults::default(),
        mode: Mode::Enforce,
        bind: None,
        metadata: Vec::new(),
    });
    let set = builder.finish(Revision(1)).unwrap();
    let bound = set.bind(&["test"], &Labels::default());
    let request = EgressRequest { bound: &bound, target: &target };
    match decide(&set, &request) {
        Verdict::Allow(allowed) => permit(&set, &request, &allowed, addrs).unwrap(),
        Verdict::Deny(denial) => panic!("{target}: {}", denial.reason),
    }
}

fn list(entry: Option<Entry>) -> List {
    let mut list = ListBuilder::new("test.toml", Defaults::default());
    if let Some(entry) = entry {
        list.push(entry, 1, 1);
    }
    list.finish()
}
