//! What a process and all below it have used, from `/proc`.

use std::collections::HashMap;
use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// Processor time of a process tree, in seconds: its own, and that of the children it has waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// In user mode.
    pub(crate) user: f64,
    /// In the kernel.
    pub(crate) system: f64,
}

impl Cpu {
    /// Both together.
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }

    /// What was used since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// Returns the time that the tree below `root` has used so far; none for process 0, which stands for no process.
pub(crate) fn cpu(root: u32) -> Cpu {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let mut sum = Cpu::default();
    for stat in tree(root).into_iter().filter_map(Stat::read) {
        sum.user += stat.user as f64 / ticks;
        sum.system += stat.system as f64 / ticks;
    }
    sum
}

/// Returns the memory of the tree below `root` in KiB: pages of its own, and its share of shared ones (PSS).
pub(crate) fn memory_kib(root: u32) -> u64 {
    tree(root).into_iter().filter_map(pss_kib).sum()
}

/// Returns the memory of one process in KiB (PSS), if it may be looked at.
pub(crate) fn pss_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok())
}

/// Returns the root and everything below it.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    if root == 0 {
        return Vec::new();
    }
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// What is used of `/proc/PID/stat`.
struct Stat {
    parent: u32,
    user: u64,
    system: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&text)
    }

    /// The second field is a name in parentheses, which may hold anything; the fields after it are numbers.
    fn parse(text: &str) -> Option<Self> {
        let (_, after_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let number = |field: usize| -> Option<u64> { fields.get(field - 3)?.parse().ok() };
        Some(Self {
            parent: u32::try_from(number(4)?).ok()?,
            user: number(14)? + number(16)?,
            system: number(15)? + number(17)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_one_field() {
        let text = "7 (a ) b) S 3 7 7 0 -1 0 0 0 0 0 11 13 17 19 20 0 1 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.parent, stat.user, stat.system), (3, 28, 32));
    }

    #[test]
    fn a_process_sees_itself() {
        let own = std::process::id();
        assert!(memory_kib(own) > 100);
        assert_eq!(memory_kib(0), 0);
        assert!(tree(0).is_empty());
        assert!(tree(std::os::unix::process::parent_id()).contains(&own));
    }
}
