//! Records other than addresses.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use exeat_model::DnsName;
use hickory_proto::{
    rr::{RData, RecordType},
    serialize::binary::BinEncodable,
};
use moka::{Expiry, future::Cache};
use tokio::time::timeout;

use crate::{
    cache::{FAILURE_TTL, negative_ttl, positive_ttl},
    chain::ADDRESSES_MAX,
    resolve::{End, Inner, ResolveError, Resolver, absolute, reserved},
};

/// The most records of one type that one name may have: as many as addresses.
const RECORDS_MAX: usize = ADDRESSES_MAX;

/// Octets of data that all records of one type together may have. Names with many TXT records for proofs of ownership
/// have a few thousand; a server can send 65 535, and each would be kept.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// The most sets of records that are kept, whatever is configured for names: 32 MiB at the very most.
const SETS_MAX: u64 = 2048;

/// The records of one type that a name has.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    /// At least one, in the servers' order.
    pub(crate) data: Arc<[RData]>,
    /// How long they remain good.
    pub(crate) ttl: Duration,
}

/// What looking for records came to, and until when it holds.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    result: Result<Arc<[RData]>, ResolveError>,
    until: Instant,
}

/// Returns a cache of at most `entries` sets, each kept for as long as it holds.
pub(crate) fn cache(entries: u64) -> Cache<(DnsName, RecordType), Kept> {
    Cache::builder().max_capacity(entries.min(SETS_MAX)).expire_after(UntilIsOver).build()
}

struct UntilIsOver;

impl Expiry<(DnsName, RecordType), Kept> for UntilIsOver {
    fn expire_after_create(&self, _: &(DnsName, RecordType), kept: &Kept, now: Instant) -> Option<Duration> {
        Some(kept.until.saturating_duration_since(now))
    }
}

impl Resolver {
    /// Returns the records of one type of `name`, or of what it is an alias of. The policy must have allowed the name.
    ///
    /// # Errors
    ///
    /// See [`ResolveError`]; none of them is a denial.
    pub(crate) async fn records(&self, name: &DnsName, kind: RecordType) -> Result<Records, ResolveError> {
        match reserved(name) {
            Some(Ok(_)) => return Err(ResolveError::NoRecord),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        let key = (name.clone(), kind);
        let kept = match self.0.records.get(&key).await {
            Some(kept) => kept,
            None => Box::pin(self.0.records.get_with(key, self.0.ask_records(name, kind))).await,
        };
        let ttl = kept.until.saturating_duration_since(Instant::now());
        kept.result.map(|data| Records { data, ttl })
    }
}

impl Inner {
    async fn ask_records(&self, name: &DnsName, kind: RecordType) -> Kept {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let found = match timeout(self.servers.budget(), self.find_records(name, kind)).await {
            Ok(found) => found,
            Err(_) => Err(ResolveError::Timeout),
        };
        let (result, ttl) = match found {
            Ok(End::Found { records, ttl, aliases: _ }) => match checked(records) {
                Ok(data) => (Ok(data), positive_ttl(ttl)),
                Err(error) => (Err(error), FAILURE_TTL),
            },
            Ok(End::Nothing { ttl }) => (Err(ResolveError::NoRecord), negative_ttl(ttl)),
            Ok(End::NoSuchName { ttl }) => (Err(ResolveError::NoSuchName), negative_ttl(ttl)),
            Err(error) => (Err(error), FAILURE_TTL),
        };
        Kept { result, until: Instant::now() + ttl }
    }

    async fn find_records(&self, name: &DnsName, kind: RecordType) -> Result<End<RData>, ResolveError> {
        self.walk(absolute(name)?, kind, |record| (record.record_type() == kind).then(|| record.data.clone()))
            .await
    }
}

fn checked(records: Vec<RData>) -> Result<Arc<[RData]>, ResolveError> {
    let bytes = |data: &RData| data.to_bytes().map_or(usize::MAX, |bytes| bytes.len());
    let total = records.iter().map(bytes).fold(0, usize::saturating_add);
    if records.len() > RECORDS_MAX || total > RECORD_BYTES_MAX {
        return Err(ResolveError::TooManyRecords);
    }
    Ok(records.into())
}
