//! `[limits]`: every bound of the proxy, each within a range that keeps it meaningful.

use std::ops::RangeInclusive;
use std::time::Duration;

use exeat_proxy::Limits;

use crate::notes::Notes;
use crate::problem::{Code, Finding};
use crate::reader::Fields;

/// One key of `[limits]`.
pub(crate) struct LimitKey {
    pub(crate) name: &'static str,
    pub(crate) kind: LimitKind,
}

/// What a limit counts, the values it may take, and where it goes.
pub(crate) enum LimitKind {
    /// A number of things or bytes.
    Count(RangeInclusive<u64>, fn(&mut Limits, usize)),
    /// A number of bytes, without a limit unless it is set.
    OptionalCount(RangeInclusive<u64>, fn(&mut Limits, u64)),
    /// A time.
    Time(RangeInclusive<Duration>, fn(&mut Limits, Duration)),
}

/// Connections and tunnels: none would make a proxy that does nothing; above are more than Linux has ports.
const COUNT: RangeInclusive<u64> = 1..=10_000_000;
/// Things that may be switched off with 0.
const COUNT_OR_NONE: RangeInclusive<u64> = 0..=1_000_000;
/// Bytes held in memory for one connection. Below 512 no browser's request fits; above 16 MiB a few connections
/// fill the memory.
const BYTES: RangeInclusive<u64> = 512..=16 * 1024 * 1024;
/// Header fields, interim responses and streams.
const FIELDS: RangeInclusive<u64> = 1..=10_000;
/// Bytes that one flow may move: from a small answer to more than any line carries in a year.
pub(crate) const FLOW_BYTES: RangeInclusive<u64> = 1024..=1 << 60;
/// Bytes a second; 0 asks for none. Above a megabyte many honest lines would be too slow.
const RATE: RangeInclusive<u64> = 0..=1024 * 1024;
/// Connections or requests a second; 0 sets no bound. Above a million nothing would be bounded.
const EVENTS: RangeInclusive<u64> = 0..=1_000_000;
/// Time for one step, from what a local network needs to what no person waits for.
const STEP: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
/// Time that something may live or idle.
pub(crate) const LIFE: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(7 * 24 * 3600);

const fn count(name: &'static str, range: RangeInclusive<u64>, set: fn(&mut Limits, usize)) -> LimitKey {
    LimitKey { name, kind: LimitKind::Count(range, set) }
}

const fn time(
    name: &'static str,
    range: RangeInclusive<Duration>,
    set: fn(&mut Limits, Duration),
) -> LimitKey {
    LimitKey { name, kind: LimitKind::Time(range, set) }
}

const fn optional_count(
    name: &'static str,
    range: RangeInclusive<u64>,
    set: fn(&mut Limits, u64),
) -> LimitKey {
    LimitKey { name, kind: LimitKind::OptionalCount(range, set) }
}

/// Every limit, in the order of [`Limits`].
pub(crate) const LIMITS: [LimitKey; 32] = [
    count("connections", COUNT, |limits, value| limits.connections = value),
    count("connections_per_source", COUNT, |limits, value| limits.connections_per_source = value),
    count("streams_per_connection", FIELDS, |limits, value| limits.streams_per_connection = value),
    count("tunnels_per_client", COUNT, |limits, value| limits.tunnels_per_client = value),
    count("connection_rate_per_source", EVENTS, |limits, value| limits.connection_rate_per_source = value),
    count("request_rate_per_source", EVENTS, |limits, value| limits.request_rate_per_source = value),
    count("request_rate_per_client", EVENTS, |limits, value| limits.request_rate_per_client = value),
    time("rate_burst", STEP, |limits, value| limits.rate_burst = value),
    count("head_bytes", BYTES, |limits, value| limits.head_bytes = value),
    count("uri_bytes", BYTES, |limits, value| limits.uri_bytes = value),
    count("header_count", FIELDS, |limits, value| limits.header_count = value),
    time("head_timeout", STEP, |limits, value| limits.head_timeout = value),
    time("keepalive_timeout", LIFE, |limits, value| limits.keepalive_timeout = value),
    time("connect_timeout", STEP, |limits, value| limits.connect_timeout = value),
    time("opening_timeout", STEP, |limits, value| limits.opening_timeout = value),
    count("opening_bytes", BYTES, |limits, value| limits.opening_bytes = value),
    time("idle_timeout", LIFE, |limits, value| limits.idle_timeout = value),
    time("flow_age", LIFE, |limits, value| limits.flow_age = Some(value)),
    optional_count("flow_bytes_up", FLOW_BYTES, |limits, value| limits.flow_bytes_up = Some(value)),
    optional_count("flow_bytes_down", FLOW_BYTES, |limits, value| limits.flow_bytes_down = Some(value)),
    count("upload_rate", RATE, |limits, value| limits.upload_rate = value),
    time("upload_grace", STEP, |limits, value| limits.upload_grace = value),
    time("response_head_timeout", LIFE, |limits, value| limits.response_head_timeout = value),
    count("response_head_bytes", BYTES, |limits, value| limits.response_head_bytes = value),
    count("informational_max", FIELDS, |limits, value| limits.informational_max = value),
    count("pool_idle", COUNT_OR_NONE, |limits, value| limits.pool_idle = value),
    count("pool_idle_per_key", COUNT_OR_NONE, |limits, value| limits.pool_idle_per_key = value),
    time("pool_idle_timeout", LIFE, |limits, value| limits.pool_idle_timeout = value),
    time("pool_age", LIFE, |limits, value| limits.pool_age = value),
    count("linger_bytes", BYTES, |limits, value| limits.linger_bytes = value),
    time("linger_timeout", STEP, |limits, value| limits.linger_timeout = value),
    time("drain_timeout", LIFE, |limits, value| limits.drain_timeout = value),
];

/// Reads `[limits]`; what is not set keeps its default.
pub(crate) fn read(fields: &Fields<'_, '_>, notes: &mut Notes) -> Limits {
    let mut limits = Limits::default();
    for key in &LIMITS {
        match &key.kind {
            LimitKind::Count(range, set) => {
                if let Some(value) =
                    fields.integer(key.name, range, notes).and_then(|value| usize::try_from(value).ok())
                {
                    set(&mut limits, value);
                }
            }
            LimitKind::OptionalCount(range, set) => {
                if let Some(value) = fields.integer(key.name, range, notes) {
                    set(&mut limits, value);
                }
            }
            LimitKind::Time(range, set) => {
                if let Some(value) = fields.duration(key.name, range, notes) {
                    set(&mut limits, value);
                }
            }
        }
    }
    let span = fields.get("uri_bytes").or_else(|| fields.get("head_bytes"));
    if let Some(span) = span.filter(|_| limits.uri_bytes > limits.head_bytes) {
        let message =
            format!("`uri_bytes` ({}) is more than `head_bytes` ({})", limits.uri_bytes, limits.head_bytes);
        let help = "the request line is part of the head: lower `uri_bytes` or raise `head_bytes`";
        notes.push(span.span(), Finding::error(Code::Conflict, message).help(help));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_the_proxy_has_a_key_that_sets_it() {
        let mut limits = Limits::default();
        for (index, key) in LIMITS.iter().enumerate() {
            match &key.kind {
                LimitKind::Count(_, set) => set(&mut limits, 7_000_000 + index),
                LimitKind::OptionalCount(_, set) => set(&mut limits, 7_000_000 + index as u64),
                LimitKind::Time(_, set) => set(&mut limits, Duration::from_secs(7_000_000 + index as u64)),
            }
        }
        let fields = format!("{limits:?}").replace("Some(", "").replace(')', "");
        let fields = fields.trim_start_matches("Limits { ").trim_end_matches(" }").split(", ");
        let got: Vec<String> = fields.map(str::to_owned).collect();
        let want = LIMITS.iter().enumerate().map(|(index, key)| {
            let number = 7_000_000 + index;
            match key.kind {
                LimitKind::Count(..) | LimitKind::OptionalCount(..) => format!("{}: {number}", key.name),
                LimitKind::Time(..) => format!("{}: {number}s", key.name),
            }
        });
        assert_eq!(got, want.collect::<Vec<_>>());
    }

    #[test]
    fn every_default_lies_within_its_range() {
        let text = format!("{:?}", Limits::default());
        for key in &LIMITS {
            let value = text
                .split_once(&format!(" {}: ", key.name))
                .and_then(|(_, rest)| rest.split([',', ' ']).next());
            let Some(value) = value else { panic!("{} is not a limit", key.name) };
            if value == "None" {
                continue;
            }
            let within = match &key.kind {
                LimitKind::Count(range, _) | LimitKind::OptionalCount(range, _) => {
                    value.parse().is_ok_and(|value| range.contains(&value))
                }
                LimitKind::Time(range, _) => {
                    exeat_model::parse_duration(value).is_some_and(|value| range.contains(&value))
                }
            };
            assert!(within, "{} = {value}", key.name);
        }
    }
}
