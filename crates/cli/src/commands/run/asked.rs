//! What the user of a run has allowed beside its policy, while it runs.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use exeat_store::{Flags, Loaded, Options, add_entry};

use super::{Run, found};

impl Run {
    /// Whether what no rule covers is asked about.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.args.ask
    }

    /// The file that an answer can be saved to.
    #[must_use]
    pub fn saves_to(&self) -> Option<PathBuf> {
        self.config().map(Path::to_path_buf)
    }

    /// Reads and compiles the policy again as it is now, with these `entries` beside it.
    ///
    /// # Errors
    /// If that cannot be, with every problem.
    pub fn load_with(&self, options: &Options, entries: &[String]) -> anyhow::Result<Loaded> {
        let loaded = match self.config() {
            None => {
                let allow = [&self.args.allow, entries].concat();
                let flags = Flags { allow: &allow, deny: &self.args.deny, ..Flags::default() };
                exeat_store::from_flags(&flags, options)
            }
            Some(path) => {
                let mut text = read(path)?;
                let policy = self.policy_of(&text, path, options)?;
                for entry in entries {
                    text = add_entry(&text, &policy, entry)?;
                }
                exeat_store::load_as(path, &text, options)
            }
        };
        self.limited(loaded.map_err(|report| anyhow::anyhow!(crate::output::report_text(&report)))?)
    }

    /// Adds an entry to the policy file. The file stays the same one, which the command can read and not write: it is written in its
    /// place.
    ///
    /// # Errors
    /// If there is no file, or it cannot be read, written or used with the entry; it is as it was then.
    pub fn save(&self, options: &Options, entry: &str) -> anyhow::Result<()> {
        let Some(path) = self.config() else { bail!("there is no policy file") };
        let text = read(path)?;
        let policy = self.policy_of(&text, path, options)?;
        let changed = add_entry(&text, &policy, entry)?;
        let loaded = exeat_store::load_as(path, &changed, options)
            .map_err(|report| anyhow::anyhow!(crate::output::report_text(&report)))?;
        if let Err(error) = write(path, &changed) {
            // What was there fitted in before.
            let _as_it_was = write(path, &text);
            return Err(error).with_context(|| format!("cannot write `{}`", path.display()));
        }
        match self.found.get() {
            Some(found) => found::remember(found, &found::digest(&loaded)),
            None => Ok(()),
        }
    }

    /// The name of the policy that the command is under.
    fn policy_of(&self, text: &str, path: &Path, options: &Options) -> anyhow::Result<String> {
        if let Some(name) = &self.args.policy {
            return Ok(name.clone());
        }
        let loaded = exeat_store::load_as(path, text, options)
            .map_err(|report| anyhow::anyhow!(crate::output::report_text(&report)))?;
        loaded.settings.anonymous.context("the configuration has no policy for the command")
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
