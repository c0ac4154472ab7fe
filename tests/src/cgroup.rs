//! Control groups for scenarios. They are the machine's own: a namespace has none to itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::origin::PATIENCE;

/// A control group (version 2) below that of this process, which ends with this; so must its processes have.
pub struct Cgroup {
    folder: PathBuf,
    path: String,
}

impl Cgroup {
    /// Makes one whose name begins with `name`.
    ///
    /// # Errors
    /// When there are no groups of version 2, or this process may not make any.
    pub fn new(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount =
            mounts.lines().find(|line| line.contains(" - cgroup2 ")).context("cgroup2 is not mounted")?;
        let mount = mount.split(' ').nth(4).context("a mount point")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).context("a group of version 2")?;
        let path = format!("{}/exeat-{name}-{}", own.trim_end_matches('/'), std::process::id());
        let made = Self { folder: Path::new(mount).join(path.trim_start_matches('/')), path };
        // One that a process of this number left when it was killed.
        let _may_be_none = fs::remove_dir(&made.folder);
        made.make()?;
        Ok(made)
    }

    /// Makes it again, after [`Cgroup::end`].
    ///
    /// # Errors
    /// When it is there, or may not be.
    pub fn make(&self) -> Result<()> {
        fs::create_dir(&self.folder).with_context(|| format!("make the group {}", self.folder.display()))
    }

    /// Removes it, once its processes have ended.
    ///
    /// # Errors
    /// When they do not.
    pub fn end(&self) -> Result<()> {
        let began = Instant::now();
        while fs::remove_dir(&self.folder).is_err() {
            ensure!(began.elapsed() < PATIENCE, "processes are left in {}", self.path);
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its path, as `/proc/PID/cgroup` has it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> String {
        self.folder.to_string_lossy().into_owned()
    }

    /// The first words of a command that runs the rest of it inside.
    #[must_use]
    pub fn prefix(&self) -> [String; 4] {
        let script = format!("echo 0 > '{}/cgroup.procs' && exec \"$@\"", self.folder.display());
        ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.folder));
    }
}
