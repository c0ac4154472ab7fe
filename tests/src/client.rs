//! Real clients, as users run them.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Seconds after which a client is stopped; `timeout` then ends with status 124.
const LIMIT: &str = "60";

/// Bytes of a client's output that are shown of one that prints without end.
const SHOWN_BYTES: usize = 200;

/// What a client did.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// A command with a clean environment.
pub struct Client {
    command: Command,
    shown: String,
}

impl Client {
    /// A client by name or path, with an empty environment but for a search path and a home of its own.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>, home: &Path) -> Self {
        let shown = program.as_ref().to_string_lossy().into_owned();
        let mut command = Command::new("timeout");
        command.args(["-k", "5", LIMIT]).arg(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", home).env("TMPDIR", home).env("LC_ALL", "C.UTF-8").current_dir(home);
        Self { command, shown }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        for arg in args {
            self.shown = format!("{} {}", self.shown, arg.as_ref().to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the proxy variables in both spellings, for both schemes.
    #[must_use]
    pub fn through(self, proxy: &str) -> Self {
        ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"]
            .into_iter()
            .fold(self, |c, name| c.env(name, proxy))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it is not installed, or was stopped because it took too long.
    pub fn run(self) -> Result<Outcome> {
        self.run_and_show(usize::MAX)
    }

    /// The same for one that prints so much that only its beginning is worth showing.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub fn run_quietly(self) -> Result<Outcome> {
        self.run_and_show(SHOWN_BYTES)
    }

    fn run_and_show(mut self, bytes: usize) -> Result<Outcome> {
        let output = self.command.output().context("run `timeout` (package coreutils)")?;
        let stdout = output.stdout.get(..bytes).unwrap_or(&output.stdout);
        // Test runners show this when the scenario fails, and on request: it is the transcript of what users see.
        let mut shown = std::io::stderr().lock();
        drop(writeln!(shown, "$ {}", self.shown));
        drop(shown.write_all(stdout).and_then(|()| shown.write_all(&output.stderr)));
        drop(writeln!(shown, "[exit status {:?}]", output.status.code()));
        let outcome = Outcome {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        match outcome.code {
            124 | 137 => bail!("`{}` did not end within {LIMIT} s: {outcome:?}", self.shown),
            127 => bail!("`{}` is not installed: run script/test, which installs it", self.shown),
            _ => Ok(outcome),
        }
    }
}

/// A file below the folder for tools that `script/test` installs: `target/test-tools`.
///
/// # Errors
/// When it is not there.
pub fn tool(path: &str) -> Result<PathBuf> {
    let target = crate::exeat::target_directory()?;
    let tool = target.join("test-tools").join(path);
    if !tool.exists() {
        bail!("{} is missing: run script/test, which installs it", tool.display());
    }
    Ok(tool)
}
