//! A command that is held to limits of processes: this program sets them for itself and becomes the command.
//!
//! They are not init's own, which must not run out of anything.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sys::resource::{Resource, setrlimit};

use crate::failure::{STATUS_MISSING, STATUS_OURS, STATUS_UNUSABLE};
use crate::limits::ProcessLimits;
use crate::program::why_not;

/// The argument that makes this program hold itself to limits. They follow, and then the command.
pub(crate) const LIMITED: &str = "sandbox-limited";

/// Returns what runs `program` under these limits.
pub(crate) fn command(limits: &ProcessLimits, program: &OsStr, args: &[OsString]) -> io::Result<Command> {
    if *limits == ProcessLimits::default() {
        let mut command = Command::new(program);
        command.args(args);
        return Ok(command);
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg(LIMITED).arg(serde_json::to_string(limits)?).arg(program).args(args);
    Ok(command)
}

/// Becomes the command.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let [limits, program, args @ ..] = args else { return STATUS_OURS.into() };
    let limits = limits.to_str().and_then(|text| serde_json::from_str(text).ok());
    let error = match limits.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput)).and_then(hold) {
        Ok(()) => Command::new(program).args(args).exec(),
        Err(error) => {
            eprintln!("error: cannot limit what the command uses: {error}");
            return STATUS_OURS.into();
        }
    };
    let error = why_not(program, env::var_os("PATH").as_deref(), error);
    eprintln!("error: cannot run the command: `{}`: {error}", program.display());
    if error.kind() == ErrorKind::NotFound { STATUS_MISSING.into() } else { STATUS_UNUSABLE.into() }
}

fn hold(limits: ProcessLimits) -> io::Result<()> {
    for (resource, value) in
        [(Resource::RLIMIT_AS, limits.memory), (Resource::RLIMIT_NPROC, limits.processes)]
    {
        if let Some(value) = value {
            setrlimit(resource, value, value)?;
        }
    }
    Ok(())
}
