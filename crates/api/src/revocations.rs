//! `/v1/revocations`: tokens that count no longer.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
};
use exeat_audit::{Action, Effect};
use exeat_proxy::{Revoked, StateError};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    admin::Admin,
    error::{Failure, Sent},
    quarantine::{on_disk, unkept},
    recorded::{self, Told},
    server::Caller,
};

/// Which tokens are meant: one of these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// The token's own number.
    jti: Option<String>,
    /// The container.
    container: Option<String>,
    /// The organization.
    organization: Option<String>,
    /// The name of the key.
    key: Option<String>,
}

/// Everything that is revoked.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Revocations {
    /// Everything, in order.
    revocations: Vec<Revocation>,
}

/// Tokens that count no longer.
#[derive(Debug, Serialize, JsonSchema)]
struct Revocation {
    /// jti, container, organization or key.
    kind: &'static str,
    /// Its value.
    value: String,
    /// In seconds since 1970; `null` until it is lifted.
    until: Option<u64>,
}

/// What came of lifting one.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Lifted {
    /// Always true.
    lifted: bool,
}

/// A revocation that holds from now on.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RevocationMade")]
pub(crate) struct Made {
    /// How many flows end.
    cut: usize,
    /// Whether it outlasts a restart: not without a state directory.
    kept: bool,
    /// Whether it can mean any token: no issuer has a key of that name otherwise.
    known: bool,
}

impl Which {
    fn revoked(&self) -> Result<Revoked, Failure> {
        let all = [
            ("jti", &self.jti),
            ("container", &self.container),
            ("organization", &self.organization),
            ("key", &self.key),
        ];
        let mut named = all.into_iter().filter_map(|(kind, value)| Some((kind, value.as_deref()?)));
        match (named.next(), named.next()) {
            (Some((kind, value)), None) => {
                Revoked::new(kind, value).map_err(|error| Failure::request(error.to_string()))
            }
            (None, _) | (Some(_), Some(_)) => {
                Err(Failure::request("not one thing is named")
                    .help("name a jti, container, organization or key"))
            }
        }
    }
}

pub(crate) async fn list(State(admin): State<Admin>) -> Json<Revocations> {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let shown = |(revoked, until): (Revoked, Option<SystemTime>)| Revocation {
        kind: revoked.kind(),
        value: revoked.value().to_owned(),
        until: until.map(seconds),
    };
    Json(Revocations { revocations: admin.proxy.revocations().into_iter().map(shown).collect() })
}

pub(crate) async fn add(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Sent(which): Sent<Which>,
) -> Result<Json<Made>, Failure> {
    let revoked = which.revoked()?;
    let (kept, known) = (admin.proxy.keeps_state(), admin.proxy.may_mean(&revoked));
    let work = move || {
        let target = revoked.to_string();
        let cut = admin.proxy.revoke(revoked);
        let told = cut.as_ref().map_or_else(Told::from, |cut| Told::ended(*cut));
        // It holds even if it could not be kept.
        let effect = match &cut {
            Err(StateError::TooMany | StateError::TooManyRevocations) => Effect::Refused,
            Ok(_) | Err(StateError::Read { .. } | StateError::Write { .. } | StateError::Damaged { .. }) => {
                Effect::Done
            }
        };
        recorded::note(&admin, caller, Action::Revoke, effect, &target, told);
        cut
    };
    let cut = on_disk(work).await?;
    let cut = cut.map_err(|error| unkept(&error, "the revocation holds, but not over a restart"))?;
    Ok(Json(Made { cut, kept, known }))
}

pub(crate) async fn lift(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Lifted>, Failure> {
    let Query(which) = query.map_err(|error| Failure::request(error.body_text()))?;
    let revoked = which.revoked()?;
    let shown = revoked.to_string();
    let work = move || {
        let lifted = admin.proxy.lift(&revoked);
        let effect = match &lifted {
            Ok(true) => Effect::Done,
            Ok(false) => Effect::Unchanged,
            Err(_) => Effect::Refused,
        };
        let told = lifted.as_ref().map_or_else(Told::from, |_| Told::default());
        recorded::note(&admin, caller, Action::Lift, effect, &revoked.to_string(), told);
        lifted
    };
    let lifted = on_disk(work).await?;
    match lifted.map_err(|error| unkept(&error, "the revocation still holds"))? {
        true => Ok(Json(Lifted { lifted: true })),
        false => Err(Failure::new(StatusCode::NOT_FOUND, format!("{shown} is not revoked"))
            .help("what is: exeat token revocations, GET /v1/revocations")),
    }
}
