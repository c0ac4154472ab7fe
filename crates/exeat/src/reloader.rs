//! Swaps the whole policy when the configuration is read again or another document takes its place, and changes nothing
//! when it cannot be used. Everything that changes the policy goes through here, one after the other.

use std::sync::Arc;
use std::time::SystemTime;

use exeat_api::{Do, Done, Put, Refused, Status, Terms};
use exeat_audit::AuditLog;
use exeat_cli::Source;
use exeat_policy::Revision;
use exeat_proxy::{Proxy, Snapshot, Tls};
use exeat_store::{Digest, History, Loaded, News, Options, Origin, Settings, Written};

use crate::log::Log;
use crate::notify;
use crate::recorded;

/// Everything a reload touches.
pub(crate) struct Reloader {
    pub(crate) source: Source,
    /// What the process was started with.
    pub(crate) settings: Settings,
    /// Every address that is listened on, for the floor.
    pub(crate) bound: Vec<std::net::SocketAddr>,
    pub(crate) status: Arc<Status>,
    pub(crate) certificates: Vec<Option<Tls>>,
    pub(crate) history: Arc<History>,
    pub(crate) proxy: Proxy,
    pub(crate) audit: AuditLog,
    pub(crate) stderr: Log,
}

/// Who wants another policy, and how.
#[derive(Clone, Copy)]
pub(crate) struct Cause {
    pub(crate) origin: Origin,
    pub(crate) uid: Option<u32>,
    pub(crate) restored: Option<Revision>,
}

impl Reloader {
    /// Reads the configuration again because of a signal. What comes of it is in the log.
    pub(crate) fn on_signal(&mut self) {
        let _told = self.reload(&Cause { origin: Origin::Signal, uid: None, restored: None });
    }

    /// Carries out an order of the admin API.
    pub(crate) fn carry_out(&mut self, what: Do, uid: Option<u32>) -> Result<Done, Refused> {
        let cause = |origin| Cause { origin, uid, restored: None };
        match what {
            Do::Reload => self.reload(&cause(Origin::Reload)),
            Do::Put(Put { text, terms }) => self.put(&text, &terms, &cause(Origin::Put)),
            Do::Rollback { to, terms } => {
                let cause = Cause { restored: Some(to), ..cause(Origin::Rollback) };
                let Some(kept) = self.history.get(to) else {
                    return Err(self.refused(&cause, terms.dry_run, None, Refused::Unknown { revision: to }));
                };
                let done = self.put(&kept.written.text, &terms, &cause)?;
                Ok(Done { changed_files: self.changed_files(&kept.written), ..done })
            }
        }
    }

    fn reload(&mut self, cause: &Cause) -> Result<Done, Refused> {
        notify::reloading();
        self.audit.reopen();
        // Whatever comes of the rest: a renewed certificate is not part of the policy.
        self.certificates.iter().flatten().for_each(Tls::reload);
        self.proxy.end_unproven();
        let result = self.source.load(&self.options());
        let result = match result {
            Ok(loaded) => Ok(self.swap(loaded, cause)),
            Err(report) => {
                self.status.note_reload(false);
                self.stderr.say(&exeat_cli::report_text(&report));
                tracing::error!(revision = %self.revision(), "reload refused: the configuration has errors; the old one stays");
                let digest = match &self.source {
                    Source::File(path) => exeat_store::digest_of_file(path),
                    Source::Attached { .. } | Source::Flags { .. } => None,
                };
                Err(self.refused(cause, false, digest, Refused::Problems(report)))
            }
        };
        notify::ready(&format!("revision {}", self.revision()));
        result
    }

    /// Lets `text` take the place of the configuration file and decide.
    fn put(&mut self, text: &str, terms: &Terms, cause: &Cause) -> Result<Done, Refused> {
        let result = self.put_unrecorded(text, terms, cause);
        let digest = Digest::of(text.as_bytes());
        result.map_err(|refused| self.refused(cause, terms.dry_run, Some(digest), refused))
    }

    /// It is checked first, then it is in the file, then it decides. A kill at any point leaves the old file or the new
    /// one, and the next start decides by that.
    fn put_unrecorded(&mut self, text: &str, terms: &Terms, cause: &Cause) -> Result<Done, Refused> {
        let now = self.revision();
        if terms.only_after.as_ref().is_some_and(|named| !named.contains(&now)) {
            return Err(Refused::Moved { now });
        }
        let path = match &self.source {
            Source::File(path) if path.is_file() => path,
            Source::File(_) | Source::Attached { .. } | Source::Flags { .. } => {
                return Err(Refused::NoFile { source_name: self.source.describe() });
            }
        };
        let loaded = exeat_store::load_as(path, text, &self.options()).map_err(Refused::Problems)?;
        if terms.dry_run {
            return Ok(Done {
                revision: now,
                is_changed: !self.is_same(&loaded),
                needs_restart: self.fixed_settings(&loaded.settings),
                warnings: loaded.warnings,
                changed_files: Vec::new(),
            });
        }
        let in_file = exeat_store::digest_of_file(path);
        if in_file != Some(Digest::of(text.as_bytes())) {
            let was_loaded = self.history.newest().map(|kept| kept.written.digest);
            if in_file != was_loaded && !terms.overwrite {
                return Err(Refused::Edited { path: self.source.describe() });
            }
            exeat_store::write_atomically(path, text)
                .map_err(|error| Refused::Unwritable { path: self.source.describe(), error })?;
        }
        let done = self.swap(loaded, cause);
        notify::ready(&format!("revision {}", self.revision()));
        Ok(done)
    }

    /// Lets what was loaded decide, as a new revision unless it is what decides already. Then too it takes the other's
    /// place: what a next hop needs, such as the system's certificates, may be new without a word of it in the text.
    fn swap(&mut self, mut loaded: Loaded, cause: &Cause) -> Done {
        let Cause { origin, uid, restored } = *cause;
        self.stderr.say(&exeat_cli::report_text(&loaded.warnings));
        let needs_restart = self.fixed_settings(&loaded.settings);
        for section in &needs_restart {
            tracing::warn!(section, "changed, but takes effect after a restart only");
        }
        let warnings = loaded.warnings.clone();
        let is_changed = !self.is_same(&loaded);
        if !is_changed {
            loaded.policy.renumber(self.revision());
        }
        let (revision, written) = (loaded.policy.revision(), loaded.written.clone());
        let before = self.history.newest();
        let before = before.as_ref().map(|kept| &kept.written);
        recorded::replaced(&self.audit, cause, (&self.proxy.snapshot(), before), &loaded, is_changed);
        self.proxy.replace(snapshot(loaded));
        if let Some(written) = written.filter(|_| is_changed) {
            let news = News { when: SystemTime::now(), origin, uid, restored, written };
            if let Err(error) = self.history.note(revision, news) {
                warn_unkept(&error);
            }
        }
        if is_changed {
            log(cause, revision);
        } else {
            tracing::info!(%revision, "reloaded: nothing has changed");
        }
        self.status.note_reload(true);
        Done { revision, is_changed, warnings, needs_restart, changed_files: Vec::new() }
    }

    /// Makes a record of what is refused, unless it was only asked what would come of it.
    fn refused(&self, cause: &Cause, dry_run: bool, digest: Option<Digest>, refused: Refused) -> Refused {
        if !dry_run {
            recorded::refused(&self.audit, cause, self.revision(), digest, &refused);
        }
        refused
    }

    fn revision(&self) -> Revision {
        self.proxy.snapshot().policy.revision()
    }

    /// The next load has the next number.
    fn options(&self) -> Options {
        Options { listeners: self.bound.clone(), ..Options::new(Revision(self.revision().0 + 1)) }
    }

    /// Whether what was loaded would decide as what decides now: the same texts, for the same listeners and addresses
    /// of this host. What was not read from files cannot be told apart.
    fn is_same(&self, loaded: &Loaded) -> bool {
        let now = self.history.newest().map(|kept| kept.written.clone());
        now.is_some()
            && now == loaded.written
            && self.proxy.snapshot().policy.floor() == loaded.policy.floor()
    }

    /// The files that are not as they were when `then` decided.
    fn changed_files(&self, then: &Written) -> Vec<String> {
        let now = self.history.newest();
        let digest_now = |name: &str| {
            let files = now.iter().flat_map(|kept| kept.written.shown_files());
            files.into_iter().find(|file| &*file.name == name).map(|file| file.digest)
        };
        let changed = then.shown_files().filter(|file| digest_now(&file.name) != Some(file.digest));
        changed.map(|file| file.name.to_string()).collect()
    }

    /// Which changed settings wait for a restart: what is bound and opened at the start.
    fn fixed_settings(&self, new: &Settings) -> Vec<&'static str> {
        let old = &self.settings;
        let fixed = [
            ("proxy.listen", (&old.listen, &old.sockets) != (&new.listen, &new.sockets)),
            ("proxy.http2", old.http2 != new.http2),
            ("proxy.pac", old.pac != new.pac),
            ("proxy.proxy_protocol_from", old.proxy_protocol_from != new.proxy_protocol_from),
            ("limits", old.limits != new.limits),
            ("resolver", old.resolver != new.resolver),
            ("dns", old.dns != new.dns),
            ("firewall", old.firewall != new.firewall),
            ("audit", old.audit != new.audit),
            ("state", old.state != new.state),
            ("api", old.api != new.api),
        ];
        fixed.into_iter().filter(|(_, changed)| *changed).map(|(section, _)| section).collect()
    }
}

fn log(cause: &Cause, revision: Revision) {
    let Cause { origin, uid, restored } = cause;
    match origin {
        Origin::Put | Origin::Rollback => {
            tracing::info!(origin = origin.word(), uid, restored = restored.map(|r| r.0), %revision, "policy replaced");
        }
        Origin::Start | Origin::Signal | Origin::Reload => tracing::info!(%revision, "reloaded"),
    }
}

/// A history that cannot be kept is no reason not to decide.
pub(crate) fn warn_unkept(error: &exeat_store::HistoryError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, cause, "a revision is not kept over a restart");
}

/// What decides, of what was loaded.
pub(crate) fn snapshot(loaded: Loaded) -> Snapshot {
    Snapshot {
        policy: loaded.policy,
        hops: loaded.hops,
        clients: loaded.clients,
        workloads: loaded.workloads,
        certificates: loaded.certificates,
        issuers: loaded.issuers,
        key_sources: loaded.key_sources,
        is_central: loaded.settings.central,
        anonymous: loaded.anonymous,
        disclose: loaded.settings.disclose,
    }
}
