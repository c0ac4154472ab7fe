//! Attempts by calls of the kernel that lead out of namespaces, or give rights in them.

use std::fs::File;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::ptrace;
use nix::unistd::{Pid, Uid, setuid};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::attempt::{Stopped, Tried, each};
use super::network::nested;
use super::raw::Call;
use super::{Attempt, Targets, Wants};

/// What is tried by the kernel.
pub(super) const ATTEMPTS: [Attempt; 15] = [
    works("calls", "make a system call by its number", calls),
    works("nested", "make a user namespace within", nested_user),
    refused("setns", "enter a network namespace by a descriptor", enter),
    refused("ptrace", "trace processes outside, and its own first one", trace),
    refused("setuid", "become root", become_root),
    refused("capabilities", "take capabilities", take_capabilities),
    refused("mounts", "mount something", mounts),
    refused("nested-mounts", "uncover what is hidden, in a mount namespace within", nested_mounts),
    refused("nested-control-groups", "mount control groups, in namespaces within", nested_control_groups),
    refused("io_uring", "io_uring", io_uring),
    refused("bpf", "bpf", bpf),
    refused("keys", "the keyrings of this user", keys),
    refused("file-handles", "open files by handle", file_handles),
    refused("terminal", "put words into the terminal", terminal),
    refused("x32", "the other numbers of system calls", other_numbers),
];

const fn works(name: &'static str, what: &'static str, run: fn(&Targets) -> Tried) -> Attempt {
    Attempt { name, what, wants: Wants::Works, run }
}

const fn refused(name: &'static str, what: &'static str, run: fn(&Targets) -> Tried) -> Attempt {
    Attempt { name, what, wants: Wants::Refused, run }
}

fn calls(_: &Targets) -> Tried {
    Ok(format!("this is process {}", Call::OwnProcess.make()?))
}

fn nested_user(_: &Targets) -> Tried {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(nested)?;
    Ok("it was made".to_owned())
}

fn enter(_: &Targets) -> Tried {
    each(["/proc/self/ns/net", "/proc/1/ns/net"].map(|path| {
        let entered = File::open(path)
            .and_then(|namespace| Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?))
            .map(|()| "it was entered".to_owned());
        (path.to_owned(), entered.map_err(Into::into))
    }))
}

fn trace(targets: &Targets) -> Tried {
    each([targets.outsider, 1].map(|process| {
        let traced = ptrace::attach(Pid::from_raw(process)).map(|()| "it is traced".to_owned());
        (format!("process {process}"), traced.map_err(Into::into))
    }))
}

fn become_root(_: &Targets) -> Tried {
    setuid(Uid::from_raw(0))?;
    Ok("it is root".to_owned())
}

fn take_capabilities(_: &Targets) -> Tried {
    let all = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    set_capabilities(None, CapabilitySets { effective: all, permitted: all, inheritable: all })?;
    Ok("it has them".to_owned())
}

fn mounts(_: &Targets) -> Tried {
    mount("proc", "/proc", "proc", MountFlags::empty(), None::<&std::ffi::CStr>)?;
    Ok("it was mounted".to_owned())
}

fn nested_mounts(_: &Targets) -> Tried {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(nested)?;
    each(["/proc", "/run"].map(|path| {
        let uncovered = unmount(path, UnmountFlags::DETACH).map(|()| "it was uncovered".to_owned());
        (path.to_owned(), uncovered.map_err(Into::into))
    }))
}

/// A user may own the group that they would begin with, and with it the processes of that group outside.
fn nested_control_groups(_: &Targets) -> Tried {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(nested)?;
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None::<&std::ffi::CStr>)?;
    Ok("they were mounted".to_owned())
}

/// A call that is refused is refused whatever its arguments: if the kernel finds fault with those, it is not.
fn call(call: Call) -> Tried {
    match call.make() {
        Ok(result) => Ok(format!("the kernel answered {result}")),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => Err(Stopped::from(error)),
            _ => Ok(format!("the kernel looked at its arguments: {error}")),
        },
    }
}

fn calls_of(list: &[Call]) -> Tried {
    each(list.iter().map(|one| (format!("{one:?}"), call(*one))))
}

fn io_uring(_: &Targets) -> Tried {
    call(Call::IoUring)
}

fn bpf(_: &Targets) -> Tried {
    call(Call::Bpf)
}

fn keys(_: &Targets) -> Tried {
    calls_of(&[Call::AddKey, Call::RequestKey, Call::SessionKeyring])
}

fn file_handles(_: &Targets) -> Tried {
    call(Call::OpenByHandle)
}

fn terminal(_: &Targets) -> Tried {
    calls_of(&[Call::WordsIntoTerminal, Call::WordsIntoConsole])
}

#[cfg(target_arch = "x86_64")]
fn other_numbers(_: &Targets) -> Tried {
    call(Call::OwnProcessX32)
}

#[cfg(not(target_arch = "x86_64"))]
fn other_numbers(_: &Targets) -> Tried {
    Err(Stopped::NotHere("this architecture has none".to_owned()))
}
