//! One question on the terminal that a command has, by a process of its own: it takes the terminal, asks, and gives it back as
//! it was. The command is paused meanwhile, so that nobody else reads what is typed. What was typed before is no answer.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use exeat_cli::Terminal;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid, tcgetpgrp, tcsetpgrp};

/// The argument that makes this program ask.
const QUESTION: &str = "run-question";

/// How long a question waits for its answer: connections wait with it, and programs give up after a minute or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the terminal may take to show that a question is over.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Answers that make no sense before that is one, too.
const TRIES: usize = 3;

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

    /// Reads a line: the first letter of a choice, or all of it, and nothing else.
    fn parse(line: &str) -> Option<Self> {
        match line {
            "o\n" | "once\n" => Some(Self::Once),
            "r\n" | "run\n" => Some(Self::Run),
            "s\n" | "save\n" => Some(Self::Save),
            "d\n" | "deny\n" => Some(Self::Deny),
            _ => None,
        }
    }
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
    let mut terminal = Terminal::open()?;
    outlive_the_background()?;
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    let before = tcgetpgrp(&terminal)?;
    if !is_ours(before) {
        // Somebody else works at the terminal.
        return Ok(Choice::Deny);
    }
    tcsetpgrp(&terminal, getpid())?;
    let choice = terminal.prepare().and_then(|()| answer(&mut terminal, text, can_save));
    terminal.give_back();
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

fn answer(terminal: &mut Terminal, text: &str, can_save: bool) -> io::Result<Choice> {
    let save = if can_save { " [s]ave," } else { "" };
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..TRIES {
        let question = format!("\nexeat: {text}: [o]nce, this [r]un,{save} [d]eny? ");
        let Some(line) = terminal.ask(&question, deadline)? else { break };
        match Choice::parse(&line) {
            Some(Choice::Save) if !can_save => {}
            Some(choice) => return Ok(choice),
            None => {}
        }
    }
    terminal.say("\nexeat: denied\n", Instant::now() + LAST_WORD)?;
    Ok(Choice::Deny)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_choice_is_a_permission() {
        for (answer, want) in [
            ("o\n", Some(Choice::Once)),
            ("run\n", Some(Choice::Run)),
            ("save\n", Some(Choice::Save)),
            ("d\n", Some(Choice::Deny)),
            (" s \n", None),
            ("o", None),
            ("o\r\n", None),
            ("n\n", None),
            ("no\n", None),
            ("y\n", None),
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
