//! `POST /v1/explain`: what would be decided on a request, stage by stage, by the policy in use.

use std::{net::IpAddr, time::SystemTime};

use axum::{Json, extract::State};
use exeat_model::Transport;
use exeat_policy::{EgressRequest, Explanation, Outcome, Reason, RuleView, explain};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    admin::Admin,
    error::{Failure, Sent},
    recorded,
    target::parse_target,
    who::{Everyone, add_revocation},
};

/// Addresses of one question: more than any name has that would be resolved.
const ADDRESSES_MAX: usize = 256;

/// What is asked.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// The client's name, or `anonymous`. This or `token`.
    #[schemars(example = &"payments")]
    client: Option<String>,
    /// A token that asks. It is recorded nowhere.
    token: Option<String>,
    /// The workload that the request comes from.
    workload: Option<String>,
    /// A URL, HOST:PORT, or a host for port 443. The scheme of a URL says what opens the connection, which is judged then.
    #[schemars(example = "https://api.example.com/")]
    target: String,
    /// The addresses to judge, at most 256. Nothing is resolved.
    addresses: Option<Vec<IpAddr>>,
}

/// An explanation.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Explanation")]
pub(crate) struct Answer {
    /// The policy that was asked.
    revision: u64,
    /// In canonical form; as it was asked for if it is none.
    target: String,
    /// What would be decided.
    #[schemars(extend("enum" = ["allow", "deny"]))]
    verdict: &'static str,
    /// A reason token.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// In report mode: the reason that enforcement would give.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_deny: Option<&'static str>,
    /// Who asks: of a token, whom it is for.
    client: String,
    /// The policies that the client is bound by.
    policies: Vec<String>,
    /// The stages of the decision, in their order.
    stages: Vec<Stage>,
    /// The stages that refuse it: of a token, its own list (`token`), `issuer's ceiling`, or the policies that limit it
    /// further (`limit NAME`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused_by: Vec<String>,
    /// The smallest entry that would allow it, as TOML.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
    /// Where that entry has to stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entry_goes_to: Vec<String>,
}

/// One stage of a decision.
#[derive(Debug, Serialize, JsonSchema)]
struct Stage {
    /// What it is called.
    name: String,
    /// Whether it lets the request on; `open` if that needs an address or the first bytes.
    #[schemars(extend("enum" = ["pass", "refuse", "open"]))]
    outcome: &'static str,
    /// A reason token, of `refuse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What was found, in words.
    detail: String,
    /// The rule that it turned on.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule>,
}

/// A rule as its author wrote it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Rule {
    /// The policy or ceiling that it belongs to.
    policy: String,
    /// file:line:column
    place: String,
    /// The entry as written.
    text: String,
}

impl From<RuleView> for Rule {
    fn from(rule: RuleView) -> Self {
        Self { policy: rule.policy, place: rule.place.to_string(), text: rule.text }
    }
}

pub(crate) async fn post(
    State(admin): State<Admin>,
    Sent(question): Sent<Question>,
) -> Result<Json<Answer>, Failure> {
    let addresses = question.addresses.as_deref();
    if addresses.is_some_and(|addresses| addresses.len() > ADDRESSES_MAX) {
        return Err(Failure::request(format!("more than {ADDRESSES_MAX} addresses")));
    }
    let snapshot = admin.proxy.snapshot();
    let everyone = Everyone::from(&*snapshot);
    let nobody = |what, name: &str| {
        Failure::new(StatusCode::NOT_FOUND, format!("there is no {what} `{name}`"))
            .help("use the name of a [client.NAME] or a [workload.NAME], or `anonymous`")
    };
    let principal = match (&question.client, &question.token) {
        (Some(client), None) => everyone.get(client).ok_or_else(|| nobody("client", client))?,
        (None, Some(token)) => {
            let principal = snapshot.issuers.verify(&snapshot.policy, token.trim(), SystemTime::now());
            principal.map_err(|error| {
                let error = format!("the token is not accepted: {}", recorded::chain(&error));
                Failure::request(error).help("see `[issuer.NAME]` in the documentation of the configuration")
            })?
        }
        (None, None) | (Some(_), Some(_)) => {
            return Err(Failure::request("either `client` or `token` says who asks"));
        }
    };
    let workload = question.workload.as_deref();
    if let Some(name) = workload.filter(|name| snapshot.workloads.get(name).is_none()) {
        return Err(nobody("workload", name));
    }
    let revision = snapshot.policy.revision().0;
    let asked = match parse_target(&question.target) {
        Ok(asked) => asked,
        Err(error) => {
            let explanation = error.explanation(&snapshot.policy, &principal.bound, &question.target);
            return Ok(Json(Answer::new(revision, &principal.name, explanation)));
        }
    };
    let request =
        EgressRequest { bound: &principal.bound, target: &asked.authority, transport: Transport::Tcp };
    let mut explanation = explain(&snapshot.policy, &request, addresses, asked.opens);
    everyone.add_place(&mut explanation, &principal, workload);
    if admin.proxy.is_revoked(&principal) {
        add_revocation(&mut explanation);
    }
    Ok(Json(Answer::new(revision, &principal.name, explanation)))
}

impl Answer {
    fn new(revision: u64, client: &str, explanation: Explanation) -> Self {
        let refused_by = explanation.refusing().map(str::to_owned).collect();
        let stages = explanation.stages.into_iter().map(|stage| {
            let (outcome, reason) = match stage.outcome {
                Outcome::Pass => ("pass", None),
                Outcome::Refuse(reason) => ("refuse", Some(reason.token())),
                Outcome::Open => ("open", None),
            };
            Stage {
                name: stage.name,
                outcome,
                reason,
                detail: stage.detail,
                rule: stage.rule.map(Rule::from),
            }
        });
        Self {
            revision,
            target: explanation.target,
            verdict: if explanation.refused.is_some() { "deny" } else { "allow" },
            reason: explanation.refused.map(Reason::token),
            would_deny: explanation.would_deny.map(Reason::token),
            client: client.to_owned(),
            policies: explanation.policies,
            refused_by,
            stages: stages.collect(),
            entry: explanation.entry.map(|entry| entry.toml()),
            entry_goes_to: explanation.entry_goes_to,
        }
    }
}
