//! Makes one answer of what the two families' queries brought. Pure.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use crate::{
    cache::{FAILURE_TTL, PARTIAL_TTL_MAX, negative_ttl, positive_ttl},
    chain::ADDRESSES_MAX,
    resolve::{Answer, ResolveError},
};

/// What the query for one family brought. Times are in seconds.
#[derive(Debug)]
pub(crate) enum Half {
    /// At least one address, at the end of `chain` aliases.
    Addresses { addrs: Vec<IpAddr>, ttl: u32, chain: usize },
    /// The name exists and has no address of this family.
    NoAddress { ttl: Option<u32> },
    /// The name does not exist.
    NoSuchName { ttl: Option<u32> },
}

type Queried = Result<Half, ResolveError>;

/// Joins both families, or returns the error and how long to keep it:
///
/// | one family        | the other          | result                                        |
/// |-------------------|--------------------|-----------------------------------------------|
/// | breaks a limit    | anything           | that error: a name must not pass by its better half |
/// | addresses         | addresses          | both                                          |
/// | addresses         | none or a failure  | the addresses; kept briefly after a failure   |
/// | no such name      | none or a failure  | no such name: it is so for all types of record |
/// | no address        | failure            | the failure: there may be addresses           |
/// | no address        | no address         | no address                                    |
/// | failure           | failure            | the first                                     |
pub(crate) fn combine(v6: Queried, v4: Queried) -> Result<Answer, (ResolveError, Duration)> {
    let (mut addrs, mut ttl, mut chain) = (Vec::new(), Duration::MAX, 0);
    let (mut failure, mut no_such_name, mut absent) = (None, false, Duration::MAX);
    for half in [v6, v4] {
        match half {
            Ok(Half::Addresses { addrs: more, ttl: seconds, chain: aliases }) => {
                addrs.extend(more);
                ttl = ttl.min(positive_ttl(seconds));
                chain = chain.max(aliases);
            }
            Ok(Half::NoAddress { ttl: seconds }) => absent = absent.min(negative_ttl(seconds)),
            Ok(Half::NoSuchName { ttl: seconds }) => {
                no_such_name = true;
                absent = absent.min(negative_ttl(seconds));
            }
            Err(error) if breaks_limit(&error) => return Err((error, FAILURE_TTL)),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if !addrs.is_empty() {
        if failure.is_some() {
            ttl = ttl.min(PARTIAL_TTL_MAX);
        }
        return joined(addrs, ttl, chain);
    }
    match failure {
        _ if no_such_name => Err((ResolveError::NoSuchName, absent)),
        Some(error) => Err((error, FAILURE_TTL)),
        None => Err((ResolveError::NoAddress, absent)),
    }
}

fn joined(addrs: Vec<IpAddr>, ttl: Duration, chain: usize) -> Result<Answer, (ResolveError, Duration)> {
    let mut seen = HashSet::new();
    let unique = addrs.into_iter().filter(|address| seen.insert(*address)).collect::<Vec<_>>();
    let count = unique.len();
    if count > ADDRESSES_MAX {
        return Err((ResolveError::TooManyAddresses { count }, FAILURE_TTL));
    }
    Ok(Answer { addrs: unique.into(), ttl, chain })
}

fn breaks_limit(error: &ResolveError) -> bool {
    match error {
        ResolveError::TooManyAddresses { .. }
        | ResolveError::TooManyRecords
        | ResolveError::ChainTooLong { .. }
        | ResolveError::ChainLoop => true,
        ResolveError::NoSuchName
        | ResolveError::NoAddress
        | ResolveError::NoRecord
        | ResolveError::Timeout
        | ResolveError::Server { .. }
        | ResolveError::Failed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addrs: &[&str], ttl: u32, chain: usize) -> Queried {
        let addrs = addrs.iter().map(|address| address.parse().unwrap()).collect();
        Ok(Half::Addresses { addrs, ttl, chain })
    }

    fn none(ttl: Option<u32>) -> Queried {
        Ok(Half::NoAddress { ttl })
    }

    fn nx(ttl: Option<u32>) -> Queried {
        Ok(Half::NoSuchName { ttl })
    }

    fn show(result: Result<Answer, (ResolveError, Duration)>) -> String {
        match result {
            Ok(Answer { addrs, ttl, chain }) => format!("{addrs:?} {ttl:?} chain {chain}"),
            Err((error, ttl)) => format!("{error}, {ttl:?}"),
        }
    }

    #[test]
    fn both_families_make_one_answer() {
        let timeout = || Err(ResolveError::Timeout);
        let looped = || Err(ResolveError::ChainLoop);
        let (v6, v4) = (["2001:db8::1"], ["192.0.2.1"]);
        let cases: [(&str, Queried, Queried, &str); 20] = [
            ("both", found(&v6, 60, 1), found(&v4, 90, 2), "[2001:db8::1, 192.0.2.1] 60s chain 2"),
            ("IPv4 only", none(Some(5)), found(&v4, 90, 2), "[192.0.2.1] 90s chain 2"),
            ("IPv6 only", found(&v6, 60, 0), none(None), "[2001:db8::1] 60s chain 0"),
            ("no such name for one type", nx(Some(5)), found(&v4, 90, 0), "[192.0.2.1] 90s chain 0"),
            ("one fails", timeout(), found(&v4, 90, 0), "[192.0.2.1] 30s chain 0"),
            ("the other fails", found(&v6, 9, 0), timeout(), "[2001:db8::1] 9s chain 0"),
            ("one loops", looped(), found(&v4, 90, 0), "the name's aliases form a loop, 1s"),
            ("the other loops", found(&v6, 90, 0), looped(), "the name's aliases form a loop, 1s"),
            ("failure and loop", timeout(), looped(), "the name's aliases form a loop, 1s"),
            (
                "duplicates",
                found(&v4, 60, 0),
                found(&["192.0.2.1", "192.0.2.2"], 60, 0),
                "[192.0.2.1, 192.0.2.2] 60s chain 0",
            ),
            ("no time to live", found(&v6, 0, 0), none(None), "[2001:db8::1] 1s chain 0"),
            ("long time to live", found(&v6, u32::MAX, 0), none(None), "[2001:db8::1] 3600s chain 0"),
            ("neither", none(Some(20)), none(Some(10)), "the name has no address, 10s"),
            ("neither, for long", none(Some(900)), none(Some(900)), "the name has no address, 30s"),
            ("neither, without a time", none(None), none(Some(10)), "the name has no address, 1s"),
            ("no such name", nx(Some(20)), nx(Some(10)), "no such name, 10s"),
            ("no such name and none", nx(Some(20)), none(Some(10)), "no such name, 10s"),
            ("no such name and failure", nx(Some(20)), timeout(), "no such name, 20s"),
            ("none and failure", none(Some(20)), timeout(), "no answer in time, 1s"),
            ("failures", timeout(), Err(ResolveError::NoAddress), "no answer in time, 1s"),
        ];
        for (name, v6, v4, want) in cases {
            assert_eq!(show(combine(v6, v4)), want, "{name}");
        }
    }

    #[test]
    fn the_limit_counts_different_addresses_of_both_families() {
        let v4 = |count: usize| (1..=count).map(|last| format!("192.0.2.{last}")).collect::<Vec<_>>();
        let v6 = |count: usize| (1..=count).map(|last| format!("2001:db8::{last:x}")).collect::<Vec<_>>();
        for (name, six, four, want) in [
            ("at the limit", v6(32), v4(32), Ok(64)),
            ("beyond", v6(32), v4(33), Err(65)),
            ("of one family", v6(0), v4(65), Err(65)),
            ("duplicates do not count", [v6(32), v6(32)].concat(), v4(32), Ok(64)),
        ] {
            let texts =
                |addrs: &[String]| found(&addrs.iter().map(String::as_str).collect::<Vec<_>>(), 60, 0);
            let got = match combine(texts(&six), texts(&four)) {
                Ok(answer) => Ok(answer.addrs.len()),
                Err((ResolveError::TooManyAddresses { count }, FAILURE_TTL)) => Err(count),
                Err(other) => panic!("{name}: {other:?}"),
            };
            assert_eq!(got, want, "{name}");
        }
    }
}
