//! Control groups (version 2, or 1 where a controller is there alone) that hold a command to its limits.
//!
//! There are two for each hierarchy, one in the other: the limits are on the outer one, and the processes in the inner one. Who
//! mounts control groups anew, in namespaces within, sees from there on down, and so none of the files that hold it.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::failure::{Failure, Step};
use crate::limits::{Exceeded, Limits, OURS};

/// How long processes that were killed may take to be gone, and how often that is looked at.
const GONE_TRIES: u32 = 200;
const GONE_AGAIN: Duration = Duration::from_millis(5);

/// The time over which a share of processors is counted, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;

/// What to do without control groups, for users and for root.
const HELP: &str = "run it as root, or where control groups are delegated to you (a session of systemd), or let --limits=rlimit \
                    do what it can";
const HELP_OF_ROOT: &str = "run it where control groups are mounted and can be written (/sys/fs/cgroup), or let --limits=rlimit do \
                            what it can";

/// The groups of one command. They are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Groups {
    folders: Vec<PathBuf>,
}

/// What is limited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Controller {
    Memory,
    Cpu,
    CpuShares,
    Pids,
}

impl Controller {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu | Self::CpuShares => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// A hierarchy of groups, and where this process is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Hierarchy {
    is_v2: bool,
    root: PathBuf,
    own: PathBuf,
    /// Of version 1, the controllers that it has.
    controllers: Vec<String>,
}

impl Groups {
    /// Makes them.
    pub(crate) fn make(limits: &Limits) -> Result<Self, Failure> {
        let read = |path| fs::read_to_string(path).map_err(|error| failure(format_args!("{path}: {error}")));
        let hierarchies = hierarchies(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        Self::make_in(&hierarchies, limits, std::process::id())
    }

    fn make_in(hierarchies: &[Hierarchy], limits: &Limits, process: u32) -> Result<Self, Failure> {
        let wanted = [
            (Controller::Memory, limits.memory),
            (Controller::Cpu, limits.cpu_thousandths),
            (Controller::CpuShares, limits.cpu_shares),
            (Controller::Pids, limits.processes.map(|most| most.saturating_add(OURS))),
        ];
        let mut groups = Self { folders: Vec::new() };
        let mut made: Vec<(&Hierarchy, PathBuf)> = Vec::new();
        for (controller, value) in wanted {
            let Some(value) = value else { continue };
            let name = controller.name();
            let hierarchy = hierarchies
                .iter()
                .find(|hierarchy| hierarchy.has(name))
                .ok_or_else(|| failure(format_args!("this host has no control groups for {name}")))?;
            let folder = match made.iter().find(|(other, _)| *other == hierarchy) {
                Some((_, folder)) => folder.clone(),
                None => {
                    let all: Vec<&str> =
                        wanted.iter().filter(|(_, value)| value.is_some()).map(|(c, _)| c.name()).collect();
                    let folder = hierarchy
                        .make(&all, process)
                        .map_err(|error| failure(format_args!("{name}: {error}")))?;
                    groups.folders.push(folder.clone());
                    fs::create_dir(folder.join(INNER)).map_err(failure)?;
                    made.push((hierarchy, folder.clone()));
                    folder
                }
            };
            set(&folder, controller, hierarchy.is_v2, value)
                .map_err(|error| failure(format_args!("{name} of {}: {error}", folder.display())))?;
        }
        Ok(groups)
    }

    /// Has groups made below that of this process, where nothing else can be had; see [`make_room`].
    pub(crate) fn make_room() {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let hierarchies = hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        // Without them, what needs them says so.
        let _ = make_room(&hierarchies, std::process::id(), geteuid().as_raw());
    }

    /// Takes in a process, and all that it will start.
    pub(crate) fn take_in(&self, process: u32) -> Result<(), Failure> {
        self.folders.iter().try_for_each(|folder| {
            let members = folder.join(INNER).join(MEMBERS);
            fs::write(&members, process.to_string())
                .map_err(|error| failure(format_args!("{}: {error}", members.display())))
        })
    }

    /// What has been run into so far.
    pub(crate) fn exceeded(&self) -> Vec<Exceeded> {
        let happened = |file: &str, event: &str| {
            let inner = self.folders.iter().map(|folder| folder.join(INNER));
            let files = self.folders.iter().cloned().chain(inner).map(|folder| folder.join(file));
            files.filter_map(|file| fs::read_to_string(file).ok()).any(|text| count_of(&text, event) > 0)
        };
        let mut exceeded = Vec::new();
        if happened("memory.events", "oom_kill") || happened("memory.oom_control", "oom_kill") {
            exceeded.push(Exceeded::Memory);
        }
        if happened("pids.events", "max") {
            exceeded.push(Exceeded::Processes);
        }
        exceeded
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for folder in &self.folders {
            for _ in 0..GONE_TRIES {
                // It may be gone already, or not be empty yet: the outer one tells.
                let _ = fs::remove_dir(folder.join(INNER));
                match fs::remove_dir(folder) {
                    // Somebody who was killed is not gone yet.
                    Err(error) if error.kind() == ErrorKind::ResourceBusy => thread::sleep(GONE_AGAIN),
                    _ => break,
                }
            }
        }
    }
}

/// The inner group, and the file that says who is in a group.
const INNER: &str = "command";
const MEMBERS: &str = "cgroup.procs";

fn failure(cause: impl std::fmt::Display) -> Failure {
    Failure::new(Step::Limits, cause).with_help(if geteuid().is_root() { HELP_OF_ROOT } else { HELP })
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        if self.is_v2 {
            words(&self.root.join("cgroup.controllers")).iter().any(|word| word == controller)
        } else {
            self.controllers.iter().any(|own| own == controller)
        }
    }

    /// Makes a group at the place nearest to our own where there may be one that is held to its limits.
    fn make(&self, wanted: &[&str], process: u32) -> io::Result<PathBuf> {
        let name = format!("exeat-{process}");
        if !self.is_v2 {
            let folder = self.own.join(name);
            return fs::create_dir(&folder).map(|()| folder);
        }
        let wanted: Vec<&&str> = wanted.iter().filter(|wanted| self.has(wanted)).collect();
        let mut last =
            io::Error::new(ErrorKind::NotFound, "no group above our own hands its controllers down");
        for above in self.own.ancestors().take_while(|above| above.starts_with(&self.root)) {
            let handed_down = words(&above.join(SUBTREE));
            if !wanted.iter().all(|wanted| handed_down.iter().any(|word| word == **wanted)) {
                continue;
            }
            let folder = above.join(&name);
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(folder),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Where this process is alone in a group of version 2 that a user owns, as a service with `Delegate=` is, goes into a group below
/// it and has its controllers handed down: none with processes of its own can do that. Root finds a place further up.
fn make_room(hierarchies: &[Hierarchy], process: u32, user: u32) -> io::Result<()> {
    let Some(Hierarchy { own, .. }) = hierarchies.iter().find(|hierarchy| hierarchy.is_v2) else {
        return Ok(());
    };
    let is_ours = user != 0 && fs::metadata(own)?.uid() == user;
    if !is_ours || words(&own.join(MEMBERS)) != [process.to_string()] || !words(&own.join(SUBTREE)).is_empty()
    {
        return Ok(());
    }
    let there = words(&own.join("cgroup.controllers"));
    let wanted = [Controller::Cpu, Controller::Memory, Controller::Pids].map(Controller::name);
    let wanted: Vec<String> = wanted
        .into_iter()
        .filter(|name| there.iter().any(|own| own == name))
        .map(|name| format!("+{name}"))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let below = own.join(SERVER);
    match fs::create_dir(&below) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => fs::write(below.join(MEMBERS), process.to_string())?,
    }
    fs::write(own.join(SUBTREE), wanted.join(" "))
}

/// The group that a server goes into to make room for those of commands.
const SERVER: &str = "exeat-server";

/// The controllers that a group of version 2 hands down.
const SUBTREE: &str = "cgroup.subtree_control";

fn words(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The number behind a word in lines of words and numbers.
fn count_of(text: &str, word: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(own, _)| *own == word).and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(0)
}

fn set(folder: &Path, controller: Controller, is_v2: bool, value: u64) -> io::Result<()> {
    let write = |file: &str, text: String| fs::write(folder.join(file), text);
    // Where there is no swap, there is no such file.
    let write_if_there =
        |file: &str, text: String| if folder.join(file).exists() { write(file, text) } else { Ok(()) };
    let quota = value.saturating_mul(PERIOD) / 1000;
    match (controller, is_v2) {
        (Controller::Memory, true) => {
            write("memory.max", value.to_string())?;
            write_if_there("memory.swap.max", "0".to_owned())
        }
        (Controller::Memory, false) => {
            write("memory.limit_in_bytes", value.to_string())?;
            write_if_there("memory.memsw.limit_in_bytes", value.to_string())
        }
        (Controller::Cpu, true) => write("cpu.max", format!("{quota} {PERIOD}")),
        (Controller::Cpu, false) => {
            write("cpu.cfs_period_us", PERIOD.to_string())?;
            write("cpu.cfs_quota_us", quota.to_string())
        }
        (Controller::CpuShares, true) => write("cpu.weight", weight(value).to_string()),
        (Controller::CpuShares, false) => write("cpu.shares", value.to_string()),
        (Controller::Pids, _) => write("pids.max", value.to_string()),
    }
}

/// The weight of version 2, 1 to 10000, for shares of version 1, 2 to 262144, as container engines convert them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Reads the hierarchies that are mounted, those of version 2 first, from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn hierarchies(mounts: &str, groups: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = mounts.lines().filter_map(|line| hierarchy(line, groups)).collect();
    found.sort_by_key(|hierarchy| !hierarchy.is_v2);
    found
}

/// Reads one mount: `id parent device root point options [fields] - type source options`.
fn hierarchy(mount: &str, groups: &str) -> Option<Hierarchy> {
    let (place, kind) = mount.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (shown, point) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let is_v2 = match kind.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let controllers: Vec<String> = kind.nth(1)?.split(',').map(str::to_owned).collect();
    // `number:controllers:path`, and of version 2 `0::path`.
    let own = groups.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let is_it = if is_v2 {
            number == "0" && names.is_empty()
        } else {
            !names.is_empty() && names.split(',').all(|name| controllers.iter().any(|own| own == name))
        };
        is_it.then_some(path)
    })?;
    let root = PathBuf::from(point);
    let below = Path::new(own).strip_prefix(shown).ok()?;
    Some(Hierarchy { is_v2, own: root.join(below), root, controllers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_where_this_process_is_in_them() {
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 /lxc /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";
        let groups = "9:name=systemd:/\n4:memory:/lxc/a/b\n1:cpu,cpuacct:/\n0::/user.slice/x.scope\n";
        let found = hierarchies(mounts, groups);
        let own: Vec<(bool, &Path)> = found.iter().map(|one| (one.is_v2, &*one.own)).collect();
        assert_eq!(
            own,
            [
                (true, Path::new("/sys/fs/cgroup/unified/user.slice/x.scope")),
                (false, Path::new("/sys/fs/cgroup/cpu/")),
                (false, Path::new("/sys/fs/cgroup/memory/a/b")),
            ]
        );
        assert!(found.iter().any(|one| one.has("cpu")) && !found.iter().any(|one| one.has("pids")));
    }

    /// A folder that looks like version 2, in which our own group is `slice/scope`.
    fn version_2(handed_down: &str) -> (tempfile::TempDir, Vec<Hierarchy>) {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("slice/scope");
        fs::create_dir_all(&own).unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(own.join(SUBTREE), "\n").unwrap();
        fs::write(root.path().join("slice").join(SUBTREE), handed_down).unwrap();
        let hierarchy =
            Hierarchy { is_v2: true, root: root.path().to_owned(), own, controllers: vec!["rw".to_owned()] };
        (root, vec![hierarchy])
    }

    #[test]
    fn limits_are_on_the_outer_of_two_groups_where_controllers_are_handed_down() {
        let (root, hierarchies) = version_2("memory pids\n");
        let limits = Limits { memory: Some(1 << 20), processes: Some(10), ..Limits::default() };
        let groups = Groups::make_in(&hierarchies, &limits, 7).unwrap();
        let outer = root.path().join("slice/exeat-7");
        assert_eq!(fs::read_to_string(outer.join("memory.max")).unwrap(), "1048576");
        assert_eq!(fs::read_to_string(outer.join("pids.max")).unwrap(), "11");
        groups.take_in(42).unwrap();
        assert_eq!(fs::read_to_string(outer.join("command/cgroup.procs")).unwrap(), "42");
        assert!(groups.exceeded().is_empty());
        fs::write(outer.join("memory.events"), "oom 3\noom_kill 1\n").unwrap();
        fs::write(outer.join("command/pids.events"), "max 0\n").unwrap();
        assert_eq!(groups.exceeded(), [Exceeded::Memory]);
    }

    #[test]
    fn room_is_made_only_where_nobody_else_is() {
        let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        // Whoever runs this may be root; then the folder is given away.
        let tester = tempfile::tempdir().unwrap().path().metadata().unwrap().uid();
        let owner = if tester == 0 { 1000 } else { tester };
        for (name, members, controllers, handed_down, user, want) in [
            ("alone", "7\n", "cpuset cpu memory pids\n", "\n", owner, "+cpu +memory +pids"),
            ("fewer controllers", "7\n", "memory pids\n", "\n", owner, "+memory +pids"),
            ("with others", "7\n8\n", "cpu memory pids\n", "\n", owner, "\n"),
            ("not in it", "8\n", "cpu memory pids\n", "\n", owner, "\n"),
            ("no controllers", "7\n", "\n", "\n", owner, "\n"),
            ("handed down already", "7\n", "cpu memory pids\n", "memory\n", owner, "memory\n"),
            ("root", "7\n", "cpu memory pids\n", "\n", 0, "\n"),
            ("somebody else's", "7\n", "cpu memory pids\n", "\n", owner + 1, "\n"),
        ] {
            let (_root, hierarchies) = version_2("\n");
            let own = hierarchies[0].own.clone();
            for (file, text) in
                [(MEMBERS, members), ("cgroup.controllers", controllers), (SUBTREE, handed_down)]
            {
                fs::write(own.join(file), text).unwrap();
            }
            std::os::unix::fs::chown(&own, Some(owner), None).unwrap();
            make_room(&hierarchies, 7, user).unwrap();
            assert_eq!(text(own.join(SUBTREE)), want, "{name}");
            let moved = if want.starts_with('+') { "7" } else { "" };
            assert_eq!(text(own.join(SERVER).join(MEMBERS)), moved, "{name}");
        }
    }

    #[test]
    fn shares_are_converted_to_weights() {
        for (shares, want) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), want, "{shares}");
        }
        let (root, hierarchies) = version_2("cpu\n");
        let limits = Limits { cpu_thousandths: Some(500), cpu_shares: Some(1024), ..Limits::default() };
        let _groups = Groups::make_in(&hierarchies, &limits, 7).unwrap();
        let outer = root.path().join("slice/exeat-7");
        assert_eq!(fs::read_to_string(outer.join("cpu.weight")).unwrap(), "39");
        assert_eq!(fs::read_to_string(outer.join("cpu.max")).unwrap(), "50000 100000");
    }

    #[test]
    fn what_is_not_handed_down_is_not_limited_in_silence() {
        let (_root, hierarchies) = version_2("memory\n");
        let limits = Limits { cpu_thousandths: Some(500), memory: Some(1 << 20), ..Limits::default() };
        let failure = Groups::make_in(&hierarchies, &limits, 7).unwrap_err();
        assert_eq!(failure.step, Step::Limits);
        assert!(failure.help.unwrap().contains("--limits=rlimit"));
        let failure = Groups::make_in(&[], &limits, 7).unwrap_err();
        assert!(failure.cause.contains("no control groups for memory"), "{}", failure.cause);
    }
}
