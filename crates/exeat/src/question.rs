//! One question on the terminal that a command has, by a process of its own: it takes the terminal, asks, and gives it back as
//! it was. The command is paused meanwhile, so that nobody else reads what is typed. What was typed before is no answer.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::termios::{
    FlushArg, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcflush,
    tcgetattr, tcsetattr,
};
use nix::unistd::{Pid, getpid, getppid, tcgetpgrp, tcsetpgrp};

/// The argument that makes this program ask.
const QUESTION: &str = "run-question";

/// The terminal of a process, whatever its streams are.
const TERMINAL: &str = "/dev/tty";

/// How long a question waits for its answer: connections wait with it, and programs give up after a minute or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers that make no sense before that is one, too.
const TRIES: usize = 3;

/// Bytes of an answer that are looked at.
const ANSWER_BYTES: usize = 256;

/// What Ctrl-C types.
const INTERRUPT: u8 = 3;

/// What was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Choice {
    Once,
    Run,
    Save,
    Deny,
}

impl Choice {
    const ALL: [Self; 4] = [Self::Once, Self::Run, Self::Save, Self::Deny];

    /// The status that tells it.
    const fn status(self) -> u8 {
        match self {
            Self::Once => 10,
            Self::Run => 11,
            Self::Save => 12,
            Self::Deny => 13,
        }
    }

    /// Reads an answer: the first letter of a choice, or all of it.
    fn parse(answer: &str) -> Option<Self> {
        match answer.trim() {
            "o" | "once" => Some(Self::Once),
            "r" | "run" => Some(Self::Run),
            "s" | "save" => Some(Self::Save),
            "d" | "deny" | "n" | "no" => Some(Self::Deny),
            _ => None,
        }
    }
}

/// Whether there is a terminal to ask on.
pub(crate) fn has_terminal() -> bool {
    OpenOptions::new().read(true).write(true).open(TERMINAL).is_ok()
}

/// Keeps this process running while others have the terminal. To be called before there is another thread.
///
/// # Errors
/// If the system refuses.
pub(crate) fn outlive_the_background() -> nix::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTTIN);
    signals.add(Signal::SIGTTOU);
    signals.thread_block()
}

/// Starts asking `text`. The status of the process is what [`choice`] reads.
///
/// # Errors
/// If no process can be started.
pub(crate) fn begin(text: &str, can_save: bool) -> io::Result<Child> {
    let save = if can_save { "save" } else { "" };
    Command::new("/proc/self/exe")
        .args([QUESTION, save, text])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Reads the status of a process that has asked. What went wrong in any way is no permission.
pub(crate) fn choice(status: Option<i32>) -> Choice {
    let is_it = |choice: &Choice| status == Some(choice.status().into());
    Choice::ALL.into_iter().find(is_it).unwrap_or(Choice::Deny)
}

/// Asks, if this process was started for that.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let mut args = env::args().skip(1);
    if args.next()? != QUESTION {
        return None;
    }
    let (can_save, text) = (args.next()? == "save", args.next()?);
    let choice = ask(&text, can_save).unwrap_or(Choice::Deny);
    Some(choice.status().into())
}

fn ask(text: &str, can_save: bool) -> io::Result<Choice> {
    // Whoever has started this may end, and the terminal is to be given back all the same.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        signals.add(signal);
    }
    signals.thread_block()?;
    outlive_the_background()?;
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    let ended = SignalFd::new(&signals)?;
    let mut terminal = OpenOptions::new().read(true).write(true).open(TERMINAL)?;
    let before = tcgetpgrp(&terminal)?;
    if !is_ours(before) {
        // Somebody else works at the terminal.
        return Ok(Choice::Deny);
    }
    tcsetpgrp(&terminal, getpid())?;
    let settings = tcgetattr(&terminal)?;
    let choice = prepare(&terminal, &settings).and_then(|()| answer(&mut terminal, &ended, text, can_save));
    let _given_back = tcsetattr(&terminal, SetArg::TCSADRAIN, &settings);
    tcsetpgrp(&terminal, before)?;
    choice
}

/// Whether the group that has the terminal is that of the run, or of something in it.
fn is_ours(group: Pid) -> bool {
    let launcher = getppid();
    if nix::unistd::getpgid(Some(launcher)) == Ok(group) {
        return true;
    }
    std::iter::successors(Some(group), |pid| parent(*pid)).take(64).any(|pid| pid == launcher)
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent: i32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    (parent > 0).then(|| Pid::from_raw(parent))
}

/// Has the terminal take a line, whatever the command has it do, and forget what was typed so far.
fn prepare(terminal: &File, settings: &Termios) -> io::Result<()> {
    let mut plain = settings.clone();
    plain.local_flags |= LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ECHOE | LocalFlags::ECHOK;
    plain.local_flags &= !LocalFlags::ISIG;
    plain.input_flags |= InputFlags::ICRNL;
    plain.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
    if let Some(end) = plain.control_chars.get_mut(SpecialCharacterIndices::VEOL as usize) {
        *end = INTERRUPT;
    }
    tcsetattr(terminal, SetArg::TCSANOW, &plain)?;
    Ok(tcflush(terminal, FlushArg::TCIFLUSH)?)
}

fn answer(terminal: &mut File, ended: &SignalFd, text: &str, can_save: bool) -> io::Result<Choice> {
    let save = if can_save { " [s]ave," } else { "" };
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..TRIES {
        write!(terminal, "\nexeat: {text}: [o]nce, this [r]un,{save} [d]eny? ")?;
        if !wait(terminal, ended, deadline)? {
            break;
        }
        let mut bytes = [0; ANSWER_BYTES];
        let length = terminal.read(&mut bytes)?;
        let answer = bytes.get(..length).unwrap_or_default();
        if length == 0 || answer.contains(&INTERRUPT) {
            break;
        }
        match Choice::parse(&String::from_utf8_lossy(answer)) {
            Some(Choice::Save) if !can_save => {}
            Some(choice) => return Ok(choice),
            None => {}
        }
    }
    writeln!(terminal, "\nexeat: denied")?;
    Ok(Choice::Deny)
}

/// Waits for a line. Returns whether there is one in time, and nobody wants this to end.
fn wait(terminal: &File, ended: &SignalFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut ready =
            [PollFd::new(terminal.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, left) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [line, end] = ready.map(|one| one.revents().is_some_and(|events| !events.is_empty()));
        return Ok(line && !end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_choice_is_a_permission() {
        for (answer, want) in [
            ("o\n", Some(Choice::Once)),
            ("run\n", Some(Choice::Run)),
            (" s \n", Some(Choice::Save)),
            ("d\n", Some(Choice::Deny)),
            ("n\n", Some(Choice::Deny)),
            ("\n", None),
            ("yes\n", None),
            ("O\n", None),
            ("once more\n", None),
        ] {
            assert_eq!(Choice::parse(answer), want, "{answer:?}");
        }
        for wanted in Choice::ALL {
            assert_eq!(choice(Some(wanted.status().into())), wanted);
        }
        for status in [None, Some(0), Some(1), Some(101), Some(9)] {
            assert_eq!(choice(status), Choice::Deny, "{status:?}");
        }
    }
}
