//! What is to be run, and what it may see.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::limits::Limits;
use crate::run_as::RunAs;

/// A command and the limits around it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program and its arguments; never empty.
    pub command: Vec<OsString>,
    /// Who runs it.
    pub user: RunAs,
    /// The working directory, absolute.
    pub directory: PathBuf,
    /// Files and directories of the host that are empty inside, beside those that always are.
    pub hidden: Vec<PathBuf>,
    /// Files and directories that are read-only inside, beside those that always are.
    pub read_only: Vec<PathBuf>,
    /// Files and directories that stay writable, whatever above them is read-only or hidden.
    pub writable: Vec<PathBuf>,
    /// Files that are read-only even there.
    pub locked: Vec<PathBuf>,
    /// Unix sockets of the host that the command may connect to.
    pub sockets: Vec<PathBuf>,
    /// Variables of the command alone, beside those of this process.
    pub variables: Vec<(OsString, OsString)>,
    /// Its standard input, output and error; `None` are those of this process.
    pub streams: Option<Arc<[OwnedFd; 3]>>,
    /// How much it may use.
    pub limits: Limits,
}
