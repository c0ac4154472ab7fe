//! Builds snapshots from texts, so that a test reads like configuration.

use std::net::IpAddr;

use exeat_model::{Authority, Port, Transport};
use exeat_policy::{
    Bound, Builder, CeilingSpec, Defaults, EgressRequest, Entry, Floor, HopSpec, Label, Labels, List,
    ListBuilder, Mode, NextHop, Permit, Place, PolicySet, PolicySpec, Reason, Resolve, Revision, Verdict,
    decide, permit,
};

/// One policy or ceiling under test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) name: &'static str,
    pub(crate) allow: Vec<Entry>,
    pub(crate) deny: Vec<Entry>,
    pub(crate) defaults: Defaults,
    pub(crate) mode: Mode,
    pub(crate) metadata: Vec<&'static str>,
    pub(crate) next_hop: Option<(&'static str, Resolve)>,
}

pub(crate) fn place(line: u32) -> Place {
    Place { file: "test.toml".into(), line, column: 1 }
}

pub(crate) fn entry(text: &str) -> Entry {
    Entry::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

pub(crate) fn entries(texts: &[&str]) -> Vec<Entry> {
    texts.iter().map(|t| entry(t)).collect()
}

pub(crate) fn rules(name: &'static str, allow: &[&str], deny: &[&str]) -> Rules {
    Rules { name, allow: entries(allow), deny: entries(deny), ..Rules::default() }
}

pub(crate) fn list(entries: &[Entry], defaults: Defaults) -> List {
    let mut builder = ListBuilder::new("test.toml", defaults);
    for (line, entry) in (1..).zip(entries) {
        builder.push(entry.clone(), line, 1);
    }
    builder.finish()
}

/// A snapshot with these policies, all bound to the one principal, below these ceilings.
pub(crate) struct World {
    pub(crate) set: PolicySet,
    pub(crate) bound: Bound,
}

pub(crate) fn world(groups: &[(&str, List)], policies: &[Rules], ceilings: &[Rules]) -> World {
    world_with_floor(groups, policies, ceilings, Floor::default())
}

pub(crate) fn world_with_floor(
    groups: &[(&str, List)],
    policies: &[Rules],
    ceilings: &[Rules],
    floor: Floor,
) -> World {
    let mut labels = Labels::default();
    labels.set(Label::Organization, "gsa");
    let mut builder = Builder::new();
    for (name, group) in groups {
        builder.group(name, place(1), copy(group));
    }
    for (name, endpoint) in [("hop", "10.0.0.9:3128"), ("named", "proxy.example:3128")] {
        let endpoint = Authority::parse(endpoint, None).unwrap();
        builder.hop(HopSpec { name: name.into(), place: place(1), endpoint });
    }
    for endpoint in ["10.0.0.9:443", "keys.example:443"] {
        builder.key_server(Authority::parse(endpoint, None).unwrap());
    }
    for p in policies {
        builder.policy(PolicySpec {
            name: p.name.to_owned(),
            place: place(1),
            allow: list(&p.allow, Defaults::default()),
            deny: list(&p.deny, Defaults::default()),
            defaults: p.defaults.clone(),
            mode: p.mode,
            bind: None,
            metadata: metadata(p),
            next_hop: p.next_hop.map(|(name, resolve)| NextHop { name: name.to_owned(), resolve }),
        });
    }
    for c in ceilings {
        builder.ceiling(CeilingSpec {
            name: c.name.to_owned(),
            place: place(1),
            allow: list(&c.allow, Defaults::default()),
            deny: list(&c.deny, Defaults::default()),
            defaults: c.defaults.clone(),
            bind: labels.clone(),
            metadata: metadata(c),
        });
    }
    builder.floor(floor);
    let set = builder.finish(Revision(7)).expect("the test's policy builds");
    let names: Vec<&str> = policies.iter().map(|p| p.name).collect();
    let bound = set.bind(&names, &labels);
    World { set, bound }
}

fn copy(group: &List) -> List {
    list(&group.entries().map(|(entry, _)| entry).collect::<Vec<_>>(), group.defaults().clone())
}

fn metadata(rules: &Rules) -> Vec<(exeat_model::CanonicalIp, Place)> {
    let parse = |text: &&str| (exeat_model::CanonicalIp::new(text.parse().unwrap()), place(9));
    rules.metadata.iter().map(parse).collect()
}

pub(crate) fn target(text: &str) -> Authority {
    Authority::parse(text, Port::new(443)).unwrap_or_else(|e| panic!("{text}: {e}"))
}

pub(crate) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

impl World {
    pub(crate) fn request<'a>(&'a self, target: &'a Authority) -> EgressRequest<'a> {
        EgressRequest { bound: &self.bound, target, transport: Transport::Tcp }
    }

    /// As [`World::run_over`] TCP.
    pub(crate) fn run(&self, target: &Authority, addrs: &[IpAddr]) -> Result<Permit, Reason> {
        self.run_over(Transport::Tcp, target, addrs)
    }

    /// Decides and, if that allows, permits for these addresses (a literal stands for itself).
    pub(crate) fn run_over(
        &self,
        transport: Transport,
        target: &Authority,
        addrs: &[IpAddr],
    ) -> Result<Permit, Reason> {
        let request = EgressRequest { bound: &self.bound, target, transport };
        let literal = match &target.host {
            exeat_model::Host::Address(ip) => vec![ip.get()],
            exeat_model::Host::Name(_) => addrs.to_vec(),
        };
        match decide(&self.set, &request) {
            Verdict::Deny(denial) => Err(denial.reason),
            Verdict::Allow(allowed) => permit(&self.set, &request, &allowed, &literal).map_err(|d| d.reason),
        }
    }

    /// `"allow RULE"` or the token of the refusal.
    pub(crate) fn answer(&self, text: &str, addrs: &[&str]) -> String {
        match self.run(&target(text), &ips(addrs)) {
            Err(reason) => reason.token().to_owned(),
            Ok(permit) => format!("allow {}", self.set.rule(permit.rule()).expect("a rule").text),
        }
    }
}
