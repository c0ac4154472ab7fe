//! What goes wrong for someone who asks an API, as JSON: what it is, and what to do about it.

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    response::{IntoResponse, Response},
};
use exeat_store::Report;
use http::{StatusCode, request::Parts};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::route::Served;

/// An answer that is not a success.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Failure {
    #[serde(skip)]
    status: StatusCode,
    /// What is wrong.
    error: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    /// What is wrong with the configuration, each problem with its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Report>,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), help: None, problems: None }
    }

    /// The request cannot be understood.
    pub(crate) fn request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// The caller may not.
    pub(crate) fn forbidden(error: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, error)
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn problems(mut self, report: Report) -> Self {
        self.problems = Some(report);
        self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

/// The body of a request, read as JSON whatever its media type: a page of a browser cannot send one to a socket of the owner's
/// own, or has not the secret.
pub(crate) struct Sent<T>(pub(crate) T);

impl<S: Served, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            Failure::new(rejection.status(), rejection.body_text())
                .help(format!("a body has at most {} bytes", S::BODY_BYTES_MAX))
        })?;
        read::<S, T>(&bytes).map(Self)
    }
}

/// What a path names.
pub(crate) struct Named<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let named = Path::from_request_parts(parts, state).await;
        named
            .map(|Path(named)| Self(named))
            .map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))
    }
}

/// Reads JSON that is what a route of `S` expects, and nothing else.
///
/// # Errors
/// What is wrong, as an answer.
pub(crate) fn read<S: Served, T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::request(format!("the body is not what is expected: {error}"))
            .help(format!("send a JSON object as GET {} describes it", S::DOCUMENT))
    };
    // Members in their order, without names, would do for serde.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(wrong(&"it is an array"));
    }
    serde_json::from_slice(bytes).map_err(|error| wrong(&error))
}
