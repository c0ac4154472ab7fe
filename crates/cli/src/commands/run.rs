//! `run`: what the command is, and what it may reach and see.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, bail};
use exeat_audit::Sink;
use exeat_policy::Mode;
use exeat_sandbox::{Plan, RunAs};
use exeat_store::{Flags, Loaded, Options, Report};

use crate::args::RunArgs;
use crate::output::{Exit, to_stderr};

mod summary;

pub use summary::Summary;

/// Where the records of a run go that nobody asked for.
const NOWHERE: &str = "/dev/null";

/// A command to be run.
#[derive(Debug)]
pub struct Run {
    args: RunArgs,
}

impl Run {
    pub(crate) fn from_args(args: RunArgs) -> Self {
        Self { args }
    }

    /// Reads and compiles what the command may reach. It is the only principal there is.
    ///
    /// # Errors
    /// Every problem found, or that no policy is for the command.
    pub fn load(&self, options: &Options) -> anyhow::Result<Result<Loaded, Report>> {
        let args = &self.args;
        let loaded = match &args.config {
            Some(path) => exeat_store::load(path, options),
            None => self.load_flags(options),
        };
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(report) => return Ok(Err(report)),
        };
        if loaded.keep_one(args.policy.as_deref()) {
            return Ok(Ok(loaded));
        }
        match &args.policy {
            Some(name) => bail!("the configuration has no policy `{name}`"),
            None => {
                bail!("no policy is for the command: name one with --policy, or set `anonymous` of [proxy]")
            }
        }
    }

    fn load_flags(&self, options: &Options) -> Result<Loaded, Report> {
        let args = &self.args;
        let mode = if args.report { Mode::Report } else { Mode::Enforce };
        let flags = Flags { allow: &args.allow, deny: &args.deny, mode, ..Flags::default() };
        let mut loaded = exeat_store::from_flags(&flags, options)?;
        // Standard output is the command's.
        loaded.settings.audit.sink = Sink::File(args.audit.clone().unwrap_or_else(|| NOWHERE.into()));
        Ok(loaded)
    }

    /// Says what the run did, as it was asked to, and returns the status that is to be told for `status`, which is the
    /// command's.
    #[must_use]
    pub fn conclude(&self, summary: &Summary, status: u8) -> u8 {
        let args = &self.args;
        if args.json {
            to_stderr(&format!("{}\n", summary.json()));
        } else if !args.quiet {
            to_stderr(&summary.text());
        }
        let has_failed = args.fail_on_deny && status == Exit::Success.status() && summary.has_refusals();
        if has_failed { Exit::Refused.status() } else { status }
    }

    /// Returns what is to be run, and as whom.
    ///
    /// # Errors
    /// If nobody may run it, or the working directory is gone.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let args = &self.args;
        let directory = env::current_dir().context("cannot find the working directory")?;
        let absolute = |paths: &[PathBuf]| {
            let there = |path: &PathBuf| {
                let path = directory.join(path);
                path.symlink_metadata()
                    .with_context(|| format!("`{}` cannot be protected", path.display()))?;
                Ok(path)
            };
            paths.iter().map(there).collect::<anyhow::Result<Vec<_>>>()
        };
        let mut read_only = absolute(&args.read_only)?;
        // The command could otherwise write what its next run may reach.
        read_only.extend(args.config.as_ref().map(|path| directory.join(path)));
        Ok(Plan {
            command: args.command.clone(),
            user: RunAs::choose(args.user.as_deref())?,
            hidden: absolute(&args.hide)?,
            read_only,
            sockets: args.socket.iter().map(|path| directory.join(path)).collect(),
            directory,
        })
    }
}
