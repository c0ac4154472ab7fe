//! A command that somebody else is asked to run, as `exeat run` runs one: by a process of this program of its own, the *runner*,
//! which is told what to run and does the rest.
//!
//! A server cannot be the launcher itself: what it gives to a command it would have to keep from all others, and what breaks one
//! would break all. Whatever ends the server ends its runners: the kernel kills them, and each ends when its channel does.

use std::env;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal, setsid};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{STATUS_MISSING, STATUS_UNUSABLE};
use crate::launch::Outcome;
use crate::signals::Signals;
use crate::wire::Channel;

/// The argument that makes this program a runner.
const RUNNER: &str = "sandbox-runner";

/// What a runner, and so the command, keeps of the environment of whoever asks; what else is there is not for the command.
const KEPT: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "XDG_RUNTIME_DIR"];

/// What is to be run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Job {
    /// The name that records have for it.
    pub name: String,
    /// The flags of `exeat run`.
    pub flags: Vec<String>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The working directory, absolute.
    pub directory: PathBuf,
    /// Variables of the command alone, beside those that it has anyway.
    pub variables: Vec<(String, String)>,
    /// Addresses that no policy opens: whoever asks listens there.
    pub closed: Vec<SocketAddr>,
    /// The token that says what it may reach, if one does.
    pub token: Option<Hidden>,
    /// Files that it must not write, whatever the flags say: what other commands may reach depends on them.
    pub locked: Vec<PathBuf>,
}

/// A text that only its reader is meant for: no log or error shows it.
#[derive(Clone, Deserialize, Serialize)]
pub struct Hidden(String);

impl Hidden {
    /// Returns it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

/// What a runner is told.
#[derive(Debug, Deserialize, Serialize)]
enum ToRunner {
    /// The streams of the command go along.
    Run(Job),
    Signal(i32),
}

/// What a runner says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Said {
    /// The command runs.
    Started,
    /// It was not run.
    NotRun(NotRun),
    /// It ran and has ended.
    Ended {
        /// By what, and which limits it ran into.
        outcome: Outcome,
        /// What it has reached and what it was refused, as `exeat run --json` says it.
        summary: Value,
    },
}

/// Why a command was not run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NotRun {
    /// What went wrong.
    pub error: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
    /// Who can put it right.
    pub fault: Fault,
}

/// Whose fault it is that a command was not run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Fault {
    /// Of what was asked for: there is no such command, or its token does not count.
    Order,
    /// Of the machine or its settings.
    Host,
}

impl Fault {
    /// Whose fault a failure with this exit status of `exeat run` is.
    #[must_use]
    pub const fn of_status(status: u8) -> Self {
        match status {
            STATUS_MISSING | STATUS_UNUSABLE => Self::Order,
            _ => Self::Host,
        }
    }
}

/// A runner, seen by who asked. When it is dropped, all that it runs ends.
#[derive(Debug)]
pub struct Runner {
    process: Child,
    channel: Arc<Channel>,
}

impl Runner {
    /// Starts one, with these standard streams for the command. The kernel ends it with the *thread* that calls this.
    ///
    /// # Errors
    /// If there can be no process, or the job does not fit into a message of 192 KiB.
    pub fn start(job: Job, streams: &[OwnedFd; 3]) -> io::Result<Self> {
        let (channel, theirs) = Channel::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg(RUNNER)
            .env_clear()
            .envs(KEPT.into_iter().filter_map(|name| Some((name, env::var_os(name)?))))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        let runner = Self { process, channel: Arc::new(channel) };
        let [stdin, stdout, stderr] = streams;
        runner.channel.send_with(&ToRunner::Run(job), &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
        Ok(runner)
    }

    /// What signals are sent by.
    #[must_use]
    pub fn signaller(&self) -> Signaller {
        Signaller(Arc::clone(&self.channel))
    }

    /// Waits for what it says next; `None` if it says nothing more.
    ///
    /// # Errors
    /// If what it says makes no sense.
    pub fn next(&self) -> io::Result<Option<Said>> {
        Ok(self.channel.receive()?.map(|(said, _)| said))
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Init is killed with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends signals to a command that a runner runs.
#[derive(Clone, Debug)]
pub struct Signaller(Arc<Channel>);

impl Signaller {
    /// Has the command sent the signal of this number. May block for a moment.
    ///
    /// # Errors
    /// If the runner has ended.
    pub fn send(&self, signal: i32) -> io::Result<()> {
        self.0.send(&ToRunner::Signal(signal))
    }
}

/// Who asked, seen by the runner.
#[derive(Debug)]
pub struct Supervisor(Channel);

impl Supervisor {
    /// Returns it if this process was started as a runner, which it then is for good: in a session of its own, and killed with
    /// whoever started it.
    #[must_use]
    pub fn of_this_process() -> Option<io::Result<Self>> {
        (env::args_os().nth(1)? == RUNNER).then(Self::take)
    }

    fn take() -> io::Result<Self> {
        // If they have ended before this, the channel says so.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // What a terminal sends to them is not for the command, and the terminal is not either.
        setsid()?;
        Ok(Self(Channel::from_stdin()?))
    }

    /// Waits for what is to be run, and for its standard streams.
    ///
    /// # Errors
    /// If nothing is, or something else is said.
    pub fn job(&self) -> io::Result<(Job, [OwnedFd; 3])> {
        match self.0.receive()? {
            Some((ToRunner::Run(job), streams)) => {
                let streams = streams.try_into().map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
                Ok((job, streams))
            }
            Some((ToRunner::Signal(_), _)) => Err(ErrorKind::InvalidData.into()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// If nobody listens.
    pub fn say(&self, said: &Said) -> io::Result<()> {
        self.0.send(said)
    }
}

impl AsFd for Supervisor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Signals for &Supervisor {
    /// # Errors
    /// Also if who asked has ended: then nobody is left to run it for.
    fn next_sent(&mut self) -> io::Result<Option<i32>> {
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        if poll(&mut ready, Some(&Timespec::default()))? == 0 {
            return Ok(None);
        }
        match self.0.receive()? {
            Some((ToRunner::Signal(signal), _)) => Ok(Some(signal)),
            Some((ToRunner::Run(_), _)) => Err(ErrorKind::InvalidData.into()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}
