//! What is read on standard input: a password, a token. Somebody at a terminal is told what is waited for.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, bail};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal;
use exeat_identity::TOKEN_BYTES_MAX;

use crate::output::to_stderr;

/// The longest password read, in bytes. Longer input is a mistake, such as a piped file.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Reads a password: typed twice without being shown, or the one line that is piped in.
///
/// # Errors
/// If there is none, more than a line of it, or the two are not the same.
pub(crate) fn read_password() -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() {
        typed_twice()?
    } else {
        let mut text = String::new();
        let most = PASSWORD_BYTES_MAX as u64 + 3;
        io::stdin()
            .take(most)
            .read_to_string(&mut text)
            .context("cannot read the password on standard input")?;
        one_line(&text)?.to_owned()
    };
    match password.len() {
        0 => bail!("no password on standard input; pipe one in, or use --generated"),
        1..=PASSWORD_BYTES_MAX => Ok(password),
        _ => bail!("the password is longer than {PASSWORD_BYTES_MAX} bytes"),
    }
}

/// Returns the one line of a text, without its end.
fn one_line(text: &str) -> anyhow::Result<&str> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.contains(['\n', '\r']) {
        bail!("standard input has several lines, and a password is one: pipe in that line alone");
    }
    Ok(line)
}

/// Gives the terminal back whatever comes.
struct Raw;

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody to tell if that fails: then it has gone.
        let _ = terminal::disable_raw_mode();
    }
}

/// Reads a password that is typed two times. The terminal shows nothing from before the first question to after the last answer.
fn typed_twice() -> anyhow::Result<String> {
    terminal::enable_raw_mode().context("the terminal cannot be kept from showing the password")?;
    let _raw = Raw;
    let password = typed("password (it is not shown): ")?;
    if password != typed("the same again: ")? {
        bail!("the two are not the same");
    }
    Ok(password)
}

/// Reads a line that is typed.
fn typed(prompt: &str) -> anyhow::Result<String> {
    to_stderr(prompt);
    let line = read_line();
    to_stderr("\r\n");
    line
}

fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    loop {
        let Event::Key(key) = event::read().context("cannot read the terminal")? else { continue };
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, is_control) {
            _ if key.kind == KeyEventKind::Release => {}
            (KeyCode::Enter, _) | (KeyCode::Char('j' | 'm'), true) => return Ok(line),
            (KeyCode::Char('c' | 'd'), true) => bail!("given up"),
            (KeyCode::Char('u'), true) => line.clear(),
            (KeyCode::Backspace, _) => drop(line.pop()),
            (KeyCode::Char(character), false) if line.len() <= PASSWORD_BYTES_MAX => line.push(character),
            (_, _) => {}
        }
    }
}

/// Reads a token on standard input.
///
/// # Errors
/// If there is none.
pub(crate) fn read_token() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        to_stderr("the token, then Enter and Ctrl-D (or give it a file: < token):\n");
    }
    let mut token = String::new();
    let most = TOKEN_BYTES_MAX as u64 + 1;
    io::stdin().take(most).read_to_string(&mut token).context("cannot read the token on standard input")?;
    match token.trim() {
        "" => bail!("no token on standard input"),
        token => Ok(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line() {
        for (text, want) in [
            ("secret\n", Some("secret")),
            ("secret", Some("secret")),
            ("secret\r\n", Some("secret")),
            (" two words \n", Some(" two words ")),
            ("", Some("")),
            ("\n", Some("")),
            ("one\ntwo\n", None),
            ("one\n\n", None),
            ("one\rtwo\n", None),
        ] {
            assert_eq!(one_line(text).ok(), want, "{text:?}");
        }
    }
}
