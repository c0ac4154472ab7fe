//! What the user of a run has allowed beside its policy, while it runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use anyhow::{Context, bail, ensure};
use exeat_store::{CONFIGURATION_BYTES_MAX, Flags, Loaded, Options, Written, add_entry};
use nix::fcntl::OFlag;

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

    /// Compiles the policy once more as it was read, with these `entries` beside it. What has become of the file since is nothing that
    /// its user has said.
    ///
    /// # Errors
    /// If that cannot be, with every problem, or if a file that it names is another by now.
    pub fn load_with(&self, options: &Options, entries: &[String]) -> anyhow::Result<Loaded> {
        let loaded = match self.config() {
            None => {
                let allow = [&self.args.allow, entries].concat();
                let flags = Flags { allow: &allow, deny: &self.args.deny, ..Flags::default() };
                exeat_store::from_flags(&flags, options)
                    .map_err(|report| anyhow::anyhow!(crate::output::report_text(&report)))?
            }
            Some(path) => {
                let kept = self.kept()?;
                let policy = self.policy_of(&kept.text, path, options)?;
                let mut text = kept.text.to_string();
                for entry in entries {
                    text = add_entry(&text, &policy, entry)?;
                }
                load(path, &text, &kept, options)?
            }
        };
        self.limited(loaded)
    }

    /// Adds an entry to the policy file. The file stays the same one, which the command can read and not write: it is written in its
    /// place.
    ///
    /// # Errors
    /// If there is no file, it is not what was read of it, or it cannot be read, written or used with the entry; it is as it was then.
    pub fn save(&self, options: &Options, entry: &str) -> anyhow::Result<()> {
        let Some(path) = self.config() else { bail!("there is no policy file") };
        let kept = self.kept()?;
        let cannot = |what: &str| format!("cannot {what} `{}`", path.display());
        let mut file = open(path).with_context(|| cannot("write"))?;
        let is = read(&mut file).with_context(|| cannot("read"))?;
        ensure!(is == kept.text.as_bytes(), "`{}` has been changed since it was read", path.display());
        let policy = self.policy_of(&kept.text, path, options)?;
        let changed = add_entry(&kept.text, &policy, entry)?;
        let loaded = load(path, &changed, &kept, options)?;
        if let Err(error) = write(&mut file, &changed) {
            // What was there fitted in before.
            let _as_it_was = write(&mut file, &kept.text);
            return Err(error).with_context(|| cannot("write"));
        }
        self.keep(&loaded);
        match (self.found.get(), &loaded.written) {
            (Some(found), Some(written)) => found::remember(found, written),
            (None, _) | (_, None) => Ok(()),
        }
    }

    /// What the policy was read from.
    fn kept(&self) -> anyhow::Result<Written> {
        let kept = self.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.context("the configuration was not read")
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

/// Reads what `text` means, if all that it names is still what was `kept` of it.
fn load(path: &Path, text: &str, kept: &Written, options: &Options) -> anyhow::Result<Loaded> {
    let loaded = exeat_store::load_as(path, text, options)
        .map_err(|report| anyhow::anyhow!(crate::output::report_text(&report)))?;
    let named = loaded.written.iter().flat_map(|written| &written.files);
    if let Some(other) = named.clone().find(|file| !kept.files.contains(file)) {
        bail!("`{}` has been changed since it was read: start the run again", other.name);
    }
    Ok(loaded)
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe would be waited for.
    let nonblocking = OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(path)?;
    let is_file = file.metadata()?.is_file();
    is_file.then_some(file).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(CONFIGURATION_BYTES_MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn write(file: &mut File, text: &str) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
