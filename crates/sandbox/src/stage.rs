//! The first process: makes the namespaces, and init in them, which goes on alone. It has one thread.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, setgroups};

use crate::bare::{self, Side};
use crate::failure::{During, Failure, STATUS_OURS, Step};
use crate::forbidden::explained;
use crate::init;
use crate::wire::{Channel, Setup, ToInside, ToLauncher};

/// Everything that the command has of its own. The first process in that of processes is init.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// The first descriptor that is not a standard stream.
const FIRST_OTHER: RawFd = 3;

/// Does the stage's part for `command`, and init's in the process that comes of it.
pub(crate) fn run(command: Vec<OsString>) -> ExitCode {
    // Before anything is opened here.
    let closed = close_inherited();
    let Ok(channel) = Channel::from_stdin() else { return STATUS_OURS.into() };
    match closed.during(Step::Descriptors).and_then(|()| split(&channel)) {
        Ok((Side::New, setup)) => init::run(&channel, &setup, &command),
        // The launcher waits for init: nothing is left to do here.
        Ok((Side::Old, _)) => ExitCode::SUCCESS,
        Err(failure) => {
            // If nobody listens, nobody needs to know.
            let _ = channel.send(&ToLauncher::Failed(failure));
            STATUS_OURS.into()
        }
    }
}

fn split(channel: &Channel) -> Result<(Side, Setup), Failure> {
    let setup = match channel.receive().during(Step::Talk)? {
        Some((ToInside::Setup(setup), _)) => setup,
        _ => return Err(Failure::new(Step::Talk, "there is no order")),
    };
    if let Some(groups) = &setup.groups {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).during_with(Step::Become, "its groups")?;
    }
    unshare(NAMESPACES).during(Step::Namespaces).map_err(explained)?;
    Ok((bare::split().during(Step::Start)?, setup))
}

/// Closes all but the standard streams: what whoever started us has left open is not for the command.
fn close_inherited() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    for descriptor in open.into_iter().filter(|descriptor| *descriptor >= FIRST_OTHER) {
        match nix::unistd::close(descriptor) {
            // The directory itself was among them.
            Ok(()) | Err(nix::errno::Errno::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
