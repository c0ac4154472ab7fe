//! The system calls that the command is refused, because they lead past its network namespace or reach what is outside.
//!
//! Everything else stays allowed, namespaces of its own included, but for those of control groups: they own nothing outside.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter, sock_filter,
};

use crate::kin::Group;

/// Kinds of sockets that stay in the network namespace. All others are refused: some, such as `AF_VSOCK` and
/// `AF_BLUETOOTH`, know of no namespaces.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Commands of `ioctl` that put words into the terminal, which the shell outside would read.
/// They are `TIOCSTI` and `TIOCLINUX`, which C libraries give different types.
const WORDS_INTO_TERMINAL: [u64; 2] = [0x5412, 0x541c];

/// Calls that are refused whatever their arguments.
const REFUSED: [i64; 9] = [
    // It opens sockets and connects them without the calls that are looked at here.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Keys are the user's, and not the namespace's.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    // It opens files that are out of sight.
    libc::SYS_open_by_handle_at,
    libc::SYS_kexec_load,
];

/// The flag of a namespace of control groups of one's own (`CLONE_NEWCGROUP`). Whoever has one can mount the groups anew, and where a
/// user owns the group that it begins with, the processes outside are in it, too.
const CONTROL_GROUPS: u64 = 0x0200_0000;

/// All processes of a group, to `ioprio_set`.
const IOPRIO_WHO_PGRP: u64 = 2;

/// The first call of the x32 interface, which has other numbers for the same calls, and may be there on x86-64.
const X32: u32 = 0x4000_0000;

/// The number of `clone3`, the same on every architecture.
const CLONE3: u32 = 435;

/// Refuses them from now on.
pub(crate) fn restrict(group: Group) -> Result<(), seccompiler::Error> {
    apply_filter(&not_there())?;
    apply_filter(&filter(group)?)
}

/// Refuses calls that are made on all processes of one's own group, where some of those are outside.
fn group_rules(group: Group) -> Result<Vec<(i64, SeccompRule)>, seccompiler::BackendError> {
    let own = |argument| condition(argument, SeccompCmpOp::Eq, 0);
    let of_group = |which| SeccompRule::new(vec![condition(0, SeccompCmpOp::Eq, which)?, own(1)?]);
    let mut rules = Vec::new();
    match group {
        Group::Own => return Ok(rules),
        Group::Scoped => {}
        Group::Shared => rules.push((libc::SYS_kill, SeccompRule::new(vec![own(0)?])?)),
    }
    for call in [libc::SYS_getpriority, libc::SYS_setpriority] {
        rules.push((call, of_group(libc::PRIO_PGRP.into())?));
    }
    for call in [libc::SYS_ioprio_get, libc::SYS_ioprio_set] {
        rules.push((call, of_group(IOPRIO_WHO_PGRP)?));
    }
    Ok(rules)
}

/// A call of another architecture ends the process: its numbers mean other calls.
fn filter(group: Group) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.map(|call| (call, Vec::new())).into();
    let family = FAMILIES.map(|family| condition(0, SeccompCmpOp::Ne, family.unsigned_abs().into()));
    let family: Result<Vec<_>, _> = family.into_iter().collect();
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(family?)?]);
    for call in [libc::SYS_unshare, libc::SYS_clone] {
        let own_groups = SeccompCmpOp::MaskedEq(CONTROL_GROUPS);
        rules.insert(call, vec![SeccompRule::new(vec![condition(0, own_groups, CONTROL_GROUPS)?])?]);
    }
    let words = WORDS_INTO_TERMINAL.map(|command| {
        // The kernel looks at the lower half of the argument, and so must this.
        SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, command)?])
    });
    rules.insert(libc::SYS_ioctl, words.into_iter().collect::<Result<_, _>>()?);
    rules.extend(group_rules(group)?.into_iter().map(|(call, rule)| (call, vec![rule])));
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// Has every call of the x32 interface answered as if there were none: there is no such call elsewhere. And `clone3`, whose flags are
/// in memory where no filter can look at them: whoever uses it knows kernels without it, and calls `clone` then.
fn not_there() -> BpfProgram {
    let instruction = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The number of the call is the first field of what a filter looks at.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, X32),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, CLONE3),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
