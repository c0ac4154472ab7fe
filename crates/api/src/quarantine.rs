//! `/v1/quarantine`: who may reach nothing for now, whatever the policies say.

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
};
use exeat_audit::{Action, Effect};
use exeat_proxy::{Selector, Snapshot, StateError};
use exeat_store::closest;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    admin::Admin,
    error::{Failure, Sent},
    flows::selector,
    recorded::{self, Told},
    server::Caller,
    who::Everyone,
};

/// Who is meant: one client, all that come from a workload, or all that carry a label.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Who {
    /// The client's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// The workload's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    /// KEY=VALUE
    #[schemars(example = "space=payments-prod")]
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

/// Everyone in quarantine.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Quarantined {
    /// Everyone, in order.
    quarantined: Vec<Who>,
}

/// What came of a quarantine.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Quarantine")]
pub(crate) struct Held {
    /// How many flows end.
    cut: usize,
    /// Whether the configuration knows of anybody who is meant, or somebody who is had a flow. It holds even if not, for who comes
    /// later.
    known: bool,
    /// If not: the name that is most like the one that was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"payments")]
    similar: Option<String>,
}

/// What came of a release.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Released {
    /// Always true.
    released: bool,
}

impl Who {
    /// Says whether `snapshot` knows of anybody who is meant, or else which name is most like the one that is here. Labels that
    /// tokens give are known to their issuers alone.
    fn known(&self, snapshot: &Snapshot) -> Result<(), Option<String>> {
        let everyone = Everyone::from(snapshot);
        if let Some(name) = &self.client {
            let is_issuers = |issuer: &str| snapshot.issuers.all().any(|known| *known.name == *issuer);
            let of_token = name.split_once('/').is_some_and(|(issuer, _)| is_issuers(issuer));
            return match everyone.get(name) {
                Some(_) => Ok(()),
                None if of_token => Ok(()),
                None => Err(everyone.closest(name).map(str::to_owned)),
            };
        }
        if let Some(name) = &self.workload {
            let names = || everyone.workloads.principals().map(|workload| &*workload.name);
            let is_known = names().any(|known| known == name);
            return if is_known { Ok(()) } else { Err(closest(name, names()).map(str::to_owned)) };
        }
        let Some(pair) = &self.label else { return Ok(()) };
        let labels = everyone.principals().flat_map(|principal| principal.labels.iter());
        let pairs: Vec<String> = labels.map(|(label, value)| format!("{label}={value}")).collect();
        if !snapshot.issuers.is_empty() || pairs.contains(pair) {
            return Ok(());
        }
        Err(closest(pair, pairs.iter().map(String::as_str)).map(str::to_owned))
    }

    fn selector(&self) -> Result<Selector, Failure> {
        selector(self.client.as_deref(), self.workload.as_deref(), self.label.as_deref())?.ok_or_else(|| {
            Failure::request("nobody is named").help("name a client, a workload, or a label as KEY=VALUE")
        })
    }
}

impl From<&Selector> for Who {
    fn from(selector: &Selector) -> Self {
        let text = selector.to_string();
        match text.split_once(' ') {
            Some(("label", pair)) => Self { label: Some(pair.to_owned()), ..Self::default() },
            Some(("workload", name)) => Self { workload: Some(name.to_owned()), ..Self::default() },
            Some((_, name)) => Self { client: Some(name.to_owned()), ..Self::default() },
            None => Self { client: Some(text), ..Self::default() },
        }
    }
}

pub(crate) async fn list(State(admin): State<Admin>) -> Json<Quarantined> {
    Json(Quarantined { quarantined: admin.proxy.quarantined().iter().map(Who::from).collect() })
}

pub(crate) async fn add(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Sent(who): Sent<Who>,
) -> Result<Json<Held>, Failure> {
    let selector = who.selector()?;
    let known = who.known(&admin.proxy.snapshot());
    let work = move || {
        let target = selector.to_string();
        let cut = admin.proxy.quarantine(selector);
        let told = cut.as_ref().map_or_else(Told::from, |cut| Told::ended(*cut));
        // It holds even if it could not be kept.
        let effect = match &cut {
            Err(StateError::TooMany | StateError::TooManyRevocations) => Effect::Refused,
            Ok(_) | Err(StateError::Read { .. } | StateError::Write { .. } | StateError::Damaged { .. }) => {
                Effect::Done
            }
        };
        recorded::note(&admin, caller, Action::Quarantine, effect, &target, told);
        cut
    };
    let cut = on_disk(work).await?;
    let cut = cut.map_err(|error| unkept(&error, "the quarantine holds, but not over a restart"))?;
    // Who has a flow is somebody.
    let known = if cut > 0 { Ok(()) } else { known };
    Ok(Json(Held { cut, known: known.is_ok(), similar: known.err().flatten() }))
}

pub(crate) async fn release(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<Who>, QueryRejection>,
) -> Result<Json<Released>, Failure> {
    let Query(who) = query.map_err(|error| Failure::request(error.body_text()))?;
    let selector = who.selector()?;
    let shown = selector.to_string();
    let work = move || {
        let released = admin.proxy.release(&selector);
        let effect = match &released {
            Ok(true) => Effect::Done,
            Ok(false) => Effect::Unchanged,
            Err(_) => Effect::Refused,
        };
        let told = released.as_ref().map_or_else(Told::from, |_| Told::default());
        recorded::note(&admin, caller, Action::Release, effect, &selector.to_string(), told);
        released
    };
    let released = on_disk(work).await?;
    match released.map_err(|error| unkept(&error, "the quarantine still holds"))? {
        true => Ok(Json(Released { released: true })),
        false => Err(Failure::new(StatusCode::NOT_FOUND, format!("{shown} is not in quarantine"))
            .help("who is: exeat quarantine, GET /v1/quarantine")),
    }
}

/// Runs what waits for the disk where nothing else waits for it.
pub(crate) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the work was given up"))
}

pub(crate) fn unkept(error: &StateError, consequence: &str) -> Failure {
    let status = match error {
        StateError::TooMany => {
            return Failure::new(StatusCode::CONFLICT, error.to_string()).help("release some first");
        }
        StateError::TooManyRevocations => {
            return Failure::new(StatusCode::CONFLICT, error.to_string())
                .help("replace the issuer's key, or lift some first");
        }
        StateError::Read { .. } | StateError::Write { .. } | StateError::Damaged { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::new(status, format!("{error}{cause}")).help(consequence)
}
