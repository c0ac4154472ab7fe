//! The audit record: one struct, one schema version, one line of JSON.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use exeat_model::DnsName;
use exeat_policy::{Labels, Mode, Place, Reason, Revision};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{control::ControlRecord, text::Text, time::rfc3339};

/// The version of the record's schema. Fields are added without a new version; it changes if one is renamed,
/// removed or given another meaning.
pub const SCHEMA_VERSION: u8 = 1;

/// One line of the audit log. A field that does not apply is left out of the line.
///
/// Holds no header values, secrets, user information or query strings: `target` is the only text a client chooses.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Always [`SCHEMA_VERSION`].
    pub v: SchemaVersion,
    /// When it happened, in RFC 3339, UTC, with milliseconds.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// What the record is about.
    pub event: Event,
    /// The number of the policy snapshot that decided.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "revision")]
    pub revision: Option<Revision>,
    /// The id that the client was given too; equal in all records of one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Arc<str>>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<PrincipalRecord>,
    /// The address and port that the client's connection came from.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "address")]
    pub source: Option<SocketAddr>,
    /// The user of this host who opened the client's connection, if that was looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// The workload that the client's connection came from, whatever proved who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    /// The request method, or the opening's equivalent of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Text>,
    /// The target as the client asked for it, without user information, path and query string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Text>,
    /// The name in the canonical form that the rules were matched against.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "display")]
    pub name: Option<DnsName>,
    /// The port asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The name of the next hop that the request leaves through; then `address` is the next hop's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Arc<str>>,
    /// The address and port that was dialled.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "address")]
    pub address: Option<SocketAddr>,
    /// What was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Outcome>,
    /// Why it was denied, or why an allowed request failed.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "reason")]
    pub reason: Option<Reason>,
    /// The rule that allowed or denied, and where it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<RuleRecord>>,
    /// The mode of the policy that decided.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "mode")]
    pub mode: Option<Mode>,
    /// In report mode: why it would have been denied.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "reason")]
    pub would_deny: Option<Reason>,
    /// The HTTP status that the client was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The response code that a question was answered with, by its name (RFC 2929 §2.3); of [`Event::Dns`] alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcode: Option<&'static str>,
    /// The addresses that the client was told; of [`Event::Dns`] alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Arc<[IpAddr]>>,
    /// How it is known what another name server has answered; of [`Event::Dns`] alone, and there only of such answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<&'static str>,
    /// The names that have resolved to the address, for this client if there are any; of [`Event::Packet`] alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Arc<[Arc<str>]>>,
    /// Bytes from the client to the upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// Bytes from the upstream to the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    /// How long it took, in whole milliseconds.
    #[serde(rename = "duration_ms", skip_serializing_if = "Option::is_none", serialize_with = "millis")]
    pub duration: Option<Duration>,
    /// Why the flow ended, as a stable lower-case token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<&'static str>,
    /// What somebody asked for who steers the proxy, and what came of it; of [`Event::Control`] alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<Box<ControlRecord>>,
    /// How many records were lost since the last line that says so; of [`Event::Lost`] alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Written as [`SCHEMA_VERSION`]; there is no other in one build.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SchemaVersion;

impl Serialize for SchemaVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(SCHEMA_VERSION)
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A tunnel was allowed or denied.
    Decision,
    /// An allowed tunnel ended.
    End,
    /// A single request and its response ended, or the request was denied.
    Request,
    /// A question to the policy server for names was answered or refused.
    Dns,
    /// A packet came to the firewall that the policy does not allow.
    Packet,
    /// Somebody who steers the proxy changed what decides or what is open, or could not.
    Control,
    /// Records were lost here; written by the log itself.
    Lost,
}

/// The verdict, as the record shows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

/// Who asked, as the record shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PrincipalRecord {
    /// The principal's name in the configuration.
    pub name: Arc<str>,
    /// What proved it: `password`, `token`, `origin`, `certificate`, `anonymous`.
    pub proof: &'static str,
    /// Its labels; those that are not set are left out.
    #[serde(serialize_with = "labels")]
    pub labels: Labels,
    /// The token that proved it, never its text.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenRecord>,
}

/// A token, as the record shows it.
#[derive(Clone, Debug, Serialize)]
pub struct TokenRecord {
    /// The name of its issuer in the configuration.
    pub issuer: Arc<str>,
    /// Its own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<Arc<str>>,
    /// The name of the key that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<Arc<str>>,
}

/// A rule, as the record shows it.
#[derive(Clone, Debug, Serialize)]
pub struct RuleRecord {
    /// The policy or ceiling that the rule belongs to.
    pub policy: String,
    /// The file, line and column where it is written.
    #[serde(serialize_with = "place")]
    pub place: Place,
    /// The entry as it is written there.
    pub text: String,
}

impl Record {
    /// Returns a record with nothing but its event and time; the other fields are public.
    #[must_use]
    pub fn new(event: Event, time: SystemTime) -> Self {
        Self {
            v: SchemaVersion,
            time,
            event,
            revision: None,
            request_id: None,
            principal: None,
            source: None,
            user: None,
            workload: None,
            method: None,
            target: None,
            name: None,
            port: None,
            via: None,
            address: None,
            verdict: None,
            reason: None,
            rule: None,
            mode: None,
            would_deny: None,
            status: None,
            rcode: None,
            answers: None,
            learned: None,
            names: None,
            bytes_up: None,
            bytes_down: None,
            duration: None,
            end: None,
            control: None,
            count: None,
        }
    }

    /// Returns the record of a change. `revision` is what decides from then on.
    #[must_use]
    pub fn control(control: ControlRecord, revision: Revision, time: SystemTime) -> Self {
        Self { revision: Some(revision), control: Some(Box::new(control)), ..Self::new(Event::Control, time) }
    }

    /// Appends the record to `lines`, as one line with its end.
    ///
    /// # Errors
    /// If a field cannot be written. Then a part of the line may have been appended.
    pub(crate) fn write_line(&self, lines: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(&mut *lines, self)?;
        lines.push(b'\n');
        Ok(())
    }

    /// Returns the record that stands in for `count` records that were lost.
    pub(crate) fn lost(count: u64, time: SystemTime) -> Self {
        Self { count: Some(count), ..Self::new(Event::Lost, time) }
    }
}

/// As an address shows itself. Those of IPv4 are most of them, and put together by hand take a fifth of the time.
fn address<S: Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(SocketAddr::V4(address)) = address else { return address.serialize(serializer) };
    let mut text = String::with_capacity("255.255.255.255:65535".len());
    let mut digits = itoa::Buffer::new();
    for octet in address.ip().octets() {
        text.push_str(digits.format(octet));
        text.push('.');
    }
    text.pop();
    text.push(':');
    text.push_str(digits.format(address.port()));
    serializer.serialize_str(&text)
}

fn revision<S: Serializer>(revision: &Option<Revision>, serializer: S) -> Result<S::Ok, S::Error> {
    revision.as_ref().map(|revision| revision.0).serialize(serializer)
}

fn display<S: Serializer>(value: &Option<DnsName>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(DnsName::as_str).serialize(serializer)
}

fn reason<S: Serializer>(reason: &Option<Reason>, serializer: S) -> Result<S::Ok, S::Error> {
    reason.map(Reason::token).serialize(serializer)
}

fn mode<S: Serializer>(mode: &Option<Mode>, serializer: S) -> Result<S::Ok, S::Error> {
    mode.map(Mode::word).serialize(serializer)
}

fn millis<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
}

fn labels<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (label, value) in labels.iter() {
        map.serialize_entry(label.key(), value)?;
    }
    map.end()
}

fn place<S: Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(place)
}

#[cfg(test)]
mod tests {
    use exeat_policy::Label;
    use serde_json::{Value, json};

    use super::*;
    use crate::control::{Action, By, Effect};

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn full() -> Record {
        let mut labels = Labels::default();
        labels.set(Label::Space, "payments-prod");
        labels.set(Label::Organization, "gsa");
        Record {
            revision: Some(Revision(7)),
            request_id: Some("0a1b".into()),
            principal: Some(PrincipalRecord {
                name: "payments".into(),
                proof: "password",
                labels,
                token: None,
            }),
            source: Some("[2001:db8::9]:50000".parse().unwrap()),
            user: Some(1000),
            workload: Some("batch".into()),
            method: Some("CONNECT".into()),
            target: Some("API.stripe.example.:443".into()),
            name: Some(DnsName::parse("api.stripe.example").unwrap()),
            port: Some(443),
            address: Some("192.0.2.1:443".parse().unwrap()),
            verdict: Some(Outcome::Allow),
            reason: Some(Reason::IdleTimeout),
            rule: Some(Arc::new(RuleRecord {
                policy: "payments".into(),
                place: Place { file: "exeat.toml".into(), line: 12, column: 10 },
                text: "*.stripe.example".into(),
            })),
            mode: Some(Mode::Report),
            would_deny: Some(Reason::HostNotAllowed),
            status: Some(200),
            rcode: Some("NOERROR"),
            answers: Some(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into()),
            bytes_up: Some(517),
            bytes_down: Some(u64::MAX),
            duration: Some(Duration::from_micros(1_234_567)),
            end: Some("client_closed"),
            ..Record::new(Event::End, at(1_700_000_000_007))
        }
    }

    #[test]
    fn a_record_is_one_versioned_object() {
        let cases: Vec<(&str, Record, Value)> = vec![
            (
                "full",
                full(),
                json!({
                    "v": 1, "time": "2023-11-14T22:13:20.007Z", "event": "end", "revision": 7, "request_id": "0a1b",
                    "principal": {
                        "name": "payments", "proof": "password",
                        "labels": { "organization": "gsa", "space": "payments-prod" },
                    },
                    "source": "[2001:db8::9]:50000", "user": 1000, "workload": "batch", "method": "CONNECT", "target": "API.stripe.example.:443",
                    "name": "api.stripe.example", "port": 443, "address": "192.0.2.1:443", "verdict": "allow",
                    "reason": "idle_timeout",
                    "rule": { "policy": "payments", "place": "exeat.toml:12:10", "text": "*.stripe.example" },
                    "mode": "report", "would_deny": "host_not_allowed", "status": 200,
                    "rcode": "NOERROR", "answers": ["192.0.2.1", "2001:db8::1"], "bytes_up": 517,
                    "bytes_down": u64::MAX, "duration_ms": 1234, "end": "client_closed",
                }),
            ),
            (
                "empty",
                Record::new(Event::Request, at(0)),
                json!({ "v": 1, "time": "1970-01-01T00:00:00.000Z", "event": "request" }),
            ),
            (
                "control",
                Record::control(
                    ControlRecord::new(Action::Put, By::Api, Some(0), Effect::Refused),
                    Revision(7),
                    at(0),
                ),
                json!({
                    "v": 1, "time": "1970-01-01T00:00:00.000Z", "event": "control", "revision": 7,
                    "control": { "action": "put", "by": "api", "uid": 0, "result": "refused" },
                }),
            ),
            (
                "lost",
                Record::lost(3, at(1_000)),
                json!({ "v": 1, "time": "1970-01-01T00:00:01.000Z", "event": "lost", "count": 3 }),
            ),
        ];
        for (name, record, want) in cases {
            let line = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), want, "{name}");
            assert!(line.starts_with("{\"v\":1,\"time\":\"") && !line.contains('\n'), "{name}: {line}");
        }
    }

    #[test]
    fn every_word_is_stable() {
        let word = |value: Value| value.as_str().unwrap().to_owned();
        for (event, want) in [
            (Event::Decision, "decision"),
            (Event::End, "end"),
            (Event::Request, "request"),
            (Event::Dns, "dns"),
            (Event::Packet, "packet"),
            (Event::Control, "control"),
            (Event::Lost, "lost"),
        ] {
            assert_eq!(word(serde_json::to_value(event).unwrap()), want);
        }
        assert_eq!(word(serde_json::to_value(Outcome::Allow).unwrap()), "allow");
        assert_eq!(word(serde_json::to_value(Outcome::Deny).unwrap()), "deny");
    }

    #[test]
    fn a_hostile_target_stays_in_its_field() {
        let mut record = full();
        record.target = Some(Text::new("x\"}\n{\"v\":1,\"verdict\":\"allow\"}\u{2028}"));
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.is_ascii() && !line.contains('\n'), "{line}");
        let value = serde_json::from_str::<Value>(&line).unwrap();
        let want = "x\"}\\x0a{\"v\":1,\"verdict\":\"allow\"}\\xe2\\x80\\xa8";
        assert_eq!(value["target"], want);
    }
}
