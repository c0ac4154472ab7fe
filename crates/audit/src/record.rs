//! The audit record: one struct, one schema version, one line of JSON.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use exeat_model::DnsName;
use exeat_policy::{Labels, Mode, Reason, Revision, RuleView};

use crate::{control::ControlRecord, line, text::Text};

/// The version of the record's schema. Fields are added without a new version; it changes if one is renamed,
/// removed or given another meaning.
pub const SCHEMA_VERSION: u8 = 1;

/// One line of the audit log. A field that does not apply is left out of the line.
///
/// Holds no header values, secrets, user information or query strings: `target` is the only text a client chooses.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it happened, in RFC 3339, UTC, with milliseconds.
    pub time: SystemTime,
    /// What the record is about.
    pub event: Event,
    /// The number of the policy snapshot that decided.
    pub revision: Option<Revision>,
    /// The id that the client was given too; equal in all records of one request.
    pub request_id: Option<Arc<str>>,
    /// Who asked.
    pub principal: Option<PrincipalRecord>,
    /// The address and port that the client's connection came from.
    pub source: Option<SocketAddr>,
    /// The user of this host who opened the client's connection, if that was looked up.
    pub user: Option<u32>,
    /// What the process calls itself that made the client's connection, where that is looked up: by `exeat run`, and not always
    /// with success. Of the end of a tunnel, its decision has it.
    pub process: Option<Arc<str>>,
    /// The workload that the client's connection came from, whatever proved who asks.
    pub workload: Option<Arc<str>>,
    /// The request method, or the opening's equivalent of it.
    pub method: Option<Text>,
    /// The target as the client asked for it, without user information, path and query string.
    pub target: Option<Text>,
    /// The name in the canonical form that the rules were matched against.
    pub name: Option<DnsName>,
    /// The port asked for.
    pub port: Option<u16>,
    /// The name of the next hop that the request leaves through; then `address` is the next hop's.
    pub via: Option<Arc<str>>,
    /// The address and port that was dialled.
    pub address: Option<SocketAddr>,
    /// What was decided.
    pub verdict: Option<Outcome>,
    /// Why it was denied, or why an allowed request failed.
    pub reason: Option<Reason>,
    /// The rule that allowed or denied, and where it is written.
    pub rule: Option<Arc<RuleRecord>>,
    /// The mode of the policy that decided.
    pub mode: Option<Mode>,
    /// In report mode: why it would have been denied.
    pub would_deny: Option<Reason>,
    /// The HTTP status that the client was sent.
    pub status: Option<u16>,
    /// The response code that a question was answered with, by its name (RFC 2929 §2.3); of [`Event::Dns`] alone.
    pub rcode: Option<&'static str>,
    /// The addresses that the client was told; of [`Event::Dns`] alone.
    pub answers: Option<Arc<[IpAddr]>>,
    /// How it is known what another name server has answered; of [`Event::Dns`] alone, and there only of such answers.
    pub learned: Option<&'static str>,
    /// The names that have resolved to the address, for this client if there are any; of [`Event::Packet`] alone.
    pub names: Option<Arc<[Arc<str>]>>,
    /// Bytes from the client to the upstream.
    pub bytes_up: Option<u64>,
    /// Bytes from the upstream to the client.
    pub bytes_down: Option<u64>,
    /// How long it took, in whole milliseconds.
    pub duration: Option<Duration>,
    /// Why the flow ended, as a stable lower-case token.
    pub end: Option<&'static str>,
    /// What somebody asked for who steers the proxy, and what came of it; of [`Event::Control`] alone.
    pub control: Option<Box<ControlRecord>>,
    /// How many records were lost since the last line that says so; of [`Event::Lost`] alone.
    pub count: Option<u64>,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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

impl Event {
    /// The word for it, as the record shows it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::End => "end",
            Self::Request => "request",
            Self::Dns => "dns",
            Self::Packet => "packet",
            Self::Control => "control",
            Self::Lost => "lost",
        }
    }
}

/// The verdict, as the record shows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

impl Outcome {
    /// The word for it, as the record shows it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Who asked, as the record shows it.
#[derive(Clone, Debug)]
pub struct PrincipalRecord {
    /// The principal's name in the configuration.
    pub name: Arc<str>,
    /// What proved it: `password`, `token`, `origin`, `certificate`, `anonymous`.
    pub proof: &'static str,
    /// Its labels; those that are not set are left out.
    pub labels: Labels,
    /// The token that proved it, never its text.
    pub token: Option<TokenRecord>,
}

/// A token, as the record shows it.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// The name of its issuer in the configuration.
    pub issuer: Arc<str>,
    /// Its own number.
    pub jti: Option<Arc<str>>,
    /// The name of the key that signed it.
    pub kid: Option<Arc<str>>,
}

/// A rule, as the record shows it.
#[derive(Clone, Debug)]
pub struct RuleRecord {
    /// The policy or ceiling that the rule belongs to.
    pub policy: String,
    /// The file, line and column where it is written, with colons between them.
    pub place: String,
    /// The entry as it is written there.
    pub text: String,
}

impl From<RuleView> for RuleRecord {
    fn from(RuleView { policy, place, text }: RuleView) -> Self {
        Self { policy, place: place.to_string(), text }
    }
}

impl Record {
    /// Returns a record with nothing but its event and time; the other fields are public.
    #[must_use]
    pub fn new(event: Event, time: SystemTime) -> Self {
        Self {
            time,
            event,
            revision: None,
            request_id: None,
            principal: None,
            source: None,
            user: None,
            process: None,
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

    /// Returns the record as it is in the log, without the end of its line; nothing if a field cannot be written.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut line = Vec::new();
        match self.write_line(&mut line) {
            Ok(()) => line.pop(),
            Err(_) => return Vec::new(),
        };
        line
    }

    /// Appends the record to `lines`, as one line with its end.
    ///
    /// # Errors
    /// If a field cannot be written. Then a part of the line may have been appended.
    pub fn write_line(&self, lines: &mut Vec<u8>) -> serde_json::Result<()> {
        line::write(self, lines)
    }

    /// Returns the record that stands in for `count` records that were lost.
    pub(crate) fn lost(count: u64, time: SystemTime) -> Self {
        Self { count: Some(count), ..Self::new(Event::Lost, time) }
    }
}

#[cfg(test)]
mod tests {
    use exeat_policy::Label;
    use serde_json::Value;

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
            process: Some("curl".into()),
            workload: Some("batch".into()),
            method: Some("CONNECT".into()),
            target: Some("API.stripe.example.:443".into()),
            name: Some(DnsName::parse("api.stripe.example").unwrap()),
            port: Some(443),
            via: Some("hop".into()),
            address: Some("192.0.2.1:443".parse().unwrap()),
            verdict: Some(Outcome::Allow),
            reason: Some(Reason::IdleTimeout),
            rule: Some(Arc::new(RuleRecord {
                policy: "payments".into(),
                place: "exeat.toml:12:10".into(),
                text: "*.stripe.example".into(),
            })),
            mode: Some(Mode::Report),
            would_deny: Some(Reason::HostNotAllowed),
            status: Some(200),
            rcode: Some("NOERROR"),
            answers: Some(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into()),
            learned: Some("dnstap"),
            names: Some(["a.example".into(), "b.example".into()].into()),
            bytes_up: Some(517),
            bytes_down: Some(u64::MAX),
            duration: Some(Duration::from_micros(1_234_567)),
            end: Some("client_closed"),
            ..Record::new(Event::End, at(1_700_000_000_007))
        }
    }

    fn line(record: &Record) -> String {
        let mut line = Vec::new();
        record.write_line(&mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_record_is_one_versioned_object() {
        let cases: Vec<(&str, Record, &str)> = vec![
            (
                "full",
                full(),
                concat!(
                    r#"{"v":1,"time":"2023-11-14T22:13:20.007Z","event":"end","revision":7,"request_id":"0a1b","#,
                    r#""principal":{"name":"payments","proof":"password","#,
                    r#""labels":{"organization":"gsa","space":"payments-prod"}},"#,
                    r#""source":"[2001:db8::9]:50000","user":1000,"process":"curl","workload":"batch","#,
                    r#""method":"CONNECT","#,
                    r#""target":"API.stripe.example.:443","name":"api.stripe.example","port":443,"via":"hop","#,
                    r#""address":"192.0.2.1:443","verdict":"allow","reason":"idle_timeout","#,
                    r#""rule":{"policy":"payments","place":"exeat.toml:12:10","text":"*.stripe.example"},"#,
                    r#""mode":"report","would_deny":"host_not_allowed","status":200,"rcode":"NOERROR","#,
                    r#""answers":["192.0.2.1","2001:db8::1"],"learned":"dnstap","names":["a.example","b.example"],"#,
                    r#""bytes_up":517,"bytes_down":18446744073709551615,"duration_ms":1234,"#,
                    r#""end":"client_closed"}"#,
                ),
            ),
            (
                "empty",
                Record::new(Event::Request, at(0)),
                r#"{"v":1,"time":"1970-01-01T00:00:00.000Z","event":"request"}"#,
            ),
            (
                "control",
                Record::control(
                    ControlRecord::new(Action::Put, By::Api, Some(0), Effect::Refused),
                    Revision(7),
                    at(0),
                ),
                concat!(
                    r#"{"v":1,"time":"1970-01-01T00:00:00.000Z","event":"control","revision":7,"#,
                    r#""control":{"action":"put","by":"api","uid":0,"result":"refused"}}"#,
                ),
            ),
            (
                "lost",
                Record::lost(3, at(1_000)),
                r#"{"v":1,"time":"1970-01-01T00:00:01.000Z","event":"lost","count":3}"#,
            ),
        ];
        for (name, record, want) in cases {
            assert_eq!(line(&record), format!("{want}\n"), "{name}");
        }
    }

    #[test]
    fn a_principal_is_shown_with_its_token_whatever_its_name() {
        let token = TokenRecord { issuer: "ci".into(), jti: Some("9f".into()), kid: Some("k1".into()) };
        let bare = TokenRecord { jti: None, kid: None, ..token.clone() };
        for (name, token, want) in [
            (
                "a",
                Some(token),
                r#"{"name":"a","proof":"token","labels":{},"issuer":"ci","jti":"9f","kid":"k1"}"#,
            ),
            ("abcdefg\"hijklmno", None, r#"{"name":"abcdefg\"hijklmno","proof":"token","labels":{}}"#),
            ("ä", Some(bare), r#"{"name":"ä","proof":"token","labels":{},"issuer":"ci"}"#),
            ("a\"b\\\n\u{1}", None, r#"{"name":"a\"b\\\n\u0001","proof":"token","labels":{}}"#),
        ] {
            let labels = Labels::default();
            let principal = PrincipalRecord { name: name.into(), proof: "token", labels, token };
            let record = Record { principal: Some(principal), ..Record::new(Event::Request, at(0)) };
            let line = line(&record);
            assert!(line.ends_with(&format!("\"event\":\"request\",\"principal\":{want}}}\n")), "{line}");
        }
    }

    #[test]
    fn every_word_is_stable() {
        for (event, want) in [
            (Event::Decision, "decision"),
            (Event::End, "end"),
            (Event::Request, "request"),
            (Event::Dns, "dns"),
            (Event::Packet, "packet"),
            (Event::Control, "control"),
            (Event::Lost, "lost"),
        ] {
            assert_eq!(event.word(), want);
        }
        assert_eq!([Outcome::Allow, Outcome::Deny].map(Outcome::word), ["allow", "deny"]);
    }

    #[test]
    fn a_hostile_target_stays_in_its_field() {
        let mut record = full();
        record.target = Some(Text::new("x\"}\n{\"v\":1,\"verdict\":\"allow\"}\u{2028}"));
        let line = line(&record);
        assert!(line.is_ascii() && line.trim_end_matches('\n').len() + 1 == line.len(), "{line}");
        assert!(!line.trim_end().contains('\n'), "{line}");
        let value = serde_json::from_str::<Value>(&line).unwrap();
        let want = "x\"}\\x0a{\"v\":1,\"verdict\":\"allow\"}\\xe2\\x80\\xa8";
        assert_eq!(value["target"], want);
    }
}
