//! The terminal of this process for one question. Whoever had it before may have set it up to show or to take something else than what
//! is there: so it is in a known state while it is asked on, and given back as it was.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::termios::{
    FlowArg, FlushArg, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcflow,
    tcflush, tcgetattr, tcsetattr,
};

/// The terminal of a process, whatever its streams are.
const TERMINAL: &str = "/dev/tty";

/// Bytes of an answer that are looked at.
const ANSWER_BYTES: usize = 256;

/// What Ctrl-C types.
const INTERRUPT: u8 = 3;

/// Signals that end a question. The terminal is given back before they do anything else.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// The characters that edit a line, and those that end one. All others mean themselves.
const EDITING: [(SpecialCharacterIndices, u8); 4] = [
    (SpecialCharacterIndices::VERASE, 0x7f),
    (SpecialCharacterIndices::VKILL, 0x15),
    (SpecialCharacterIndices::VEOF, 4),
    (SpecialCharacterIndices::VEOL, INTERRUPT),
];

/// Has a terminal show what comes next, at its end: in plain letters and colours, whatever was left unfinished, hidden or moved.
const PLAIN: &str = concat!(
    // What was begun of a sequence or a string, a frame that is held back, and what goes to a printer.
    "\x18\x1b\\\x1b[?2026l\x1b[4i",
    // A soft reset, and what it means for those that do not know it: colours, letters, margins, the cursor.
    "\x1b[!p\x1b[0m\x0f\x1b(B\x1b[4l\x1b[?5l\x1b[?6l\x1b[?69l\x1b[?7h\x1b[?25h\x1b[r",
    // Colours that mean others: the palette, and those of plain text and of what is behind it.
    "\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\",
    // The last line, wherever the cursor was.
    "\x1b[9999;1H\n\x1b[J",
);

/// The terminal, from [`Terminal::open`] until it is dropped.
#[derive(Debug)]
pub struct Terminal {
    file: File,
    ended: SignalFd,
    mask: SigSet,
    /// How it was set before, once that is changed.
    before: Option<Termios>,
}

impl Terminal {
    /// Whether there is one.
    #[must_use]
    pub fn is_there() -> bool {
        open().is_ok()
    }

    /// Opens it. From now on, the signals that would end this process end a question only. To be called before there is another
    /// thread.
    ///
    /// # Errors
    /// If there is none.
    pub fn open() -> io::Result<Self> {
        let file = open()?;
        let signals: SigSet = ENDING.into_iter().collect();
        let mask = SigSet::thread_get_mask()?;
        signals.thread_block()?;
        Ok(Self { file, ended: SignalFd::new(&signals)?, mask, before: None })
    }

    /// Has it take a line, whatever it did before.
    ///
    /// # Errors
    /// If it does not.
    pub fn prepare(&mut self) -> io::Result<()> {
        // Whoever had stopped its output would have us wait.
        tcflow(&self.file, FlowArg::TCOON)?;
        let before = tcgetattr(&self.file)?;
        let plain = plain(&before);
        self.before = Some(before);
        tcsetattr(&self.file, SetArg::TCSANOW, &plain)?;
        // It succeeds if any of it could be done.
        let is = tcgetattr(&self.file)?;
        let same = (is.input_flags, is.output_flags, is.local_flags, is.control_chars)
            == (plain.input_flags, plain.output_flags, plain.local_flags, plain.control_chars);
        if same { Ok(()) } else { Err(io::Error::other("the terminal cannot be set")) }
    }

    /// Shows a text, and returns the line that is typed then, with its end; `None` if there is none until `deadline`, or it is taken
    /// back by Ctrl-C, Ctrl-D or a signal. What was typed before does not count.
    ///
    /// # Errors
    /// If the terminal has gone.
    pub fn ask(&mut self, text: &str, deadline: Instant) -> io::Result<Option<String>> {
        tcflush(&self.file, FlushArg::TCIFLUSH)?;
        if !self.say(&format!("{PLAIN}{text}"), deadline)? {
            return Ok(None);
        }
        let mut bytes = [0; ANSWER_BYTES];
        let length = loop {
            if !self.wait(PollFlags::POLLIN, deadline)? {
                return Ok(None);
            }
            match self.file.read(&mut bytes) {
                Ok(length) => break length,
                Err(error) if is_for_later(&error) => {}
                Err(error) => return Err(error),
            }
        };
        let answer = bytes.get(..length).unwrap_or_default();
        let is_taken_back = answer.is_empty() || answer.contains(&INTERRUPT);
        Ok((!is_taken_back).then(|| String::from_utf8_lossy(answer).into_owned()))
    }

    /// Shows a text. Returns whether it was shown in time, and nobody wants this to end.
    ///
    /// # Errors
    /// If the terminal has gone.
    pub fn say(&mut self, text: &str, deadline: Instant) -> io::Result<bool> {
        let mut left = text.as_bytes();
        while !left.is_empty() {
            if !self.wait(PollFlags::POLLOUT, deadline)? {
                return Ok(false);
            }
            match self.file.write(left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(error) if is_for_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, or the last millisecond would be waited for without a pause.
            let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut ready =
                [PollFd::new(self.file.as_fd(), what), PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, left) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [is_ready, is_over] = ready.map(|one| one.revents().is_some_and(|events| !events.is_empty()));
            return Ok(is_ready && !is_over);
        }
    }

    /// Sets it as it was before [`Terminal::prepare`].
    pub fn give_back(&mut self) {
        if let Some(before) = self.before.take() {
            // Whoever waited for the output to end might wait for good.
            let _may_have_gone = tcsetattr(&self.file, SetArg::TCSANOW, &before);
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.give_back();
        // Signals that have come meanwhile do now what they would have done.
        let _cannot_fail = self.mask.thread_set_mask();
    }
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(TERMINAL)
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The settings of a terminal that takes a line as everybody types it. How bytes get there is all that is left as it was.
fn plain(before: &Termios) -> Termios {
    let mut plain = before.clone();
    plain.input_flags = InputFlags::ICRNL;
    plain.output_flags = OutputFlags::OPOST | OutputFlags::ONLCR;
    plain.local_flags = LocalFlags::ICANON
        | LocalFlags::ECHO
        | LocalFlags::ECHOE
        | LocalFlags::ECHOK
        | LocalFlags::ECHOKE
        | LocalFlags::ECHOCTL;
    plain.control_chars.fill(0);
    for (what, character) in EDITING {
        if let Some(place) = plain.control_chars.get_mut(what as usize) {
            *place = character;
        }
    }
    plain
}

/// A text without what would make a terminal show something else: control characters, and those that turn, hide or fill.
pub(crate) fn printable(text: &str) -> String {
    let hides = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(c,
                '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
    };
    text.chars().map(|c| if hides(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_not_show_is_shown() {
        assert_eq!(printable("a\tb\n\u{1b}[2Kc\r\u{202e}d"), "a\tb\n\u{fffd}[2Kc\u{fffd}\u{fffd}d");
        assert_eq!(printable("a\u{3164}b\u{e0041}c\u{9b}1m"), "a\u{fffd}b\u{fffd}c\u{fffd}1m");
    }
}
