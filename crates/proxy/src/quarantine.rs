//! Principals that may reach nothing for now, whatever their policies say, kept over a restart.
//!
//! The file is text: a first line that says what it is, then one selector a line. It is replaced as a whole, so there is
//! an old one or a new one, never half of one.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::selector::Selector;

/// The file in the state directory.
const FILE: &str = "quarantine";
/// The file's first line.
const HEADLINE: &str = "exeat quarantine 1";
/// Selectors. Each request is held against every one of them; whoever has more wants a policy.
const SELECTORS_MAX: usize = 1000;
/// Bytes of the file: as many selectors, each of the longest.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why the state of the quarantine could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not one that this program wrote.
    #[error("{}:{line}: not {is_not}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What it should be, with its article.
        is_not: &'static str,
    },
    /// More is quarantined already than can be.
    #[error("there are {SELECTORS_MAX} selectors in quarantine already")]
    TooMany,
    /// More is revoked already than can be.
    #[error("there are too many revocations already")]
    TooManyRevocations,
}

/// Where the quarantine is kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// `None`: in memory alone.
    directory: Option<PathBuf>,
}

impl Kept {
    /// Keeps it in `directory` from now on. Returns what is kept there.
    ///
    /// # Errors
    /// If there is a file and it cannot be read or understood: nobody may get out of quarantine by a damaged disk.
    pub(crate) fn open(&mut self, directory: &Path) -> Result<BTreeSet<Selector>, StateError> {
        let path = directory.join(FILE);
        let found = match read_text(&path, FILE_BYTES_MAX) {
            Ok(text) => parse(&text).map_err(|line| StateError::Damaged {
                path,
                line,
                is_not: "a quarantined principal",
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        self.directory = Some(directory.to_owned());
        Ok(found)
    }

    /// Where it is kept, if it is.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Writes `quarantine` down, to survive a loss of power from when this returns.
    ///
    /// # Errors
    /// If the disk does not take it. What was kept before is kept still.
    pub(crate) fn write(&self, quarantine: &BTreeSet<Selector>) -> Result<(), StateError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        replace(directory, FILE, &text(quarantine))
            .map_err(|source| StateError::Write { path: directory.join(FILE), source })
    }
}

/// Adds a selector.
///
/// # Errors
/// If there are too many.
pub(crate) fn with(
    quarantine: &BTreeSet<Selector>,
    selector: Selector,
) -> Result<BTreeSet<Selector>, StateError> {
    let mut more = quarantine.clone();
    more.insert(selector);
    if more.len() > SELECTORS_MAX { Err(StateError::TooMany) } else { Ok(more) }
}

/// Reads a file of the state, up to `most` bytes: a longer one has a last line that was cut off.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads the file's text.
///
/// # Errors
/// The number of the first line that is not as this program writes it.
fn parse(text: &str) -> Result<BTreeSet<Selector>, usize> {
    // A line without its end was cut off.
    let mut lines = (1..).zip(text.split_inclusive('\n').map(|line| line.strip_suffix('\n')));
    match lines.next() {
        Some((_, Some(HEADLINE))) => {}
        Some(_) | None => return Err(1),
    }
    let selector = |(number, line): (usize, Option<&str>)| {
        line.and_then(|line| line.parse().ok()).filter(|_| number <= SELECTORS_MAX + 1).ok_or(number)
    };
    lines.map(selector).collect()
}

fn text(quarantine: &BTreeSet<Selector>) -> String {
    let mut text = format!("{HEADLINE}\n");
    for selector in quarantine {
        text.push_str(&selector.to_string());
        text.push('\n');
    }
    text
}

/// Writes a new file, makes sure that the disk has it, and puts it in the place of the one of this name.
pub(crate) fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    // The name is the directory's to keep.
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_it_is_written_and_nothing_else_is() {
        let selectors: BTreeSet<Selector> =
            ["client app", "client with = and  spaces", "label space=prod", "workload batch"]
                .map(|s| s.parse().unwrap())
                .into();
        assert_eq!(parse(&text(&selectors)), Ok(selectors.clone()));
        assert_eq!(parse(&text(&BTreeSet::new())), Ok(BTreeSet::new()));
        for (case, text, line) in [
            ("empty", String::new(), 1),
            ("another file", "[proxy]\n".to_owned(), 1),
            ("of a later version", "exeat quarantine 2\n".to_owned(), 1),
            ("cut off in the headline", "exeat quarantine 1".to_owned(), 1),
            ("cut off in a line", format!("{HEADLINE}\nclient a\nclient b"), 3),
            ("another word", format!("{HEADLINE}\nclient a\ncustomer b\n"), 3),
            ("an empty line", format!("{HEADLINE}\n\nclient a\n"), 2),
            (
                "too many",
                format!("{HEADLINE}\n{}", "client a\n".repeat(SELECTORS_MAX + 1)),
                SELECTORS_MAX + 2,
            ),
        ] {
            assert_eq!(parse(&text), Err(line), "{case}");
        }
    }

    #[test]
    fn what_was_written_is_there_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().to_owned();
        let mut kept = Kept::default();
        let one = with(&BTreeSet::new(), "client app".parse().unwrap()).unwrap();
        assert!(kept.write(&one).is_ok(), "without a directory");
        assert_eq!(kept.open(&directory).unwrap(), BTreeSet::new());
        kept.write(&one).unwrap();
        assert_eq!(Kept::default().open(&directory).unwrap(), one);
        kept.write(&BTreeSet::new()).unwrap();
        assert_eq!(Kept::default().open(&directory).unwrap(), BTreeSet::new());
        fs::write(directory.join(FILE), "x").unwrap();
        assert!(matches!(Kept::default().open(&directory), Err(StateError::Damaged { line: 1, .. })));
        fs::remove_dir_all(&directory).unwrap();
        assert!(matches!(kept.write(&one), Err(StateError::Write { .. })));
    }
}
