//! A terminal with a program in it, and what is on its screen.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::origin::PATIENCE;

/// How often the screen is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Characters of a transcript that an error shows.
const LAST_WORDS: usize = 500;
/// What begins and ends a frame of a program that draws whole screens (synchronized output).
const FRAME: (&str, &str) = ("\u{1b}[?2026h", "\u{1b}[?2026l");

/// A pseudo-terminal of `script` (util-linux), with a shell in it.
pub struct Terminal {
    child: Child,
    transcript: PathBuf,
}

impl Terminal {
    /// Runs the shell commands `line` in `directory` on a terminal of this size.
    ///
    /// # Errors
    /// When there is no `script`.
    pub fn start(directory: &Path, rows: usize, columns: usize, line: &str) -> Result<Self> {
        let transcript = directory.join("terminal");
        // That of an earlier one would be taken for this one's until the first byte is written.
        fs::write(&transcript, "")?;
        let line = format!("stty rows {rows} cols {columns}; {line}");
        let child = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &line])
            .arg(&transcript)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("run `script` (package bsdutils)")?;
        Ok(Self { child, transcript })
    }

    /// Types.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        let keyboard = self.child.stdin.as_mut().context("a keyboard")?;
        keyboard.write_all(keys.as_bytes())?;
        Ok(keyboard.flush()?)
    }

    /// Everything that was written to the terminal.
    #[must_use]
    pub fn written(&self) -> String {
        let bytes = fs::read(&self.transcript).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what was written, escaped, for errors.
    fn last_words(&self) -> String {
        let written = self.written();
        let at = written.char_indices().rev().nth(LAST_WORDS).map_or(0, |(at, _)| at);
        format!("at last it wrote {:?}", written.get(at..).unwrap_or_default())
    }

    /// The lines of the last whole frame, without attributes; none before the first.
    #[must_use]
    pub fn screen(&self) -> Vec<String> {
        let written = self.written();
        let whole = written.rsplit_once(FRAME.1).map_or("", |(before, _)| before);
        let frame = whole.rsplit_once(FRAME.0).map_or("", |(_, frame)| frame);
        // Each line begins with a move to its first column: `ESC [ row ; 1 H`.
        frame.split("\u{1b}[").fold(Vec::new(), |mut lines: Vec<String>, part| {
            let (code, text) =
                part.split_at(part.find(|c: char| c.is_ascii_alphabetic()).map_or(0, |at| at + 1));
            if code.ends_with('H') {
                lines.push(text.to_owned());
            } else if let Some(line) = lines.last_mut() {
                line.push_str(text);
            }
            lines
        })
    }

    /// Waits until the screen is as `wanted` says, and returns it.
    ///
    /// # Errors
    /// When it never is.
    pub fn until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return Ok(screen);
            }
            if Instant::now() > end {
                bail!(
                    "waited in vain for {what}; the screen:
{}
{}",
                    screen.join(
                        "
"
                    ),
                    self.last_words()
                );
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until this was written to the terminal.
    ///
    /// # Errors
    /// When it never is.
    pub fn until_written(&self, text: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.written().contains(text) {
            ensure!(Instant::now() < end, "waited in vain for {text:?}; {}", self.last_words());
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Waits for the end of the commands and returns the status of the last one.
    ///
    /// # Errors
    /// When they do not end.
    pub fn wait(&mut self) -> Result<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return status.code().context("`script` was killed");
            }
            ensure!(Instant::now() < end, "the terminal stays open; {}", self.last_words());
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
