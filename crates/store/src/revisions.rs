//! The documents that have decided: a bounded number of them in memory and, where there is a state directory, on disk,
//! so that numbers go on growing over a restart and an older document can be put back.

mod disk;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use exeat_policy::Revision;

use crate::changed;
use crate::written::Written;

pub use disk::HistoryError;

/// Revisions that are kept: a few weeks of changes by people. Programs that change it more often have a history of
/// their own.
pub const REVISIONS_MAX: usize = 100;

/// Bytes of the documents that are kept, all together. The newest two are kept whatever they take.
pub const REVISIONS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How a document came to decide.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The process found it when it started.
    Start,
    /// SIGHUP: the file was read again.
    Signal,
    /// The admin API or `exeat reload`: the file was read again.
    Reload,
    /// It was sent over the admin API.
    Put,
    /// An older one was put back over the admin API.
    Rollback,
}

impl Origin {
    const ALL: [Self; 5] = [Self::Start, Self::Signal, Self::Reload, Self::Put, Self::Rollback];

    /// Returns the stable lower-case word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Signal => "signal",
            Self::Reload => "reload",
            Self::Put => "put",
            Self::Rollback => "rollback",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.word() == word)
    }
}

/// A document that decides or has decided.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    /// The number of the snapshots that were made of it.
    pub revision: Revision,
    /// When it took effect.
    pub when: SystemTime,
    /// How.
    pub origin: Origin,
    /// The user on the other side of the admin API's socket, if it came from there.
    pub uid: Option<u32>,
    /// The revision whose document was put back.
    pub restored: Option<Revision>,
    /// What is different from the one before, in a line.
    pub change: String,
    /// The document. Of one that was kept on disk, secret files are not among its files.
    pub written: Written,
}

/// What is known of a document that takes effect.
#[derive(Clone, Debug)]
pub struct News {
    /// When.
    pub when: SystemTime,
    /// How.
    pub origin: Origin,
    /// The user who asked for it over the admin API.
    pub uid: Option<u32>,
    /// The revision that it was taken from.
    pub restored: Option<Revision>,
    /// The document.
    pub written: Written,
}

/// The documents that have decided, the newest last.
#[derive(Debug, Default)]
pub struct History {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bounds: Bounds,
    kept: VecDeque<Arc<Kept>>,
    /// The highest number that was ever given, also to a document that is lost.
    highest: u64,
    disk: Option<disk::Disk>,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    revisions: usize,
    bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { revisions: REVISIONS_MAX, bytes: REVISIONS_BYTES_MAX }
    }
}

impl History {
    /// Keeps documents in `state` from now on, and takes over those that are there. Returns what of them cannot be
    /// used; their numbers are not given again.
    ///
    /// # Errors
    /// If the folder cannot be made or listed. The history is in memory then.
    pub fn open(&self, state: &Path) -> Result<Vec<HistoryError>, HistoryError> {
        let (disk, found) = disk::Disk::open(state)?;
        let mut inner = self.inner();
        inner.highest = inner.highest.max(found.highest);
        inner.kept = found.kept.into_iter().map(Arc::new).collect();
        inner.disk = Some(disk);
        Ok(found.damaged)
    }

    /// Notes what decides from the start on and returns its number: that of the newest document if it is the same, or
    /// the next one.
    ///
    /// # Errors
    /// If it could not be written to disk. It is noted in memory all the same.
    pub fn start(&self, written: Written, now: SystemTime) -> (Revision, Result<(), HistoryError>) {
        let newest = self.newest();
        let highest = Revision(self.inner().highest);
        match newest.filter(|kept| kept.revision == highest && is_same(&kept.written, &written)) {
            Some(kept) => {
                // Files that hold a password are known now; what was read from disk has none.
                let kept = Arc::new(Kept { written, ..Kept::clone(&kept) });
                self.inner().replace_newest(kept);
                (highest, Ok(()))
            }
            None => {
                let revision = Revision(highest.0 + 1);
                let news = News { when: now, origin: Origin::Start, uid: None, restored: None, written };
                (revision, self.note(revision, news))
            }
        }
    }

    /// Notes what decides from now on.
    ///
    /// # Errors
    /// If it could not be written to disk. It is noted in memory all the same.
    pub fn note(&self, revision: Revision, news: News) -> Result<(), HistoryError> {
        let mut inner = self.inner();
        let News { when, origin, uid, restored, written } = news;
        let change = inner.kept.back().map_or_else(
            || "the first one that is kept".to_owned(),
            |last| changed::line(&last.written, &written),
        );
        let kept = Arc::new(Kept { revision, when, origin, uid, restored, change, written });
        inner.highest = inner.highest.max(revision.0);
        inner.kept.push_back(Arc::clone(&kept));
        let dropped = inner.drop_oldest();
        match &inner.disk {
            None => Ok(()),
            Some(disk) => {
                disk.remove(&dropped);
                disk.write(&kept)
            }
        }
    }

    /// Returns every revision that is kept, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Kept>> {
        self.inner().kept.iter().cloned().collect()
    }

    /// Returns a revision, if it is kept.
    #[must_use]
    pub fn get(&self, revision: Revision) -> Option<Arc<Kept>> {
        self.inner().kept.iter().find(|kept| kept.revision == revision).cloned()
    }

    /// Returns the newest revision: the one that decides.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Kept>> {
        self.inner().kept.back().cloned()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn replace_newest(&mut self, kept: Arc<Kept>) {
        self.kept.pop_back();
        self.kept.push_back(kept);
    }

    /// Lets go of what exceeds the bounds.
    fn drop_oldest(&mut self) -> Vec<Revision> {
        let mut dropped = Vec::new();
        let mut bytes: usize = self.kept.iter().map(|kept| kept.written.text.len()).sum();
        let Bounds { revisions: most, bytes: bytes_max } = self.bounds;
        while self.kept.len() > 2 && (self.kept.len() > most || bytes > bytes_max) {
            let Some(oldest) = self.kept.pop_front() else { break };
            bytes -= oldest.written.text.len();
            dropped.push(oldest.revision);
        }
        dropped
    }
}

/// Whether what was kept on disk is the same as what was read now. Of files with passwords, the disk knows nothing.
fn is_same(kept: &Written, now: &Written) -> bool {
    kept.digest == now.digest && kept.shown_files().eq(now.shown_files())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn news(text: &str) -> News {
        let written = Written::new(text, vec![]);
        News { when: NOW, origin: Origin::Put, uid: Some(7), restored: None, written }
    }

    fn numbers(history: &History) -> Vec<u64> {
        history.list().iter().map(|kept| kept.revision.0).collect()
    }

    #[test]
    fn numbers_grow_over_restarts_and_an_unchanged_document_keeps_its_own() {
        let state = tempfile::tempdir().unwrap();
        let open = |text: &str| {
            let history = History::default();
            assert!(history.open(state.path()).unwrap().is_empty());
            let (revision, kept) = history.start(Written::new(text, vec![]), NOW);
            kept.unwrap();
            (history, revision.0)
        };
        let (history, revision) = open("# one\n");
        assert_eq!(revision, 1);
        history.note(Revision(2), news("# two\n")).unwrap();
        let (history, revision) = open("# two\n");
        assert_eq!((revision, numbers(&history)), (2, vec![1, 2]));
        let two = history.get(Revision(2)).unwrap();
        assert_eq!((two.origin, two.uid, &*two.written.text), (Origin::Put, Some(7), "# two\n"));
        assert_eq!(two.change, "comments or layout");
        let (history, revision) = open("# three\n");
        assert_eq!((revision, numbers(&history)), (3, vec![1, 2, 3]));
        assert_eq!(history.newest().unwrap().origin, Origin::Start);
        // Without a state directory they begin anew.
        let (revision, kept) = History::default().start(Written::new("", vec![]), NOW);
        assert!(revision == Revision(1) && kept.is_ok());
    }

    #[test]
    fn as_many_are_kept_as_are_meant_to_be_on_disk_too() {
        let state = tempfile::tempdir().unwrap();
        let history = History::default();
        history.inner().bounds = Bounds { revisions: 3, bytes: 1000 };
        history.open(state.path()).unwrap();
        for number in 1..=5 {
            history.note(Revision(number), news(&format!("# {number}\n"))).unwrap();
        }
        assert_eq!(numbers(&history), [3, 4, 5]);
        assert!(history.get(Revision(2)).is_none());
        let again = History::default();
        again.open(state.path()).unwrap();
        assert_eq!(again.list(), history.list());
        // Two are kept whatever they take, so that the last change can be taken back.
        let large = "#".repeat(900);
        for (number, want) in [(6, &[4, 5, 6][..]), (7, &[6, 7]), (8, &[7, 8])] {
            history.note(Revision(number), news(&large)).unwrap();
            assert_eq!(numbers(&history), want, "{number}");
        }
    }

    #[test]
    fn what_is_damaged_is_told_and_its_number_is_not_given_again() {
        let state = tempfile::tempdir().unwrap();
        let history = History::default();
        history.open(state.path()).unwrap();
        for number in 1..=3 {
            history.note(Revision(number), news("# the same\n")).unwrap();
        }
        let folder = state.path().join("revisions");
        std::fs::write(folder.join("3"), "half a fi").unwrap();
        std::fs::write(folder.join("notes.txt"), "of the operator").unwrap();
        let again = History::default();
        let damaged = again.open(state.path()).unwrap();
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        assert_eq!(numbers(&again), [1, 2]);
        assert_eq!(again.start(Written::new("# the same\n", vec![]), NOW).0, Revision(4));
        assert!(folder.join("notes.txt").exists());
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for origin in Origin::ALL {
            assert_eq!(Origin::parse(origin.word()), Some(origin));
        }
        assert_eq!(Origin::parse("file"), None);
    }
}
