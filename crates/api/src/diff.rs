//! `/v1/policy/diff`: what a document would allow differently, or what another revision did.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use exeat_policy::Revision;
use exeat_proxy::{Proxy, Snapshot};
use exeat_store::{Loaded, Options, load_text};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    admin::Admin,
    differences::{Difference, Side, differences},
    document::{Document, place},
    error::Failure,
    orders::Refused,
};

/// Differences in one answer, at some 500 bytes each: more than anybody reads.
const DIFFERENCES_MAX: usize = 10_000;

/// What the document of a request is called in places.
const SENT: &str = "sent";

/// Which revisions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// The earlier revision.
    from: u64,
    /// The later one; without it, the one that decides.
    to: Option<u64>,
}

/// What differs.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Differences")]
pub(crate) struct Answer {
    /// The earlier revision.
    from: u64,
    /// The later revision; not there if a document was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    /// How many differences there are; no more than 10,000 are listed.
    total: usize,
    /// Client by client, the one without credentials first.
    differences: Vec<Difference>,
}

/// What one side is made from.
enum Made {
    Live(Arc<Snapshot>, Proxy),
    Again(Box<Loaded>),
}

impl Made {
    fn side(&self) -> Side<'_> {
        match self {
            Self::Live(snapshot, proxy) => Side::from(&**snapshot).with_senders(proxy.proxy_protocol_from()),
            Self::Again(loaded) => Side::from(&**loaded),
        }
    }
}

pub(crate) async fn sent(
    State(admin): State<Admin>,
    Document { text, _place: place }: Document,
) -> Result<Json<Answer>, Failure> {
    work(move || {
        let _place = place;
        let live = admin.proxy.snapshot();
        let from = live.policy.revision();
        let sent = load(&admin, SENT, &text, from)?;
        Ok(Answer::new(from, None, &Made::Live(live, admin.proxy), &sent))
    })
    .await
}

pub(crate) async fn between(
    State(admin): State<Admin>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Answer>, Failure> {
    let Query(Which { from, to }) = which.map_err(|error| {
        Failure::request(error.body_text()).help("write ?from=N&to=M, or ?from=N for what has changed since")
    })?;
    let place = place(&admin).await?;
    work(move || {
        let _place = place;
        let live = admin.proxy.snapshot();
        let made = |revision: Revision| {
            if revision == live.policy.revision() {
                return Ok(Made::Live(Arc::clone(&live), admin.proxy.clone()));
            }
            let kept = admin.history.get(revision).ok_or(Refused::Unknown { revision })?;
            load(&admin, &format!("revision-{revision}"), &kept.written.text, revision)
        };
        let (from, to) = (Revision(from), to.map_or(live.policy.revision(), Revision));
        Ok(Answer::new(from, Some(to), &made(from)?, &made(to)?))
    })
    .await
}

/// Loads a document as the configuration file would be, under another name.
fn load(admin: &Admin, name: &str, text: &str, revision: Revision) -> Result<Made, Failure> {
    let options = Options { listeners: admin.listeners.to_vec(), ..Options::new(revision) };
    let loaded = load_text(name, text, &admin.base_dir, &options).map_err(|report| {
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "the configuration has errors")
            .help("correct each of `problems` and try again")
            .problems(report)
    })?;
    Ok(Made::Again(Box::new(loaded)))
}

impl Answer {
    fn new(from: Revision, to: Option<Revision>, old: &Made, new: &Made) -> Self {
        let mut differences = differences(old.side(), new.side());
        let total = differences.len();
        differences.truncate(DIFFERENCES_MAX);
        Self { from: from.0, to: to.map(|revision| revision.0), total, differences }
    }
}

/// Compares where nothing waits for it.
async fn work(
    compare: impl FnOnce() -> Result<Answer, Failure> + Send + 'static,
) -> Result<Json<Answer>, Failure> {
    let done = tokio::task::spawn_blocking(compare).await;
    let gave_up = |_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the comparison was given up");
    done.map_err(gave_up)?.map(Json)
}
