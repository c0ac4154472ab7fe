//! The thread that turns queued records into lines in the sink.

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    log::{Message, Shared},
    record::Record,
    sink::Output,
};

/// A batch ends with the record that makes it this long, in bytes: one write for about 64 records under load,
/// and for whatever there is otherwise.
const BATCH_BYTES: usize = 64 * 1024;

/// How long a sink that failed is left alone. Short enough for a full disk to be noticed as soon as it is not.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) struct Writer {
    messages: Receiver<Message>,
    output: Output,
    shared: Arc<Shared>,
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
    pub(crate) fn new(messages: Receiver<Message>, output: Output, shared: Arc<Shared>) -> Self {
        Self { messages, output, shared, losing: false, reopen_failing: false }
    }

    /// Writes until it is told to stop, or until every handle is gone. Returns whether everything was written.
    pub(crate) fn run(mut self) -> bool {
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

    /// Waits for something to do, and makes a batch of what is queued.
    fn fill(&mut self) -> Queue {
        if self.may_wait() {
            match self.messages.recv() {
                Ok(message) => self.append(message),
                Err(_) => return Queue::Closed,
            }
        }
        let queue = self.take_batch();
        self.account_for_lost();
        queue
    }

    fn take_batch(&mut self) -> Queue {
        while self.output.lines().len() < BATCH_BYTES {
            match self.messages.try_recv() {
                Ok(message) => self.append(message),
                Err(TryRecvError::Empty) => return Queue::Empty,
                Err(TryRecvError::Disconnected) => return Queue::Closed,
            }
        }
        Queue::More
    }

    /// With something left to do, whoever asked for it need not wake the thread again.
    fn may_wait(&self) -> bool {
        self.shared.unreported.load(Ordering::Relaxed) == 0 && self.shared.stop.get().is_none()
    }

    fn append(&mut self, message: Message) {
        match message {
            Message::Record(record) => {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                self.append_line(&record);
            }
            Message::Wake => {}
        }
    }

    fn append_line(&mut self, record: &Record) {
        let lines = self.output.lines();
        let start = lines.len();
        match serde_json::to_writer(&mut *lines, record) {
            Ok(()) => lines.push(b'\n'),
            Err(error) => {
                lines.truncate(start);
                self.shared.count_lost();
                tracing::error!(%error, "audit record cannot be serialised");
            }
        }
    }

    /// Records are lost when the queue is full, so after those of this batch and before later ones.
    fn account_for_lost(&mut self) {
        let count = self.shared.unreported.swap(0, Ordering::Relaxed);
        if count > 0 {
            self.append_line(&Record::lost(count, SystemTime::now()));
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
    fn note(&self, result: io::Result<()>) {
        let was_failing = self.shared.failing.swap(result.is_err(), Ordering::AcqRel);
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
    use std::{fs, sync::mpsc::sync_channel};

    use super::*;
    use crate::{record::Event, sink::Sink};

    #[test]
    fn what_is_queued_makes_one_batch_up_to_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let (queue, messages) = sync_channel(10_000);
        let output = Output::open(Sink::File(path.clone())).unwrap();
        let mut writer = Writer::new(messages, output, Arc::new(Shared::default()));
        let line =
            serde_json::to_vec(&Record::new(Event::Request, SystemTime::UNIX_EPOCH)).unwrap().len() + 1;
        let fitting = BATCH_BYTES.div_ceil(line);
        for (name, records, batches) in [
            ("one", 1, vec![(1, Queue::Empty)]),
            ("some", 100, vec![(100, Queue::Empty)]),
            ("too many for one", fitting + 5, vec![(fitting, Queue::More), (5, Queue::Empty)]),
        ] {
            for _ in 0..records {
                let record = Record::new(Event::Request, SystemTime::UNIX_EPOCH);
                queue.try_send(Message::Record(Box::new(record))).unwrap();
            }
            for (count, state) in batches {
                assert_eq!(writer.fill(), state, "{name}");
                assert_eq!(writer.output.lines().len(), count * line, "{name}");
                writer.output.write().unwrap();
            }
        }
        drop(queue);
        assert!(writer.run());
        assert_eq!(fs::read(&path).unwrap().len(), (1 + 100 + fitting + 5) * line);
    }

    #[test]
    fn a_batch_ends_with_the_records_that_were_lost_after_it() {
        let (queue, messages) = sync_channel(10);
        let output = Output::open(Sink::File("/dev/null".into())).unwrap();
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::new(messages, output, Arc::clone(&shared));
        queue.send(Message::Record(Box::new(Record::new(Event::End, SystemTime::UNIX_EPOCH)))).unwrap();
        shared.count_lost();
        shared.count_lost();
        writer.fill();
        let text = String::from_utf8(writer.output.lines().clone()).unwrap();
        let lines = text.lines().collect::<Vec<_>>();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains("\"end\"") && lines[1].contains("\"event\":\"lost\",\"count\":2"),
            "{text}"
        );
        assert!(writer.may_wait(), "they are accounted for once");
    }
}
