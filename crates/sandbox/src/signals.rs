//! Signals for a command that somebody else runs for us.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What is passed on to the command.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// The signals of this process, which have no effect but to be read here.
#[derive(Debug)]
pub struct Held(SignalFd);

/// Where signals for a command come from.
pub trait Signals: AsFd {
    /// Returns the next one for it, if there is one by now; the descriptor is readable when there is.
    ///
    /// # Errors
    /// If there will be none any more, for which the command must end.
    fn next_sent(&mut self) -> io::Result<Option<i32>>;
}

impl Held {
    /// Holds them from now on. Call it after [`crate::Sandbox::prepare`], whose processes must not inherit it, and before there
    /// is another thread, which must.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn hold() -> io::Result<Self> {
        Self::of(&PASSED_ON.into_iter().collect())
    }

    /// Holds those that tell of a child.
    pub(crate) fn children() -> io::Result<Self> {
        Self::of(&SigSet::from(Signal::SIGCHLD))
    }

    fn of(signals: &SigSet) -> io::Result<Self> {
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Forgets all that are there.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        while self.0.read_signal()?.is_some() {}
        Ok(())
    }
}

impl Signals for Held {
    /// Some process has sent them. The terminal's own reach the command without us.
    fn next_sent(&mut self) -> io::Result<Option<i32>> {
        while let Some(info) = self.0.read_signal()? {
            if info.ssi_code != libc::SI_KERNEL {
                return Ok(i32::try_from(info.ssi_signo).ok());
            }
        }
        Ok(None)
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
