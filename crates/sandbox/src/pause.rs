//! Everything inside but init, paused at once, for as long as somebody outside wants it.
//!
//! Only init can: a signal to "all" from it reaches every process inside and none outside, and the kernel lets none be made that it would
//! miss. What runs a moment longer could have another one go on; so it is looked until all have stopped, and stay so.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::wire::{Channel, ToInside};

/// How long it may take until all have stopped. Ten thousand processes need some tenths of a second.
const STOP: Duration = Duration::from_secs(3);

/// How long init may take to say so.
const ANSWER: Duration = Duration::from_secs(5);

/// How often all have to have stopped, one time after the other: what was looked at first may have been made to go on by what was
/// looked at last.
const ROUNDS: usize = 3;

/// How long to wait before it is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What init says: all are paused, not all are, and the command has a signal.
const ALL: u8 = b'a';
const NOT_ALL: u8 = b'n';
const SIGNAL: u8 = b's';

/// Who has a sandbox paused.
#[derive(Debug)]
pub struct Pauser(pub(crate) Channel);

/// A sandbox that is paused. It goes on when this is dropped.
#[derive(Debug)]
pub struct Paused(UnixStream);

impl Pauser {
    /// Pauses all that the command has started, itself included.
    ///
    /// # Errors
    /// If not everything can be; all goes on then.
    pub fn pause(&self) -> io::Result<Paused> {
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(ANSWER))?;
        self.0.send_with(&ToInside::Pause, &[theirs.as_fd()])?;
        drop(theirs);
        let mut word = [0];
        ours.read_exact(&mut word)?;
        if word == [ALL] { Ok(Paused(ours)) } else { Err(io::Error::other("something goes on inside")) }
    }
}

impl Paused {
    /// Whether the command has a signal that it is to have soon, or is no more.
    #[must_use]
    pub fn is_to_end(&self) -> bool {
        let mut word = [PollFd::new(&self.0, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut word, Some(&at_once)).map_or(true, |ready| ready > 0)
    }
}

/// Init's side of it.
#[derive(Debug)]
pub(crate) struct Pause(UnixStream);

impl Pause {
    /// Pauses all, for whoever has the other end of `descriptor`.
    pub(crate) fn begin(descriptor: OwnedFd) -> Self {
        let mut whom = UnixStream::from(descriptor);
        let word = if stop_all() { ALL } else { NOT_ALL };
        // Who has gone is found by that.
        let _ = whom.write_all(&[word]);
        Self(whom)
    }

    /// Says that the command has a signal, which it gets when it goes on.
    pub(crate) fn tell_of_signal(&mut self) {
        let _may_have_gone = self.0.write_all(&[SIGNAL]);
    }

    /// Lets all go on.
    pub(crate) fn end(self) {
        let _ = signal_all(Signal::SIGCONT);
    }
}

impl AsFd for Pause {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns whether all have stopped.
fn stop_all() -> bool {
    let deadline = Instant::now() + STOP;
    let mut rounds = 0;
    while rounds < ROUNDS {
        if Instant::now() > deadline || signal_all(Signal::SIGSTOP).is_err() {
            return false;
        }
        if have_stopped(Path::new("/proc")).unwrap_or(false) {
            rounds += 1;
        } else {
            rounds = 0;
            thread::sleep(LOOK_AGAIN);
        }
    }
    true
}

fn signal_all(signal: Signal) -> nix::Result<()> {
    // Elsewhere, these would be all of the user's.
    if getpid() != Pid::from_raw(1) {
        return Err(Errno::EPERM);
    }
    match kill(Pid::from_raw(-1), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns whether every thread of every process but init has.
fn have_stopped(proc: &Path) -> io::Result<bool> {
    for process in fs::read_dir(proc)? {
        let process = process?;
        let number = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if number.is_none_or(|number| number == 1) {
            continue;
        }
        let Some(threads) = unless_gone(fs::read_dir(process.path().join("task")))? else { continue };
        for thread in threads {
            let Some(thread) = unless_gone(thread)? else { break };
            let status = unless_gone(fs::read_to_string(thread.path().join("status")))?;
            if status.is_some_and(|status| !has_stopped(&status)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads of `/proc/PID/status` whether a thread has stopped, or is no more. One that waits for a disk, or for a child that has its memory
/// (`vfork`), will stop before it does anything: the signal is there.
fn has_stopped(status: &str) -> bool {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_start)
    };
    match field("State").and_then(|state| state.chars().next()) {
        Some('T' | 't' | 'Z' | 'X') => true,
        Some('D') => {
            let pending = field("ShdPnd").and_then(|signals| u64::from_str_radix(signals, 16).ok());
            pending.is_some_and(|signals| signals & STOP_PENDING != 0)
        }
        Some(_) | None => false,
    }
}

/// `SIGSTOP` in a set of signals.
const STOP_PENDING: u64 = 1 << (libc::SIGSTOP - 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_could_go_on_has_not_stopped() {
        for (state, pending, want) in [
            ("T (stopped)", 0, true),
            ("t (tracing stop)", 0, true),
            ("Z (zombie)", 0, true),
            ("X (dead)", 0, true),
            ("R (running)", STOP_PENDING, false),
            ("S (sleeping)", STOP_PENDING, false),
            ("D (disk sleep)", 0, false),
            ("D (disk sleep)", STOP_PENDING, true),
        ] {
            let status = format!("Name:\tState: T\nState:\t{state}\nShdPnd:\t{pending:016x}\n");
            assert_eq!(has_stopped(&status), want, "{status}");
        }
        assert!(!has_stopped(""));
    }

    #[test]
    fn the_tests_themselves_go_on_and_nobody_else_is_paused() {
        assert!(!have_stopped(Path::new("/proc")).unwrap());
        assert!(signal_all(Signal::SIGCONT).is_err() && !stop_all());
    }
}
