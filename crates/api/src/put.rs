//! `PUT /v1/policy` and `POST /v1/policy/rollback`: another document takes the place of the one that decides.

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use exeat_policy::Revision;
use http::{HeaderMap, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    admin::Admin,
    document::{Document, if_match, tag},
    error::{Failure, Sent},
    orders::{self, Answer, Do, Put, Terms},
    server::Caller,
};

/// How a document is put.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct How {
    /// Say what would come of it and change nothing.
    dry_run: Option<bool>,
    /// Do it even if the configuration file was edited since it was loaded; the edits are lost.
    overwrite: Option<bool>,
}

/// Which document is put back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Back {
    /// The revision whose document decides again.
    #[schemars(example = 11)]
    revision: u64,
}

type Queried = Result<Query<How>, QueryRejection>;

pub(crate) async fn put(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    how: Queried,
    headers: HeaderMap,
    Document { text, _place: place }: Document,
) -> Result<Response, Failure> {
    let put = Put { text, terms: terms(how, &headers)? };
    let answer = orders::carry_out(&admin, caller.uid, Do::Put(put)).await?;
    drop(place);
    Ok(tagged(answer))
}

pub(crate) async fn rollback(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    how: Queried,
    headers: HeaderMap,
    Sent(Back { revision }): Sent<Back>,
) -> Result<Response, Failure> {
    let order = Do::Rollback { to: Revision(revision), terms: terms(how, &headers)? };
    Ok(tagged(orders::carry_out(&admin, caller.uid, order).await?))
}

fn terms(how: Queried, headers: &HeaderMap) -> Result<Terms, Failure> {
    let Query(how) = how.map_err(|error| Failure::request(error.body_text()))?;
    Ok(Terms {
        only_after: if_match(headers)?,
        dry_run: how.dry_run == Some(true),
        overwrite: how.overwrite == Some(true),
    })
}

fn tagged(answer: Answer) -> Response {
    ([(header::ETAG, tag(answer.revision))], Json(answer)).into_response()
}
