//! How long outcomes are kept.

use std::time::{Duration, Instant};

use exeat_model::DnsName;
use moka::{Expiry, future::Cache};

use crate::resolve::{Answer, ResolveError};

/// The least time that addresses are kept. Names with a time to live of 0 are common at balancers; a client that
/// opens six connections at once must not send six queries.
pub(crate) const POSITIVE_TTL_MIN: Duration = Duration::from_secs(1);

/// The most time that addresses are kept. An answer that is wrong, by mistake or by malice, is corrected after this.
pub(crate) const POSITIVE_TTL_MAX: Duration = Duration::from_secs(60 * 60);

/// The most time that addresses of one family are kept while the other family's query failed.
pub(crate) const PARTIAL_TTL_MAX: Duration = Duration::from_secs(30);

/// The least time that the absence of a name or address is kept, also where the server names no time: RFC 2308 §5
/// would not cache that at all, and leave the query rate to the client.
pub(crate) const NEGATIVE_TTL_MIN: Duration = Duration::from_secs(1);

/// The most time that the absence of a name or address is kept: whoever waits for a new name tries again within
/// this time.
pub(crate) const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);

/// How long a failure is kept, timeouts and refused chains included: the least that RFC 9520 §3.2 demands.
pub(crate) const FAILURE_TTL: Duration = Duration::from_secs(1);

/// What a resolution came to, and until when it holds.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) result: Result<Answer, ResolveError>,
    pub(crate) until: Instant,
}

/// Returns a cache of at most `entries` outcomes, each kept for as long as it holds.
pub(crate) fn cache(entries: u64) -> Cache<DnsName, Outcome> {
    Cache::builder().max_capacity(entries).expire_after(UntilIsOver).build()
}

struct UntilIsOver;

impl Expiry<DnsName, Outcome> for UntilIsOver {
    fn expire_after_create(&self, _: &DnsName, outcome: &Outcome, created_at: Instant) -> Option<Duration> {
        Some(outcome.until.saturating_duration_since(created_at))
    }
}

/// Returns how long addresses with this time to live, in seconds, are kept.
pub(crate) fn positive_ttl(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into()).clamp(POSITIVE_TTL_MIN, POSITIVE_TTL_MAX)
}

/// Returns how long an absence with this time to live, in seconds, is kept.
pub(crate) fn negative_ttl(ttl: Option<u32>) -> Duration {
    Duration::from_secs(ttl.unwrap_or(0).into()).clamp(NEGATIVE_TTL_MIN, NEGATIVE_TTL_MAX)
}
