//! The thread that turns queued records into lines in the sink.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::{queue::Shared, record::Record, sink::Output};

/// How long records gather before they are written, unless somebody waits for it or they become many. A write, and a
/// thread that is woken, cost more than making a record; a reader of the file does not notice.
const REST: Duration = Duration::from_millis(5);

/// How long a sink that failed is left alone. Short enough for a full disk to be noticed as soon as it is not.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) struct Writer {
    output: Output,
    shared: Arc<Shared>,
    /// Records in `output`.
    records: usize,
    /// Nothing was left in the queue.
    has_emptied: bool,
    /// The last batch had to account for lost records.
    losing: bool,
    /// The last attempt to open the sink again failed.
    reopen_failing: bool,
}

/// What the queue holds after a batch was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Queue {
    /// More, perhaps.
    More,
    /// Nothing at present.
    Empty,
    /// Nothing, and every handle is gone.
    Closed,
}

impl Writer {
    pub(crate) fn new(output: Output, shared: Arc<Shared>) -> Self {
        Self { output, shared, records: 0, has_emptied: true, losing: false, reopen_failing: false }
    }

    /// Writes until it is told to stop, or until every handle is gone. Returns whether everything was written.
    pub(crate) fn run(mut self) -> bool {
        let is_written = self.write_until_over();
        self.shared.note_over();
        is_written
    }

    fn write_until_over(&mut self) -> bool {
        loop {
            // Read first: what was queued before this was set is in the queue by now.
            let stop = self.shared.stop.get().copied();
            // Nothing is taken from the queue before the last batch is written: so the order is kept, and
            // what piles up is bounded by the queue.
            let queue = if self.output.is_clear() { self.fill() } else { Queue::More };
            self.reopen_if_asked();
            let result = self.output.write();
            let failed = result.is_err();
            self.note(result);
            if is_over(stop, queue, failed) {
                return !failed;
            }
            if failed {
                thread::park_timeout(RETRY_INTERVAL);
            }
        }
    }

    /// Waits for something to do, and takes a batch of what is queued.
    fn fill(&mut self) -> Queue {
        self.wait();
        let found = self.shared.take(self.output.replace_lines(Vec::new()));
        self.output.replace_lines(found.batch.lines);
        self.records = found.batch.records;
        self.account_for_lost(found.lost);
        self.has_emptied = found.is_last;
        match (found.is_last, found.is_closed) {
            (false, _) => Queue::More,
            (true, false) => Queue::Empty,
            (true, true) => Queue::Closed,
        }
    }

    /// Waits until there is something to do, and for more of it to come.
    fn wait(&self) {
        if self.is_told_to_stop() || !self.has_emptied {
            return;
        }
        while self.shared.is_idle() {
            thread::park();
            if self.is_told_to_stop() {
                return;
            }
        }
        if !self.shared.required && !self.shared.is_filling() && !self.shared.is_closed() {
            thread::park_timeout(REST);
        }
    }

    fn is_told_to_stop(&self) -> bool {
        self.shared.stop.get().is_some()
    }

    /// Records are lost when the queue is full, so after those of this batch and before later ones.
    fn account_for_lost(&mut self, count: u64) {
        if count > 0 {
            // Numbers and a time: it cannot fail.
            let _written = Record::lost(count, SystemTime::now()).write_line(self.output.lines());
            if !self.losing {
                tracing::warn!(count, "audit records are being lost");
            }
        }
        self.losing = count > 0;
    }

    fn reopen_if_asked(&mut self) {
        if !self.shared.reopen.swap(false, Ordering::AcqRel) {
            return;
        }
        match self.output.reopen() {
            Ok(()) => self.reopen_failing = false,
            Err(error) => {
                if !self.reopen_failing {
                    tracing::error!(%error, "audit log cannot be opened again, the old file stays in use");
                }
                self.reopen_failing = true;
                // Again with the next batch.
                self.shared.reopen.store(true, Ordering::Release);
            }
        }
    }

    /// Tells the handles, and once for every change the operator, how the sink does.
    fn note(&mut self, result: io::Result<()>) {
        let written = match &result {
            Ok(()) => Ok(std::mem::take(&mut self.records)),
            Err(_) => Err(()),
        };
        let was_failing = self.shared.note_written(written);
        match result {
            Ok(()) if was_failing => tracing::info!("audit log is written again"),
            Err(error) if !was_failing => tracing::error!(%error, "audit log cannot be written"),
            Ok(()) | Err(_) => {}
        }
    }
}

/// Once told to stop, a failing sink is tried until the time is over; without handles, once.
fn is_over(stop: Option<Instant>, queue: Queue, failed: bool) -> bool {
    match (stop, queue) {
        (_, Queue::Closed) => true,
        (Some(until), Queue::More | Queue::Empty) if failed => Instant::now() >= until,
        (Some(_), Queue::Empty) => true,
        (Some(_), Queue::More) | (None, Queue::More | Queue::Empty) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{queue::BATCH_BYTES, record::Event, sink::Sink};

    fn line(event: Event) -> Vec<u8> {
        let mut line = Vec::new();
        Record::new(event, SystemTime::UNIX_EPOCH).write_line(&mut line).unwrap();
        line
    }

    #[test]
    fn what_is_queued_makes_batches_up_to_their_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let output = Output::open(Sink::File(path.clone())).unwrap();
        let shared = Arc::new(Shared::new(false, 10_000));
        let mut writer = Writer::new(output, Arc::clone(&shared));
        let line = line(Event::Request);
        let fitting = BATCH_BYTES.div_ceil(line.len());
        for (name, records, batches) in [
            ("one", 1, vec![(1, Queue::Empty)]),
            ("some", 100, vec![(100, Queue::Empty)]),
            ("too many for one", fitting + 5, vec![(fitting, Queue::More), (5, Queue::Empty)]),
        ] {
            for _ in 0..records {
                shared.put(&line).unwrap();
            }
            for (count, state) in batches {
                assert_eq!(writer.fill(), state, "{name}");
                assert_eq!(writer.output.lines().len(), count * line.len(), "{name}");
                writer.output.write().unwrap();
            }
        }
        assert_eq!(shared.queued(), 0);
        shared.close();
        assert!(writer.run());
        assert_eq!(fs::read(&path).unwrap().len(), (1 + 100 + fitting + 5) * line.len());
    }

    #[test]
    fn a_batch_ends_with_the_records_that_were_lost_after_it() {
        let output = Output::open(Sink::File("/dev/null".into())).unwrap();
        let shared = Arc::new(Shared::new(false, 1));
        let mut writer = Writer::new(output, Arc::clone(&shared));
        let line = line(Event::End);
        shared.put(&line).unwrap();
        assert_eq!((shared.put(&line), shared.put(&line)), (None, None));
        writer.fill();
        let text = String::from_utf8(writer.output.lines().clone()).unwrap();
        let lines = text.lines().collect::<Vec<_>>();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains("\"end\"") && lines[1].contains("\"event\":\"lost\",\"count\":2"),
            "{text}"
        );
        assert!(shared.is_idle(), "they are accounted for once");
    }
}
