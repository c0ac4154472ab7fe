//! `POST /v1/reload`: the configuration is read again, as on SIGHUP. All of it takes effect or nothing.

use axum::{Json, extract::State};
use exeat_policy::Revision;
use exeat_store::Report;
use http::StatusCode;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{admin::Admin, error::Failure};

/// An order to read the configuration again.
#[derive(Debug)]
pub struct ReloadOrder {
    /// Where to say what came of it. Nobody may be left to hear it.
    pub reply: oneshot::Sender<Result<Reloaded, Report>>,
}

/// A reload that succeeded.
#[derive(Debug)]
pub struct Reloaded {
    /// The number of the policy that decides from now on.
    pub revision: Revision,
    /// What the author of the configuration should know of.
    pub warnings: Report,
}

/// What the one who asked is told.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    revision: u64,
    warnings: Report,
}

pub(crate) async fn post(State(admin): State<Admin>) -> Result<Json<Answer>, Failure> {
    let (reply, answer) = oneshot::channel();
    let ending =
        || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the proxy is ending and loads nothing any more");
    admin.reloads.send(ReloadOrder { reply }).await.map_err(|_| ending())?;
    match answer.await.map_err(|_| ending())? {
        Ok(Reloaded { revision, warnings }) => Ok(Json(Answer { revision: revision.0, warnings })),
        Err(report) => {
            let error = "the configuration has errors, so the policy in use stays";
            let failure = Failure::new(StatusCode::UNPROCESSABLE_ENTITY, error);
            Err(failure.help("correct each of `problems` and reload again").problems(report))
        }
    }
}
