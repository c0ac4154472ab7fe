//! One direction of a relay: reads and writes while bytes come in small numbers, and has the kernel move them where they
//! come in bulk and both sides are plain TCP.

use std::{
    future::{pending, poll_fn},
    io, mem,
    pin::Pin,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt, Interest},
    task::yield_now,
};

use super::{
    Opened,
    halves::{Reader, Writer},
    pipe::Pipes,
    traffic::Traffic,
};
use crate::{
    chunk::{BULK_BYTES, CHUNK_BYTES, Chunk, poll_chunk},
    meter::Side,
    metrics::RelayPath,
};

/// Bytes that a direction moves before the other tasks of its thread have their turn: about a third of a millisecond.
const TURN_BYTES: usize = 1024 * 1024;

/// Bytes of one move through a pipe below which a direction is read from again: a copy of so little costs less than the
/// second call.
const TRICKLE_BYTES: usize = 16 * 1024;

/// How a direction ended without stopping the other one.
pub(super) enum LaneEnd {
    /// The sender's end of stream was passed on.
    Finished,
    /// The receiver takes no more. What it has sent before is still to be read in the other direction.
    ReceiverBroke(io::Error),
}

/// The sender's connection broke. Nothing can be read from it, nor, since it is one connection, written to it.
pub(super) struct SenderBroke {
    pub(super) side: Side,
    pub(super) source: io::Error,
}

/// Why a direction stops moving bytes.
enum Stop {
    /// The sender's end of stream.
    Ended,
    SenderBroke(io::Error),
    ReceiverBroke(io::Error),
}

/// What a direction does next.
enum Next {
    /// Reads, since bytes come in small numbers.
    Trickle,
    /// Reads much at a time: bytes come in bulk, and there is no pipe.
    Bulk,
}

/// One direction.
pub(super) struct Lane<'a> {
    traffic: &'a Traffic<'a>,
    pipes: &'a Pipes,
    sender: Side,
    from: Reader<'a>,
    to: Writer<'a>,
    /// Whom to tell the first bytes.
    first: Option<&'a Opened<'a>>,
    /// Bytes since others last had their turn.
    turn: usize,
}

impl<'a> Lane<'a> {
    /// Returns the direction from `sender`.
    pub(super) const fn new(
        traffic: &'a Traffic<'a>,
        pipes: &'a Pipes,
        sender: Side,
        from: Reader<'a>,
        to: Writer<'a>,
        first: Option<&'a Opened<'a>>,
    ) -> Self {
        Self { traffic, pipes, sender, from, to, first, turn: 0 }
    }

    /// Delivers `early` and then all that comes, until the sender ends or something breaks.
    pub(super) async fn run(&mut self, early: &mut Bytes) -> Result<LaneEnd, SenderBroke> {
        match self.moves(early).await {
            Stop::Ended => Ok(self.finish().await),
            Stop::SenderBroke(source) => Err(SenderBroke { side: self.sender, source }),
            Stop::ReceiverBroke(error) => Ok(self.receiver_broke(error)),
        }
    }

    /// Delivers until something stops it.
    async fn moves(&mut self, early: &mut Bytes) -> Stop {
        if let Err(error) = self.deliver(&mut Chunk::Aside(mem::take(early))).await {
            return Stop::ReceiverBroke(error);
        }
        let mut most = CHUNK_BYTES;
        loop {
            let mut chunk = match self.read(most).await {
                Ok(chunk) => chunk,
                Err(error) => return Stop::SenderBroke(error),
            };
            let length = chunk.bytes().len();
            if length == 0 {
                return Stop::Ended;
            }
            if let Err(error) = self.deliver(&mut chunk).await {
                return Stop::ReceiverBroke(error);
            }
            // The buffer is the thread's: the next read begins without it.
            drop(chunk);
            most = CHUNK_BYTES;
            if length >= CHUNK_BYTES {
                match self.splice().await {
                    Ok(Next::Trickle) => {}
                    Ok(Next::Bulk) => most = BULK_BYTES,
                    Err(stop) => return stop,
                }
            }
        }
    }

    /// Reads what comes next.
    async fn read(&mut self, most: usize) -> io::Result<Chunk> {
        poll_fn(|cx| {
            if self.sender == Side::Upstream {
                self.traffic.keep_alive(self.from.tcp());
            }
            poll_chunk(cx, &mut self.from, most)
        })
        .await
    }

    /// Writes `chunk`, as far as the meter has room for it.
    async fn deliver(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        let receiver = self.sender.other();
        if let (false, Some(first)) = (chunk.bytes().is_empty(), self.first) {
            self.first = None;
            first(chunk.bytes());
            if self.traffic.meter.reason().is_some() {
                return pending().await;
            }
        }
        while !chunk.bytes().is_empty() {
            let room = self.traffic.meter.room(receiver, chunk.bytes().len());
            if room == 0 {
                // The meter has stopped the flow, and whoever runs this lane drops it.
                return pending().await;
            }
            let written = poll_fn(|cx| {
                let bytes = chunk.bytes().get(..room).unwrap_or_default();
                let polled = Pin::new(&mut self.to).poll_write(cx, bytes);
                if polled.is_pending() {
                    chunk.set_aside();
                }
                polled
            });
            let written = written.await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            chunk.advance(written);
            self.traffic.took(receiver, written, RelayPath::Copy);
            self.turn(written).await;
        }
        // TLS may have taken what its socket has not.
        self.to.flush().await
    }

    /// Has the kernel move bytes for as long as they come in bulk. Returns at once where it cannot.
    async fn splice(&mut self) -> Result<Next, Stop> {
        loop {
            let (Some(from), Some(to)) = (self.from.tcp(), self.to.tcp()) else { return Ok(Next::Trickle) };
            let Some(mut pipe) = self.pipes.take() else { return Ok(Next::Bulk) };
            match from.try_io(Interest::READABLE, || pipe.fill(from)) {
                Ok(0) => return Err(Stop::Ended),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Trickle),
                Err(error) => return Err(Stop::SenderBroke(error)),
            }
            let filled = pipe.held();
            while pipe.held() > 0 {
                let receiver = self.sender.other();
                let room = self.traffic.meter.room(receiver, pipe.held());
                if room == 0 {
                    return pending().await;
                }
                match to.try_io(Interest::WRITABLE, || pipe.drain(to, room)) {
                    Ok(0) => return Err(Stop::ReceiverBroke(io::ErrorKind::WriteZero.into())),
                    Ok(moved) => self.traffic.took(receiver, moved, RelayPath::Splice),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        poll_fn(|cx| to.poll_write_ready(cx)).await.map_err(Stop::ReceiverBroke)?;
                    }
                    Err(error) => return Err(Stop::ReceiverBroke(error)),
                }
            }
            drop(pipe);
            self.turn(filled).await;
            if filled < TRICKLE_BYTES {
                return Ok(Next::Trickle);
            }
        }
    }

    /// Lets others have their turn once this direction has had its own.
    async fn turn(&mut self, moved: usize) {
        self.turn = self.turn.saturating_add(moved);
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            yield_now().await;
        }
    }

    /// Passes the end of the stream on.
    async fn finish(&mut self) -> LaneEnd {
        // After a failed write the kernel reports the end of a broken stream as an ordinary one.
        if self.traffic.is_broken(self.sender) {
            return LaneEnd::Finished;
        }
        // The close that follows the last end says it as well, unless TLS or HTTP/2 has its own words for it.
        if self.traffic.note_end() && self.to.tcp().is_some() {
            return LaneEnd::Finished;
        }
        match self.to.shutdown().await {
            Ok(()) => LaneEnd::Finished,
            Err(error) => self.receiver_broke(error),
        }
    }

    fn receiver_broke(&self, error: io::Error) -> LaneEnd {
        self.traffic.note_broken(self.sender.other());
        LaneEnd::ReceiverBroke(error)
    }
}
