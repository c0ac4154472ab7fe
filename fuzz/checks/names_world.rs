//! A policy server with a policy of the caller's, a name server on loopback, and nothing else around it.

use std::collections::VecDeque;
use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use exeat_audit::Record;
use exeat_dns::{
    Answer, Carrier, Deciding, Gate, GateError, Happening, Opened, Opening, Recorded, ResolveError, Resolver,
    ResolverConfig, Server, ServerConfig, Surroundings, Upstream,
};
use exeat_identity::{Place, Principal, Proof};
use exeat_policy::{
    Builder, Defaults, Entry, Labels, List, ListBuilder, Mode, PolicySet, PolicySpec, Reason, Revision,
};

/// Where the client is.
pub(crate) const CLIENT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4000);

/// A policy, and the one who asks.
pub(crate) struct Snapshot {
    pub(crate) policy: PolicySet,
    pub(crate) principal: Arc<Principal>,
}

impl Snapshot {
    pub(crate) fn new(revision: u64, allow: &[Entry], deny: &[Entry]) -> Arc<Self> {
        let mut builder = Builder::new();
        builder.policy(PolicySpec {
            name: "app".to_owned(),
            place: exeat_policy::Place { file: "t.toml".into(), line: 1, column: 1 },
            allow: list(allow),
            deny: list(deny),
            defaults: Defaults::default(),
            mode: Mode::Enforce,
            bind: None,
            metadata: Vec::new(),
            next_hop: None,
        });
        let policy = builder.finish(Revision(revision)).unwrap();
        let principal = Principal {
            name: "app".into(),
            proof: Proof::Origin,
            labels: Labels::default(),
            bound: policy.bind(&["app"], &Labels::default()),
            token: None,
        };
        Arc::new(Self { policy, principal: Arc::new(principal) })
    }
}

fn list(entries: &[Entry]) -> List {
    let mut list = ListBuilder::new("t.toml", Defaults::default());
    for (line, entry) in (1..).zip(entries) {
        list.push(entry.clone(), line, 1);
    }
    list.finish()
}

impl Deciding for Snapshot {
    fn policy(&self) -> &PolicySet {
        &self.policy
    }

    fn asker(&self, place: &Place) -> Result<Arc<Principal>, Reason> {
        if place.address != Some(CLIENT.ip()) {
            return Err(Reason::AuthRequired);
        }
        Ok(Arc::clone(&self.principal))
    }

    fn workload(&self, _: &Place) -> Option<Arc<str>> {
        None
    }
}

/// What is around the server, and what it told of.
pub(crate) struct World {
    now: RwLock<Arc<Snapshot>>,
    pub(crate) records: Mutex<Vec<Record>>,
}

impl World {
    pub(crate) fn new(now: Arc<Snapshot>) -> Arc<Self> {
        Arc::new(Self { now: RwLock::new(now), records: Mutex::default() })
    }

    pub(crate) fn replace(&self, now: Arc<Snapshot>) {
        *self.now.write().unwrap() = now;
    }
}

impl Surroundings for World {
    fn now(&self) -> Arc<dyn Deciding> {
        Arc::clone(&*self.now.read().unwrap()) as Arc<dyn Deciding>
    }

    fn next_request_id(&self) -> Arc<str> {
        "1".into()
    }

    fn note(&self, record: Record) {
        self.records.lock().unwrap().push(record);
    }

    fn record(&self, record: Record) -> Recorded<'_> {
        self.note(record);
        Box::pin(ready(Ok(())))
    }

    fn resolved(&self, _: &Result<Answer, ResolveError>, _: Duration) {}

    fn count(&self, _: Happening) {}
}

/// A gate that remembers what it opened, and says what it is told to; after that, yes.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) openings: Mutex<Vec<Opening>>,
    pub(crate) says: Mutex<VecDeque<GateError>>,
}

impl Gate for Watched {
    fn open(&self, opening: Opening) -> Opened<'_> {
        self.openings.lock().unwrap().push(opening);
        let said = self.says.lock().unwrap().pop_front();
        Box::pin(ready(said.map_or(Ok(()), Err)))
    }
}

/// A server without bounds on its clients, which asks `upstream` and waits for it no longer than `timeout`.
pub(crate) fn server(
    world: &Arc<World>,
    gate: Arc<dyn Gate>,
    upstream: SocketAddr,
    timeout: Duration,
) -> Server {
    let resolver = Resolver::new(ResolverConfig {
        servers: vec![Upstream::Address(upstream)],
        timeout,
        attempts: 1,
        ..ResolverConfig::default()
    });
    let config = ServerConfig { queries_per_second: 0, names_per_minute: 0, ..ServerConfig::default() };
    Server::new(config, resolver.unwrap(), Arc::clone(world) as Arc<dyn Surroundings>, gate, None, None)
}

/// Asks as the client.
pub(crate) async fn ask(server: &Server, message: &[u8], carrier: Carrier) -> Option<Vec<u8>> {
    server.answer(message, CLIENT, carrier).await
}
