//! `/v1/quarantine`: who may reach nothing for now, whatever the policies say.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use exeat_proxy::{Selector, StateError};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use schemars::JsonSchema;

use crate::{
    admin::Admin,
    error::{Failure, Sent},
    flows::{Cut, selector},
};

/// Who is meant: one client, or all that carry a label.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Who {
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The client's name.
    label: Option<String>,
}
    /// KEY=VALUE
    #[schemars(example = "space=payments-prod")]

/// Everyone in quarantine.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Quarantined {
    quarantined: Vec<Who>,
}

    /// Everyone, in order.
/// What came of a release.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Released {
    released: bool,
}

    /// Always true.
impl Who {
    fn selector(&self) -> Result<Selector, Failure> {
        selector(self.client.as_deref(), self.label.as_deref())?
            .ok_or_else(|| Failure::request("nobody is named").help("name a client, or a label as KEY=VALUE"))
    }
}

impl From<&Selector> for Who {
    fn from(selector: &Selector) -> Self {
        let text = selector.to_string();
        match text.split_once(' ') {
            Some(("label", pair)) => Self { client: None, label: Some(pair.to_owned()) },
            Some((_, name)) => Self { client: Some(name.to_owned()), label: None },
            None => Self { client: Some(text), label: None },
        }
    }
}

pub(crate) async fn list(State(admin): State<Admin>) -> Json<Quarantined> {
    Json(Quarantined { quarantined: admin.proxy.quarantined().iter().map(Who::from).collect() })
}

pub(crate) async fn add(State(admin): State<Admin>, Sent(who): Sent<Who>) -> Result<Json<Cut>, Failure> {
    let selector = who.selector()?;
    let cut = on_disk(move || admin.proxy.quarantine(selector)).await?;
    let cut = cut.map_err(|error| unkept(&error, "the quarantine holds, but not over a restart"))?;
    Ok(Json(Cut { cut }))
}

pub(crate) async fn release(
    State(admin): State<Admin>,
    query: Result<Query<Who>, QueryRejection>,
) -> Result<Json<Released>, Failure> {
    let Query(who) = query.map_err(|error| Failure::request(error.body_text()))?;
    let selector = who.selector()?;
    let shown = selector.to_string();
    let released = on_disk(move || admin.proxy.release(&selector)).await?;
    match released.map_err(|error| unkept(&error, "the quarantine still holds"))? {
        true => Ok(Json(Released { released: true })),
        false => Err(Failure::new(StatusCode::NOT_FOUND, format!("{shown} is not in quarantine"))
            .help("GET /v1/quarantine lists who is")),
    }
}

/// Runs what waits for the disk where nothing else waits for it.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the work was given up"))
}

fn unkept(error: &StateError, consequence: &str) -> Failure {
    let status = match error {
        StateError::TooMany => {
            return Failure::new(StatusCode::CONFLICT, error.to_string()).help("release some first");
        }
        StateError::Read { .. } | StateError::Write { .. } | StateError::Damaged { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::new(status, format!("{error}{cause}")).help(consequence)
}
