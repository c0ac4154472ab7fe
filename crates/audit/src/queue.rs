//! The lines that wait for the writer, in batches, and what the handles and the writer tell each other beside them.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
    time::Instant,
};

use tokio::sync::watch;

/// A batch is closed with the line that makes it this long, in bytes: one write for about 128 records under load, and
/// for whatever there is otherwise.
pub(crate) const BATCH_BYTES: usize = 64 * 1024;

/// The part of the queue that may fill while the writer rests, 1 in this many.
const REST_SHARE: usize = 4;

/// What the handles and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Nothing is allowed without a record.
    pub(crate) required: bool,
    /// The records that may be queued.
    pub(crate) records_max: usize,
    queue: Mutex<Queue>,
    /// Who is woken when there is something to do.
    writer: OnceLock<Thread>,
    /// The last attempt to write failed.
    pub(crate) failing: AtomicBool,
    /// The sink is to be opened again.
    pub(crate) reopen: AtomicBool,
    /// Set when the writer is to end, to the time until when it may try.
    pub(crate) stop: OnceLock<Instant>,
    /// How far the writer has come, for those who wait for it.
    pub(crate) progress: watch::Sender<Progress>,
}

/// What the writer has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Progress {
    /// Records that the sink has taken.
    pub(crate) written: u64,
    /// The writer has stopped trying for now, or for good.
    pub(crate) is_stuck: bool,
}

/// Whole lines, and how many they are.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) lines: Vec<u8>,
    pub(crate) records: usize,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Batch>,
    /// An empty buffer that was one of them.
    spare: Vec<u8>,
    /// Records in `batches`.
    queued: usize,
    /// Records taken since the start.
    taken: u64,
    /// Records lost since the start.
    lost: u64,
    /// Records lost that no line in the log accounts for yet.
    unreported: u64,
    /// The writer waits for a record.
    is_awaited: bool,
    /// The writer is to look at the flags.
    has_order: bool,
    /// Every handle is gone.
    is_closed: bool,
    /// The writer has ended.
    is_over: bool,
}

/// What the writer finds in the queue.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) batch: Batch,
    /// Records that were lost, to be accounted for after the batch.
    pub(crate) lost: u64,
    /// Nothing is left at present.
    pub(crate) is_last: bool,
    /// Nothing will come any more.
    pub(crate) is_closed: bool,
}

impl Shared {
    pub(crate) fn new(required: bool, records_max: usize) -> Self {
        Self {
            required,
            records_max,
            queue: Mutex::default(),
            writer: OnceLock::new(),
            failing: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            stop: OnceLock::new(),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    /// Tells who is to be woken.
    pub(crate) fn set_writer(&self, writer: Thread) {
        // Once, by whoever started it.
        let _first = self.writer.set(writer);
    }

    /// Queues `line`, and returns how many records that makes since the start; `None` if there is no room, and the
    /// record is counted as lost.
    pub(crate) fn put(&self, line: &[u8]) -> Option<u64> {
        let mut queue = self.queue();
        if queue.queued >= self.records_max || queue.is_over {
            queue.count_lost();
            return None;
        }
        queue.append(line);
        let number = queue.taken;
        // A waiting writer is woken for the first record, and rests a while before it takes it. Then it is woken if
        // they become many.
        let wakes = mem::take(&mut queue.is_awaited) || queue.queued == self.records_max / REST_SHARE;
        drop(queue);
        if wakes {
            self.wake();
        }
        Some(number)
    }

    /// Takes the oldest batch, or an empty one. `buffer`, which is empty, is used for later ones.
    pub(crate) fn take(&self, buffer: Vec<u8>) -> Found {
        let mut queue = self.queue();
        let batch = queue.batches.pop_front().unwrap_or_default();
        queue.queued = queue.queued.saturating_sub(batch.records);
        if buffer.capacity() > queue.spare.capacity() {
            queue.spare = buffer;
        }
        Found {
            batch,
            lost: mem::take(&mut queue.unreported),
            is_last: queue.batches.is_empty(),
            is_closed: queue.is_closed,
        }
    }

    /// Whether the writer has nothing to do. Then it is woken when it has.
    pub(crate) fn is_idle(&self) -> bool {
        let mut queue = self.queue();
        let has_order = mem::take(&mut queue.has_order);
        let is_idle = queue.batches.is_empty() && queue.unreported == 0 && !queue.is_closed && !has_order;
        queue.is_awaited = is_idle;
        is_idle
    }

    /// Whether every handle is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue().is_closed
    }

    /// Whether more of the queue is full than may be while the writer rests.
    pub(crate) fn is_filling(&self) -> bool {
        self.queue().queued >= self.records_max / REST_SHARE
    }

    pub(crate) fn count_lost(&self) {
        self.queue().count_lost();
    }

    /// Records that are queued.
    pub(crate) fn queued(&self) -> usize {
        self.queue().queued
    }

    /// Records taken since the start.
    pub(crate) fn taken(&self) -> u64 {
        self.queue().taken
    }

    /// Records lost since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.queue().lost
    }

    /// Says that nothing will come any more.
    pub(crate) fn close(&self) {
        self.queue().is_closed = true;
        self.wake();
    }

    /// Has the writer look at the flags.
    pub(crate) fn order(&self) {
        self.queue().has_order = true;
        self.wake();
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Notes that the writer has ended: what is handed over from now on is lost.
    pub(crate) fn note_over(&self) {
        self.queue().is_over = true;
        self.progress.send_modify(|progress| progress.is_stuck = true);
    }

    /// Notes that the sink has taken `records` more, or that it fails. Returns whether it failed before.
    pub(crate) fn note_written(&self, result: Result<usize, ()>) -> bool {
        if self.required {
            self.progress.send_modify(|progress| {
                progress.is_stuck = result.is_err();
                let records = u64::try_from(result.unwrap_or(0)).unwrap_or(u64::MAX);
                progress.written = progress.written.saturating_add(records);
            });
        }
        self.failing.swap(result.is_err(), Ordering::AcqRel)
    }

    /// Each change under the lock is complete before anything can panic.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn append(&mut self, line: &[u8]) {
        let batch = match self.batches.back_mut() {
            Some(batch) if batch.lines.len() < BATCH_BYTES => batch,
            Some(_) | None => {
                let lines = mem::take(&mut self.spare);
                self.batches.push_back(Batch { lines, records: 0 });
                let Some(batch) = self.batches.back_mut() else { return };
                batch
            }
        };
        batch.lines.extend_from_slice(line);
        batch.records += 1;
        self.queued += 1;
        self.taken += 1;
    }

    fn count_lost(&mut self) {
        self.lost += 1;
        self.unreported += 1;
    }
}
