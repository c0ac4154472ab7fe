//! Whom an explanation is for, and whether what proves them counts where they are.

use std::sync::Arc;

use exeat_identity::{Certificates, Clients, Principal, Proof, Workloads};
use exeat_policy::{Explanation, Outcome, Reason, Stage};

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
}

impl Everyone<'_> {
    /// Returns the client or the workload of this name, or who `anonymous` is.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Arc<Principal>> {
        let workload = || self.workloads.get(name).map(|workload| Arc::clone(workload.principal()));
        let anonymous = || self.anonymous.filter(|_| name == "anonymous").cloned();
        let holder = || self.certificates.principals().find(|holder| &*holder.name == name).cloned();
        self.clients.principal(name).or_else(workload).or_else(holder).or_else(anonymous)
    }

    /// Adds to `explanation` whether what proves `principal` counts on a connection from `workload`, as the first stage.
    /// Without a workload, and for a client that may come from only some, the stage stays open. A listener may demand
    /// more.
    pub fn add_place(self, explanation: &mut Explanation, principal: &Principal, workload: Option<&str>) {
        let stage =
            |outcome, detail: String| Stage { name: "origin".to_owned(), outcome, detail, rule: None };
        let origins = match principal.proof {
            Proof::Password => self.clients.origins(&principal.name).map(|names| names.join(", ")),
            Proof::Origin => Some(principal.name.to_string()),
            // A token is not known before it is shown.
            Proof::Token | Proof::Certificate | Proof::Anonymous => None,
        };
        let stage = match (origins, workload) {
            (None, None) => return,
            (None, Some(name)) => stage(Outcome::Pass, format!("counts from everywhere, and so from {name}")),
            (Some(origins), None) if principal.proof == Proof::Password => {
                stage(Outcome::Open, format!("counts from {origins} only: name one with --workload"))
            }
            (Some(_), None) => return,
            (Some(origins), Some(name)) if origins.split(", ").any(|origin| origin == name) => {
                stage(Outcome::Pass, format!("counts from {name}"))
            }
            (Some(origins), Some(name)) => {
                explanation.refused = Some(Reason::ContainerMismatch);
                explanation.entry = None;
                explanation.entry_goes_to.clear();
                stage(
                    Outcome::Refuse(Reason::ContainerMismatch),
                    format!("counts from {origins} only, not from {name}"),
                )
            }
        };
        explanation.stages.insert(0, stage);
    }
}
