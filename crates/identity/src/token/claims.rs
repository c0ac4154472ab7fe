//! What a token claims, and for how long that counts.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use exeat_policy::{HostList, HostListError};
use serde_json::{Map, Value};

use super::json;

/// The longest text of a claim, in bytes: as for labels, since audit records repeat it.
const TEXT_BYTES_MAX: usize = 256;
/// For how many a token may be: a remembered one keeps them all, and issuers name a few.
const AUDIENCES_MAX: usize = 16;

/// The claims of a token, in the form in which they count.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Who issued it.
    pub issuer: Box<str>,
    /// Whom it is for; any of them.
    pub audience: Vec<Box<str>>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// When it begins.
    pub not_before: Option<u64>,
    /// When it was issued.
    pub issued: Option<u64>,
    /// Its own number, to revoke it by.
    pub id: Option<Arc<str>>,
    /// The container that it is for.
    pub container: Option<Arc<str>>,
    /// The organization that it belongs to.
    pub organization: Option<Arc<str>>,
    /// The user or program that it is for.
    pub subject: Option<Arc<str>>,
    /// The hosts that it may reach.
    pub hosts: Option<HostList>,
    /// The policy that limits it.
    pub policy: Option<Box<str>>,
    /// What else it asks for.
    pub flags: Flags,
}

/// What a token asks for beside hosts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags {
    /// It counts from its container alone.
    pub enforce_container_binding: bool,
    /// Everything leaves through a next hop.
    pub use_egress_gateway: bool,
    /// It counts on central nodes alone.
    pub enforce_centralized_egress: bool,
    /// Only rules for health data are used.
    pub is_hipaa_regulated: bool,
}

/// Why claims are not accepted, whatever the time.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClaimsError {
    /// They are not a JSON object, or one stands twice.
    #[error("the claims are not a JSON object with each member once")]
    Json,
    /// One is missing that has to be there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// One has a value that it cannot have.
    #[error("`{0}` is not usable")]
    Value(&'static str),
    /// A flag is neither a boolean nor exactly "true" or "false".
    #[error("`{0}` is neither true nor false")]
    Flag(&'static str),
    /// The list of hosts cannot be used.
    #[error("`allowed_hosts` cannot be used")]
    Hosts(#[source] HostListError),
}

/// What bounds a token's time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetime {
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// The longest time from issue to end.
    pub longest: Duration,
}

/// Where the time stands in a token's life.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum OutOfTime {
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token was issued in the future")]
    IssuedLater,
    #[error("the token lives longer than its issuer may say")]
    TooLong,
}

impl Claims {
    /// Reads the claims of a token.
    ///
    /// # Errors
    /// For a claim that is missing, stands twice or has a value that it cannot have. Unknown claims mean nothing.
    pub fn parse(payload: &[u8]) -> Result<Self, ClaimsError> {
        let claims = Reader(json::object(payload).map_err(|_| ClaimsError::Json)?);
        let flag = |name| claims.flag(name);
        let flags = Flags {
            enforce_container_binding: flag("enforce_container_binding")?,
            use_egress_gateway: flag("use_egress_gateway")?,
            enforce_centralized_egress: flag("enforce_centralized_egress")?,
            is_hipaa_regulated: flag("is_hipaa_regulated")?,
        };
        let read = Self {
            issuer: claims.text("iss")?.ok_or(ClaimsError::Missing("iss"))?.into(),
            audience: claims.audience()?,
            expires: claims.time("exp")?.ok_or(ClaimsError::Missing("exp"))?,
            not_before: claims.time("nbf")?,
            issued: claims.time("iat")?,
            id: claims.text("jti")?.map(Arc::from),
            container: claims.text("container_id")?.map(Arc::from),
            organization: claims.text("organization_uuid")?.map(Arc::from),
            subject: claims.text("sub")?.map(Arc::from),
            hosts: claims.hosts()?,
            policy: claims.text("policy")?.map(Box::from),
            flags,
        };
        if read.hosts.is_none() && read.policy.is_none() {
            return Err(ClaimsError::Missing("allowed_hosts"));
        }
        if read.flags.enforce_container_binding && read.container.is_none() {
            return Err(ClaimsError::Missing("container_id"));
        }
        Ok(read)
    }

    /// Holds the token's time against `now`.
    pub(crate) fn check_time(&self, now: SystemTime, lifetime: Lifetime) -> Result<(), OutOfTime> {
        let now = seconds(now);
        let (leeway, longest) = (lifetime.leeway.as_secs(), lifetime.longest.as_secs());
        if self.ends(lifetime) <= now {
            return Err(OutOfTime::Expired);
        }
        if self.not_before.is_some_and(|begins| begins > now.saturating_add(leeway)) {
            return Err(OutOfTime::NotYet);
        }
        if self.issued.is_some_and(|issued| issued > now.saturating_add(leeway)) {
            return Err(OutOfTime::IssuedLater);
        }
        if self.expires.saturating_sub(self.issued.unwrap_or(now)) > longest {
            return Err(OutOfTime::TooLong);
        }
        Ok(())
    }

    /// The second from which on it does not count.
    pub(crate) fn ends(&self, lifetime: Lifetime) -> u64 {
        self.expires.saturating_add(lifetime.leeway.as_secs())
    }
}

/// A time before 1970 is a clock that was never set: nothing has expired then, and nothing is valid yet.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

struct Reader(Map<String, Value>);

impl Reader {
    fn text(&self, name: &'static str) -> Result<Option<&str>, ClaimsError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => {
                value.as_str().filter(|text| is_text(text)).map(Some).ok_or(ClaimsError::Value(name))
            }
        }
    }

    /// A time in whole seconds (RFC 7519 §2 allows fractions; no issuer needs them).
    fn time(&self, name: &'static str) -> Result<Option<u64>, ClaimsError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or(ClaimsError::Value(name)),
        }
    }

    /// A boolean, or one of the two words that some issuers write instead. Anything else is an error: a language in
    /// which "false" is true would read another token.
    fn flag(&self, name: &'static str) -> Result<bool, ClaimsError> {
        match self.0.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(word)) if word == "true" => Ok(true),
            Some(Value::String(word)) if word == "false" => Ok(false),
            Some(_) => Err(ClaimsError::Flag(name)),
        }
    }

    fn audience(&self) -> Result<Vec<Box<str>>, ClaimsError> {
        let value = self.0.get("aud").ok_or(ClaimsError::Missing("aud"))?;
        let texts = match value {
            Value::String(_) => std::slice::from_ref(value),
            Value::Array(list) => list.as_slice(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => &[],
        };
        let read: Option<Vec<Box<str>>> =
            texts.iter().map(|text| text.as_str().filter(|text| is_text(text)).map(Box::from)).collect();
        read.filter(|list| (1..=AUDIENCES_MAX).contains(&list.len())).ok_or(ClaimsError::Value("aud"))
    }

    fn hosts(&self) -> Result<Option<HostList>, ClaimsError> {
        let list = match self.0.get("allowed_hosts") {
            None => return Ok(None),
            Some(Value::String(text)) => HostList::parse(text.split(',')),
            Some(Value::Array(list)) => {
                let items: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                HostList::parse(items.ok_or(ClaimsError::Value("allowed_hosts"))?)
            }
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
                return Err(ClaimsError::Value("allowed_hosts"));
            }
        };
        list.map(Some).map_err(ClaimsError::Hosts)
    }
}

fn is_text(text: &str) -> bool {
    (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(name: &str, value: Value) -> Result<Claims, ClaimsError> {
        let mut claims = json!({
            "iss": "secure-egress-control",
            "aud": "egress-proxy",
            "exp": 2_000_000_000_u64,
            "container_id": "sbx-1",
            "allowed_hosts": "example.com,*.example.org",
        });
        let members = claims.as_object_mut().unwrap();
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.to_owned(), value);
        }
        Claims::parse(claims.to_string().as_bytes())
    }

    #[test]
    fn claims_have_their_types_or_refuse_the_token() {
        use ClaimsError::{Flag, Missing, Value as Bad};
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let cases: &[(&str, Value, Option<ClaimsError>)] = &[
            ("unknown", json!({"any": ["thing"]}), None),
            ("iss", Value::Null, Some(Missing("iss"))),
            ("iss", json!(1), Some(Bad("iss"))),
            ("aud", Value::Null, Some(Missing("aud"))),
            ("aud", json!(["x", "egress-proxy"]), None),
            ("aud", json!([]), Some(Bad("aud"))),
            ("aud", json!(vec!["egress-proxy"; AUDIENCES_MAX]), None),
            ("aud", json!(vec!["egress-proxy"; AUDIENCES_MAX + 1]), Some(Bad("aud"))),
            ("aud", json!(["egress-proxy", 1]), Some(Bad("aud"))),
            ("exp", Value::Null, Some(Missing("exp"))),
            ("exp", json!("2000000000"), Some(Bad("exp"))),
            ("exp", json!(-1), Some(Bad("exp"))),
            ("exp", json!(2e9), Some(Bad("exp"))),
            ("nbf", json!("now"), Some(Bad("nbf"))),
            ("iat", json!(false), Some(Bad("iat"))),
            ("container_id", json!(""), Some(Bad("container_id"))),
            ("container_id", json!("a\nb"), Some(Bad("container_id"))),
            ("container_id", json!(long), Some(Bad("container_id"))),
            ("organization_uuid", json!(["org-1"]), Some(Bad("organization_uuid"))),
            ("jti", json!(7), Some(Bad("jti"))),
            ("allowed_hosts", Value::Null, Some(Missing("allowed_hosts"))),
            ("allowed_hosts", json!(["example.com", " *.example.org "]), None),
            ("allowed_hosts", json!(""), None),
            ("allowed_hosts", json!({}), Some(Bad("allowed_hosts"))),
            ("allowed_hosts", json!(["example.com", 1]), Some(Bad("allowed_hosts"))),
            (
                "allowed_hosts",
                json!("example.com,10.0.0.0/8"),
                Some(ClaimsError::Hosts(HostListError::NotAName { position: 2 })),
            ),
            ("policy", json!("team"), None),
            ("policy", json!(""), Some(Bad("policy"))),
            ("enforce_container_binding", json!(true), None),
            ("enforce_container_binding", json!("true"), None),
            ("enforce_container_binding", json!("false"), None),
            ("use_egress_gateway", json!("False"), Some(Flag("use_egress_gateway"))),
            ("use_egress_gateway", json!(0), Some(Flag("use_egress_gateway"))),
            ("enforce_centralized_egress", json!("no"), Some(Flag("enforce_centralized_egress"))),
            ("is_hipaa_regulated", json!(" true"), Some(Flag("is_hipaa_regulated"))),
            ("is_hipaa_regulated", json!([]), Some(Flag("is_hipaa_regulated"))),
        ];
        for (name, value, want) in cases {
            assert_eq!(with(name, value.clone()).err(), *want, "{name}: {value}");
        }
        assert_eq!(Claims::parse(b"{\"iss\":1,\"iss\":1}").err(), Some(ClaimsError::Json));
        let null = br#"{"iss":"a","aud":"b","exp":1,"allowed_hosts":"x.test","use_egress_gateway":null}"#;
        assert_eq!(Claims::parse(null).err(), Some(Flag("use_egress_gateway")));
        let unbound = br#"{"iss":"a","aud":"b","exp":1,"allowed_hosts":"","enforce_container_binding":true}"#;
        assert_eq!(Claims::parse(unbound).err(), Some(Missing("container_id")));
        assert!(with("policy", json!("team")).unwrap().policy.is_some());
        assert!(with("is_hipaa_regulated", json!("true")).unwrap().flags.is_hipaa_regulated);
        assert!(!with("is_hipaa_regulated", json!("false")).unwrap().flags.is_hipaa_regulated);
    }

    #[test]
    fn a_token_counts_for_its_time_and_the_leeway() {
        let lifetime = Lifetime { leeway: Duration::from_secs(10), longest: Duration::from_secs(1000) };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let base = with("iat", json!(1_999_999_500_u64)).unwrap();
        let end = base.expires;
        let cases: &[(&str, Claims, u64, Result<(), OutOfTime>)] = &[
            ("in between", base.clone(), end - 1, Ok(())),
            ("within the leeway", base.clone(), end + 9, Ok(())),
            ("at its end", base.clone(), end + 10, Err(OutOfTime::Expired)),
            ("issued just ahead", base.clone(), end - 510, Ok(())),
            ("issued later", base.clone(), end - 511, Err(OutOfTime::IssuedLater)),
            ("longest", Claims { issued: Some(end - 1000), ..base.clone() }, end - 1, Ok(())),
            (
                "too long",
                Claims { issued: Some(end - 1001), ..base.clone() },
                end - 1,
                Err(OutOfTime::TooLong),
            ),
            ("longest from now", Claims { issued: None, ..base.clone() }, end - 1000, Ok(())),
            (
                "too long from now",
                Claims { issued: None, ..base.clone() },
                end - 1001,
                Err(OutOfTime::TooLong),
            ),
            ("begins now", Claims { not_before: Some(end - 90), ..base.clone() }, end - 100, Ok(())),
            (
                "begins later",
                Claims { not_before: Some(end - 89), ..base.clone() },
                end - 100,
                Err(OutOfTime::NotYet),
            ),
            ("no end in sight", Claims { expires: u64::MAX, ..base.clone() }, end, Err(OutOfTime::TooLong)),
        ];
        for (name, claims, now, want) in cases {
            assert_eq!(claims.check_time(at(*now), lifetime), *want, "{name}");
        }
    }
}
