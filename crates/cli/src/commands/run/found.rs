//! An `exeat.toml` above the working directory. The command of an earlier run may have put it there, or changed it: it has the
//! same user. So it counts once its user has looked at it, as long as it stays as it was then.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use exeat_sandbox::state_folder;
use exeat_store::{Digest, Loaded};
use nix::unistd::geteuid;

/// The name that is looked for.
const NAME: &str = "exeat.toml";

/// The file of what was looked at, and how much of it is read: some thousand lines of a digest and a path each.
const APPROVED: &str = "approved";
const APPROVED_BYTES_MAX: u64 = 256 * 1024;

/// Lines that are shown: what has scrolled away was not looked at.
const SHOWN_LINES_MAX: usize = 200;

/// Permissions that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// Where everybody may write, but nobody rename or delete what belongs to somebody else.
const STICKY: u32 = 0o1000;

/// Returns the nearest one, if nobody but its user or root can have written it.
///
/// # Errors
/// If others can. It is not passed over then: whoever put it there may want the next one to count.
pub(super) fn look(directory: &Path) -> anyhow::Result<Option<PathBuf>> {
    let found = directory.ancestors().map(|above| above.join(NAME)).find(|path| path.exists());
    let Some(path) = found else { return Ok(None) };
    let path = path.canonicalize().with_context(|| format!("cannot find `{}`", path.display()))?;
    for (at, place) in path.ancestors().enumerate() {
        let metadata =
            fs::metadata(place).with_context(|| format!("cannot look at `{}`", place.display()))?;
        if let Some(problem) = problem(&metadata, at, geteuid().as_raw()) {
            bail!(
                "`{}` is not used: `{}` {problem}; name it with --config if it is fine, or say --allow",
                path.display(),
                place.display()
            );
        }
    }
    Ok(Some(path))
}

/// What is wrong with a file (`at` 0) or with one of the directories above it.
fn problem(metadata: &Metadata, at: usize, user: u32) -> Option<&'static str> {
    let is_protected = at > 1 && metadata.mode() & STICKY != 0;
    if metadata.uid() != user && metadata.uid() != 0 {
        Some("belongs to somebody else")
    } else if metadata.mode() & OTHERS_WRITE != 0 && !is_protected {
        Some("can be written by others")
    } else {
        None
    }
}

/// Lets what was read of the file at `path` count if it was looked at before, or `is_trusted`, or its user says so now.
///
/// # Errors
/// If it does not count, with what to do about it.
pub(super) fn approve(path: &Path, loaded: &Loaded, is_trusted: bool) -> anyhow::Result<()> {
    let Some(written) = &loaded.written else { bail!("`{}` was not read", path.display()) };
    let digest = digest(loaded);
    if is_trusted || is_approved(path, &digest) {
        return Ok(());
    }
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok();
    let Some(mut terminal) = terminal.filter(IsTerminal::is_terminal) else {
        bail!(
            "`{}` was found and nobody has looked at it yet: run this on a terminal once, say --trust-config, or name a policy \
             with --config or --allow",
            path.display()
        );
    };
    if written.text.lines().count() > SHOWN_LINES_MAX {
        bail!("`{}` is too long to be shown: look at it, and say --trust-config", path.display());
    }
    let shown = format!(
        "{}\nexeat: {} says what the command may reach, and it is new or has changed. Use it until it changes again? [y/N] ",
        printable(&written.text),
        path.display()
    );
    terminal.write_all(shown.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(terminal).read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("`{}` is not used", path.display());
    }
    remember(path, &digest)
}

/// Notes that the file is as its user wants it: they have just had it changed.
///
/// # Errors
/// If that cannot be written.
pub(crate) fn remember(path: &Path, digest: &str) -> anyhow::Result<()> {
    // Without a place that commands cannot change it is asked for each time.
    let Some(folder) = state_folder() else { return Ok(()) };
    let file = folder.join(APPROVED);
    let line = format!("{digest} {}", path.display());
    let others = read_approved();
    let others = others.lines().filter(|other| {
        other.split_once(' ').map(|(_, path)| path) != line.split_once(' ').map(|(_, path)| path)
    });
    let text: String = others.chain([line.as_str()]).flat_map(|line| [line, "\n"]).collect();
    let mut temporary = OpenOptions::new();
    let new = folder.join(format!("{APPROVED}.{}", std::process::id()));
    temporary.write(true).create(true).truncate(true).mode(0o600);
    temporary
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| format!("cannot write `{}`", file.display()))
}

/// Of the file and of all that it names.
pub(crate) fn digest(loaded: &Loaded) -> String {
    let Some(written) = &loaded.written else { return String::new() };
    let files = written.files.iter().map(|file| format!("{} {}\n", file.digest, file.name));
    let all: String = std::iter::once(format!("{}\n", written.digest)).chain(files).collect();
    Digest::of(all.as_bytes()).to_string()
}

fn is_approved(path: &Path, digest: &str) -> bool {
    let line = format!("{digest} {}", path.display());
    read_approved().lines().any(|approved| approved == line)
}

fn read_approved() -> String {
    let Some(file) = state_folder().map(|folder| folder.join(APPROVED)) else { return String::new() };
    match fs::metadata(&file) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= APPROVED_BYTES_MAX => {
            fs::read_to_string(file).unwrap_or_default()
        }
        Ok(_) | Err(_) => String::new(),
    }
}

/// A text without what would make a terminal show something else: control characters, and those that turn or hide others.
fn printable(text: &str) -> String {
    let hides = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if hides(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_nearest_counts_if_nobody_else_can_have_written_it() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().canonicalize().unwrap().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let (above, file) = (inner.parent().unwrap().to_owned(), inner.parent().unwrap().join(NAME));
        assert_eq!(look(&inner).unwrap(), None);
        fs::write(&file, "").unwrap();
        assert_eq!(look(&inner).unwrap(), Some(file.clone()));
        assert_eq!(look(&above).unwrap(), Some(file.clone()));
        for (path, mode) in [(&file, 0o664), (&file, 0o646), (&above, 0o775), (&above, 0o1777)] {
            let before = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let error = look(&inner).unwrap_err().to_string();
            assert!(error.contains("can be written by others") && error.contains("--config"), "{error}");
            fs::set_permissions(path, before).unwrap();
        }
        assert_eq!(look(&inner).unwrap(), Some(file));
    }

    #[test]
    fn a_file_belongs_to_its_user_or_to_root() {
        let of_root = fs::metadata("/").unwrap();
        assert_eq!(problem(&of_root, 1, 1000), None);
        let folder = tempfile::tempdir().unwrap();
        let ours = fs::metadata(folder.path()).unwrap();
        let other = ours.uid() + 1;
        let want = (ours.uid() != 0).then_some("belongs to somebody else");
        assert_eq!(problem(&ours, 1, other), want);
    }

    #[test]
    fn what_a_terminal_would_not_show_is_shown() {
        assert_eq!(printable("a\tb\n\u{1b}[2Kc\r\u{202e}d"), "a\tb\n\u{fffd}[2Kc\u{fffd}\u{fffd}d");
    }
}
