//! A world in which the product answers for names.

use anyhow::{Result, ensure};
use exeat_tests::asker::{Asker, Told};
use exeat_tests::exeat::Exeat;
use exeat_tests::namespace::PROXY;
use exeat_tests::world::World;
use hickory_proto::rr::RecordType;
use serde_json::Value;

/// Where the client of the standard policy is.
pub(crate) const APP: &str = "93.184.216.101";
/// Where a client with another policy is.
pub(crate) const OTHER: &str = "93.184.216.102";
/// Where nobody is known.
pub(crate) const NOWHERE: &str = "93.184.216.103";

/// A world and the product in it.
pub(crate) struct Setup {
    pub(crate) world: World,
    pub(crate) exeat: Exeat,
}

/// A configuration with `policy` for the client at [`APP`], more of `[dns]`, and more sections.
pub(crate) fn config(policy: &str, dns: &str, extra: &str) -> String {
    format!(
        "[proxy]
listen = [\"{PROXY}\"]
[audit]
file = \"AUDIT\"
[api]
listen = \"127.0.0.1:9128\"
socket = \"admin.sock\"
[dns]
listen = [\"10.99.0.1\"]
{dns}
[policy.app]
{policy}
[workload.app]
addresses = [\"{APP}/32\"]
policies = [\"app\"]
{extra}"
    )
}

impl Setup {
    pub(crate) fn new(policy: &str, dns: &str, extra: &str) -> Result<Self> {
        let world = World::new()?;
        let exeat = Exeat::serve(world.directory(), &config(policy, dns, extra), PROXY)?;
        Ok(Self { world, exeat })
    }

    /// Ends the product and starts it with another configuration; the name server forgets what it was asked.
    pub(crate) fn again(self, policy: &str, dns: &str, extra: &str) -> Result<Self> {
        self.serve(&config(policy, dns, extra))
    }

    /// The same with this whole configuration.
    pub(crate) fn serve(self, config: &str) -> Result<Self> {
        let Self { world, exeat } = self;
        exeat.stop()?;
        std::fs::remove_file(world.directory().join("audit.jsonl"))?;
        world.dns.clear();
        let exeat = Exeat::serve(world.directory(), config, PROXY)?;
        Ok(Self { world, exeat })
    }

    /// Asks as the client of the policy for addresses of IPv4.
    pub(crate) fn ask(&self, name: &str) -> Result<Told> {
        Asker::at(APP)?.ask(name, RecordType::A)
    }

    /// The only record of a question for `name` so far that is as `wanted` says.
    pub(crate) fn record(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let is_it = |record: &Value| record["event"] == "dns" && record["name"] == name && wanted(record);
        let records = self.exeat.audit_until(name, |records| records.iter().any(&is_it))?;
        let mut found: Vec<Value> = records.into_iter().filter(is_it).collect();
        ensure!(found.len() == 1, "{name}: {found:#?}");
        Ok(found.remove(0))
    }

    /// Asserts that the servers were asked for nothing but these names.
    pub(crate) fn asked_for(&self, names: &[&str]) -> Result<()> {
        ensure!(self.world.dns.names() == names, "{:?}, not {names:?}", self.world.dns.names());
        Ok(())
    }
}
