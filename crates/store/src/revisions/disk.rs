//! Revisions on disk: a file for each, named by its number. Its first line is JSON about the document, the rest is the
//! document, byte for byte. A file is written under another name and put in place as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use exeat_policy::Revision;
use serde::{Deserialize, Serialize};

use super::{Kept, Origin};
use crate::load::CONFIGURATION_BYTES_MAX;
use crate::written::{Digest, NamedFile, Written};

/// The folder in the state directory.
const FOLDER: &str = "revisions";
/// What a file is called before it is complete.
const NEW_FILE: &str = "new";
/// Bytes of a first line: some ten thousand group files fit.
const HEAD_BYTES_MAX: u64 = 1024 * 1024;
/// What the first line says that this is.
const FORMAT: &str = "exeat revision 1";

/// Why a revision cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The folder or a file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder or a file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not as it was written.
    #[error("{} is not a revision as it was written", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
}

/// The first line of a file.
#[derive(Deserialize, Serialize)]
struct Head {
    format: String,
    revision: u64,
    /// Milliseconds since 1970.
    when: u64,
    origin: String,
    uid: Option<u32>,
    restored: Option<u64>,
    change: String,
    digest: String,
    files: Vec<HeadFile>,
}

#[derive(Deserialize, Serialize)]
struct HeadFile {
    name: String,
    digest: String,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
}

/// What was there.
pub(super) struct Found {
    /// The oldest first.
    pub(super) kept: Vec<Kept>,
    /// The highest number, also of what is damaged.
    pub(super) highest: u64,
    pub(super) damaged: Vec<HistoryError>,
}

impl Disk {
    pub(super) fn open(state: &Path) -> Result<(Self, Found), HistoryError> {
        let folder = state.join(FOLDER);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(HistoryError::Write { path: folder, source });
            }
            Err(_) | Ok(()) => {}
        }
        let mut numbers =
            numbers(&folder).map_err(|source| HistoryError::Read { path: folder.clone(), source })?;
        numbers.sort_unstable();
        let disk = Self { folder };
        let highest = numbers.last().copied().unwrap_or(0);
        let (mut kept, mut damaged) = (Vec::new(), Vec::new());
        for number in numbers {
            match disk.read(number) {
                Ok(found) => kept.push(found),
                Err(error) => damaged.push(error),
            }
        }
        Ok((disk, Found { kept, highest, damaged }))
    }

    /// Writes a revision, to survive a loss of power from when this returns.
    pub(super) fn write(&self, kept: &Kept) -> Result<(), HistoryError> {
        let path = self.path(kept.revision.0);
        self.replace(&path, kept).map_err(|source| HistoryError::Write { path, source })
    }

    /// Removes revisions. One that stays is read and removed by the next start.
    pub(super) fn remove(&self, revisions: &[Revision]) {
        for revision in revisions {
            let path = self.path(revision.0);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "an old revision cannot be removed");
            }
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }

    fn replace(&self, path: &Path, kept: &Kept) -> io::Result<()> {
        let new = self.folder.join(NEW_FILE);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        serde_json::to_writer(&mut file, &head(kept))?;
        file.write_all(b"\n")?;
        file.write_all(kept.written.text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The name is the folder's to keep.
        File::open(&self.folder)?.sync_all()
    }

    fn read(&self, number: u64) -> Result<Kept, HistoryError> {
        let path = self.path(number);
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(CONFIGURATION_BYTES_MAX + HEAD_BYTES_MAX).read_to_end(&mut bytes));
        read.map_err(|source| HistoryError::Read { path: path.clone(), source })?;
        parse(number, &bytes).ok_or(HistoryError::Damaged { path })
    }
}

/// The numbers that files have. What has another name is not ours.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        numbers.extend(number.filter(|number| name.to_str() == Some(&number.to_string())));
    }
    Ok(numbers)
}

fn head(kept: &Kept) -> Head {
    let since = kept.when.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let file = |file: &NamedFile| HeadFile { name: file.name.to_string(), digest: file.digest.to_string() };
    Head {
        format: FORMAT.to_owned(),
        revision: kept.revision.0,
        when: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        origin: kept.origin.word().to_owned(),
        uid: kept.uid,
        restored: kept.restored.map(|revision| revision.0),
        change: kept.change.clone(),
        digest: kept.written.digest.to_string(),
        files: kept.written.shown_files().map(file).collect(),
    }
}

/// Reads a file's content. `None` if it is not as it was written.
fn parse(number: u64, bytes: &[u8]) -> Option<Kept> {
    let (first, text) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    let head: Head = serde_json::from_str(first).ok()?;
    let file = |file: HeadFile| {
        let digest = Digest::parse(&file.digest)?;
        Some(NamedFile { name: file.name.into(), digest, is_secret: false })
    };
    let files = head.files.into_iter().map(file).collect::<Option<Vec<_>>>()?;
    let written = Written::new(text, files);
    let is_right =
        head.format == FORMAT && head.revision == number && head.digest == written.digest.to_string();
    is_right.then_some(Kept {
        revision: Revision(number),
        when: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(head.when))?,
        origin: Origin::parse(&head.origin)?,
        uid: head.uid,
        restored: head.restored.map(Revision),
        change: head.change,
        written,
    })
}
