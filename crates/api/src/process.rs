//! The process API: runs commands for whoever has its secret, each confined as `exeat run` confines one.
//!
//! `callers.rs` says who may connect at all, `guard.rs` whose requests are heard, `order.rs` what may be asked for. A run is
//! started and kept by `runs.rs`, in a process of its own (`exeat_sandbox::Runner`).

mod callers;
mod guard;
mod listen;
mod order;
mod output;
mod routes;
mod run;
mod runs;
mod secret;
mod socket;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    middleware,
    response::{IntoResponse, Response},
};
use exeat_proxy::Tls;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, time::timeout};

pub use callers::Callers;
pub use order::Ceiling;
pub use secret::{NewSecret, Secret, SecretError};

use crate::{
    error::{Failure, Named, Sent},
    route::{Served, routed},
    server::Patience,
};
use order::Order;
use routes::ROUTES;
use run::{Run, RunView};
use runs::{Keep, Runs};

impl Served for ProcessApi {
    const DOCUMENT: &'static str = "/openapi.json";
    /// A command with its input.
    const BODY_BYTES_MAX: usize = 1024 * 1024;
}

/// How much longer than its command a request may take: to be read, to have the command started and ended, to be answered.
const REQUEST_SLACK: Duration = Duration::from_secs(60);
/// The same for a connection, which may have several requests.
const CONNECTION_SLACK: Duration = Duration::from_secs(600);

/// How long commands may take to end when the server does.
const END: Duration = Duration::from_secs(5);

/// What a [`ProcessApi`] is made of.
#[derive(Debug)]
pub struct Setup {
    /// What callers have to know.
    pub secret: Secret,
    /// Names that it may be called by, beside its addresses and `localhost`.
    pub hosts: Vec<String>,
    /// The origins whose pages may call it.
    pub origins: Vec<String>,
    /// Commands at a time.
    pub runs: usize,
    /// Bytes of output that are sent at a time over a WebSocket, and that the kernel keeps for a caller who does not read.
    pub websocket_buffer: usize,
    /// The flags of `exeat run` that every command has.
    pub flags: Vec<String>,
    /// The most that a command may be given.
    pub ceiling: Ceiling,
    /// The configuration whose issuers' tokens count, as an absolute path; `None` if none do.
    pub config: Option<String>,
    /// Files that no command may write.
    pub locked: Vec<PathBuf>,
    /// Where commands run that do not say it; absolute.
    pub directory: PathBuf,
    /// Where it listens, which no policy opens.
    pub listeners: Vec<SocketAddr>,
    /// Files that must be where they were for a command to run, since they are hidden from it by their place.
    pub pinned: Vec<PathBuf>,
}

/// The API. Clones are the same.
#[derive(Clone)]
pub struct ProcessApi(Arc<Shared>);

pub(crate) struct Shared {
    setup: Setup,
    pins: Vec<secret::Pin>,
    runs: Runs,
}

impl ProcessApi {
    /// Puts it together.
    ///
    /// # Errors
    /// If a file that is to be hidden is not there.
    pub fn new(setup: Setup) -> std::io::Result<Self> {
        let pins = setup.pinned.iter().map(secret::Pin::of).collect::<Result<_, _>>()?;
        let runs = Runs::new(setup.runs);
        Ok(Self(Arc::new(Shared { setup, pins, runs })))
    }

    /// Answers callers on `listener`, for ever.
    pub async fn serve(self, listener: TcpListener, callers: Callers, tls: Option<Tls>) {
        let time = self.0.setup.ceiling.time;
        let patience = Patience {
            request: time.saturating_add(REQUEST_SLACK),
            connection: time.saturating_add(CONNECTION_SLACK),
        };
        let door = listen::Door { callers, tls, buffer: self.0.setup.websocket_buffer, patience };
        listen::serve(self.router(), listener, door).await;
    }

    /// Tells all commands to end, and returns when they have, or after five seconds. Those that are left end with this process.
    pub async fn stop(&self) {
        let _ = timeout(END, self.0.runs.end()).await;
    }

    fn router(&self) -> Router {
        routed(&ROUTES)
            // The outermost, so that it comes before all routes and what is none.
            .layer(middleware::from_fn_with_state(self.clone(), guard::check))
            .with_state(self.clone())
    }

    fn find(&self, id: &str) -> Result<Arc<Run>, Failure> {
        self.0.runs.find(id).ok_or_else(|| {
            Failure::new(StatusCode::NOT_FOUND, format!("there is no run `{id}`"))
                .help("GET /runs lists those that are known; old ones are forgotten")
        })
    }
}

/// Whether it takes new work.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    /// Always `ok`.
    status: &'static str,
    /// Commands that run.
    running: usize,
    /// Commands that may run at a time.
    most: usize,
}

async fn health(State(api): State<ProcessApi>) -> Json<Health> {
    let running = api.0.runs.running();
    Json(Health { status: "ok", running, most: api.0.setup.runs })
}

async fn execute(State(api): State<ProcessApi>, Sent(order): Sent<Order>) -> Result<Response, Failure> {
    let checked = order.check(&api.0)?;
    let place = api.0.runs.place()?;
    let started = api.0.runs.start(checked.job, place, Keep::Output).await?;
    let run = Arc::clone(started.run());
    // It runs on if the caller goes, but for one who waits for it.
    let waiting = (!checked.is_detached).then(|| started.end_with_caller());
    started.capture(checked.stdin);
    if waiting.is_none() {
        return Ok((StatusCode::ACCEPTED, Json(run.view(true))).into_response());
    }
    run.ended().await;
    drop(waiting);
    Ok(Json(run.view(true)).into_response())
}

/// Every run that is known.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct List {
    /// The newest first, without their output.
    runs: Vec<RunView>,
}

async fn list(State(api): State<ProcessApi>) -> Json<List> {
    Json(List { runs: api.0.runs.all().iter().map(|run| run.view(false)).collect() })
}

async fn one(State(api): State<ProcessApi>, Named(id): Named<String>) -> Result<Json<RunView>, Failure> {
    Ok(Json(api.find(&id)?.view(true)))
}

/// How long to wait for the end of a run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Waiting {
    /// In seconds, 600 at the most; 60 if it is not said.
    seconds: Option<u64>,
}

/// The longest that a request waits for a run that it did not start.
const WAIT_MAX: u64 = 600;
const WAIT_DEFAULT: u64 = 60;

async fn wait(
    State(api): State<ProcessApi>,
    Named(id): Named<String>,
    waiting: Result<Query<Waiting>, QueryRejection>,
) -> Result<Json<RunView>, Failure> {
    let Query(waiting) = waiting.map_err(|error| Failure::request(error.body_text()))?;
    let run = api.find(&id)?;
    let seconds = waiting.seconds.unwrap_or(WAIT_DEFAULT).min(WAIT_MAX);
    // Whether it has ended is in the answer.
    let _ = timeout(Duration::from_secs(seconds), run.ended()).await;
    Ok(Json(run.view(true)))
}

/// A signal for a command.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalOrder {
    /// Which.
    signal: run::Signal,
}

async fn signal(
    State(api): State<ProcessApi>,
    Named(id): Named<String>,
    Sent(SignalOrder { signal }): Sent<SignalOrder>,
) -> Result<Json<RunView>, Failure> {
    let run = api.find(&id)?;
    if !run.signal(signal).await {
        return Err(Failure::new(StatusCode::CONFLICT, format!("the run `{id}` has ended")));
    }
    Ok(Json(run.view(false)))
}
