//! The terminal while it is ours, given back as it was whatever way the program ends.

use std::{
    io::{self, Write},
    panic,
};

use crossterm::{
    QueueableCommand, cursor, queue,
    style::{Attribute, Print, SetAttribute},
    terminal::{
        self, BeginSynchronizedUpdate, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
        EnterAlternateScreen, LeaveAlternateScreen,
    },
};

use super::draw::{Line, Style};

/// A terminal in raw mode that shows a screen of its own until this is dropped.
pub(super) struct Screen;

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If there is none, or it has gone.
    pub(super) fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // From here on a failure gives it back, too; and so does a panic before its message is written.
        let screen = Self;
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            print(info);
        }));
        let mut out = io::stdout();
        queue!(out, EnterAlternateScreen, DisableLineWrap, cursor::Hide)?;
        out.flush()?;
        Ok(screen)
    }

    /// Returns the columns and lines.
    ///
    /// # Errors
    /// If the terminal has gone.
    pub(super) fn size(&self) -> io::Result<(usize, usize)> {
        let (width, height) = terminal::size()?;
        Ok((width.into(), height.into()))
    }

    /// Shows lines, each as wide as the screen, in one write.
    ///
    /// # Errors
    /// If the terminal has gone.
    pub(super) fn show(&self, lines: &[Line]) -> io::Result<()> {
        let mut frame = Vec::new();
        frame.queue(BeginSynchronizedUpdate)?;
        for (row, line) in (0..).zip(lines) {
            let attribute = match line.style {
                Style::Plain => Attribute::Reset,
                Style::Bold => Attribute::Bold,
                Style::Reverse => Attribute::Reverse,
            };
            queue!(
                frame,
                cursor::MoveTo(0, row),
                SetAttribute(attribute),
                Print(&line.text),
                SetAttribute(Attribute::Reset)
            )?;
        }
        frame.queue(EndSynchronizedUpdate)?;
        let mut out = io::stdout().lock();
        out.write_all(&frame)?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back. There is nobody to tell if that fails: then it has gone.
fn give_back() {
    let mut out = io::stdout();
    let _ = queue!(out, SetAttribute(Attribute::Reset), cursor::Show, EnableLineWrap, LeaveAlternateScreen);
    let _ = out.flush();
    let _ = terminal::disable_raw_mode();
}
