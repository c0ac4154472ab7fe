//! `exeat run`, as users start it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::Uid;

use crate::client::{Client, Outcome};
use crate::exeat::binary;

/// Where the system's own programs lie: those of a user who runs the tests may be out of others' sight.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A user of every system who owns nothing.
const NOBODY: &str = "65534";

/// Who starts it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Starter {
    /// Root, who names another user for the command.
    Root,
    /// A user without privileges, who is root for the tests alone.
    Nobody,
    /// Whoever runs the tests.
    Tester,
}

impl Starter {
    /// All that can be tried here. What the tests' own user namespace calls root is nobody special.
    #[must_use]
    pub fn all() -> &'static [Self] {
        let is_mapped = fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().nth(1) != Some("0"));
        if Uid::effective().is_root() && !is_mapped { &[Self::Nobody, Self::Root] } else { &[Self::Tester] }
    }

    /// How it is called in the names of scenarios.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Root => "by_root",
            Self::Nobody => "by_nobody",
            Self::Tester => "by_the_tester",
        }
    }

    /// The words of the command line before the flags of `exeat run`.
    ///
    /// # Errors
    /// When the binary has not been built.
    pub fn words(self) -> Result<Vec<String>> {
        let binary = binary()?.to_string_lossy().into_owned();
        let words: &[&str] = match self {
            Self::Root => &[&binary, "run", "--user", "nobody"],
            Self::Nobody => {
                &["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", &binary, "run"]
            }
            Self::Tester => &[&binary, "run"],
        };
        Ok(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// Runs a command in `home` under these flags of `exeat run`.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn run(self, home: &Path, flags: &[&str], command: &[&str]) -> Result<Outcome> {
        let words = self.words()?;
        let (program, args) = words.split_first().context("a program")?;
        open_to_all(home)?;
        Client::new(program, home).env("PATH", PATH).args(args).args(flags).args(["--"]).args(command).run()
    }

    /// The same, not started yet, for those that a test needs hold of.
    ///
    /// # Errors
    /// When the binary has not been built.
    pub fn command(self, home: &Path, flags: &[&str], command: &[&str]) -> Result<Command> {
        let words = self.words()?;
        let (program, args) = words.split_first().context("a program")?;
        open_to_all(home)?;
        let mut started = Command::new(program);
        started.args(args).args(flags).arg("--").args(command).current_dir(home);
        started.env_clear().env("PATH", PATH).env("HOME", home).env("LC_ALL", "C.UTF-8");
        Ok(started)
    }
}

/// Lets everybody write to a folder: that of a scenario is its user's alone.
///
/// # Errors
/// When it is not ours.
pub fn open_to_all(home: &Path) -> Result<()> {
    fs::set_permissions(home, fs::Permissions::from_mode(0o777)).context("open the folder")
}
