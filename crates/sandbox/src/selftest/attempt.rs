//! The two stages inside: one that makes an attempt, and one that has all of them made.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};

use super::{Ended, Targets, catalogue};
use crate::launch::ALLOCATOR;

/// The argument that makes this program make all attempts, one after the other. The targets follow.
pub const ATTEMPTS: &str = "sandbox-attempts";

/// The argument that makes it make one. Its name and the targets follow.
pub(crate) const ATTEMPT: &str = "sandbox-attempt";

/// How an attempt ends: with what it saw if it worked.
pub(super) type Tried = Result<String, Stopped>;

/// Why an attempt did not work.
#[derive(Debug)]
pub(super) enum Stopped {
    Refused(String),
    Unclear(String),
    NotHere(String),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default().to_owned();
        match error.raw_os_error() {
            // The last two are how the kernel tells that the time for a socket is over.
            Some(libc::ETIMEDOUT | libc::EAGAIN | libc::EINPROGRESS) => {
                Self::Unclear(format!("no answer: {text}"))
            }
            Some(_) | None => Self::Refused(text),
        }
    }
}

impl From<rustix::io::Errno> for Stopped {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl From<nix::errno::Errno> for Stopped {
    fn from(error: nix::errno::Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// Returns how the attempt ended in which all these were tried: the first that was not refused, if there is one.
pub(super) fn each(tried: impl IntoIterator<Item = (String, Tried)>) -> Tried {
    let mut last = Err(Stopped::NotHere("this host has none".to_owned()));
    for (to, tried) in tried {
        match tried {
            Ok(saw) => return Ok(format!("{to}: {saw}")),
            Err(Stopped::Refused(why)) => last = Err(Stopped::Refused(why)),
            Err(Stopped::Unclear(why)) => return Err(Stopped::Unclear(format!("{to}: {why}"))),
            // Others may be there.
            Err(Stopped::NotHere(_)) => {}
        }
    }
    last
}

/// Returns how the attempt ended in which all these had to work: the first that did not, if there is one.
pub(super) fn all(tried: impl IntoIterator<Item = (String, Tried)>) -> Tried {
    let mut last = Err(Stopped::NotHere("this host has none".to_owned()));
    for (to, tried) in tried {
        match tried {
            Ok(saw) => last = Ok(saw),
            Err(Stopped::Refused(why)) => return Err(Stopped::Refused(format!("{to}: {why}"))),
            Err(stopped) => return Err(stopped),
        }
    }
    last
}

/// A line of what [`ATTEMPTS`] writes.
#[derive(Deserialize, Serialize)]
struct Line {
    name: String,
    ended: Ended,
}

/// Returns how each attempt ended, of what [`ATTEMPTS`] wrote; what it did not get to is unclear.
#[must_use]
pub fn read(written: &str) -> Vec<(super::Attempt, Ended)> {
    let lines: Vec<Line> = written.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let ended = |name: &str| lines.iter().find(|line| line.name == name).map(|line| line.ended.clone());
    let missing = || Ended::Unclear("it was not made".to_owned());
    catalogue().into_iter().map(|attempt| (attempt, ended(attempt.name).unwrap_or_else(missing))).collect()
}

/// Has every attempt made on the targets in `args`, and writes how each ended.
pub(crate) fn run_all(args: &[OsString]) -> ExitCode {
    let Some(targets) = args.first() else { return ExitCode::FAILURE };
    for attempt in catalogue() {
        let ended = alone(attempt.name, targets);
        let line = Line { name: attempt.name.to_owned(), ended };
        let written = serde_json::to_string(&line)
            .map_err(io::Error::from)
            .and_then(|line| writeln!(io::stdout(), "{line}"));
        if written.is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Has one attempt made by a process of its own.
fn alone(name: &str, targets: &OsString) -> Ended {
    // Not even variables point it to a proxy.
    let output = Command::new("/proc/self/exe")
        .args([ATTEMPT, name])
        .arg(targets)
        .env_clear()
        .env(ALLOCATOR.0, ALLOCATOR.1)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            let how = output.status.signal().map(|signal| format!("by signal {signal}"));
            Ended::Unclear(format!("its process was ended {}", how.unwrap_or_default()))
        }),
        Err(error) => Ended::Unclear(format!("its process could not be started: {error}")),
    }
}

/// Makes the attempt that `args` name, and writes how it ended.
pub(crate) fn run_one(args: &[OsString]) -> ExitCode {
    let [name, targets] = args else { return ExitCode::FAILURE };
    let found = catalogue().into_iter().find(|attempt| attempt.name == name);
    let targets: Option<Targets> = targets.to_str().and_then(|text| serde_json::from_str(text).ok());
    let (Some(attempt), Some(targets)) = (found, targets) else { return ExitCode::FAILURE };
    let ended = match (attempt.run)(&targets) {
        Ok(saw) => Ended::Worked(saw),
        Err(Stopped::Refused(why)) => Ended::Refused(why),
        Err(Stopped::Unclear(why)) => Ended::Unclear(why),
        Err(Stopped::NotHere(why)) => Ended::NotHere(why),
    };
    let written = serde_json::to_string(&ended)
        .map_err(io::Error::from)
        .and_then(|text| io::stdout().write_all(text.as_bytes()));
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_not_refused_counts_for_all() {
        let refused = || ("a".to_owned(), Err(Stopped::Refused("no".to_owned())));
        let worked = || ("b".to_owned(), Ok("seen".to_owned()));
        let unclear = || ("c".to_owned(), Err(Stopped::Unclear("silence".to_owned())));
        assert!(matches!(each([refused(), worked(), refused()]), Ok(saw) if saw == "b: seen"));
        assert!(matches!(each([refused(), unclear(), refused()]), Err(Stopped::Unclear(_))));
        assert!(matches!(each([refused(), refused()]), Err(Stopped::Refused(_))));
        assert!(matches!(each([]), Err(Stopped::NotHere(_))));
        assert!(matches!(all([worked(), refused(), worked()]), Err(Stopped::Refused(why)) if why == "a: no"));
        assert!(all([worked(), worked()]).is_ok());
    }

    #[test]
    fn what_was_not_told_is_unclear() {
        let first = catalogue()[0].name;
        let told = read(&format!("{{\"name\":\"{first}\",\"ended\":{{\"worked\":\"x\"}}}}\nnoise\n"));
        assert_eq!(told.len(), catalogue().len());
        assert_eq!(told[0].1, Ended::Worked("x".to_owned()));
        assert!(told[1..].iter().all(|(_, ended)| matches!(ended, Ended::Unclear(_))), "{told:?}");
    }
}
