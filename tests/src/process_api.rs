//! `exeat sandbox serve`, and curl as its caller.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::client::{Client, Outcome};
use crate::confined::{Starter, open_to_all};
use crate::exeat::Exeat;

/// Where it listens, unless a scenario says otherwise: a loopback address that nobody else has.
pub const ADDRESS: &str = "127.0.0.1:18080";

/// Where the system's own programs lie: those of a user who runs the tests may be out of others' sight.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable that tells it the secret.
pub const SECRET_VARIABLE: &str = "EXEAT_PROCESS_API_SECRET";

/// A server, ready.
pub struct Api {
    /// Its process; its audit log is `audit.jsonl`.
    pub exeat: Exeat,
    /// What callers have to know.
    pub secret: String,
    home: PathBuf,
    url: String,
}

/// Starts `exeat sandbox serve` with these flags as the starter would, and does not wait for it.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(starter: Starter, home: &Path, flags: &[&str], variables: &[(&str, &str)]) -> Result<Exeat> {
    open_to_all(home)?;
    let wrapper: &[&str] = match starter {
        Starter::Nobody => &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"],
        Starter::Root | Starter::Tester => &["env"],
    };
    let mut args = vec!["sandbox", "serve"];
    if starter == Starter::Root {
        args.extend(["--user", "nobody"]);
    }
    args.extend(flags);
    Exeat::spawn_as(home, wrapper, &args, |command| {
        command.env("PATH", PATH).env("HOME", home).env("LC_ALL", "C.UTF-8").envs(variables.iter().copied());
    })
}

impl Api {
    /// Starts it at [`ADDRESS`] with these flags, and returns when it is ready.
    ///
    /// # Errors
    /// When it is not.
    pub fn start(starter: Starter, home: &Path, flags: &[&str]) -> Result<Self> {
        Self::start_at(ADDRESS, starter, home, flags)
    }

    /// The same at another address.
    ///
    /// # Errors
    /// When it is not.
    pub fn start_at(address: &str, starter: Starter, home: &Path, flags: &[&str]) -> Result<Self> {
        let file = home.join("state/secret").to_string_lossy().into_owned();
        let audit = home.join("audit.jsonl").to_string_lossy().into_owned();
        let own = ["--addr", address, "--secret-file", &file, "--audit", &audit];
        let mut exeat = spawn(starter, home, &[&own[..], flags].concat(), &[])?;
        exeat.until_logged("ready")?;
        let secret = fs::read_to_string(&file).context("the secret")?.trim_end().to_owned();
        Ok(Self { exeat, secret, home: home.to_owned(), url: format!("http://{address}") })
    }

    /// What curl is told to show the secret.
    #[must_use]
    pub fn authorization(&self) -> String {
        format!("Authorization: Bearer {}", self.secret)
    }

    /// Has curl make a request without any credentials, and returns the status and the body.
    ///
    /// # Errors
    /// When curl does not run, or there is no answer.
    pub fn curl(&self, path: &str, args: &[&str]) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.url);
        answer(
            Client::new("curl", &self.home)
                .args(["-sS", "-w", "\n%{http_code}"])
                .args(args)
                .args([url])
                .run()?,
        )
    }

    /// The same with the secret.
    ///
    /// # Errors
    /// Likewise.
    pub fn ask(&self, path: &str, args: &[&str]) -> Result<(u16, Value)> {
        self.curl(path, &[&["-H", &self.authorization()], args].concat())
    }

    /// Has this run.
    ///
    /// # Errors
    /// Likewise.
    pub fn execute(&self, order: &Value) -> Result<(u16, Value)> {
        let file = self.home.join("order.json");
        fs::write(&file, order.to_string())?;
        self.ask("/execute", &["--data-binary", &format!("@{}", file.display())])
    }
}

/// Reads what curl was told to print.
///
/// # Errors
/// When that is something else.
pub fn answer(outcome: Outcome) -> Result<(u16, Value)> {
    let shown = format!("{outcome:?}");
    let (body, status) = outcome.out.rsplit_once('\n').with_context(|| shown.clone())?;
    let body = serde_json::from_str(body).with_context(|| shown.clone())?;
    Ok((status.parse().with_context(|| shown)?, body))
}
