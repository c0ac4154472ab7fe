//! What the admin API asks of the one who carries out changes of the configuration, one after the other.

use exeat_policy::Revision;
use exeat_store::{Report, WriteError};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{admin::Admin, error::Failure};

/// An order to change what decides.
#[derive(Debug)]
pub struct Order {
    /// What is to be done.
    pub what: Do,
    /// The user who asks, if the system told.
    pub uid: Option<u32>,
    /// Where to say what came of it. Nobody may be left to hear it.
    pub reply: oneshot::Sender<Result<Done, Refused>>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Do {
    /// Read the configuration again.
    Reload,
    /// Let this document take the place of the configuration file.
    Put(Put),
    /// Let the document of an older revision take the place of the configuration file.
    Rollback {
        /// The revision.
        to: Revision,
        /// Under which conditions.
        terms: Terms,
    },
}

/// A document to be put.
#[derive(Debug)]
pub struct Put {
    /// The document, in TOML.
    pub text: String,
    /// Under which conditions.
    pub terms: Terms,
}

/// Under which conditions a document is put.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The revision that must decide until then; `None` is whichever does.
    pub only_after: Option<Vec<Revision>>,
    /// Find out what would come of it and do nothing.
    pub dry_run: bool,
    /// Do it even if the file is not as it was loaded.
    pub overwrite: bool,
}

/// What came of an order.
#[derive(Debug)]
pub struct Done {
    /// The number of what decides from now on.
    pub revision: Revision,
    /// Whether that is a new revision, or would be one.
    pub is_changed: bool,
    /// What the author of the configuration should know of.
    pub warnings: Report,
    /// Sections and keys that differ from what the process started with and take effect at a restart only.
    pub needs_restart: Vec<&'static str>,
    /// Files named by the document of an older revision that are not as they were then.
    pub changed_files: Vec<String>,
}

/// Why an order was not carried out. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The document has errors.
    #[error("the configuration has errors, so the policy in use stays")]
    Problems(Report),
    /// Another revision decides than the one that was named.
    #[error("revision {now} decides, another one than was named")]
    Moved {
        /// Which decides.
        now: Revision,
    },
    /// There is no document of that number.
    #[error("revision {revision} is not kept")]
    Unknown {
        /// The number.
        revision: Revision,
    },
    /// The file has been edited since it was loaded.
    #[error("{path} is not as it was loaded")]
    Edited {
        /// The file.
        path: String,
    },
    /// There is no file that a document could be put into.
    #[error("the configuration comes from {source_name}, which is no file that a document could be put into")]
    NoFile {
        /// Where it comes from.
        source_name: String,
    },
    /// The file could not be replaced.
    #[error("{path} cannot be replaced: cannot write {}: {}", error.step, error.source)]
    Unwritable {
        /// The file.
        path: String,
        /// Why.
        error: WriteError,
    },
}

/// What the one who asked for a change is told.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Changed")]
pub(crate) struct Answer {
    /// The number of the policy that decides from now on.
    pub(crate) revision: u64,
    /// Whether that is a new revision; of a dry run: whether it would be one.
    changed: bool,
    /// What the author of the configuration should know of.
    warnings: Report,
    /// Sections and keys that differ from what the process was started with, and take effect at a restart only.
    #[schemars(example = ["limits", "proxy.listen"])]
    needs_restart: Vec<&'static str>,
    /// Of a rollback: group files that are not as they were then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed_files: Vec<String>,
}

impl From<Done> for Answer {
    fn from(done: Done) -> Self {
        let Done { revision, is_changed, warnings, needs_restart, changed_files } = done;
        Self { revision: revision.0, changed: is_changed, warnings, needs_restart, changed_files }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let error = refused.to_string();
        match refused {
            Refused::Problems(report) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
                .help("correct each of `problems` and try again")
                .problems(report),
            Refused::Moved { now } => Self::new(StatusCode::PRECONDITION_FAILED, error)
                .help(format!("look at what changed since, then name revision {now}")),
            Refused::Unknown { .. } => Self::new(StatusCode::NOT_FOUND, error)
                .help("those that are: exeat policy revisions, GET /v1/policy/revisions"),
            Refused::Edited { .. } => Self::new(StatusCode::CONFLICT, error)
                .help("reload to let the edits decide, or overwrite them (overwrite=true, --overwrite)"),
            Refused::NoFile { .. } => {
                Self::new(StatusCode::CONFLICT, error).help("serve a file: exeat serve --config FILE")
            }
            Refused::Unwritable { .. } => Self::new(StatusCode::CONFLICT, error)
                .help("let the proxy's user write the file and its folder, or change the file and reload"),
        }
    }
}

/// Has an order carried out.
pub(crate) async fn carry_out(admin: &Admin, uid: Option<u32>, what: Do) -> Result<Answer, Failure> {
    let (reply, answer) = oneshot::channel();
    let ending =
        || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the proxy is ending and loads nothing any more");
    admin.orders.send(Order { what, uid, reply }).await.map_err(|_| ending())?;
    Ok(answer.await.map_err(|_| ending())??.into())
}
