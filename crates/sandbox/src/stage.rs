//! The first process: makes the namespaces and the network, and init in them. It has one thread.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::failure::{During, Failure, STATUS_OURS, Step};
use crate::forbidden::explained;
use crate::redirect::{self, Loading, RedirectError};
use crate::wire::{Channel, Setup, ToInside, ToLauncher};
use crate::{bare, init, network, packets, privileges};

/// Everything that the command has of its own. Its processes get theirs with init, since the first process in it is process 1.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// What to do where the kernel takes no rules.
const NO_NF_TABLES: &str = "the kernel must have nf_tables with NAT, redirect, reject and counters (modules nft_chain_nat, nft_redir, nft_ct, \
     nft_reject_inet, nft_objref)";

/// The first descriptor that is not a standard stream.
const FIRST_OTHER: RawFd = 3;

/// Does the stage's part for `command`, and returns when init has ended.
pub(crate) fn run(command: Vec<OsString>) -> ExitCode {
    // Before anything is opened here.
    let closed = close_inherited();
    let Ok(channel) = Channel::from_stdin() else { return STATUS_OURS.into() };
    let done = closed.during(Step::Descriptors).and_then(|()| set_up(&channel)).and_then(|loading| {
        unshare(CloneFlags::CLONE_NEWPID).during(Step::Namespaces).map_err(explained)?;
        Ok((bare::split().during(Step::Start)?, loading))
    });
    let redirected = match done {
        Ok((ForkResult::Child, loading)) => {
            drop(loading);
            return init::run(&channel, &command);
        }
        Ok((ForkResult::Parent { child }, loading)) => {
            loading.finish().map_err(|error| during_redirect(&error)).map(|()| child)
        }
        Err(failure) => Err(failure),
    };
    let init = match redirected {
        Ok(init) => init,
        Err(failure) => {
            // If nobody listens, nobody needs to know.
            let _ = channel.send(&ToLauncher::Failed(failure));
            return STATUS_OURS.into();
        }
    };
    let _ = channel.send(&ToLauncher::Redirected);
    // The terminal's signals are meant for the command.
    let _ = SigSet::all().thread_block();
    bare::give_back_text();
    let _ = waitpid(init, None);
    ExitCode::SUCCESS
}

/// Makes everything but init. The rules are on their way into force.
fn set_up(channel: &Channel) -> Result<Loading, Failure> {
    let setup = match channel.receive().during(Step::Talk)? {
        Some((ToInside::Setup(setup), _)) => setup,
        _ => return Err(Failure::new(Step::Talk, "there is no order")),
    };
    if let Some(groups) = &setup.groups {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).during_with(Step::Become, "its groups")?;
    }
    unshare(NAMESPACES).during(Step::Namespaces).map_err(explained)?;
    channel.send(&ToLauncher::Unshared).during(Step::Talk)?;
    let Some((ToInside::Mapped, _)) = channel.receive().during(Step::Talk)? else {
        return Err(Failure::new(Step::Talk, "the user was not mapped"));
    };
    become_user(&setup).during(Step::Become)?;
    // Changing the user has undone it if it was done before.
    set_parent_process_death_signal(Some(Signal::KILL)).during(Step::Start)?;
    // Some systems let anybody make a user namespace, but give no capabilities in it.
    privileges::keep_over_exec().during(Step::Namespaces).map_err(explained)?;
    let has_ipv6 = network::bring_up().during(Step::Network).map_err(explained)?;
    let loading = redirect::begin().map_err(|error| during_redirect(&error))?;
    let mut sockets = network::listen(has_ipv6).during(Step::Listen)?;
    let counters = packets::counters().during(Step::Redirect);
    // The kernel was asked, and not `nft`.
    sockets.push(counters.map_err(|failure| failure.with_help(NO_NF_TABLES))?);
    let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    channel.send_with(&ToLauncher::Listening, &descriptors).during(Step::Talk)?;
    Ok(loading)
}

fn during_redirect(error: &RedirectError) -> Failure {
    let failure = Failure::new(Step::Redirect, error);
    match error {
        RedirectError::Missing => failure,
        RedirectError::Unusable(_, cause) => {
            Failure { cause: format!("{error}: {cause}"), help: None, ..failure }
        }
        RedirectError::Refused { .. } => failure.with_help(NO_NF_TABLES),
    }
}

/// Of another user than ours, who is not mapped, this makes the one that is.
fn become_user(setup: &Setup) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(setup.uid), Gid::from_raw(setup.gid));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
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
