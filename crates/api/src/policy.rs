//! `GET /v1/policy`: what decides at present.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use exeat_policy::Mode;
use http::header;
use serde::Serialize;

use crate::{admin::Admin, document::tag, flows::time_text};

/// The policy in use.
#[derive(Debug, Serialize)]
pub(crate) struct Policy {
    revision: u64,
    source: String,
    loaded: String,
    age_seconds: u64,
    /// Whether the last reload succeeded; if not, the source holds something else than what is in use.
    is_current: bool,
    clients: usize,
    policies: Vec<Owner>,
    ceilings: Vec<Owner>,
}

/// One policy or ceiling.
#[derive(Debug, Serialize)]
struct Owner {
    name: String,
    place: String,
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
