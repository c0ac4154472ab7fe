//! What the proxy itself does not know of: loads of the configuration, and the certificates of its listeners.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use exeat_firewall::{Counted, Counts};
use exeat_proxy::Tls;

/// What came of the loads of the configuration since the start.
#[derive(Debug)]
pub struct Status {
    source: String,
    certificates: Vec<Tls>,
    succeeded: AtomicU64,
    failed: AtomicU64,
    lost_lines: Arc<AtomicU64>,
    firewall: Option<Arc<Counts>>,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    has_failed: bool,
    loaded: Instant,
    loaded_at: SystemTime,
}

/// How the last reload ended, and when the configuration in use was read.
#[derive(Clone, Copy, Debug)]
pub struct Reloading {
    /// Whether the last load succeeded; the first one did.
    pub is_successful: bool,
    /// How long the configuration in use has been.
    pub age: Duration,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// Reloads that succeeded, the start not counted.
    pub succeeded: u64,
    /// Reloads that failed.
    pub failed: u64,
}

impl Status {
    /// A first load that has just succeeded. `source` is how the configuration is called in messages.
    /// `certificates` are those of the listeners.
    pub fn new(source: String, certificates: Vec<Tls>) -> Self {
        let last = Last { has_failed: false, loaded: Instant::now(), loaded_at: SystemTime::now() };
        Self {
            source,
            certificates,
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            lost_lines: Arc::default(),
            firewall: None,
            last: Mutex::new(last),
        }
    }

    /// Tells from now on of the log lines that are counted in `lost_lines`.
    pub fn with_lost_lines(mut self, lost_lines: Arc<AtomicU64>) -> Self {
        self.lost_lines = lost_lines;
        self
    }

    /// Tells from now on of a firewall.
    pub fn with_firewall(mut self, counts: Option<Arc<Counts>>) -> Self {
        self.firewall = counts;
        self
    }

    /// What the firewall has done; `None` if there is none.
    pub fn firewall(&self) -> Option<Counted> {
        self.firewall.as_ref().map(|counts| counts.get())
    }

    /// Log lines that were not written.
    pub fn lost_lines(&self) -> u64 {
        self.lost_lines.load(Ordering::Relaxed)
    }

    /// Notes a reload.
    pub fn note_reload(&self, is_successful: bool) {
        let mut last = self.last();
        last.has_failed = !is_successful;
        if is_successful {
            self.succeeded.fetch_add(1, Ordering::Relaxed);
            (last.loaded, last.loaded_at) = (Instant::now(), SystemTime::now());
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How the configuration is called in messages: a path, or the command line.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// When the first of the listeners' certificates ends.
    pub fn certificates_end(&self) -> Option<SystemTime> {
        self.certificates.iter().filter_map(Tls::not_after).min()
    }

    /// How it stands.
    pub fn reloading(&self) -> Reloading {
        let last = self.last();
        Reloading {
            is_successful: !last.has_failed,
            age: last.loaded.elapsed(),
            loaded_at: last.loaded_at,
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_reload_leaves_the_age_alone() {
        let status = Status::new("t.toml".to_owned(), Vec::new());
        let before = status.reloading().loaded_at;
        status.note_reload(false);
        let got = status.reloading();
        assert_eq!((got.is_successful, got.succeeded, got.failed, got.loaded_at), (false, 0, 1, before));
        status.note_reload(true);
        let got = status.reloading();
        assert_eq!((got.is_successful, got.succeeded, got.failed), (true, 1, 1));
        assert!(got.loaded_at >= before);
    }
}
