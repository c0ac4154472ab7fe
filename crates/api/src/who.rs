//! Whom an explanation is for, and whether what proves them counts where they are.

use std::sync::Arc;

use exeat_identity::{Certificates, Clients, Principal, Proof, Workloads};
use exeat_policy::{Explanation, Outcome, Reason, Stage};
use exeat_proxy::Snapshot;

/// Everyone whom a configuration knows.
#[derive(Clone, Copy, Debug)]
pub struct Everyone<'a> {
    /// Those with a password.
    pub clients: &'a Clients,
    /// Those known by where they come from.
    pub workloads: &'a Workloads,
    /// Those known by a certificate.
    pub certificates: &'a Certificates,
    /// The one without credentials, if such are let in.
    pub anonymous: Option<&'a Arc<Principal>>,
    /// Whether the node is a central one.
    pub is_central: bool,
}

impl<'a> From<&'a Snapshot> for Everyone<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        Self {
            clients: &snapshot.clients,
            workloads: &snapshot.workloads,
            certificates: &snapshot.certificates,
            anonymous: snapshot.anonymous.as_ref(),
            is_central: snapshot.is_central,
        }
    }
}

impl<'a> Everyone<'a> {
    /// Returns the client or the workload of this name, or who `anonymous` is.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Arc<Principal>> {
        let workload = || self.workloads.get(name).map(|workload| Arc::clone(workload.principal()));
        let anonymous = || self.anonymous.filter(|_| name == "anonymous").cloned();
        let holder = || self.certificates.principals().find(|holder| &*holder.name == name).cloned();
        self.clients.principal(name).or_else(workload).or_else(holder).or_else(anonymous)
    }

    /// Returns the name of a client or a workload that is most like this one, if any is.
    #[must_use]
    pub fn closest(self, name: &str) -> Option<&'a str> {
        exeat_store::closest(name, self.principals().map(|principal| &*principal.name))
    }

    /// Everyone whom the configuration names.
    pub(crate) fn principals(self) -> impl Iterator<Item = &'a Arc<Principal>> {
        let places = self.workloads.principals().chain(self.certificates.principals());
        self.clients.principals().chain(places).chain(self.anonymous)
    }

    /// Adds to `explanation` whether what proves `principal` counts on a connection from `workload`, as the first stage.
    /// Without a workload, and for who may come from only some, the stage stays open. A listener may demand more. Of a
    /// token, also whether it counts on this node.
    pub fn add_place(self, explanation: &mut Explanation, principal: &Principal, workload: Option<&str>) {
        let origins = match principal.proof {
            Proof::Password => self.clients.origins(&principal.name).map(|names| names.join(", ")),
            Proof::Origin => Some(principal.name.to_string()),
            Proof::Token => return self.add_token_place(explanation, principal, workload),
            Proof::Certificate | Proof::Anonymous => None,
        };
        match (origins, workload) {
            (None, None) => {}
            (None, Some(name)) => pass(explanation, format!("counts from everywhere, and so from {name}")),
            (Some(origins), None) if principal.proof == Proof::Password => {
                open(explanation, format!("counts from {origins} only: name one with --workload"));
            }
            (Some(_), None) => {}
            (Some(origins), Some(name)) if origins.split(", ").any(|origin| origin == name) => {
                pass(explanation, format!("counts from {name}"));
            }
            (Some(origins), Some(name)) => {
                let detail = format!("counts from {origins} only, not from {name}");
                refuse(explanation, ORIGIN, Reason::ContainerMismatch, detail);
            }
        }
    }

    fn add_token_place(self, explanation: &mut Explanation, principal: &Principal, workload: Option<&str>) {
        let Some(token) = &principal.token else { return };
        let from = workload.and_then(|name| self.workloads.get(name));
        let container = token.container.as_deref().unwrap_or("(none)");
        match from {
            None if !token.is_bound() => {}
            Some(_) if !token.is_bound() => pass(explanation, "the token counts from everywhere".to_owned()),
            None => {
                let what = format!("the token counts from its container {container} only");
                open(explanation, format!("{what}: name its workload with --workload"));
            }
            Some(from) if token.container.as_deref() == Some(from.container()) => {
                pass(explanation, format!("the token counts from its container {container}"));
            }
            Some(from) => {
                let what = format!("the token counts from its container {container} only");
                let detail = format!("{what}, not from {}", from.container());
                refuse(explanation, ORIGIN, Reason::ContainerMismatch, detail);
            }
        }
        if token.is_for_central_nodes() && !self.is_central {
            let detail = "the token counts on central nodes only, and this is none".to_owned();
            refuse(explanation, "node", Reason::CentralizedEgressRequired, detail);
        }
    }
}

/// The stage that looks at where the connection comes from.
const ORIGIN: &str = "origin";

fn pass(explanation: &mut Explanation, detail: String) {
    let stage = Stage { name: ORIGIN.to_owned(), outcome: Outcome::Pass, detail, rule: None };
    explanation.stages.insert(0, stage);
}

fn open(explanation: &mut Explanation, detail: String) {
    let stage = Stage { name: ORIGIN.to_owned(), outcome: Outcome::Open, detail, rule: None };
    explanation.stages.insert(0, stage);
}

/// Adds to the explanation of a token's request that the token is revoked.
pub fn add_revocation(explanation: &mut Explanation) {
    refuse(explanation, "revocation", Reason::TokenRevoked, "the token is revoked".to_owned());
}

/// Adds a stage that comes before all others and refuses, so that no entry would help.
fn refuse(explanation: &mut Explanation, name: &str, reason: Reason, detail: String) {
    explanation.refused = Some(reason);
    explanation.entry = None;
    explanation.entry_goes_to.clear();
    let stage = Stage { name: name.to_owned(), outcome: Outcome::Refuse(reason), detail, rule: None };
    explanation.stages.insert(0, stage);
}
