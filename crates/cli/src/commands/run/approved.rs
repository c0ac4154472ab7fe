//! What a user has said of the configurations that were found: which of them count, by what was in them and in the files that they name.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use exeat_sandbox::state_folder;
use exeat_store::{Digest, NamedFile, Written};

/// The file of what was looked at, and how much of it is read: some thousand lines of a digest and a path each.
const APPROVED: &str = "approved";
const APPROVED_BYTES_MAX: u64 = 256 * 1024;

/// What stands before the path of a file alone, without those that it names. No path that is absolute begins so.
const ALONE: char = '=';

/// All that was looked at and counts.
#[derive(Debug)]
pub(super) struct Approved(String);

impl Approved {
    pub(super) fn read() -> Self {
        let Some(file) = file() else { return Self(String::new()) };
        Self(match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= APPROVED_BYTES_MAX => {
                fs::read_to_string(file).unwrap_or_default()
            }
            Ok(_) | Err(_) => String::new(),
        })
    }

    /// Whether a configuration and all that it names are as they were then.
    pub(super) fn has(&self, path: &Path, written: &Written) -> bool {
        let line = line(&whole(written), &path.display().to_string());
        self.0.lines().any(|approved| approved == line)
    }

    /// What to say of a file alone: that it is new, or has changed; `None` if it is as it was then.
    pub(super) fn news(&self, name: &str, digest: Digest) -> Option<&'static str> {
        let name = format!("{ALONE}{name}");
        let mut known = self.0.lines().filter_map(|line| line.split_once(' '));
        match known.find(|(_, known)| *known == name) {
            None => Some("new"),
            Some((known, _)) => (known != digest.to_string()).then_some("changed"),
        }
    }

    /// Notes that a configuration is as its user wants it.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(super) fn remember(&self, path: &Path, written: &Written) -> anyhow::Result<()> {
        // Without a place that commands cannot change it is asked for each time.
        let Some(file) = file() else { return Ok(()) };
        let path = path.display().to_string();
        let alone = |name: &str, digest: Digest| line(&digest.to_string(), &format!("{ALONE}{name}"));
        let named = written.files.iter().filter(|file| !file.is_secret);
        let named = named.map(|NamedFile { name, digest, .. }| alone(name, *digest));
        let new: Vec<String> =
            [line(&whole(written), &path), alone(&path, written.digest)].into_iter().chain(named).collect();
        let of = |line: &str| line.split_once(' ').map(|(_, path)| path.to_owned());
        let others = self.0.lines().filter(|other| !new.iter().any(|new| of(new) == of(other)));
        let text: String =
            others.chain(new.iter().map(String::as_str)).flat_map(|line| [line, "\n"]).collect();
        let temporary = file.with_file_name(format!("{APPROVED}.{}", std::process::id()));
        (OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary))
            .and_then(|mut new| new.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&temporary, &file))
            .with_context(|| format!("cannot write `{}`", file.display()))
    }
}

fn file() -> Option<PathBuf> {
    state_folder().map(|folder| folder.join(APPROVED))
}

/// One line, whatever is in a path.
fn line(digest: &str, path: &str) -> String {
    format!("{digest} {}", path.replace('\n', "\u{fffd}"))
}

/// The digest of a configuration and of all that it names.
fn whole(written: &Written) -> String {
    let files = written.files.iter().map(|file| format!("{} {}\n", file.digest, file.name));
    let all: String = std::iter::once(format!("{}\n", written.digest)).chain(files).collect();
    Digest::of(all.as_bytes()).to_string()
}
