//! `run`: what the command is, and what it may reach and see.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::Parser;
use exeat_audit::{Sink, open_plain};
use exeat_policy::Mode;
use exeat_sandbox::{Beginning, Hidden, Outcome, Plan, RunAs, Sandbox, links};
use exeat_store::{Flags, Loaded, Options, Report, Written, files_named};

use crate::args::{Cli, Command, RunArgs};
use crate::output::{Exit, Unknown, to_stderr};

mod approved;
mod asked;
mod found;
mod summary;
mod token;

pub(crate) use summary::is_reverse;
pub use summary::{Summary, target_of_summary};

/// Where the records of a run go that nobody asked for.
const NOWHERE: &str = "/dev/null";

/// A command to be run.
#[derive(Clone, Debug)]
pub struct Run {
    args: RunArgs,
    /// The configuration that was found above the working directory.
    found: OnceLock<PathBuf>,
    /// The token that was handed over, and is nowhere to be read.
    token: Option<Hidden>,
    /// What the configuration was read from, and has been changed to by its user's answers since.
    written: Arc<Mutex<Option<Written>>>,
}

impl Run {
    pub(crate) fn from_args(args: RunArgs) -> Self {
        Self { args, found: OnceLock::new(), token: None, written: Arc::default() }
    }

    /// Has it run under this token, if there is one, as with `--token`.
    #[must_use]
    pub fn under(self, token: Option<Hidden>) -> Self {
        Self { token, ..self }
    }

    /// Looks for an `exeat.toml` here and above if nothing else says what the command may reach, and reads it. To be called before
    /// anything holds signals: it may have a question for the terminal.
    ///
    /// # Errors
    /// If there is one that cannot be used, or that nobody has looked at yet.
    pub fn look(&self, options: &Options) -> anyhow::Result<Option<Result<Loaded, Report>>> {
        let args = &self.args;
        // Who names nothing but a place for records has nothing reached and sees what was asked for.
        let wants_one = args.policy.is_some() || args.token.is_some() || args.trust_config;
        let has_policy = args.config.is_some() || args.report || (args.audit.is_some() && !wants_one);
        if has_policy || !args.allow.is_empty() || !args.deny.is_empty() {
            return Ok(None);
        }
        let directory = env::current_dir().context("cannot find the working directory")?;
        let Some(path) = found::look(&directory)? else {
            if wants_one {
                bail!("there is no exeat.toml here or above: name a configuration with --config");
            }
            return Ok(None);
        };
        let loaded = match exeat_store::load(&path, options) {
            Ok(loaded) => loaded,
            Err(report) => return Ok(Some(Err(report))),
        };
        found::approve(&path, &loaded, args.trust_config)?;
        let _once = self.found.set(path);
        self.keep(&loaded);
        self.limited(loaded).map(|loaded| Some(Ok(loaded)))
    }

    /// The configuration file, if there is one.
    fn config(&self) -> Option<&Path> {
        self.args.config.as_deref().or(self.found.get().map(PathBuf::as_path))
    }

    /// Has its sandbox made.
    ///
    /// # Errors
    /// The step that failed, or that nobody may run it.
    pub fn begin(&self) -> anyhow::Result<Beginning> {
        let args = &self.args;
        let user = self.user()?;
        if let Some(name) = self.instead_of_root().filter(|_| !args.quiet) {
            to_stderr(&format!(
                "exeat: the command runs as {name}, since root owns what holds it; --user names another\n"
            ));
        }
        let absent = args.hide.iter().filter(|path| is_absent(path));
        for path in absent.filter(|_| !args.quiet) {
            to_stderr(&format!("exeat: there is no `{}` to hide\n", path.display()));
        }
        Ok(Sandbox::begin(&args.command, &user, &args.limits.limits()?)?)
    }

    fn instead_of_root(&self) -> Option<String> {
        if self.args.user.is_none() { RunAs::instead_of_root() } else { None }
    }

    fn user(&self) -> anyhow::Result<RunAs> {
        let named = self.instead_of_root().or_else(|| self.args.user.clone());
        let user = RunAs::choose(named.as_deref())?;
        let variable = self.args.token.as_deref().and_then(token::variable);
        Ok(variable.map_or(user.clone(), |variable| user.without(variable)))
    }

    /// Reads the flags and the command behind `exeat run`.
    ///
    /// # Errors
    /// If they are wrong.
    pub fn from_words(words: impl IntoIterator<Item = OsString>) -> anyhow::Result<Self> {
        let words = ["exeat".into(), "run".into()].into_iter().chain(words);
        let Command::Run(args) = Cli::try_parse_from(words)?.command else {
            bail!("the flags make another command of it");
        };
        Ok(Self::from_args(args))
    }

    /// Reads and compiles what the command may reach. It is the only principal there is.
    ///
    /// # Errors
    /// Every problem found, or that no policy is for the command.
    pub fn load(&self, options: &Options) -> anyhow::Result<Result<Loaded, Report>> {
        let args = &self.args;
        let loaded = match &args.config {
            // Opening a pipe would wait for whoever writes to it.
            Some(path) if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) => {
                bail!("`{}` is no regular file", path.display())
            }
            Some(path) => exeat_store::load(path, options),
            None => self.load_flags(options),
        };
        match loaded {
            Ok(loaded) => {
                self.keep(&loaded);
                self.limited(loaded).map(Ok)
            }
            Err(report) => Ok(Err(report)),
        }
    }

    /// Notes what the configuration was read from: that is what the command is under, whatever becomes of the files.
    fn keep(&self, loaded: &Loaded) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&loaded.written);
    }

    /// Leaves the command as the only principal.
    fn limited(&self, mut loaded: Loaded) -> anyhow::Result<Loaded> {
        let args = &self.args;
        if let Some(log) = &args.audit {
            loaded.settings.audit.sink = Sink::File(log.clone());
        }
        settle_audit(&mut loaded)?;
        let token = match (&self.token, &args.token) {
            (Some(token), _) => Some(token.text().trim().to_owned()),
            (None, Some(place)) => Some(token::read(place)?),
            (None, None) => None,
        };
        if let Some(token) = token {
            crate::keys::fetch(&loaded)?;
            loaded.keep_token(&token, SystemTime::now())?;
            return Ok(loaded);
        }
        if loaded.keep_one(args.policy.as_deref()) {
            return Ok(loaded);
        }
        match &args.policy {
            Some(name) => {
                let what = format!("the configuration has no policy `{name}`");
                Err(Unknown::new(what, exeat_store::closest(name, loaded.policy.policy_names())).into())
            }
            None => {
                bail!("no policy is for the command: name one with --policy, or set `anonymous` of [proxy]")
            }
        }
    }

    fn load_flags(&self, options: &Options) -> Result<Loaded, Report> {
        let args = &self.args;
        let mode = if args.report { Mode::Report } else { Mode::Enforce };
        let flags = Flags { allow: &args.allow, deny: &args.deny, mode, ..Flags::default() };
        exeat_store::from_flags(&flags, options)
    }

    /// Says what the run did, as it was asked to, and returns the status that is to be told for how the command ended.
    #[must_use]
    pub fn conclude(&self, summary: Summary, outcome: &Outcome) -> u8 {
        let args = &self.args;
        let status = outcome.status();
        let summary = summary.with_outcome(outcome);
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
    pub fn plan(&self, loaded: &Loaded) -> anyhow::Result<Plan> {
        let args = &self.args;
        let directory = env::current_dir().context("cannot find the working directory")?;
        let absolute = |paths: &[PathBuf]| {
            let there = |path: &PathBuf| {
                let path = directory.join(path);
                if is_absent(&path) {
                    bail!("there is no `{}`: --ro and --rw name what is there already", path.display());
                }
                path.symlink_metadata()
                    .with_context(|| format!("`{}` cannot be protected", path.display()))?;
                Ok(path)
            };
            paths.iter().map(there).collect::<anyhow::Result<Vec<_>>>()
        };
        // The command could otherwise write what its next run may reach.
        let files = self.config().map(|path| files_named(path, loaded)).unwrap_or_default();
        let config = self.config().map(Path::to_owned).into_iter().chain(files);
        let config = config.map(|path| directory.join(path));
        let locked: Vec<_> = config.chain(audit_log(loaded)?).collect();
        // Nor what a run beside it is under.
        let above = directory.ancestors().map(|above| above.join(found::NAME));
        let above = above.filter(|path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()));
        let above = above.filter(|path| !locked.contains(path)).collect::<Vec<_>>();
        // Where nothing is, nothing can be read; but what cannot be looked at may well be there.
        let hidden: Vec<PathBuf> = args.hide.iter().filter(|path| !is_absent(path)).cloned().collect();
        // What it may reach is for this proxy to know; elsewhere the token might open more.
        let token = args.token.as_deref().and_then(token::file).map(|path| directory.join(path));
        Ok(Plan {
            command: args.command.clone(),
            user: self.user()?,
            hidden: absolute(&hidden)?.into_iter().chain(token).collect(),
            read_only: absolute(&args.read_only)?.into_iter().chain(above).collect(),
            writable: absolute(&args.writable)?.into_iter().map(no_link).collect::<anyhow::Result<_>>()?,
            locked,
            sockets: args.socket.iter().map(|path| directory.join(path)).collect(),
            directory,
            variables: Vec::new(),
            streams: None,
            limits: args.limits.limits()?,
        })
    }
}

/// Whether there is nothing at a path, not even a link that leads nowhere.
fn is_absent(path: &Path) -> bool {
    let error = path.symlink_metadata().err();
    error.is_some_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}

/// Returns what a path stands for if no symbolic link is part of it: the command of an earlier run may have made that link, to
/// have something else opened for this one.
fn no_link(path: PathBuf) -> anyhow::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(component),
        }
    }
    let real = path.canonicalize().with_context(|| format!("`{}` cannot be found", path.display()))?;
    if real != plain {
        bail!("`--rw {}` is or goes through a symbolic link: name `{}`", path.display(), real.display());
    }
    Ok(real)
}

/// Has the records go where a command cannot turn them aside.
pub(super) fn settle_audit(loaded: &mut Loaded) -> anyhow::Result<()> {
    let sink = &mut loaded.settings.audit.sink;
    // Standard output is the command's.
    if matches!(sink, Sink::Stdout) {
        *sink = Sink::File(NOWHERE.into());
    }
    if let Sink::File(log) = sink {
        *sink = without_links(log)?;
    }
    Ok(())
}

/// Where the audit log of a run goes if that is not by a symbolic link: the command of an earlier run may have made that link, to
/// have something else written to.
fn without_links(log: &Path) -> anyhow::Result<Sink> {
    let directory = env::current_dir().context("cannot find the working directory")?;
    let log = directory.join(log);
    let cannot = || format!("cannot open the audit log `{}`", log.display());
    if let Some(link) = links(&log).with_context(cannot)?.first() {
        bail!(
            "the audit log `{}` is or goes through the symbolic link `{}`: name the file itself",
            log.display(),
            link.display()
        );
    }
    // A device or a pipe holds nothing that could be changed, and must not be opened twice.
    if fs::metadata(&log).is_ok_and(|metadata| !metadata.is_file()) {
        return Ok(Sink::File(log));
    }
    let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else { bail!("{}", cannot()) };
    Ok(Sink::Plain(folder.canonicalize().with_context(cannot)?.join(name)))
}

/// The file that the audit log of a run goes to, which is there from now on. The command must not write it: `suggest` makes a
/// policy of what it says.
pub(super) fn audit_log(loaded: &Loaded) -> anyhow::Result<Option<PathBuf>> {
    let Sink::Plain(log) = &loaded.settings.audit.sink else { return Ok(None) };
    open_plain(log).with_context(|| format!("cannot open the audit log `{}`", log.display()))?;
    Ok(Some(log.clone()))
}
