//! Pipes for the relay: through a pipe the kernel moves bytes from one socket to another without copying them. They are
//! few, and taken only while bytes move.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Pipes that one proxy may have: half of the 64 MiB that the kernel lets a user without privileges have
/// (`fs.pipe-user-pages-soft`), so that other programs of that user keep their share. A flow that gets none is copied.
const PIPES_MAX: usize = 32;

/// Bytes that a pipe holds: what a user without privileges may ask for (`fs.pipe-max-size`). Measured: the 64 KiB that a
/// pipe begins with cost one and a half times to twice the processor time.
pub(super) const PIPE_BYTES: usize = 1024 * 1024;

/// How long no pipe is asked for after the kernel has refused one: asking for each piece of bulk would cost more than
/// pipes gain.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Descriptors that the pipes of one proxy may take.
pub const PIPE_DESCRIPTORS_MAX: usize = 2 * PIPES_MAX;

/// The pipes of one proxy.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// How many there may be, those in use included.
    most: usize,
    /// How many bytes each holds.
    size: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Empty ones, not in use.
    free: Vec<Arc<Ends>>,
    open: usize,
    /// When the kernel last gave none.
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Default for Pipes {
    fn default() -> Self {
        Self::new(PIPES_MAX, PIPE_BYTES)
    }
}

impl Pipes {
    /// Allows for `most` pipes of `size` bytes.
    pub(super) fn new(most: usize, size: usize) -> Self {
        Self { most, size, state: Mutex::default() }
    }

    /// Returns an empty pipe, unless there are too many or the kernel gives none: pipe pages or descriptors are spent.
    pub(super) fn take(&self) -> Option<Pipe<'_>> {
        let mut state = self.state();
        if let Some(ends) = state.free.pop() {
            return Some(Pipe { pipes: self, ends, held: 0 });
        }
        let is_refused = state.refused.is_some_and(|when| when.elapsed() < REFUSED_PAUSE);
        if is_refused || state.open >= self.most {
            return None;
        }
        match Ends::open(self.size) {
            Ok(ends) => {
                state.open += 1;
                Some(Pipe { pipes: self, ends: Arc::new(ends), held: 0 })
            }
            Err(error) => {
                tracing::debug!(%error, open = state.open, "no pipe to relay through");
                state.refused = Some(Instant::now());
                None
            }
        }
    }

    /// Whether a flow has bytes in one.
    #[cfg(test)]
    pub(super) fn is_held(&self) -> bool {
        let state = self.state();
        state.open > state.free.len()
    }

    /// The state is right even if a thread panicked while it held it: each change is one step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends {
    fn open(size: usize) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&write, size)?;
        Ok(Self { read, write })
    }
}

/// A pipe in use. It goes back when it is dropped empty; one with bytes in it is closed, since they are of this flow.
#[derive(Debug)]
pub(super) struct Pipe<'a> {
    pipes: &'a Pipes,
    ends: Arc<Ends>,
    held: usize,
}

impl Pipe<'_> {
    /// Bytes that are in it.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Moves what `from` has into the empty pipe, as far as there is room, and returns how much that was; zero is the
    /// end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` if `from` has nothing; those of a read.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let moved = splice(from, None, &self.ends.write, None, self.pipes.size, SpliceFlags::NONBLOCK)?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves up to `most` bytes from the pipe to `to`, and returns how many that was.
    ///
    /// # Errors
    /// `WouldBlock` if `to` takes none now; those of a write. A broken pipe also raises SIGPIPE, which Rust programs
    /// ignore.
    pub(super) fn drain(&mut self, to: impl AsFd, most: usize) -> io::Result<usize> {
        let moved = splice(&self.ends.read, None, to, None, most.min(self.held), SpliceFlags::NONBLOCK)?;
        self.held = self.held.saturating_sub(moved);
        Ok(moved)
    }
}

impl Drop for Pipe<'_> {
    fn drop(&mut self) {
        let mut state = self.pipes.state();
        if self.held == 0 {
            state.free.push(Arc::clone(&self.ends));
        } else {
            state.open = state.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write, pipe};

    use super::*;

    #[test]
    fn bytes_go_through_in_order() {
        let pipes = Pipes::default();
        let (mut out, to) = pipe().unwrap();
        let (from, mut source) = pipe().unwrap();
        let mut held = pipes.take().unwrap();
        source.write_all(b"abcdef").unwrap();
        assert_eq!((held.fill(&from).unwrap(), held.held()), (6, 6));
        assert_eq!((held.drain(&to, 2).unwrap(), held.held()), (2, 4), "no more than there is room for");
        assert_eq!((held.drain(&to, 100).unwrap(), held.held()), (4, 0));
        let mut got = [0; 6];
        out.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"abcdef");
        drop(source);
        assert_eq!(held.fill(&from).unwrap(), 0, "the end of the stream");
    }

    #[test]
    fn an_empty_pipe_is_used_again_and_a_full_one_is_not() {
        let pipes = Pipes::new(2, PIPE_BYTES);
        let (first, second) = (pipes.take().unwrap(), pipes.take().unwrap());
        assert!(pipes.take().is_none(), "there are two");
        drop(first);
        let mut first = pipes.take().unwrap();
        let (from, mut source) = pipe().unwrap();
        source.write_all(b"x").unwrap();
        first.fill(&from).unwrap();
        drop(first);
        assert_eq!(pipes.state().open, 1, "the full one is closed, and leaves room for another");
        let third = pipes.take().unwrap();
        assert!(pipes.take().is_none());
        drop((second, third));
        let state = pipes.state();
        assert_eq!((state.open, state.free.len()), (2, 2));
    }

    #[test]
    fn a_kernel_that_gives_none_is_not_asked_at_once_again() {
        let mut pipes = Pipes::new(2, usize::MAX);
        assert!(pipes.take().is_none());
        assert!(pipes.state().refused.is_some());
        pipes.size = PIPE_BYTES;
        assert!(pipes.take().is_none(), "though it would");
        pipes.state().refused = Instant::now().checked_sub(REFUSED_PAUSE);
        assert!(pipes.take().is_some());
    }
}
