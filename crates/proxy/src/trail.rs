//! What is known of one request so far, and the audit records made of it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use exeat_audit::{Event, Outcome, PrincipalRecord, Record, RuleRecord, Text, TokenRecord};
use exeat_identity::{Peer, Principal};
use exeat_model::{Authority, Host};
use exeat_policy::{Mode, PolicySet, Reason, Revision, RuleId};

use crate::{client::Client, flows::Flow, shared::Current};

/// The facts of one request. Starts with what the client sent and fills up on the way.
#[derive(Clone, Debug)]
pub(crate) struct Trail {
    request_id: Arc<str>,
    client: Client,
    started: Instant,
    method: Text,
    target: Text,
    authority: Option<Authority>,
    workload: Option<Arc<str>>,
    principal: Option<Arc<Principal>>,
    revision: Option<Revision>,
    mode: Option<Mode>,
    verdict: Option<Outcome>,
    reason: Option<Reason>,
    rule: Option<Arc<RuleRecord>>,
    /// Which one that is, in which snapshot.
    rule_id: Option<(Revision, RuleId)>,
    would_deny: Option<Reason>,
    /// The next hop that the request leaves through.
    pub(crate) via: Option<Arc<str>>,
    /// The address that was dialled.
    pub(crate) address: Option<SocketAddr>,
    /// The status that the client is sent.
    pub(crate) status: Option<u16>,
}

/// What moved and why it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    pub(crate) end: &'static str,
}

impl Ending {
    /// The ending of a request of which nothing moved.
    pub(crate) const fn nothing_moved(end: &'static str) -> Self {
        Self { bytes_up: 0, bytes_down: 0, end }
    }
}

impl Trail {
    /// Starts the trail of a request. `target` is kept without path, query and userinfo.
    pub(crate) fn new(request_id: Arc<str>, client: &Client, method: &str, target: Target<'_>) -> Self {
        let (target, authority) = target.kept();
        Self {
            request_id,
            client: client.clone(),
            started: Instant::now(),
            method: Text::from(method),
            target,
            authority,
            workload: None,
            principal: None,
            revision: None,
            mode: None,
            verdict: None,
            reason: None,
            rule: None,
            rule_id: None,
            would_deny: None,
            via: None,
            address: None,
            status: None,
        }
    }

    /// Notes what is asked for, where the protocol says it late.
    pub(crate) fn note_target(&mut self, target: Target<'_>) {
        (self.target, self.authority) = target.kept();
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    pub(crate) fn request_id_shared(&self) -> Arc<str> {
        Arc::clone(&self.request_id)
    }

    pub(crate) fn method(&self) -> Arc<str> {
        self.method.shared()
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) const fn source(&self) -> SocketAddr {
        self.client.peer
    }

    /// Who asks, once that is known.
    pub(crate) fn principal_name(&self) -> Option<&str> {
        self.principal.as_ref().map(|principal| &*principal.name)
    }

    /// Who asks, once that is known.
    pub(crate) const fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// Notes the workload that the connection comes from, by what decides.
    pub(crate) fn note_workload(&mut self, peer: &Peer<'_>) {
        self.workload = peer.workload().map(|workload| Arc::clone(&workload.principal().name));
    }

    /// Notes who asks and which snapshot decides.
    pub(crate) fn note_principal(&mut self, principal: &Arc<Principal>, policy: &PolicySet) {
        self.revision = Some(policy.revision());
        self.mode = Some(policy.mode(&principal.bound));
        self.principal = Some(Arc::clone(principal));
    }

    /// Notes an allow and the rule it rests on.
    pub(crate) fn note_allow(&mut self, current: &Current, rule: Option<RuleId>, would_deny: Option<Reason>) {
        self.verdict = Some(Outcome::Allow);
        self.would_deny = would_deny;
        self.note_rule(current, rule);
    }

    /// Notes a refusal by policy, and the rule that says so if one does.
    pub(crate) fn note_deny(&mut self, current: &Current, reason: Reason, rule: Option<RuleId>) {
        self.verdict = Some(Outcome::Deny);
        self.reason = Some(reason);
        self.note_rule(current, rule);
    }

    /// Notes a refusal that no policy was asked about, or an allowed request that came to nothing.
    pub(crate) fn note_reason(&mut self, reason: Reason) {
        self.reason = Some(reason);
    }

    /// Notes that an allow, if there was one, was taken back: the name was allowed, what came with or after it was not.
    pub(crate) fn note_taken_back(&mut self, reason: Reason) {
        self.verdict = Some(Outcome::Deny);
        self.reason = Some(reason);
    }

    /// Notes how the flow of this request stands: it may have been decided on again since it was allowed.
    pub(crate) fn note_flow(&mut self, flow: &Flow) {
        let standing = flow.standing();
        let policy = &standing.current.snapshot.policy;
        if standing.denial.is_none() && self.revision == Some(policy.revision()) {
            return;
        }
        self.note_principal(&standing.principal, policy);
        self.would_deny = standing.grant.would_deny().map(|denial| denial.reason);
        self.note_rule(&standing.current, standing.rule());
        if standing.denial.is_some() {
            self.note_taken_back(standing.ended_by());
        }
    }

    fn note_rule(&mut self, current: &Current, rule: Option<RuleId>) {
        let policy = &current.snapshot.policy;
        let rule_id = rule.map(|rule| (policy.revision(), rule));
        if self.rule_id == rule_id {
            return;
        }
        self.rule_id = rule_id;
        self.rule = rule.and_then(|rule| current.cited.record(policy, rule));
    }

    /// Returns the record of this request for `event`. A request that nothing allowed is a denied one.
    pub(crate) fn record(&self, event: Event, ending: Option<Ending>) -> Record {
        let mut record = Record::new(event, SystemTime::now());
        record.request_id = Some(Arc::clone(&self.request_id));
        record.source = self.client.address();
        record.user = self.client.user();
        record.workload = self.workload.clone();
        record.method = Some(self.method.clone());
        record.target = Some(self.target.clone());
        record.port = self.authority.as_ref().map(|a| a.port.get());
        record.name = self.authority.as_ref().and_then(|authority| match &authority.host {
            Host::Name(name) => Some(name.clone()),
            Host::Address(_) => None,
        });
        record.principal = self.principal.as_ref().map(|principal| PrincipalRecord {
            name: Arc::clone(&principal.name),
            proof: principal.proof.name(),
            labels: principal.labels.clone(),
            token: principal.token.as_ref().map(|token| TokenRecord {
                issuer: Arc::clone(&token.issuer),
                jti: token.id.clone(),
                kid: token.key.clone(),
            }),
        });
        record.revision = self.revision;
        record.mode = self.mode;
        record.verdict = Some(self.verdict.unwrap_or(Outcome::Deny));
        record.reason = self.reason;
        record.rule = self.rule.clone();
        record.would_deny = self.would_deny;
        record.via = self.via.clone();
        record.address = self.address;
        record.status = self.status;
        if let Some(ending) = ending {
            record.bytes_up = Some(ending.bytes_up);
            record.bytes_down = Some(ending.bytes_down);
            record.end = Some(ending.end);
            record.duration = Some(self.started.elapsed());
        }
        record
    }
}

/// What a request asked for: parsed, or the bytes that could not be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// An authority, and the scheme with `://` if the target had one.
    Authority(&'a Authority, &'static str),
    /// The malformed target.
    Bytes(&'a [u8]),
    /// What stands for a host and is none, where a protocol has it apart: it is shown as it was sent, so that it is not taken
    /// for what it holds; but what looks like user information is a `*`.
    Host(&'a [u8]),
}

impl Target<'_> {
    /// What a record may show of it, and the authority.
    fn kept(self) -> (Text, Option<Authority>) {
        match self {
            Self::Authority(authority, scheme) => {
                (Text::from(written(scheme, authority).as_str()), Some(authority.clone()))
            }
            Self::Bytes(bytes) => (Text::new(without_secrets(bytes)), None),
            Self::Host(bytes) => match bytes.iter().rposition(|byte| *byte == b'@') {
                Some(at) => (Text::new([b"*", bytes.get(at..).unwrap_or_default()].concat()), None),
                None => (Text::new(bytes), None),
            },
        }
    }
}

/// The target as it shows itself. A name, as most are, is put together by hand in a fifth of the time.
pub(crate) fn written(scheme: &str, authority: &Authority) -> String {
    let Host::Name(name) = &authority.host else { return format!("{scheme}{authority}") };
    [scheme, name.as_str(), ":", itoa::Buffer::new().format(authority.port.get())].concat()
}

/// Cuts a malformed target down to what cannot hold a secret: no query, no userinfo.
fn without_secrets(target: &[u8]) -> Vec<u8> {
    let (scheme, rest) = match target.windows(3).position(|w| w == b"://") {
        Some(at) => target.split_at(at + 3),
        None => target.split_at(0),
    };
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    let host = authority.rsplit(|b| *b == b'@').next().unwrap_or_default();
    [scheme, host].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_targets_keep_no_secrets() {
        for (target, want) in [
            ("http://user:pw@example.com/?token=1", "http://example.com"),
            ("user:pw@example.com:443", "example.com:443"),
            ("/path?token=1", ""),
            ("http://a@b@example.com", "http://example.com"),
            ("http://example.com?token=1", "http://example.com"),
        ] {
            assert_eq!(String::from_utf8_lossy(&without_secrets(target.as_bytes())), want, "{target}");
        }
    }
}
