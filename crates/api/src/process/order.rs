//! What may be asked for, within bounds, and what a runner is told of it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use exeat_identity::TOKEN_BYTES_MAX;
use exeat_policy::{Mode, Revision};
use exeat_sandbox::{Hidden, Job};
use exeat_store::{Flags, Options};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Shared;
use crate::error::Failure;

/// Bytes of the command and its arguments, and of all variables, as JSON writes them: so they go to the runner, and both have to
/// fit into one message.
const WORDS_BYTES_MAX: usize = 64 * 1024;
const VARIABLES_BYTES_MAX: usize = 24 * 1024;
/// Arguments, and variables.
const WORDS_MAX: usize = 4096;
const VARIABLES_MAX: usize = 512;
/// Entries of a policy, and their bytes.
const ENTRIES_MAX: usize = 512;
const ENTRIES_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a path (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;
/// The least memory that a program gets anywhere with, ours that starts it included.
const MEMORY_MIN: u64 = 16 << 20;

/// The most that a command may be given; a command that asks for less gets that. What is `None` has no bound.
#[derive(Clone, Debug, Default)]
pub struct Ceiling {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_thousandths: Option<u64>,
    /// Weight beside others where processors are short.
    pub cpu_shares: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// How long it may run.
    pub time: Duration,
}

/// A command to be run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// The program, by its name or path.
    #[schemars(example = &"curl")]
    command: String,
    /// Its arguments; with the program, 64 KiB at the most.
    #[serde(default)]
    #[schemars(example = ["-sS", "https://example.com/"])]
    args: Vec<String>,
    /// Variables beside those of every command (PATH, HOME, and those that tell of the proxy, which count for more); 24 KiB at
    /// the most.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Its standard input, as text. Without any, it is empty.
    stdin: Option<String>,
    /// The same in base64.
    stdin_base64: Option<String>,
    /// The working directory, absolute; else that of the server's `--directory`.
    directory: Option<String>,
    /// What it may reach; without it and without `token`, nothing.
    policy: Option<PolicyOrder>,
    /// A JSON Web Token that says what it may reach, of an issuer in the configuration that the server was started with
    /// (`--config`), and within what that permits; instead of `policy`.
    #[schemars(with = "Option<String>")]
    token: Option<Hidden>,
    /// What it may use, within what the server gives.
    #[serde(default)]
    limits: LimitsOrder,
    /// Answer as soon as it runs. It then runs on without its caller; otherwise it ends when they go.
    #[serde(default)]
    detach: bool,
}

/// What a command may reach.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Policy")]
pub(crate) struct PolicyOrder {
    /// Names, `*.name` or networks, each with `:ports`, as `exeat run --allow` takes them.
    #[serde(default)]
    #[schemars(example = ["example.com", "*.example.org:443"])]
    allow: Vec<String>,
    /// What of it is denied.
    #[serde(default)]
    deny: Vec<String>,
    /// Refuse nothing that is public, and record what would have been refused.
    #[serde(default)]
    report: bool,
}

/// What a command may use.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Limits")]
pub(crate) struct LimitsOrder {
    /// Bytes of memory, 16 MiB at the least.
    memory_bytes: Option<u64>,
    /// Processors at a time.
    #[schemars(example = 0.5)]
    cpus: Option<f64>,
    /// Weight beside others where processors are short, 2 to 262144.
    cpu_shares: Option<u64>,
    /// Processes and threads at a time.
    pids: Option<u64>,
    /// Seconds after which it is told to end, and five more after which it is made to.
    seconds: Option<u64>,
}

/// What is run, and how.
pub(crate) struct Checked {
    pub(crate) job: Job,
    pub(crate) stdin: Vec<u8>,
    pub(crate) is_detached: bool,
}

impl Order {
    /// Checks all that can be told before a process is started for it.
    ///
    /// # Errors
    /// What is wrong, as an answer.
    pub(crate) fn check(self, api: &Shared) -> Result<Checked, Failure> {
        let setup = &api.setup;
        if let Some(moved) = api.pins.iter().find(|pin| !pin.holds()) {
            tracing::error!(path = %moved.path().display(), "a file that is hidden from commands is not where it was");
            return Err(Failure::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a file that is hidden from commands is not where it was, so none is run",
            )
            .help("the log of the server says which; start the server anew"));
        }
        self.check_bounds()?;
        let stdin = match (self.stdin, self.stdin_base64) {
            (None, None) => Vec::new(),
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => {
                STANDARD.decode(text).map_err(|error| wrong(format!("`stdin_base64`: {error}")))?
            }
            (Some(_), Some(_)) => return Err(wrong("`stdin` and `stdin_base64` are two inputs")),
        };
        let mut flags = setup.flags.clone();
        flags.extend(match (self.policy, &self.token) {
            (Some(_), Some(_)) => {
                return Err(wrong("`policy` and `token` both say what may be reached").help(
                    "send one of them; to reach less than a token allows, have a narrower one issued",
                ));
            }
            (policy, None) => policy.unwrap_or_default().flags(setup.listeners.clone())?,
            (None, Some(token)) => vec![issuers(token, setup.config.as_deref())?],
        });
        flags.extend(self.limits.flags(&setup.ceiling)?);
        let job = Job {
            name: id()?,
            flags,
            command: std::iter::once(self.command).chain(self.args).collect(),
            directory: self.directory.map_or_else(|| setup.directory.clone(), PathBuf::from),
            variables: self.env.into_iter().collect(),
            closed: setup.listeners.clone(),
            token: self.token,
            locked: setup.locked.clone(),
        };
        Ok(Checked { job, stdin, is_detached: self.detach })
    }

    fn check_bounds(&self) -> Result<(), Failure> {
        let words = || std::iter::once(&self.command).chain(&self.args);
        if self.command.is_empty() || words().any(|word| word.contains('\0')) {
            return Err(wrong("the command is empty, or it or an argument has a NUL"));
        }
        let bytes: usize = words().map(written).sum();
        if words().count() > WORDS_MAX || bytes > WORDS_BYTES_MAX {
            return Err(wrong(format!(
                "the command has more than {WORDS_MAX} words, or {WORDS_BYTES_MAX} bytes as JSON writes them"
            )));
        }
        let bytes: usize = self.env.iter().map(|(name, value)| written(name) + written(value)).sum();
        if self.env.len() > VARIABLES_MAX || bytes > VARIABLES_BYTES_MAX {
            return Err(wrong(format!(
                "there are more than {VARIABLES_MAX} variables, or {VARIABLES_BYTES_MAX} bytes of them as JSON writes them"
            )));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(wrong(format!("`{name}` is no variable, or its value has a NUL")));
            }
        }
        match &self.directory {
            Some(path) if !path.starts_with('/') || path.contains('\0') || path.len() > PATH_BYTES_MAX => {
                Err(wrong("`directory` is not an absolute path"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl PolicyOrder {
    /// Reads the entries as the runner will, so that every problem can be told, and returns them as flags.
    fn flags(self, listeners: Vec<std::net::SocketAddr>) -> Result<Vec<String>, Failure> {
        let Self { allow, deny, report } = self;
        let entries = || allow.iter().chain(&deny);
        let bytes: usize = entries().map(written).sum();
        if entries().count() > ENTRIES_MAX || bytes > ENTRIES_BYTES_MAX {
            return Err(wrong(format!(
                "the policy has more than {ENTRIES_MAX} entries or {ENTRIES_BYTES_MAX} bytes"
            )));
        }
        let mode = if report { Mode::Report } else { Mode::Enforce };
        let read = Flags { allow: &allow, deny: &deny, mode, ..Flags::default() };
        exeat_store::from_flags(&read, &Options { listeners, ..Options::new(Revision(1)) })
            .map_err(|report| wrong("the policy has errors").problems(report))?;
        let mut flags: Vec<String> = allow.iter().map(|entry| format!("--allow={entry}")).collect();
        // Nothing to take away from, and so no flag to do it.
        if !allow.is_empty() {
            flags.extend(deny.iter().map(|entry| format!("--deny={entry}")));
        }
        flags.extend(report.then(|| "--report".to_owned()));
        Ok(flags)
    }
}

/// Returns the flag that says whose tokens count, for a token that may be one.
fn issuers(token: &Hidden, config: Option<&str>) -> Result<String, Failure> {
    let Some(config) = config else {
        return Err(wrong("this server takes no tokens").help(
            "start it with --config FILE, whose [issuer] sections say whose count; or send a `policy`",
        ));
    };
    match token.text().trim().len() {
        0 => Err(wrong("`token` is empty")),
        1..=TOKEN_BYTES_MAX => Ok(format!("--config={config}")),
        _ => Err(wrong(format!("`token` is longer than {TOKEN_BYTES_MAX} bytes"))),
    }
}

impl LimitsOrder {
    fn flags(&self, most: &Ceiling) -> Result<Vec<String>, Failure> {
        let cpus = match self.cpus {
            Some(cpus) => Some(thousandths(cpus)?),
            None => None,
        };
        let memory = within("memory_bytes", self.memory_bytes, most.memory, MEMORY_MIN..=u64::MAX)?;
        let cpus = within("cpus", cpus, most.cpu_thousandths, 10..=4_096_000)?;
        let shares = within("cpu_shares", self.cpu_shares, most.cpu_shares, 2..=262_144)?;
        let pids = within("pids", self.pids, most.processes, 1..=u64::MAX)?;
        let time = most.time.as_secs().max(1);
        let seconds = within("seconds", self.seconds, Some(time), 1..=u64::MAX)?.unwrap_or(time);
        let memory = memory.map(|bytes| format!("--memory={bytes}"));
        let cpus = cpus.map(|cpus| format!("--cpus={}.{:03}", cpus / 1000, cpus % 1000));
        let shares = shares.map(|shares| format!("--cpu-shares={shares}"));
        let pids = pids.map(|pids| format!("--pids={pids}"));
        let time = Some(format!("--timeout={seconds}s"));
        Ok([memory, cpus, shares, pids, time].into_iter().flatten().collect())
    }
}

/// Returns what is asked for, or the most there is.
fn within(
    name: &str,
    asked: Option<u64>,
    most: Option<u64>,
    possible: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, Failure> {
    match (asked, most) {
        (Some(asked), _) if !possible.contains(&asked) => {
            Err(wrong(format!("`limits.{name}` is out of what is possible")))
        }
        (Some(asked), Some(most)) if asked > most => {
            Err(wrong(format!("`limits.{name}` is more than the server gives")))
        }
        (Some(asked), _) => Ok(Some(asked)),
        (None, most) => Ok(most),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is within 0 and 4096 by then"
)]
fn thousandths(cpus: f64) -> Result<u64, Failure> {
    if !(0.01..=4096.0).contains(&cpus) {
        return Err(wrong("`limits.cpus` is out of what is possible"));
    }
    Ok((cpus * 1000.0).round() as u64)
}

/// What nobody has had before, and nobody can guess.
fn id() -> Result<String, Failure> {
    let number = getrandom::u64()
        .map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "there is no randomness for an id"))?;
    Ok(format!("run-{number:016x}"))
}

/// How many bytes JSON takes for a text, without its quotes.
fn written(text: impl AsRef<str>) -> usize {
    let escaped = text.as_ref().chars().map(|char| match char {
        '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
        '\0'..'\u{20}' => 6,
        other => other.len_utf8(),
    });
    escaped.sum()
}

fn wrong(error: impl Into<String>) -> Failure {
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_takes_as_many_bytes_as_json_writes() {
        for text in ["", "plain", "\"\\/", "\u{8}\t\n\u{c}\r", "\0\u{1}\u{1f} \u{7f}", "grün \u{2028}😀"] {
            assert_eq!(written(text), serde_json::to_string(text).unwrap().len() - 2, "{text:?}");
        }
    }
}
