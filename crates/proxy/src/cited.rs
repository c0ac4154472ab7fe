//! The rules that records cite, as they show them. A rule is put into words once, not for each request that it decides.

use std::{
    hash::BuildHasher,
    sync::{Arc, Mutex, PoisonError},
};

use exeat_audit::RuleRecord;
use exeat_policy::{PolicySet, RuleId};
use hashbrown::DefaultHashBuilder;

/// How many are kept, about. A rule that finds its place taken takes it: most requests are decided by few rules.
const PLACES: usize = 256;

/// The rules of one snapshot that were cited lately.
#[derive(Debug)]
pub(crate) struct Cited {
    hasher: DefaultHashBuilder,
    places: Box<[Mutex<Option<Kept>>]>,
}

/// A rule, and what a record shows of it.
type Kept = (RuleId, Arc<RuleRecord>);

impl Default for Cited {
    fn default() -> Self {
        let places = (0..PLACES).map(|_| Mutex::default()).collect();
        Self { hasher: DefaultHashBuilder::default(), places }
    }
}

impl Cited {
    /// Returns what a record shows of `rule`, which is one of `policy`, as at each call.
    pub(crate) fn record(&self, policy: &PolicySet, rule: RuleId) -> Option<Arc<RuleRecord>> {
        let place = usize::try_from(self.hasher.hash_one(rule) % PLACES as u64).ok()?;
        // What is in it is right even if a thread panicked while it held it: it is set at once.
        let mut kept = self.places.get(place)?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, record)) = &*kept
            && *of == rule
        {
            return Some(Arc::clone(record));
        }
        let record = Arc::new(RuleRecord::from(policy.rule(rule)?));
        *kept = Some((rule, Arc::clone(&record)));
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use exeat_model::{Authority, DnsName, NamePattern, Transport};
    use exeat_policy::{
        Builder, Defaults, Destination, EgressRequest, Entry, Labels, ListBuilder, Mode, Place, PolicySpec,
        Revision, Verdict, decide,
    };

    use super::*;

    #[test]
    fn every_rule_is_shown_as_itself_however_many_there_are() {
        let mut allow = ListBuilder::new("test.toml", Defaults::default());
        let names: Vec<String> = (0..3 * PLACES).map(|number| format!("h{number}.example.com")).collect();
        for (name, line) in names.iter().zip(1..) {
            let name = NamePattern::Exact(DnsName::parse(name).unwrap());
            allow.push(Entry::new(Destination::Name(name)), line, 1);
        }
        let mut builder = Builder::new();
        builder.policy(PolicySpec {
            name: "test".to_owned(),
            place: Place { file: "test.toml".into(), line: 1, column: 1 },
            allow: allow.finish(),
            deny: ListBuilder::new("test.toml", Defaults::default()).finish(),
            defaults: Defaults::default(),
            mode: Mode::Enforce,
            bind: None,
            metadata: Vec::new(),
            next_hop: None,
        });
        let policy = builder.finish(Revision(1)).unwrap();
        let bound = policy.bind(&["test"], &Labels::default());
        let cited = Cited::default();
        // Twice each: the second time from where the first left it, and again when another one has taken its place.
        for name in names.iter().flat_map(|name| [name, name]).chain(&names) {
            let target = Authority::parse(&format!("{name}:443"), None).unwrap();
            let request = EgressRequest { bound: &bound, target: &target, transport: Transport::Tcp };
            let Verdict::Allow(allowed) = decide(&policy, &request) else { panic!("{name} is allowed") };
            let record = cited.record(&policy, allowed.rules()[0]).unwrap();
            assert_eq!((&*record.policy, &*record.text), ("test", &**name));
        }
    }
}
