//! What the records of an answer say about the asked name. Pure.

use std::net::IpAddr;

use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::resolve::ResolveError;

/// The longest chain of aliases (CNAME) that is followed. Chains of content networks have up to about six; common
/// recursive resolvers give up between 8 and 17.
pub const CHAIN_MAX: usize = 16;

/// The most addresses, of both families together, that one name may have. Large round-robin sets have a few dozen;
/// more would be a list to scan, and every address costs a policy check.
pub const ADDRESSES_MAX: usize = 64;

/// One of the two kinds of address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }

    pub(crate) fn address(self, record: &Record) -> Option<IpAddr> {
        record.data.ip_addr().filter(|address| self.has(*address))
    }

    pub(crate) const fn has(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// The way from the asked name along its aliases, through one answer or several.
///
/// Only records owned by the name that the way has come to count. Whatever else an answer holds, about
/// other names or in other sections, is never looked at.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The asked name, and every alias after it.
    names: Vec<Name>,
    /// Seconds; the least of all records that the way went by.
    ttl: u32,
}

/// What one answer told about the name that a [`Walk`] was at.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Found<T> {
    /// What was looked for, of the name or of what it is an alias of; at least one.
    Records(Vec<T>),
    /// The name is an alias, and the answer says nothing of the name that it leads to.
    Alias,
    /// Nothing.
    Nothing,
}

impl Walk {
    pub(crate) fn new(asked: Name) -> Self {
        Self { names: vec![asked], ttl: u32::MAX }
    }

    /// Returns the name that the way has come to.
    pub(crate) fn current(&self) -> Option<&Name> {
        self.names.last()
    }

    /// Returns the number of aliases passed.
    pub(crate) fn aliases(&self) -> usize {
        self.names.len().saturating_sub(1)
    }

    /// Returns the least time to live of the records that were used, in seconds.
    pub(crate) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Follows the aliases in `answers`, in whatever order they stand there, up to what `pick` takes or the end.
    pub(crate) fn read<T>(
        &mut self,
        answers: &[Record],
        pick: impl Fn(&Record) -> Option<T>,
    ) -> Result<Found<T>, ResolveError> {
        let mut found = Found::Nothing;
        while let Some(current) = self.current() {
            let of_current = |record: &&Record| record.dns_class == DNSClass::IN && record.name == *current;
            let here = answers.iter().filter(of_current).collect::<Vec<_>>();
            let records = here.iter().filter_map(|record| Some((pick(record)?, record.ttl)));
            let (records, ttls): (Vec<_>, Vec<_>) = records.unzip();
            if !records.is_empty() {
                self.shorten(ttls);
                return Ok(Found::Records(records));
            }
            let alias = here.iter().find_map(|record| {
                let RData::CNAME(target) = &record.data else { return None };
                Some((target.0.clone(), record.ttl))
            });
            let Some((target, ttl)) = alias else { break };
            self.step(target)?;
            self.shorten([ttl]);
            found = Found::Alias;
        }
        Ok(found)
    }

    fn step(&mut self, target: Name) -> Result<(), ResolveError> {
        if self.names.contains(&target) {
            return Err(ResolveError::ChainLoop);
        }
        if self.aliases() == CHAIN_MAX {
            return Err(ResolveError::ChainTooLong { max: CHAIN_MAX });
        }
        self.names.push(target);
        Ok(())
    }

    fn shorten(&mut self, ttls: impl IntoIterator<Item = u32>) {
        for ttl in ttls {
            // One with the top bit set counts as none (RFC 2181 §8).
            let ttl = if i32::try_from(ttl).is_ok() { ttl } else { 0 };
            self.ttl = self.ttl.min(ttl);
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::CNAME;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn alias(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn address(owner: &str, ttl: u32, address: &str) -> Record {
        Record::from_rdata(name(owner), ttl, address.parse::<IpAddr>().unwrap().into())
    }

    fn addresses(addresses: &[&str]) -> Found<IpAddr> {
        Found::Records(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    #[test]
    fn only_records_on_the_way_count() {
        /// The records, what they tell, and the aliases and the time to live on the way there.
        type Case = (&'static str, Vec<Record>, Found<IpAddr>, usize, u32);
        let v4 = |owner, ttl| address(owner, ttl, "192.0.2.1");
        let mut chaos = v4("a.test.", 5);
        chaos.dns_class = DNSClass::CH;
        let cases: &[Case] = &[
            ("empty", vec![], Found::Nothing, 0, u32::MAX),
            ("address", vec![v4("a.test.", 60)], addresses(&["192.0.2.1"]), 0, 60),
            ("name in another case", vec![v4("A.TeSt.", 60)], addresses(&["192.0.2.1"]), 0, 60),
            (
                "least time to live",
                vec![v4("a.test.", 60), address("a.test.", 7, "192.0.2.2")],
                addresses(&["192.0.2.1", "192.0.2.2"]),
                0,
                7,
            ),
            ("absurd time to live", vec![v4("a.test.", 1 << 31)], addresses(&["192.0.2.1"]), 0, 0),
            (
                "longest time to live",
                vec![v4("a.test.", i32::MAX as u32)],
                addresses(&["192.0.2.1"]),
                0,
                i32::MAX as u32,
            ),
            ("other family", vec![address("a.test.", 60, "2001:db8::1")], Found::Nothing, 0, u32::MAX),
            ("other class", vec![chaos], Found::Nothing, 0, u32::MAX),
            ("other name", vec![v4("b.test.", 60)], Found::Nothing, 0, u32::MAX),
            ("name below", vec![v4("x.a.test.", 60)], Found::Nothing, 0, u32::MAX),
            (
                "other name beside",
                vec![v4("b.test.", 1), v4("a.test.", 60)],
                addresses(&["192.0.2.1"]),
                0,
                60,
            ),
            (
                "alias",
                vec![alias("a.test.", 30, "b.test."), v4("b.test.", 60)],
                addresses(&["192.0.2.1"]),
                1,
                30,
            ),
            (
                "aliases out of order",
                vec![v4("c.test.", 60), alias("b.test.", 40, "c.test."), alias("a.test.", 50, "B.test.")],
                addresses(&["192.0.2.1"]),
                2,
                40,
            ),
            ("alias without its target", vec![alias("a.test.", 30, "b.test.")], Found::Alias, 1, 30),
            (
                "alias beside the way",
                vec![alias("x.test.", 1, "b.test."), v4("b.test.", 60)],
                Found::Nothing,
                0,
                u32::MAX,
            ),
            (
                "alias, and an address of another name",
                vec![alias("a.test.", 30, "b.test."), v4("c.test.", 1)],
                Found::Alias,
                1,
                30,
            ),
        ];
        for (case, answers, want, aliases, ttl) in cases {
            let mut walk = Walk::new(name("a.test."));
            assert_eq!(walk.read(answers, |record| Family::V4.address(record)).unwrap(), *want, "{case}");
            assert_eq!((walk.aliases(), walk.ttl()), (*aliases, *ttl), "{case}");
        }
    }

    #[test]
    fn loops_end_wherever_they_close() {
        let cases: &[(&str, Vec<Vec<Record>>)] = &[
            ("itself", vec![vec![alias("a.test.", 1, "a.test.")]]),
            ("itself in another case", vec![vec![alias("a.test.", 1, "A.test.")]]),
            ("two", vec![vec![alias("a.test.", 1, "b.test."), alias("b.test.", 1, "a.test.")]]),
            (
                "not through the asked name",
                vec![vec![
                    alias("a.test.", 1, "b.test."),
                    alias("b.test.", 1, "c.test."),
                    alias("c.test.", 1, "b.test."),
                ]],
            ),
            (
                "over two answers",
                vec![vec![alias("a.test.", 1, "b.test.")], vec![alias("b.test.", 1, "a.test.")]],
            ),
        ];
        for (case, answers) in cases {
            let mut walk = Walk::new(name("a.test."));
            let read = |answer: &Vec<Record>| walk.read(answer, |record| Family::V6.address(record));
            let last = answers.iter().map(read).last().unwrap();
            assert!(matches!(last, Err(ResolveError::ChainLoop)), "{case}: {last:?}");
        }
    }
}
