//! What the program says: data on standard output, everything else on standard error, colours
//! only on a terminal, and exit codes that scripts can rely on.

use std::fmt::{self, Display};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use exeat_store::{Colour, Report};

/// The exit codes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// It worked; `explain`: allowed; `diff`: the same.
    Success,
    /// `explain`: refused; `run --fail-on-deny`: something was.
    Refused,
    /// `diff`: the two allow different things.
    Different,
    /// Something failed.
    Failure,
    /// The configuration is not usable (`EX_CONFIG` of sysexits).
    Config,
    /// The command line means nothing.
    Usage,
    /// `run`: the command was not run.
    NotRun,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn status(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Refused | Self::Different | Self::Failure => 1,
            Self::Usage => 2,
            Self::Config => 78,
            Self::NotRun => 125,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}

/// Prints the problems of a load on standard error.
pub fn print_report(report: &Report) {
    to_stderr(&report_text(report));
}

/// Returns the problems of a load as they are printed on standard error.
#[must_use]
pub fn report_text(report: &Report) -> String {
    report.render(if std::io::stderr().is_terminal() { Colour::Ansi } else { Colour::Plain })
}

/// Prints an error with its causes on standard error.
pub fn print_error(error: &anyhow::Error) {
    to_stderr(&error_text(error));
}

/// Returns an error with its causes as it is printed on standard error.
#[must_use]
pub fn error_text(error: &anyhow::Error) -> String {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    let mut text = format!("{style}error:{style:#} {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  because: {cause}\n"));
    }
    match anstream::AutoStream::choice(&std::io::stderr()) {
        anstream::ColorChoice::Never => anstream::adapter::strip_str(&text).to_string(),
        anstream::ColorChoice::Auto | anstream::ColorChoice::AlwaysAnsi | anstream::ColorChoice::Always => {
            text
        }
    }
}

/// A name on the command line that stands for nothing. A wrong flag is no different, and where 1 says "refused" this must not.
#[derive(Debug)]
pub(crate) struct Unknown {
    what: String,
    meant: Option<String>,
}

impl Unknown {
    /// `what` says what there is not, and `meant` is the name that is there and most like it.
    pub(crate) fn new(what: String, meant: Option<&str>) -> Self {
        Self { what, meant: meant.map(str::to_owned) }
    }
}

impl Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.meant.as_ref().map_or(Ok(()), |meant| write!(f, "; did you mean `{meant}`?"))
    }
}

impl std::error::Error for Unknown {}

/// Prints an error and returns the exit code for it.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    print_error(error);
    if error.is::<Unknown>() { Exit::Usage.into() } else { Exit::Failure.into() }
}

/// Returns `1 packet` or `2 packets`.
pub(crate) fn number_of(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Writes to standard error; colours go only to a terminal that wants them. A closed standard
/// error is nobody's error.
pub(crate) fn to_stderr(text: &str) {
    let _unheard = anstream::stderr().write_all(text.as_bytes());
}

/// Writes data to standard output.
///
/// # Errors
/// If standard output cannot be written; a reader that went away (`| head`) is no error.
pub(crate) fn to_stdout(text: impl Display) -> anyhow::Result<()> {
    match write!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
