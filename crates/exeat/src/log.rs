//! The way to standard error. Whoever reads it may be slow, or stuck: a line is put into a queue of bounded size and
//! written by a thread of its own, so that nothing which decides or relays ever waits for a reader.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::VecDeque,
    io::{self, Write},
    panic,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait for a reader: some 8000 lines, or what a dozen bad reloads have to say.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// A handle on the log; all are the same.
#[derive(Clone)]
pub(crate) struct Log(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Lines that were not written, since the start.
    lost: Arc<AtomicU64>,
}

#[derive(Default)]
struct Queue {
    texts: VecDeque<Vec<u8>>,
    bytes: usize,
    /// One text has been taken out and is being written.
    is_writing: bool,
    /// Lines for which there was no room, and of which the log does not tell yet.
    untold: u64,
}

impl Log {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(crate) fn start() -> io::Result<Self> {
        let log = Self(Arc::default());
        let writer = log.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.write_all_that_comes(io::stderr()))?;
        Ok(log)
    }

    /// Has panics of other threads told here, too; writing them is otherwise the work of the thread that panics.
    pub(crate) fn take_panics(&self) {
        let log = self.clone();
        panic::set_hook(Box::new(move |info| {
            let thread = thread::current();
            let name = thread.name().unwrap_or("unnamed");
            let trace = Backtrace::capture();
            // Only if RUST_BACKTRACE asks for it.
            let is_captured = trace.status() == BacktraceStatus::Captured;
            let trace = if is_captured { format!("{trace}\n") } else { String::new() };
            log.say(&format!("thread '{name}' {info}\n{trace}"));
        }));
    }

    /// Puts a text of whole lines into the queue, or counts its lines as lost. Does not wait.
    pub(crate) fn say(&self, text: &str) {
        self.put(text.as_bytes());
    }

    /// Where lost lines are counted.
    pub(crate) fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.lost)
    }

    /// Waits until everything is written, but no longer than this.
    pub(crate) fn finish(&self, timeout: Duration) {
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.texts.is_empty();
        // Whether it was in time makes no difference to a process that ends.
        drop(self.0.changed.wait_timeout_while(self.queue(), timeout, is_busy));
    }

    fn put(&self, text: &[u8]) {
        let mut queue = self.queue();
        // A text that is too long by itself gets through while nothing else waits.
        if !queue.texts.is_empty() && queue.bytes + text.len() > QUEUE_BYTES_MAX {
            let lines = text.iter().filter(|byte| **byte == b'\n').count().max(1);
            let lines = u64::try_from(lines).unwrap_or(u64::MAX);
            queue.untold += lines;
            self.0.lost.fetch_add(lines, Relaxed);
            return;
        }
        queue.bytes += text.len();
        queue.texts.push_back(text.to_vec());
        self.0.changed.notify_all();
    }

    fn write_all_that_comes(&self, mut out: impl Write) {
        loop {
            let text = self.take();
            if out.write_all(&text).and_then(|()| out.flush()).is_err() {
                // Nobody is there to be told, but the count is.
                self.0.lost.fetch_add(1, Relaxed);
            }
            let untold = {
                let mut queue = self.queue();
                queue.bytes -= text.len();
                queue.is_writing = false;
                self.0.changed.notify_all();
                std::mem::take(&mut queue.untold)
            };
            if untold > 0 {
                tracing::warn!(
                    lost = untold,
                    "log lines were lost: nobody took them from standard error in time"
                );
            }
        }
    }

    fn take(&self) -> Vec<u8> {
        let mut queue = self.queue();
        loop {
            if let Some(text) = queue.texts.pop_front() {
                queue.is_writing = true;
                return text;
            }
            queue = self.0.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The queue stays right even if a thread panicked while it held it: nothing in between can.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Each write is a line: the subscriber makes one for each event.
impl Write for &Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A reader that takes a text when it is told to.
    struct Reader {
        may: Receiver<()>,
        took: SyncSender<String>,
    }

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.may.recv().map_err(io::Error::other)?;
            self.took.send(String::from_utf8_lossy(text).into_owned()).map_err(io::Error::other)?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_stops_nobody_and_what_is_lost_is_counted() {
        let log = Log(Arc::default());
        let ((allow, may), (took, texts)) = (sync_channel(100), sync_channel(100));
        let writer = log.clone();
        thread::spawn(move || writer.write_all_that_comes(Reader { may, took }));
        let line = format!("{}\n", "x".repeat(1023));
        let fitting = QUEUE_BYTES_MAX / line.len();
        for _ in 0..fitting + 10 {
            log.say(&line);
        }
        assert_eq!(log.lost().load(Relaxed), 10);
        log.finish(Duration::from_millis(1));
        for number in 0..fitting {
            allow.send(()).unwrap();
            assert_eq!(texts.recv().unwrap(), line, "{number}");
        }
        allow.send(()).unwrap();
        log.say("later\n");
        assert_eq!(texts.recv().unwrap(), "later\n");
        log.finish(Duration::from_secs(60));
        assert!(log.queue().texts.is_empty() && log.queue().untold == 0);
    }

    #[test]
    fn a_closed_reader_is_nobodys_error() {
        let log = Log(Arc::default());
        let ((allow, may), (took, texts)) = (sync_channel(1), sync_channel::<String>(1));
        drop((allow, texts));
        let writer = log.clone();
        thread::spawn(move || writer.write_all_that_comes(Reader { may, took }));
        log.say("into nothing\n");
        log.finish(Duration::from_secs(60));
        assert_eq!(log.lost().load(Relaxed), 1);
    }
}
