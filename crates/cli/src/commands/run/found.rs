//! An `exeat.toml` above the working directory. The command of an earlier run may have put it there, or changed it: it has the
//! same user. So it counts once its user has looked at it, as long as it stays as it was then.

use std::fmt::Write;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use exeat_store::{Beginning, Loaded, NamedFile, Written, beginning_of_file, files_named};
use nix::unistd::geteuid;
use unicode_width::UnicodeWidthChar;

use super::approved::Approved;
use crate::terminal::{Terminal, printable};

/// The name that is looked for.
pub(super) const NAME: &str = "exeat.toml";

/// Rows of a terminal that are shown: what has scrolled away was not looked at.
const SHOWN_ROWS_MAX: usize = 200;

/// Entries that are shown of each file that it names.
const SHOWN_ENTRIES_MAX: usize = 20;

/// The size of a terminal that does not say it.
const SIZE: (u16, u16) = (80, 24);

/// How long the question waits.
const PATIENCE: Duration = Duration::from_secs(600);

/// Permissions that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// Where everybody may write, but nobody rename or delete what belongs to somebody else.
const STICKY: u32 = 0o1000;

/// Returns the nearest one, if nobody but its user or root can have written it.
///
/// # Errors
/// If others can, or it is no file. It is not passed over then: whoever put it there may want the next one to count.
pub(super) fn look(directory: &Path) -> anyhow::Result<Option<PathBuf>> {
    for above in directory.ancestors() {
        let path = above.join(NAME);
        // A link that leads nowhere is there, too.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if !metadata.is_file() {
            // Whoever may write its folder can have a link lead elsewhere, and the command often may.
            bail!("`{}` is not used: it is no file; {INSTEAD}", path.display());
        }
        check_owners(&path, &path)?;
        return Ok(Some(path));
    }
    Ok(None)
}

/// What to do if one is not used.
const INSTEAD: &str = "name it with --config if it is fine, or say --allow";

/// Checks that nobody but the user or root can have written `file`, for the sake of the configuration at `path`.
fn check_owners(path: &Path, file: &Path) -> anyhow::Result<()> {
    let real = file.canonicalize().with_context(|| format!("cannot find `{}`", file.display()))?;
    for (at, place) in real.ancestors().enumerate() {
        let metadata =
            fs::metadata(place).with_context(|| format!("cannot look at `{}`", place.display()))?;
        if let Some(problem) = problem(&metadata, at, geteuid().as_raw()) {
            bail!("`{}` is not used: `{}` {problem}; {INSTEAD}", path.display(), place.display());
        }
    }
    Ok(())
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
    files_named(path, loaded).iter().try_for_each(|file| check_owners(path, file))?;
    let approved = Approved::read();
    if is_trusted || approved.has(path, written) {
        return Ok(());
    }
    let Ok(mut terminal) = Terminal::open() else {
        bail!(
            "`{}` was found and nobody has looked at it yet: run this on a terminal once, say --trust-config, or name a policy \
             with --config or --allow",
            path.display()
        );
    };
    let (columns, lines) = crossterm::terminal::size().unwrap_or(SIZE);
    let shown = shown(path, written, &approved)?;
    let rows = rows(&shown, columns);
    if rows > SHOWN_ROWS_MAX {
        bail!("`{}` is too long to be shown: look at it, and say --trust-config", path.display());
    }
    let scroll = if rows >= lines.into() { " Scroll up to see its beginning." } else { "" };
    let question = format!("{shown}{scroll} Use it until it changes again? [y/N] ");
    terminal.prepare()?;
    let answer = terminal.ask(&question, Instant::now() + PATIENCE)?;
    if !matches!(answer.as_deref(), Some("y\n" | "Y\n" | "yes\n")) {
        bail!("`{}` is not used", path.display());
    }
    approved.remember(path, written)
}

/// Notes that the file is as its user wants it: they have just had it changed.
///
/// # Errors
/// If that cannot be written.
pub(super) fn remember(path: &Path, written: &Written) -> anyhow::Result<()> {
    Approved::read().remember(path, written)
}

/// What is to be looked at, and what of it is new.
fn shown(path: &Path, written: &Written, approved: &Approved) -> anyhow::Result<String> {
    let name = path.display().to_string();
    let mut text = printable(&written.text);
    let mut news = Vec::new();
    news.extend(approved.news(&name, written.digest).map(|is| format!("{} is {is}", printable(NAME))));
    // Writing to a string cannot fail.
    for file in &written.files {
        let name = printable(&file.name);
        if file.is_secret {
            let _ = writeln!(text, "\nexeat: it names {name}, which is secret");
            continue;
        }
        let is = approved.news(&file.name, file.digest);
        let _ = writeln!(text, "\nexeat: it names {name}, which is {}", is.unwrap_or("as it was"));
        news.extend(is.map(|is| format!("{name} is {is}")));
        show_entries(&mut text, file)?;
    }
    let _ = write!(text, "\nexeat: {} says what the command may reach: ", printable(&name));
    let _ = write!(
        text,
        "{}.",
        if news.is_empty() { "it is new or has changed".to_owned() } else { news.join(", ") }
    );
    Ok(text)
}

fn show_entries(text: &mut String, file: &NamedFile) -> anyhow::Result<()> {
    let read = beginning_of_file(Path::new(&*file.name), SHOWN_ENTRIES_MAX);
    let Beginning { digest, lines, more } = read.with_context(|| format!("cannot read `{}`", file.name))?;
    if digest != file.digest {
        bail!("`{}` is being changed: try again", file.name);
    }
    for line in lines {
        let _ = writeln!(text, "  {}", printable(&line));
    }
    if more > 0 {
        let _ = writeln!(text, "  and {more} more: look at the file");
    }
    Ok(())
}

/// How many rows of a terminal a text needs at the most.
fn rows(text: &str, columns: u16) -> usize {
    let columns = usize::from(if columns == 0 { SIZE.0 } else { columns });
    let width = |line: &str| -> usize {
        line.chars().map(|c| if c == '\t' { TAB } else { c.width().unwrap_or(WIDE) }).sum()
    };
    text.lines().map(|line| width(line).div_ceil(columns).max(1)).sum()
}

/// Columns of a tab, and of characters of which nobody knows, at the most.
const TAB: usize = 8;
const WIDE: usize = 2;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

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
        assert_eq!(look(&inner).unwrap(), Some(file.clone()));
        // What the command could have lead elsewhere, or nowhere, hides those above.
        for target in [Path::new("../exeat.toml"), Path::new("nowhere")] {
            symlink(target, inner.join(NAME)).unwrap();
            assert!(look(&inner).unwrap_err().to_string().contains("no file"), "{target:?}");
            fs::remove_file(inner.join(NAME)).unwrap();
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
    fn rows_are_those_of_the_terminal() {
        for (text, columns, want) in [
            ("", 80, 0),
            ("a\n\nb\n", 80, 3),
            ("12345678901", 10, 2),
            ("1234567890\n1", 10, 2),
            ("\t\t", 10, 2),
            ("日本語", 4, 2),
            ("12345678901", 0, 1),
        ] {
            assert_eq!(rows(text, columns), want, "{text:?} {columns}");
        }
    }
}
