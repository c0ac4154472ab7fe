//! What a command may use of the machine.

use std::fmt::{self, Display};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::groups::Groups;

/// How much a command may use, all that it starts included. What is not said is not limited.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_thousandths: Option<u64>,
    /// Its weight beside others where processors are short, 2 to 262144; 1024 is that of who is given none.
    pub cpu_shares: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// How long it may run.
    pub time: Option<Duration>,
    /// Who counts.
    pub by: LimitedBy,
}

/// Who counts what a command uses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LimitedBy {
    /// Control groups, for the command as a whole.
    #[default]
    ControlGroups,
    /// `setrlimit(2)`: memory for each process by itself, as address space; processors not at all.
    ProcessLimits,
}

/// A limit that the command has run into.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Exceeded {
    /// Processes were ended for want of memory.
    Memory,
    /// Processes could not be started.
    Processes,
    /// It was ended since its time was over.
    Time,
}

impl Exceeded {
    /// A stable word for it: that of its flag.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "pids",
            Self::Time => "timeout",
        }
    }
}

impl Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "the kernel ended processes that took more than --memory",
            Self::Processes => "processes were not started, since there were --pids of them",
            Self::Time => "it was ended after --timeout",
        })
    }
}

/// What a process may use by itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ProcessLimits {
    /// Bytes of address space.
    pub(crate) memory: Option<u64>,
    /// Processes and threads of the user in this namespace.
    pub(crate) processes: Option<u64>,
}

impl Limits {
    /// Gets ready to hold commands to these limits, before there is one. A server that is alone in a control group that
    /// was delegated to its user goes into one below it, so that there can be groups beside it.
    ///
    /// # Errors
    /// If it cannot.
    pub fn prepare(&self) -> Result<(), Failure> {
        if matches!(self.by, LimitedBy::ControlGroups) {
            Groups::make_room();
        }
        if self.needs_groups() { Groups::make(self).map(drop) } else { Ok(()) }
    }

    /// What each process is to be held to.
    pub(crate) fn of_processes(&self) -> ProcessLimits {
        match self.by {
            LimitedBy::ControlGroups => ProcessLimits::default(),
            LimitedBy::ProcessLimits => ProcessLimits {
                memory: self.memory,
                processes: self.processes.map(|most| most.saturating_add(OURS)),
            },
        }
    }

    /// Whether control groups are needed.
    pub(crate) const fn needs_groups(&self) -> bool {
        matches!(self.by, LimitedBy::ControlGroups)
            && (self.memory.is_some()
                || self.cpu_thousandths.is_some()
                || self.cpu_shares.is_some()
                || self.processes.is_some())
    }
}

/// Processes of our own that are counted with the command's: init. The stage is gone by then.
pub(crate) const OURS: u64 = 1;
