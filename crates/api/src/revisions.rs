//! `/v1/policy/revisions`: the documents that have decided, and how they came to.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use exeat_policy::Revision;
use exeat_store::{Kept, NamedFile};
use http::header;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    admin::Admin,
    document::tag,
    error::{Failure, Named},
    flows::time_text,
    orders::Refused,
};

/// The revision that decides, in place of its number.
const CURRENT: &str = "current";

/// The revisions that are kept, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Revisions {
    /// The one that decides.
    current: u64,
    /// The newest first.
    revisions: Vec<One>,
}

/// One revision.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Revision")]
struct One {
    /// Its number.
    revision: u64,
    /// When it took effect, RFC 3339.
    when: String,
    /// How it came to decide.
    #[schemars(extend("enum" = ["start", "signal", "reload", "put", "rollback"]))]
    origin: &'static str,
    /// The user on the other side of the socket, if it came over the admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    /// Of a rollback: the revision that the document is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    restored: Option<u64>,
    /// Which sections and files are different from the revision before; `+` added, `-` removed.
    change: String,
    /// The size of the document.
    bytes: usize,
    /// The SHA-256 of the document, as sha256sum prints it.
    digest: String,
    /// The group files that it names.
    files: Vec<File>,
}

/// A group file of a revision.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GroupFile")]
struct File {
    /// Its path.
    name: String,
    /// Its SHA-256 when it was read.
    digest: String,
}

impl From<&Kept> for One {
    fn from(kept: &Kept) -> Self {
        let file = |file: &NamedFile| File { name: file.name.to_string(), digest: file.digest.to_string() };
        Self {
            revision: kept.revision.0,
            when: time_text(kept.when),
            origin: kept.origin.word(),
            uid: kept.uid,
            restored: kept.restored.map(|revision| revision.0),
            change: kept.change.clone(),
            bytes: kept.written.text.len(),
            digest: kept.written.digest.to_string(),
            files: kept.written.shown_files().map(file).collect(),
        }
    }
}

pub(crate) async fn list(State(admin): State<Admin>) -> Json<Revisions> {
    let current = admin.proxy.snapshot().policy.revision().0;
    let revisions = admin.history.list();
    Json(Revisions { current, revisions: revisions.iter().rev().map(|kept| One::from(&**kept)).collect() })
}

/// The document itself, byte for byte.
pub(crate) async fn one(
    State(admin): State<Admin>,
    Named(which): Named<String>,
) -> Result<Response, Failure> {
    let revision = match which.as_str() {
        CURRENT => admin.proxy.snapshot().policy.revision(),
        number => parse(number)?,
    };
    let kept = admin.history.get(revision).ok_or(Refused::Unknown { revision })?;
    let headers = [(header::CONTENT_TYPE, "application/toml".to_owned()), (header::ETAG, tag(revision.0))];
    Ok((headers, kept.written.text.to_string()).into_response())
}

/// Reads the number of a revision.
pub(crate) fn parse(text: &str) -> Result<Revision, Failure> {
    text.parse().map(Revision).map_err(|_| {
        Failure::request(format!("`{text}` is not the number of a revision"))
            .help("which there are: exeat policy revisions, GET /v1/policy/revisions")
    })
}
