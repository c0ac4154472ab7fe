//! Snapshots that differ from each other in one thing.

use std::sync::Arc;

use exeat_identity::{
    Certificates, Clients, Issuers, PasswordHash, Principal, Proof, Workloads, hash_generated,
};
use exeat_model::{IpBlock, PortSet};
use exeat_policy::{
    Builder, Caps, Defaults, Entry, Expect, Label, Labels, List, ListBuilder, Mode, Place, PolicySet,
    PolicySpec, Revision,
};
use exeat_proxy::{Hops, Snapshot};

/// What a snapshot says. Its clients may reach what `allow` lists, at `addresses` and `ports`.
pub(crate) struct Rules {
    pub(crate) revision: u64,
    pub(crate) allow: Vec<&'static str>,
    pub(crate) deny: Vec<&'static str>,
    pub(crate) ports: String,
    pub(crate) addresses: &'static str,
    pub(crate) expect: Expect,
    pub(crate) mode: Mode,
    /// Names and passwords.
    pub(crate) clients: Vec<(&'static str, Vec<&'static str>)>,
    pub(crate) labels: Vec<(Label, &'static str)>,
    /// A further policy, for whoever has this label.
    pub(crate) bound: Option<(Label, &'static str, Vec<&'static str>)>,
    pub(crate) anonymous: bool,
    /// What flows may come to, by entry of `allow` or name of a client.
    pub(crate) caps: Vec<(&'static str, Caps)>,
}

impl Rules {
    /// What the usual world allows to the same two clients.
    pub(crate) fn new(revision: u64) -> Self {
        Self {
            revision,
            allow: vec!["example.com", "*.example.org"],
            deny: Vec::new(),
            ports: "1-65535".to_owned(),
            addresses: "127.0.0.0/8",
            expect: Expect::Any,
            mode: Mode::Enforce,
            clients: vec![("app", vec!["secret"]), ("other", vec!["secret"])],
            labels: Vec::new(),
            bound: None,
            anonymous: false,
            caps: Vec::new(),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let policy = self.policy();
        let labels: Labels = self.labels.iter().copied().collect();
        let principal = |name: &str, proof| {
            Arc::new(Principal {
                name: name.into(),
                proof,
                bound: policy.bind(&["app"], &labels).within(self.caps_of(name)),
                labels: labels.clone(),
                token: None,
            })
        };
        let mut clients = Clients::new();
        for (name, passwords) in &self.clients {
            let hash = |password: &&str| PasswordHash::parse(&hash_generated(password.as_bytes())).unwrap();
            let hashes = passwords.iter().map(hash).collect();
            assert!(clients.insert(name, principal(name, Proof::Password), hashes));
        }
        let anonymous = self.anonymous.then(|| principal("anonymous", Proof::Anonymous));
        Snapshot {
            clients,
            workloads: Workloads::new(),
            certificates: Certificates::new(),
            issuers: Issuers::default(),
            key_sources: Vec::new(),
            is_central: false,
            anonymous,
            disclose: true,
            policy,
            hops: Hops::default(),
        }
    }

    fn policy(&self) -> PolicySet {
        let mut builder = Builder::new();
        let spec = |name: &str, allow: &[&str], deny: &[&str], bind| PolicySpec {
            name: name.to_owned(),
            place: Place { file: "test.toml".into(), line: 1, column: 1 },
            allow: self.list(allow, true),
            deny: self.list(deny, false),
            defaults: Defaults::default(),
            mode: self.mode,
            bind,
            metadata: Vec::new(),
            next_hop: None,
        };
        builder.policy(spec("app", &self.allow, &self.deny, None));
        if let Some((label, value, allow)) = &self.bound {
            let bind = [(*label, *value)].into_iter().collect();
            builder.policy(spec("bound", allow, &[], Some(bind)));
        }
        builder.finish(Revision(self.revision)).unwrap()
    }

    fn list(&self, entries: &[&str], is_allow: bool) -> List {
        let mut list = ListBuilder::new("test.toml", Defaults::default());
        for (line, text) in (1..).zip(entries) {
            let is_network = text.contains('/');
            let addresses = (is_allow && !is_network).then(|| vec![IpBlock::parse(self.addresses).unwrap()]);
            let settings = Defaults {
                caps: self.caps_of(text),
                ports: Some(PortSet::parse(if is_allow { &self.ports } else { "1-65535" }).unwrap()),
                addresses,
                expect: is_allow.then_some(self.expect),
                ..Defaults::default()
            };
            list.push(Entry { settings, ..Entry::parse(text).unwrap() }, line, 1);
        }
        list.finish()
    }

    fn caps_of(&self, what: &str) -> Caps {
        self.caps.iter().find(|(of, _)| *of == what).map_or_else(Caps::default, |(_, caps)| *caps)
    }
}
