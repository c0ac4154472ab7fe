//! The handle that the request path records through.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use crate::{
    record::Record,
    sink::{Output, Sink},
    writer::Writer,
};

/// The number of records that may wait for the writer. At 1 KiB a record this is 8 MiB, and a sink that stalls
/// for a second is bridged at 8000 records a second.
pub const QUEUE_RECORDS_MAX: usize = 8192;

/// The part of the queue that decisions may fill if nothing is allowed without a record: 1 in this many. The rest is
/// for the ends of what was allowed before the sink got stuck.
const DECISIONS_SHARE: usize = 2;

/// Where the request path hands over its records. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct AuditLog {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    writer: Thread,
}

/// No record would be written at present, and the configuration says that nothing is allowed without one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the audit log cannot be written")]
pub struct AuditUnavailable;

/// Owns the writer thread. Without [`AuditWriter::shutdown`], the thread ends with the last [`AuditLog`].
#[derive(Debug)]
pub struct AuditWriter {
    log: AuditLog,
    done: Receiver<bool>,
}

/// What is put in the queue.
#[derive(Debug)]
pub(crate) enum Message {
    Record(Box<Record>),
    /// Look at the flags.
    Wake,
}

/// What the handles and the writer tell each other beside the queue.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Nothing is allowed without a record.
    required: bool,
    /// The records that may be queued.
    records_max: usize,
    /// Records that are queued.
    pub(crate) queued: AtomicUsize,
    /// The last attempt to write failed.
    pub(crate) failing: AtomicBool,
    /// The sink is to be opened again.
    pub(crate) reopen: AtomicBool,
    /// Set when the writer is to end, to the time until when it may try.
    pub(crate) stop: OnceLock<Instant>,
    /// Records taken since the start.
    taken: AtomicU64,
    /// Records lost since the start.
    lost: AtomicU64,
    /// Records lost that no line in the log accounts for yet.
    pub(crate) unreported: AtomicU64,
}

impl Shared {
    pub(crate) fn count_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.unreported.fetch_add(1, Ordering::Relaxed);
    }
}

impl AuditLog {
    /// Opens the sink and starts the writer thread.
    ///
    /// A sink that fails later is tried again until it works; meanwhile up to [`QUEUE_RECORDS_MAX`] records
    /// are kept, and the rest is lost and counted. With `required`, [`AuditLog::record`] fails before that.
    ///
    /// # Errors
    ///
    /// If the sink cannot be opened or created, or the thread not started.
    pub fn start(sink: Sink, required: bool) -> io::Result<(Self, AuditWriter)> {
        Self::start_with(sink, required, QUEUE_RECORDS_MAX)
    }

    fn start_with(sink: Sink, required: bool, records_max: usize) -> io::Result<(Self, AuditWriter)> {
        let output = Output::open(sink)?;
        let (queue, messages) = sync_channel(records_max);
        let (done, is_done) = sync_channel(1);
        let shared = Arc::new(Shared { required, records_max, ..Shared::default() });
        let writer = Writer::new(messages, output, Arc::clone(&shared));
        let run = move || {
            // Nobody may be left to be told.
            let _told = done.send(writer.run());
        };
        let thread = thread::Builder::new().name("audit".to_owned()).spawn(run)?;
        let log = Self { queue, shared, writer: thread.thread().clone() };
        Ok((log.clone(), AuditWriter { log, done: is_done }))
    }

    /// Hands over the record of a decision that is about to take effect. It is written soon, in the order in which
    /// records were handed over, and not synced to the disk.
    ///
    /// # Errors
    ///
    /// Only if the log is required: as [`AuditLog::check`], and the record is not kept, since it has not come true;
    /// and when it was lost.
    pub fn record(&self, record: Record) -> Result<(), AuditUnavailable> {
        self.check()?;
        let is_taken = self.put(record);
        if is_taken || !self.shared.required { Ok(()) } else { Err(AuditUnavailable) }
    }

    /// Hands over the record of what has happened already and stands whether or not it can be recorded: an end, a
    /// refusal. It waits in the queue while the sink fails, and is lost and counted when the queue is full.
    pub fn note(&self, record: Record) {
        self.put(record);
    }

    /// Returns whether the queue took the record; if not, it is counted as lost.
    fn put(&self, record: Record) -> bool {
        // Counted before it can be taken out.
        self.shared.queued.fetch_add(1, Ordering::Relaxed);
        match self.queue.try_send(Message::Record(Box::new(record))) {
            Ok(()) => {
                self.shared.taken.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                self.shared.count_lost();
                false
            }
        }
    }

    /// Has the writer open the sink again, for log rotation by renaming. Records handed over before may
    /// still go to either file; none is lost or torn apart.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Returns whether the last attempt to write failed.
    pub fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Acquire)
    }

    /// Looks ahead, for a request whose one record is made at its end.
    ///
    /// # Errors
    ///
    /// If the log is required, while the sink fails, and while half of the queue waits for a sink that is too slow.
    /// The other half is for what was allowed before and ends now.
    pub fn check(&self) -> Result<(), AuditUnavailable> {
        let is_filling =
            || self.shared.queued.load(Ordering::Relaxed) >= self.shared.records_max / DECISIONS_SHARE;
        if self.shared.required && (self.is_failing() || is_filling()) {
            Err(AuditUnavailable)
        } else {
            Ok(())
        }
    }

    /// Returns whether nothing is allowed without a record.
    pub fn is_required(&self) -> bool {
        self.shared.required
    }

    /// Returns how many records were handed over and not lost on the way to the writer since the start.
    pub fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// Returns how many records were lost since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        // A full queue means that the writer is not waiting for it.
        let _sent = self.queue.try_send(Message::Wake);
        self.writer.unpark();
    }
}

impl AuditWriter {
    /// Writes what is queued and ends the thread. Returns whether everything was written within `timeout`;
    /// blocks until then. Records handed over afterwards are lost.
    #[must_use]
    pub fn shutdown(self, timeout: Duration) -> bool {
        let now = Instant::now();
        // A timeout beyond what the clock can tell is as good as a day.
        let until = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(24 * 60 * 60));
        // Only this call sets it, and it consumes the only owner.
        let _first = self.log.shared.stop.set(until);
        self.log.wake();
        self.done.recv_timeout(timeout).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
