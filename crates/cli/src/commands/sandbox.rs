//! `sandbox serve`: what the process API is set up with.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use exeat_api::{Callers, Ceiling, NewSecret, Secret, Setup};
use exeat_policy::Revision;
use exeat_proxy::TlsFiles;
use exeat_sandbox::RunAs;
use exeat_store::{Options, files_named};

use super::run;
use crate::args::SandboxServeArgs;
use crate::args::limits::By;
use crate::output::{print_report, report_text};

/// The secret of callers, if it does not come from a file. No command has it: theirs is another environment.
const SECRET_VARIABLE: &str = "EXEAT_PROCESS_API_SECRET";
/// The file of the secret, in the folder of the program's state.
const SECRET_FILE: &str = "process-api.secret";
/// The longest that a command may be given. Requests wait as long.
const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What `sandbox serve` was asked for.
#[derive(Debug)]
pub struct SandboxServe {
    args: SandboxServeArgs,
}

/// Whose tokens count.
#[derive(Debug)]
pub struct Issuers {
    config: String,
    /// The files that say so.
    locked: Vec<PathBuf>,
}

impl SandboxServe {
    pub(crate) fn from_args(args: SandboxServeArgs) -> Self {
        Self { args }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.args.addr
    }

    /// Whose connections are taken.
    ///
    /// # Errors
    /// If that is nobody's.
    pub fn callers(&self) -> anyhow::Result<Callers> {
        let restrict_localhost = self.args.restrict_localhost;
        if restrict_localhost && self.args.addr.ip().to_canonical().is_loopback() {
            bail!(
                "nobody could call it: --addr is loopback and --restrict-localhost refuses whoever is on this host"
            );
        }
        Ok(Callers { restrict_localhost })
    }

    /// The certificate and key, if callers speak TLS.
    ///
    /// # Errors
    /// If a file has no absolute path.
    pub fn tls(&self) -> anyhow::Result<Option<TlsFiles>> {
        let files = self.args.tls_cert.as_deref().zip(self.args.tls_key.as_deref());
        let files = files.map(|(cert, key)| {
            Ok(TlsFiles { cert: std::path::absolute(cert)?, key: std::path::absolute(key)?, clients: None })
        });
        files.transpose()
    }

    /// The configuration that says whose tokens count, if there is one. Each command under a token reads it again.
    ///
    /// # Errors
    /// Every problem that it has, or that it has no issuer.
    pub fn issuers(&self) -> anyhow::Result<Option<Issuers>> {
        let Some(config) = &self.args.config else { return Ok(None) };
        let path = absolute(config)?;
        let mut loaded = match exeat_store::load(&path, &Options::new(Revision(1))) {
            Ok(loaded) => loaded,
            Err(report) => bail!("{}", report_text(&report)),
        };
        print_report(&loaded.warnings);
        if loaded.issuers.is_empty() {
            bail!("`{}` has no [issuer], so no token would count", config.display());
        }
        // A command could otherwise write what others may reach, or what they are said to have reached.
        let mut locked = files_named(&path, &loaded);
        if self.args.audit.is_none() {
            run::settle_audit(&mut loaded)?;
            locked.extend(run::audit_log(&loaded)?);
        }
        let word = path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?.to_owned();
        locked.push(path);
        Ok(Some(Issuers { config: word, locked }))
    }

    /// What the API is made of, for one that listens at `listeners`.
    ///
    /// # Errors
    /// If there is no secret, commands could not be run at all, or cannot be held to their limits here.
    pub fn setup(&self, listeners: Vec<SocketAddr>, issuers: Option<Issuers>) -> anyhow::Result<Setup> {
        let args = &self.args;
        // Before there is a secret that nobody needs.
        let user = args.user.clone().or_else(RunAs::instead_of_root);
        RunAs::choose(user.as_deref())?;
        let (secret, secret_file) = self.secret()?;
        // Root's own files are out of the reach of other users, and behind folders that these cannot enter to hide them.
        let is_root = nix::unistd::geteuid().is_root();
        if let Some(key) = args.tls_key.as_ref().filter(|_| is_root) {
            refuse_open_to_all(key)?;
        }
        let hidden = secret_file.into_iter().chain(args.tls_key.clone()).filter(|_| !is_root);
        let hidden = hidden.map(|path| absolute(&path)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut flags = vec![format!("--limits={}", by_word(args.limits.each.limits))];
        flags.extend(user.map(|user| format!("--user={user}")));
        for (flag, paths) in
            [("--hide", &args.hide), ("--hide", &hidden), ("--ro", &args.read_only), ("--rw", &args.writable)]
        {
            for path in paths {
                let path = absolute(path)?;
                fs::symlink_metadata(&path)
                    .with_context(|| format!("`{}` cannot be protected", path.display()))?;
                flags.push(flag_of(flag, &path)?);
            }
        }
        if let Some(audit) = &args.audit {
            flags.push(flag_of("--audit", &absolute(audit)?)?);
        }
        let directory = match &args.directory {
            Some(path) => absolute(path)?,
            None => env::current_dir().context("cannot find the working directory")?,
        };
        let (config, locked) = issuers.map(|issuers| (issuers.config, issuers.locked)).unzip();
        Ok(Setup {
            secret,
            hosts: args.host.clone(),
            origins: args.allow_origin.clone(),
            runs: args.limits.runs.into(),
            websocket_buffer: usize::try_from(args.limits.websocket_buffer)?,
            flags,
            ceiling: self.ceiling()?,
            config,
            locked: locked.unwrap_or_default(),
            directory,
            listeners,
            pinned: hidden,
        })
    }

    fn ceiling(&self) -> anyhow::Result<Ceiling> {
        let limits = self.args.limits.each.limits()?;
        let time = limits.time.context("--timeout is missing")?;
        if time > TIME_MAX {
            bail!("--timeout can be a week at the most");
        }
        // Better now than with the first command.
        limits.prepare()?;
        Ok(Ceiling {
            memory: limits.memory,
            cpu_thousandths: limits.cpu_thousandths,
            cpu_shares: limits.cpu_shares,
            processes: limits.processes,
            time,
        })
    }

    /// The secret, and the file that it is in.
    fn secret(&self) -> anyhow::Result<(Secret, Option<PathBuf>)> {
        let given = env::var_os(SECRET_VARIABLE);
        let file = match (&self.args.secret_file, given) {
            (Some(_), Some(_)) => bail!("there are two secrets: {SECRET_VARIABLE} and that of --secret-file"),
            (None, Some(text)) => {
                let text = text.to_str().with_context(|| format!("{SECRET_VARIABLE} is not text"))?;
                return Ok((Secret::new(text).context(SECRET_VARIABLE)?, None));
            }
            (Some(file), None) => absolute(file)?,
            (None, None) => state_folder()?.join(SECRET_FILE),
        };
        let (secret, new) = Secret::of_file(&file)?;
        match new {
            NewSecret::Made => tracing::info!(file = %file.display(), "a secret for callers was made"),
            NewSecret::Found => tracing::info!(file = %file.display(), "callers need the secret"),
        }
        Ok((secret, Some(file)))
    }
}

/// # Errors
/// If every user can read or write the file, and commands are of another user than its owner.
fn refuse_open_to_all(key: &Path) -> anyhow::Result<()> {
    let metadata = fs::metadata(key).with_context(|| format!("cannot read `{}`", key.display()))?;
    if metadata.mode() & 0o006 != 0 {
        bail!("commands could read the key `{0}`: chmod o= '{0}'", key.display());
    }
    Ok(())
}

/// Where state is kept that nobody has named a folder for.
fn state_folder() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok("/var/lib/exeat".into());
    }
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    Ok(state.context("there is no home directory for the secret: name a --secret-file")?.join("exeat"))
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("`{}` is no path", path.display()))
}

fn flag_of(flag: &str, path: &Path) -> anyhow::Result<String> {
    let path = path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?;
    Ok(format!("{flag}={path}"))
}

const fn by_word(by: By) -> &'static str {
    match by {
        By::Cgroup => "cgroup",
        By::Rlimit => "rlimit",
    }
}
