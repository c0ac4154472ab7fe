//! What went wrong while a sandbox was made, and what to do about it.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::launch::{KILLED, Outcome};

/// One step on the way to a command that runs confined. None may fail.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Step {
    /// Choosing the user that the command runs as.
    User,
    /// Starting the program anew.
    Start,
    /// Speaking to the process inside.
    Talk,
    /// Closing what was inherited.
    Descriptors,
    /// Limiting what the command uses.
    Limits,
    /// Making the namespaces.
    Namespaces,
    /// Mapping the user into its namespace.
    Mapping,
    /// Becoming that user.
    Become,
    /// Setting up loopback, its addresses and routes.
    Network,
    /// Having the kernel redirect connections.
    Redirect,
    /// Binding the sockets of the proxy.
    Listen,
    /// Mounting the command's own /proc.
    Proc,
    /// Putting files and sockets of the host out of sight.
    Hide,
    /// Giving the command its own settings for names.
    Names,
    /// Making files read-only.
    ReadOnly,
    /// Entering the working directory.
    Directory,
    /// Giving up privileges.
    Privileges,
    /// Keeping signals from processes outside.
    Signals,
    /// Filtering system calls.
    SystemCalls,
    /// Starting the command.
    Command,
    /// Waiting for the end of the command, which had been run.
    End,
}

impl Step {
    const fn what(self) -> &'static str {
        match self {
            Self::User => "cannot choose the user for the command",
            Self::Start => "cannot start the sandbox",
            Self::Talk => "cannot speak to the sandbox",
            Self::Descriptors => "cannot close inherited descriptors",
            Self::Limits => "cannot limit what the command uses",
            Self::Namespaces => "cannot make namespaces",
            Self::Mapping => "cannot map the user into its namespace",
            Self::Become => "cannot become the user",
            Self::Network => "cannot set up the network of the sandbox",
            Self::Redirect => "cannot redirect connections",
            Self::Listen => "cannot listen inside the sandbox",
            Self::Proc => "cannot mount a /proc of its own",
            Self::Hide => "cannot hide what would lead out",
            Self::Names => "cannot replace the settings for names",
            Self::ReadOnly => "cannot protect files from being written",
            Self::Directory => "cannot enter the working directory",
            Self::Privileges => "cannot give up privileges",
            Self::Signals => "cannot keep signals inside",
            Self::SystemCalls => "cannot filter system calls",
            Self::Command => "cannot run the command",
            Self::End => "the command was ended with its sandbox",
        }
    }

    /// What to do about it, as far as the step alone tells.
    const fn help(self) -> Option<&'static str> {
        match self {
            Self::Namespaces | Self::Mapping => Some(
                "this system keeps users from making namespaces: see \"Where namespaces are forbidden\" in docs/run.md, \
                 or run it as root: sudo exeat run --user NAME",
            ),
            Self::Redirect => Some("it takes the program `nft`: install the package nftables"),
            Self::Proc => Some(
                "another sandbox or container around this one hides parts of /proc; run exeat outside of it, or let it \
                 show all of /proc",
            ),
            Self::Directory => Some("change to a directory that the command may see"),
            Self::User
            | Self::Start
            | Self::Talk
            | Self::Descriptors
            | Self::Limits
            | Self::Become
            | Self::Network
            | Self::Listen
            | Self::Hide
            | Self::Names
            | Self::ReadOnly
            | Self::Privileges
            | Self::Signals
            | Self::SystemCalls
            | Self::Command
            | Self::End => None,
        }
    }
}

/// A step that failed. The command was not run, but for [`Step::End`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// Which step.
    pub step: Step,
    /// What the system said, or what is wrong.
    pub cause: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
    /// The exit status that says so: 127 for a command that is not there, 126 for one that cannot be run, that of a killed one
    /// if it was run, else 125.
    pub status: u8,
}

/// The exit status for failures of the sandbox itself, as `env`, `timeout` and container engines have it.
pub(crate) const STATUS_OURS: u8 = 125;

/// Those of shells for a command that cannot be run, and for one that is not there.
pub(crate) const STATUS_UNUSABLE: u8 = 126;
pub(crate) const STATUS_MISSING: u8 = 127;

impl Failure {
    pub(crate) fn new(step: Step, cause: impl Display) -> Self {
        let help = step.help().map(str::to_owned);
        Self { step, cause: cause.to_string(), help, status: STATUS_OURS }
    }

    /// How the command ended, if it had been run: it is killed with its sandbox.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        (self.step == Step::End).then(|| Outcome { ended: KILLED, exceeded: Vec::new(), packets: None })
    }

    pub(crate) fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step.what(), self.cause)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n  help: {help}"))
    }
}

impl std::error::Error for Failure {}

/// Says which step an error belongs to.
pub(crate) trait During<T> {
    fn during(self, step: Step) -> Result<T, Failure>;

    /// The same, naming what it was done to.
    fn during_with(self, step: Step, to: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> During<T> for Result<T, E> {
    fn during(self, step: Step) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, error))
    }

    fn during_with(self, step: Step, to: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, format_args!("{to}: {error}")))
    }
}
