//! The handle that the request path records through.

use std::{
    cell::RefCell,
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    queue::Shared,
    receipt::Receipt,
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

thread_local! {
    /// Where this thread makes a line, so that the queue is held up for no more than a copy.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where the request path hands over its records. Cheap to clone; never blocks for the sink.
#[derive(Clone, Debug)]
pub struct AuditLog(Arc<Handle>);

/// Ends the writer when the last one of them is gone.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
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
        let (done, is_done) = sync_channel(1);
        let shared = Arc::new(Shared::new(required, records_max));
        let writer = Writer::new(output, Arc::clone(&shared));
        let run = move || {
            // Nobody may be left to be told.
            let _told = done.send(writer.run());
        };
        let thread = thread::Builder::new().name("audit".to_owned()).spawn(run)?;
        shared.set_writer(thread.thread().clone());
        let log = Self(Arc::new(Handle(shared)));
        Ok((log.clone(), AuditWriter { log, done: is_done }))
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// Hands over the record of a decision that is about to take effect. It is written soon, in the order in which
    /// records were handed over, and not synced to the disk.
    ///
    /// Returns what to wait for before it takes effect.
    ///
    /// # Errors
    ///
    /// Only if the log is required: as [`AuditLog::check`], and the record is not kept, since it has not come true;
    /// and when it was lost.
    pub fn record(&self, record: &Record) -> Result<Receipt, AuditUnavailable> {
        self.check()?;
        match self.put(record) {
            Some(number) if self.is_required() => Ok(Receipt::of(number, self.shared().progress.subscribe())),
            None if self.is_required() => Err(AuditUnavailable),
            Some(_) | None => Ok(Receipt::NONE),
        }
    }

    /// Hands over the record of what has happened already and stands whether or not it can be recorded: an end, a
    /// refusal. It waits in the queue while the sink fails, and is lost and counted when the queue is full.
    pub fn note(&self, record: &Record) {
        // What is lost has been counted.
        let _number = self.put(record);
    }

    /// Returns the number of the record, unless it is lost.
    fn put(&self, record: &Record) -> Option<u64> {
        LINE.with_borrow_mut(|line| {
            line.clear();
            match record.write_line(line) {
                Ok(()) => self.shared().put(line),
                Err(error) => {
                    self.shared().count_lost();
                    tracing::error!(%error, "audit record cannot be serialised");
                    None
                }
            }
        })
    }

    /// Has the writer open the sink again, for log rotation by renaming. Records handed over before may
    /// still go to either file; none is lost or torn apart.
    pub fn reopen(&self) {
        self.shared().reopen.store(true, Ordering::Release);
        self.shared().order();
    }

    /// Returns whether the last attempt to write failed.
    pub fn is_failing(&self) -> bool {
        self.shared().failing.load(Ordering::Acquire)
    }

    /// Looks ahead.
    ///
    /// # Errors
    ///
    /// If the log is required, while the sink fails, and while half of the queue waits for a sink that is too slow.
    /// The other half is for what was allowed before and ends now.
    pub fn check(&self) -> Result<(), AuditUnavailable> {
        let shared = self.shared();
        let is_filling = || shared.queued() >= shared.records_max / DECISIONS_SHARE;
        if shared.required && (self.is_failing() || is_filling()) { Err(AuditUnavailable) } else { Ok(()) }
    }

    /// Returns whether nothing is allowed without a record.
    pub fn is_required(&self) -> bool {
        self.shared().required
    }

    /// Returns how many records were handed over and not lost on the way to the writer since the start.
    pub fn taken(&self) -> u64 {
        self.shared().taken()
    }

    /// Returns how many records were lost since the start.
    pub fn lost(&self) -> u64 {
        self.shared().lost()
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
        let _first = self.log.shared().stop.set(until);
        self.log.shared().order();
        self.done.recv_timeout(timeout).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
