//! What is known of one question so far, and the audit record made of it.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use exeat_audit::{Event, Outcome, PrincipalRecord, Record, RuleRecord, Text};
use exeat_identity::Principal;
use exeat_model::DnsName;
use exeat_policy::{Denial, Mode, PolicySet, Reason, Revision, RuleId};
use hickory_proto::op::ResponseCode;

use super::{Client, question::Question};
use crate::dnstap::{Action, Decided, Matched};

/// The facts of one question.
pub(crate) struct Trail<'a> {
    /// What is asked, if that can be read.
    question: Option<&'a Question>,
    client: &'a Client,
    request_id: Arc<str>,
    pub(crate) started: Instant,
    pub(crate) name: Option<DnsName>,
    pub(crate) workload: Option<Arc<str>>,
    principal: Option<Arc<Principal>>,
    revision: Option<Revision>,
    mode: Option<Mode>,
    verdict: Outcome,
    reason: Option<Reason>,
    rule: Option<Arc<RuleRecord>>,
    would_deny: Option<Reason>,
    /// The addresses that the client is told.
    pub(crate) answers: Option<Arc<[IpAddr]>>,
    /// Whether what the client is told is known here alone.
    pub(crate) is_own: bool,
}

impl<'a> Trail<'a> {
    /// Begins with nothing known but the question. All records of it have this id.
    pub(crate) fn new(question: Option<&'a Question>, client: &'a Client, request_id: Arc<str>) -> Self {
        Self {
            question,
            client,
            request_id,
            started: Instant::now(),
            name: None,
            workload: None,
            principal: None,
            revision: None,
            mode: None,
            verdict: Outcome::Deny,
            reason: None,
            rule: None,
            would_deny: None,
            answers: None,
            is_own: false,
        }
    }

    /// Notes who asks and which snapshot decides.
    pub(crate) fn note_principal(&mut self, principal: &Arc<Principal>, policy: &PolicySet) {
        self.revision = Some(policy.revision());
        self.mode = Some(policy.mode(&principal.bound));
        self.principal = Some(Arc::clone(principal));
    }

    /// Notes an allow, the rule it rests on, and what would have been said in its place if a report-mode policy were
    /// enforced.
    pub(crate) fn note_allow(
        &mut self,
        policy: &PolicySet,
        rule: Option<RuleId>,
        would_deny: Option<Denial>,
    ) {
        (self.verdict, self.reason) = (Outcome::Allow, None);
        self.would_deny = would_deny.map(|denial| denial.reason);
        self.note_rule(policy, rule);
    }

    /// Notes a refusal by policy, and the rule that says so if one does.
    pub(crate) fn note_deny(&mut self, policy: &PolicySet, denial: Denial) {
        self.note_refusal(denial.reason);
        self.note_rule(policy, denial.rule);
    }

    /// Notes a refusal that no policy was asked about, or that takes back what the policy has allowed.
    pub(crate) fn note_refusal(&mut self, reason: Reason) {
        (self.verdict, self.reason) = (Outcome::Deny, Some(reason));
    }

    /// Notes that what is allowed came to nothing.
    pub(crate) fn note_failure(&mut self, reason: Reason) {
        self.reason = Some(reason);
    }

    fn note_rule(&mut self, policy: &PolicySet, rule: Option<RuleId>) {
        self.rule = rule.and_then(|rule| policy.rule(rule)).map(|view| Arc::new(view.into()));
    }

    /// Returns the record of this question, answered with `code`.
    pub(crate) fn record(&self, code: ResponseCode) -> Record {
        let mut record = Record::new(Event::Dns, SystemTime::now());
        record.request_id = Some(Arc::clone(&self.request_id));
        record.source = Some(self.client.shown());
        record.workload = self.workload.clone();
        record.method = self.question.map(|question| Text::from(question.kind.to_string().as_str()));
        record.target = self.question.map(|question| Text::of_escaped(&question.name.to_ascii()));
        record.name = self.name.clone();
        // None of the proofs that count here is a token.
        record.principal = self.principal.as_ref().map(|principal| PrincipalRecord {
            name: Arc::clone(&principal.name),
            proof: principal.proof.name(),
            labels: principal.labels.clone(),
            token: None,
        });
        record.revision = self.revision;
        record.mode = self.mode;
        record.verdict = Some(self.verdict);
        record.reason = self.reason;
        record.rule = self.rule.clone();
        record.would_deny = self.would_deny;
        record.rcode = Some(name_of(code));
        record.answers = self.answers.clone();
        record.duration = Some(self.started.elapsed());
        record
    }

    /// Returns the record of this question, which another name server has answered with `code`.
    pub(crate) fn record_heard(&self, code: ResponseCode) -> Record {
        Record { learned: Some("dnstap"), duration: None, ..self.record(code) }
    }

    /// Returns what a collector is told of the decision, beside the answer: one of `code`, with records or without.
    pub(crate) fn decided(&self, code: ResponseCode, has_records: bool) -> Decided {
        Decided {
            action: match self.verdict {
                Outcome::Allow if self.is_own => Some(Action::LocalData),
                Outcome::Allow => Some(Action::Pass),
                Outcome::Deny if has_records => Some(Action::LocalData),
                Outcome::Deny if code == ResponseCode::NXDomain => Some(Action::NxDomain),
                Outcome::Deny if code == ResponseCode::NoError => Some(Action::NoData),
                Outcome::Deny => None,
            },
            matched: match (&self.principal, self.reason) {
                (Some(_), Some(Reason::AddressNotAllowed)) => Matched::Address,
                (Some(_), _) => Matched::Name(match &self.name {
                    Some(name) => name.to_string(),
                    None => self.question.map(|question| question.name.to_ascii()).unwrap_or_default(),
                }),
                // Nothing was asked but who it is, or how often.
                (None, _) => Matched::Client(self.client.shown().ip()),
            },
            rule: self.rule.as_ref().map(|rule| rule.text.clone()),
            record: self.record(code).to_json(),
        }
    }
}

/// Returns the name of a response code that this server gives, or that another one gave and that is decided on (RFC 2929 §2.3).
fn name_of(code: ResponseCode) -> &'static str {
    if code == ResponseCode::NoError {
        "NOERROR"
    } else if code == ResponseCode::NXDomain {
        "NXDOMAIN"
    } else if code == ResponseCode::Refused {
        "REFUSED"
    } else if code == ResponseCode::FormErr {
        "FORMERR"
    } else if code == ResponseCode::NotImp {
        "NOTIMP"
    } else if code == ResponseCode::BADVERS {
        "BADVERS"
    } else {
        "SERVFAIL"
    }
}
