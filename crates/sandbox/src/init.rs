//! Process 1 inside: makes the network, arranges what the command sees, gives up every privilege, runs the command, and reaps what it
//! leaves. When this ends, the kernel ends everything inside.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitCode, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, setresgid, setresuid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, set_parent_process_death_signal};

use crate::failure::{During, Failure, STATUS_MISSING, STATUS_UNUSABLE, Step};
use crate::forbidden::explained;
use crate::pause::Pause;
use crate::program::why_not;
use crate::redirect::{self, Loading, RedirectError};
use crate::signals::Held;
use crate::wire::{Channel, Ended, Order, Setup, ToInside, ToLauncher};
use crate::{give_back_text, kin, limited, mounts, network, packets, privileges, syscalls};

/// What to do where the kernel takes no rules.
const NO_NF_TABLES: &str = "the kernel must have nf_tables with NAT, redirect, reject and counters (modules nft_chain_nat, nft_redir, nft_ct, \
     nft_reject_inet, nft_objref)";

/// Does init's part for `command`.
pub(crate) fn run(channel: &Channel, setup: &Setup, command: &[OsString]) -> ExitCode {
    let said = match confine_and_run(channel, setup, command) {
        Ok(ended) => ToLauncher::Ended(ended),
        Err(failure) => ToLauncher::Failed(failure),
    };
    // If nobody listens, nobody needs to know.
    let _ = channel.send(&said);
    ExitCode::SUCCESS
}

fn confine_and_run(channel: &Channel, setup: &Setup, command: &[OsString]) -> Result<Ended, Failure> {
    become_user(channel, setup)?;
    // Changing the user has undone it if it was done before.
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).during(Step::Start)?;
    let loading = connect(channel)?;
    privileges::keep_needed().during(Step::Privileges)?;
    let (order, streams) = confine(channel)?;
    loading.finish().map_err(|error| during_redirect(&error))?;
    channel.send(&ToLauncher::Confined).during(Step::Talk)?;
    let Some((ToInside::Go, _)) = channel.receive().during(Step::Talk)? else {
        return Err(Failure::new(Step::Talk, "it is not to be run"));
    };
    let child = start(command, &order, streams)?;
    channel.send(&ToLauncher::Started).during(Step::Talk)?;
    give_back_text();
    attend(channel, &child).during(Step::Talk)
}

/// Has the launcher map the user, which only somebody outside can do, and becomes that one if it is another one than ours.
fn become_user(channel: &Channel, setup: &Setup) -> Result<(), Failure> {
    // Those who are outside mount `/proc`, and it tells their number for this process.
    let own = fs::read_link("/proc/self").during(Step::Talk)?;
    let own = own.to_str().and_then(|number| number.parse().ok());
    let own = own.ok_or_else(|| Failure::new(Step::Talk, "this process has no number"))?;
    channel.send(&ToLauncher::Unshared(own)).during(Step::Talk)?;
    let Some((ToInside::Mapped, _)) = channel.receive().during(Step::Talk)? else {
        return Err(Failure::new(Step::Talk, "the user was not mapped"));
    };
    let (uid, gid) = (Uid::from_raw(setup.uid), Gid::from_raw(setup.gid));
    setresgid(gid, gid, gid).during(Step::Become)?;
    setresuid(uid, uid, uid).during(Step::Become)
}

/// Makes the network, and hands the launcher its sockets. The rules are on their way into force.
fn connect(channel: &Channel) -> Result<Loading, Failure> {
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

/// Does everything else that must be done before the command.
fn confine(channel: &Channel) -> Result<(Order, [OwnedFd; 3]), Failure> {
    let Some((ToInside::Order(order), descriptors)) = channel.receive().during(Step::Talk)? else {
        return Err(Failure::new(Step::Talk, "there is no order"));
    };
    let Ok([stdin, stdout, stderr, table]) = <[OwnedFd; 4]>::try_from(descriptors) else {
        return Err(Failure::new(Step::Talk, "descriptors are missing"));
    };
    mounts::arrange(&order, File::from(table))?;
    // By its path: as it was inherited, it may be one that is hidden by now.
    env::set_current_dir(&order.directory).during_with(Step::Directory, order.directory.display())?;
    privileges::give_up().during(Step::Privileges)?;
    // The command has our user, and must not look into this process: the channel is here.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during(Step::Privileges)?;
    let group = kin::confine().during(Step::Signals)?;
    syscalls::restrict(group).during(Step::SystemCalls)?;
    Ok((*order, [stdin, stdout, stderr]))
}

fn start(command: &[OsString], order: &Order, streams: [OwnedFd; 3]) -> Result<Child, Failure> {
    let Some((program, args)) = command.split_first() else {
        return Err(Failure::new(Step::Command, "there is none"));
    };
    let mut command = limited::command(&order.limits, program, args).during(Step::Limits)?;
    let [stdin, stdout, stderr] = streams.map(Stdio::from);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    for (name, value) in &order.environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.spawn().map_err(|error| {
        let named = order.environment.iter().rfind(|(name, _)| name == "PATH");
        let path = named.map_or_else(|| env::var_os("PATH"), |(_, path)| path.clone());
        let error = why_not(program, path.as_deref(), error);
        let failure = Failure::new(Step::Command, format_args!("`{}`: {error}", program.display()));
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        Failure { status: if is_missing { STATUS_MISSING } else { STATUS_UNUSABLE }, ..failure }
    })
}

/// Waits for the end of the command, and meanwhile reaps what has no parent but us and passes signals on.
fn attend(channel: &Channel, child: &Child) -> io::Result<Ended> {
    let child = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let mut told = Held::children()?;
    let mut pause: Option<Pause> = None;
    loop {
        told.clear()?;
        if let Some(ended) = reap(child)? {
            return Ok(ended);
        }
        let mut ready = vec![PollFd::new(channel, PollFlags::IN), PollFd::new(&told, PollFlags::IN)];
        ready.extend(pause.as_ref().map(|pause| PollFd::new(pause, PollFlags::IN)));
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |at: usize| ready.get(at).is_some_and(|one| !one.revents().is_empty());
        let (has_word, is_over) = (is_ready(0), is_ready(2));
        if let Some(over) = pause.take_if(|_| is_over) {
            over.end();
        }
        if !has_word {
            continue;
        }
        match channel.receive()? {
            Some((ToInside::Pause, descriptors)) => {
                pause = descriptors.into_iter().next().map(Pause::begin);
            }
            Some((ToInside::Signal(signal), _)) => {
                // It may have ended just now.
                let _ = Signal::try_from(signal).and_then(|signal| kill(child, signal));
                pause.iter_mut().for_each(Pause::tell_of_signal);
            }
            Some(_) => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            // Whoever wanted the command run has gone.
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }
}

/// Reaps all that have ended. Returns how the command has, if it is among them.
fn reap(child: Pid) -> io::Result<Option<Ended>> {
    loop {
        let (pid, ended) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => (pid, Ended::Exited(status.to_le_bytes()[0])),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                (pid, Ended::Killed((signal as i32).to_le_bytes()[0]))
            }
            Ok(_) | Err(Errno::ECHILD) => return Ok(None),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if pid == child {
            return Ok(Some(ended));
        }
    }
}
