//! Flows that carry something all the time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::world::GREETING;

/// Ten times the second within which a flow that is no longer allowed ends.
const BOUND: Duration = Duration::from_secs(10);
/// Between two questions: often enough to notice everything, and no load that keeps others waiting.
const PAUSE: Duration = Duration::from_millis(1);

/// A connection to a server that greets and then sends back what it gets, which is asked for one thing after another.
pub struct Traffic {
    answers: Receiver<()>,
    thread: JoinHandle<(io::Result<()>, Instant)>,
}

impl Traffic {
    /// Begins, and returns once something has come back.
    ///
    /// # Errors
    /// When nothing does.
    pub fn begin(mut stream: TcpStream) -> Result<Self> {
        stream.read_exact(&mut vec![0; GREETING.len()]).context("the greeting")?;
        let (answered, answers) = channel();
        let thread = std::thread::spawn(move || {
            let result = converse(&mut stream, &answered);
            (result, Instant::now())
        });
        let traffic = Self { answers, thread };
        traffic.goes_on()?;
        Ok(traffic)
    }

    /// Waits until more has come back than when this was called.
    ///
    /// # Errors
    /// When nothing does.
    pub fn goes_on(&self) -> Result<()> {
        self.answers.try_iter().for_each(drop);
        // The first may have been under way.
        for _ in 0..3 {
            self.answers.recv_timeout(BOUND).context("nothing comes back")?;
        }
        Ok(())
    }

    /// Waits until it is reset. Returns when that was.
    ///
    /// # Errors
    /// When it goes on for ten seconds, or ends in another way.
    pub fn cut(self) -> Result<Instant> {
        let began = Instant::now();
        loop {
            match self.answers.recv_timeout(BOUND) {
                Ok(()) => ensure!(began.elapsed() < BOUND, "it is not cut"),
                Err(RecvTimeoutError::Timeout) => bail!("nothing comes back, and it is not reset"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let (result, at) = self.thread.join().map_err(|_| anyhow!("the client has panicked"))?;
        let error = result.err().context("it ended by itself")?;
        ensure!(error.kind() == io::ErrorKind::ConnectionReset, "it is not reset: {error}");
        Ok(at)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it has been cut.
    pub fn end(self) -> Result<()> {
        self.goes_on()?;
        drop(self.answers);
        let (result, _) = self.thread.join().map_err(|_| anyhow!("the client has panicked"))?;
        Ok(result?)
    }
}

/// Asks until nobody counts the answers any more.
fn converse(stream: &mut TcpStream, answered: &Sender<()>) -> io::Result<()> {
    loop {
        stream.write_all(b"still there?")?;
        stream.read_exact(&mut [0; 12])?;
        if answered.send(()).is_err() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}
