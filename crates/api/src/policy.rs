//! `GET /v1/policy`: what decides at present.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use exeat_policy::Mode;
use http::header;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{admin::Admin, document::tag, flows::time_text};

/// The policy in use.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Policy {
    /// Grows with each change; without a state directory it begins at 1 with the process.
    revision: u64,
    /// The file, or `the command line`.
    source: String,
    /// When it was loaded, RFC 3339.
    loaded: String,
    /// How long ago that was.
    age_seconds: u64,
    /// Whether the last reload succeeded. If not, the source holds something else than what is in use.
    is_current: bool,
    /// How many clients there are.
    clients: usize,
    /// The policies, with the place of each.
    policies: Vec<Owner>,
    /// The ceilings, likewise.
    ceilings: Vec<Owner>,
}

/// One policy or ceiling.
#[derive(Debug, Serialize, JsonSchema)]
struct Owner {
    /// Its name in the configuration.
    name: String,
    /// file:line:column
    place: String,
    /// Whether it refuses, or only reports what it would refuse.
    #[schemars(extend("enum" = ["enforce", "report"]))]
    mode: &'static str,
}

pub(crate) async fn get(State(admin): State<Admin>) -> Response {
    let snapshot = admin.proxy.snapshot();
    let reloading = admin.status.reloading();
    let of = |is_ceiling: bool| {
        let owners = snapshot.policy.owners().filter(|owner| owner.is_ceiling == is_ceiling);
        let shown = owners.map(|owner| Owner {
            name: owner.name.to_owned(),
            place: owner.place.to_string(),
            mode: match owner.mode {
                Mode::Enforce => "enforce",
                Mode::Report => "report",
            },
        });
        shown.collect()
    };
    let revision = snapshot.policy.revision().0;
    let policy = Policy {
        revision,
        source: admin.status.source().to_owned(),
        loaded: time_text(reloading.loaded_at),
        age_seconds: reloading.age.as_secs(),
        is_current: reloading.is_successful,
        clients: snapshot.clients.len(),
        policies: of(false),
        ceilings: of(true),
    };
    ([(header::ETAG, tag(revision))], Json(policy)).into_response()
}
