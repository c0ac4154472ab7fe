//! The stream that goes out: what was asked and decided, to a collector that listens on a unix socket.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::ReadHalf, unix::WriteHalf},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    frames::{self, Content, Control, Frame, FrameError, Frames},
    outgoing::Teller,
};
use crate::surroundings::{Happening, Surroundings};

/// Octets of messages that wait for the collector: some ten thousand questions with their answers, a second of a very busy
/// server. What comes when there are more is lost, and counted.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Octets that a waiting message costs beside its own.
const MESSAGE_BYTES: usize = 64;

/// Messages that are written at a time: some 50 KB.
const BATCH: usize = 128;

/// How long a collector may take to begin, as one that connects to us may.
const BEGIN_MAX: Duration = Duration::from_secs(10);

/// How long a collector may take for one batch, before it is taken for one that reads no more.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long it takes until a collector that is not there, or has left, is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the program waits for the collector when it ends: to take what waits, and to say that it has.
const END_MAX: Duration = Duration::from_secs(2);

/// Who is told, and by whom.
#[derive(Clone, Debug)]
pub struct Collector {
    /// The unix socket that it listens on.
    pub socket: PathBuf,
    /// The user that it runs as; nobody else is told.
    pub uid: u32,
    /// The name of this name server, as it is told; none if it is empty.
    pub identity: String,
    /// What this name server is.
    pub version: String,
}

/// Where messages are left for the collector. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TapOut {
    teller: Arc<Teller>,
    queue: mpsc::UnboundedSender<Bytes>,
    /// Octets in the queue.
    waiting: Arc<AtomicUsize>,
}

/// The task that tells. It goes on until it is told to finish.
#[derive(Debug)]
pub struct TapOutTask {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl TapOut {
    /// Looks for the collector from now on, on this runtime, and tells it what is left here. `around` counts that.
    #[must_use]
    pub fn start(collector: Collector, around: Arc<dyn Surroundings>) -> (Self, TapOutTask) {
        let (queue, messages) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let Collector { socket, uid, identity, version } = collector;
        let work = Work { messages, waiting: Arc::clone(&waiting), around, socket, uid };
        let task = tokio::spawn(work.run(stopped));
        let teller = Arc::new(Teller { identity: identity.into(), version: version.into() });
        (Self { teller, queue, waiting }, TapOutTask { stop, task })
    }

    /// Leaves a message, if there is room: a collector that is slow, or not there, delays nothing. Returns whether there was.
    pub(crate) fn leave(&self, message: impl FnOnce(&Teller) -> Bytes) -> bool {
        // Others may do so at the same time, and go over it by a message each.
        if self.waiting.load(Relaxed) >= WAITING_BYTES_MAX {
            return false;
        }
        let message = message(&self.teller);
        let cost = cost(&message);
        self.waiting.fetch_add(cost, Relaxed);
        let is_left = self.queue.send(message).is_ok();
        if !is_left {
            self.waiting.fetch_sub(cost, Relaxed);
        }
        is_left
    }
}

impl TapOutTask {
    /// Tells what is left, and the collector that this is all; waits for it to say that it has read that, but not for long.
    pub async fn finish(mut self) {
        if self.stop.send(()).is_err() {
            return;
        }
        if timeout(END_MAX, &mut self.task).await.is_err() {
            tracing::warn!("the collector of dnstap has not said in time that it has read everything");
            self.task.abort();
        }
    }
}

fn cost(message: &Bytes) -> usize {
    message.len() + MESSAGE_BYTES
}

/// Why a stream has ended, or none begins.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("no connection to it")]
    Io(#[from] io::Error),
    #[error("it runs as user {uid}, who is not to be told")]
    User { uid: u32 },
    #[error("what it says is no Frame Streams")]
    Frames(#[from] FrameError),
    #[error("it reads something else than dnstap")]
    Content,
    #[error("it says what has no place here")]
    Order,
    #[error("it has left")]
    Left,
    #[error("it takes too long")]
    Late,
}

struct Work {
    messages: mpsc::UnboundedReceiver<Bytes>,
    waiting: Arc<AtomicUsize>,
    around: Arc<dyn Surroundings>,
    socket: PathBuf,
    uid: u32,
}

impl Work {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        // Said once, not with every attempt.
        let mut is_missed = false;
        loop {
            let began = tokio::select! {
                biased;
                _ = &mut stopped => return self.give_up(),
                began = self.begin() => began,
            };
            let ended = match began {
                Ok(stream) => {
                    tracing::info!("a collector is told by dnstap what is asked");
                    is_missed = false;
                    self.tell(stream, &mut stopped).await
                }
                Err(error) => Err(error),
            };
            let error = match ended {
                Ok(()) => return,
                Err(error) => error,
            };
            if !std::mem::replace(&mut is_missed, true) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    socket = %self.socket.display(),
                    "the collector of dnstap cannot be told; it is looked for again every second"
                );
            }
            tokio::select! {
                biased;
                _ = &mut stopped => return self.give_up(),
                () = sleep(AGAIN) => {}
            }
        }
    }

    /// Connects, and learns that somebody reads dnstap.
    async fn begin(&self) -> Result<UnixStream, StreamError> {
        let begin = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            // Whom the kernel saw listen there: a folder is not always there to keep others from that.
            let uid = stream.peer_cred()?.uid();
            if uid != self.uid {
                return Err(StreamError::User { uid });
            }
            stream.write_all(&frames::ready()).await?;
            let (mut reader, mut writer) = stream.split();
            match next_control(&mut reader).await? {
                Control::Accept(Content::Dnstap) => {}
                Control::Accept(Content::Other) => return Err(StreamError::Content),
                Control::Start(_)
                | Control::Stop
                | Control::Ready(_)
                | Control::Finish
                | Control::Unknown => {
                    return Err(StreamError::Order);
                }
            }
            writer.write_all(&frames::start()).await?;
            Ok(stream)
        };
        timeout(BEGIN_MAX, begin).await.unwrap_or(Err(StreamError::Late))
    }

    /// Tells one message after the other, until told to stop; then what is left of them, and that it is all.
    async fn tell(
        &mut self,
        mut stream: UnixStream,
        stopped: &mut oneshot::Receiver<()>,
    ) -> Result<(), StreamError> {
        let (mut reader, mut writer) = stream.split();
        let (mut batch, mut said) = (Vec::with_capacity(BATCH), [0; 1]);
        loop {
            tokio::select! {
                biased;
                _ = &mut *stopped => break,
                // It has nothing to say before the end.
                said = reader.read(&mut said) => {
                    return Err(if said? == 0 { StreamError::Left } else { StreamError::Order });
                }
                _ = self.messages.recv_many(&mut batch, BATCH) => self.write(&mut writer, &mut batch).await?,
            }
        }
        self.messages.close();
        while self.messages.recv_many(&mut batch, BATCH).await > 0 {
            self.write(&mut writer, &mut batch).await?;
        }
        writer.write_all(&frames::stop()).await?;
        match next_control(&mut reader).await {
            Ok(Control::Finish) => tracing::info!("the collector of dnstap has read everything"),
            Ok(_) => tracing::warn!("the collector of dnstap does not say that it has read everything"),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the collector of dnstap does not say that it has read everything"
                );
            }
        }
        Ok(())
    }

    /// Writes what is in `batch`, and empties it. What could not be written is lost: part of it may have been read.
    async fn write(&self, writer: &mut WriteHalf<'_>, batch: &mut Vec<Bytes>) -> Result<(), StreamError> {
        self.waiting.fetch_sub(batch.iter().map(cost).sum(), Relaxed);
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let mut framed = BytesMut::new();
        for message in batch.drain(..) {
            frames::put_data(&message, &mut framed);
        }
        let written = timeout(WRITE_MAX, writer.write_all(&framed)).await;
        let written = written.map_err(|_| StreamError::Late).and_then(|written| Ok(written?));
        let happening =
            if written.is_ok() { Happening::TapOutTold(count) } else { Happening::TapOutLost(count) };
        self.around.count(happening);
        written
    }

    /// Ends without a collector.
    fn give_up(&mut self) {
        self.messages.close();
        let mut count = 0;
        while self.messages.try_recv().is_ok() {
            count += 1;
        }
        if count > 0 {
            self.around.count(Happening::TapOutLost(count));
            tracing::warn!(count, "nobody was told the last messages of dnstap");
        }
    }
}

/// Returns the next frame that steers the stream, of those that are known.
async fn next_control(reader: &mut ReadHalf<'_>) -> Result<Control, StreamError> {
    let (mut frames, mut buffer) = (Frames::default(), BytesMut::new());
    loop {
        match frames.take(&mut buffer)? {
            Some(Frame::Control(Control::Unknown)) => {}
            Some(Frame::Control(control)) => return Ok(control),
            Some(Frame::Data(_) | Frame::TooLong) => return Err(StreamError::Order),
            None => {
                if reader.read_buf(&mut buffer).await? == 0 {
                    return Err(StreamError::Left);
                }
            }
        }
    }
}
