//! The real binary, as a process.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::origin::PATIENCE;

/// How often a condition that nobody announces (a file's content, a process's end) is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What it logs when everything is served.
const READY: &str = " INFO ready revision=";

/// `target/<profile>`, found from this test binary, which cargo puts in its `deps` folder.
fn profile_directory() -> Result<PathBuf> {
    let binary = std::env::current_exe()?;
    let directory = binary.ancestors().find(|a| a.join("deps").is_dir());
    Ok(directory.with_context(|| format!("no target folder above {}", binary.display()))?.to_owned())
}

/// Cargo's target folder.
///
/// # Errors
/// When this test binary does not lie in one.
pub fn target_directory() -> Result<PathBuf> {
    Ok(profile_directory()?.parent().context("the target folder")?.to_owned())
}

/// The binary under test.
///
/// # Errors
/// When it has not been built.
pub fn binary() -> Result<PathBuf> {
    let binary = profile_directory()?.join("exeat");
    ensure!(binary.exists(), "{} is missing: run `cargo build` first", binary.display());
    Ok(binary)
}

/// A running `exeat serve`. It is stopped, not gently, when dropped; [`Exeat::stop`] stops it gently and checks how it ended.
pub struct Exeat {
    child: Child,
    directory: PathBuf,
}

impl Exeat {
    /// Writes `config` into `directory` and serves it; returns when everything in it is served, the proxy at `listen` too.
    ///
    /// The configuration may say `AUDIT` where the path of the audit file belongs.
    ///
    /// # Errors
    /// When it does not start; the error shows what it printed.
    pub fn serve(directory: &Path, config: &str, listen: &str) -> Result<Self> {
        let path = Self::write_config(directory, config)?;
        let mut exeat = Self::spawn(directory, &["serve", "--config", &path.to_string_lossy()])?;
        exeat.wait_until_ready()?;
        exeat.wait_until_listening(listen.parse()?)?;
        Ok(exeat)
    }

    /// Writes the configuration file that [`Exeat::serve`] uses and returns its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_config(directory: &Path, config: &str) -> Result<PathBuf> {
        let path = directory.join("exeat.toml");
        let audit = directory.join("audit.jsonl");
        fs::write(&path, config.replace("AUDIT", &audit.to_string_lossy()))?;
        // It holds the hashes of passwords, and a file that others can read is warned of.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    /// Starts the binary with its output going to files in `directory`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(directory: &Path, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(args).stdin(Stdio::null());
        Self::start(directory, command, &[], |_| ())
    }

    /// The same by way of the command `wrapper`, which must become the binary (`prlimit`), after `change` was made to
    /// how it is started.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_as(
        directory: &Path,
        wrapper: &[&str],
        args: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let binary = binary()?;
        let mut words = wrapper.iter().map(OsStr::new).chain([binary.as_os_str()]);
        let mut command = Command::new(words.next().context("a command")?);
        command.args(words).args(args).stdin(Stdio::null());
        Self::start(directory, command, &[], change)
    }

    /// Starts the binary as a service manager does: with these variables set and, if there is a listener, with that as
    /// its descriptor 3 (`LISTEN_FDS`).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_service(
        directory: &Path,
        args: &[&str],
        variables: &[(&str, &str)],
        listener: Option<OwnedFd>,
    ) -> Result<Self> {
        let Some(listener) = listener else {
            let mut command = Command::new(binary()?);
            command.args(args).stdin(Stdio::null());
            return Self::start(directory, command, variables, |_| ());
        };
        // The shell moves the socket to where the protocol wants it, and then becomes the program.
        let mut command = Command::new("sh");
        command.args(["-c", r#"LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 </dev/null"#, "sh"]);
        command.arg(binary()?).args(args).stdin(listener);
        Self::start(directory, command, variables, |_| ())
    }

    fn start(
        directory: &Path,
        mut command: Command,
        variables: &[(&str, &str)],
        change: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        command
            .current_dir(directory)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(variables.iter().copied())
            .stdout(File::create(directory.join("stdout"))?)
            .stderr(File::create(directory.join("stderr"))?);
        change(&mut command);
        let child = command.spawn().context("start exeat")?;
        Ok(Self { child, directory: directory.to_owned() })
    }

    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The descriptors that it has open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// The memory that it occupies (`VmRSS`), in KiB.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_kib(&self) -> Result<usize> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.split_whitespace().next().context("a number")?.parse()?)
    }

    /// The processor time that it has used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn processor_time(&self) -> Result<Duration> {
        /// Of `/proc`, whatever the kernel's own (`USER_HZ`).
        const TICKS_PER_SECOND: u32 = 100;
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the command, in parentheses, may have spaces.
        let (_, fields) = text.rsplit_once(')').context("the name of the command")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
        Ok(Duration::from_secs(1) * ticks.sum::<Result<u32, _>>()? / TICKS_PER_SECOND)
    }

    /// Waits until it has said that everything in its configuration is served. Listeners are bound one after the other:
    /// that one accepts says nothing of the rest.
    ///
    /// # Errors
    /// When the process ends instead, or does not say so in time.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        self.until("it to be ready", |exeat| {
            let is_ready = exeat.stderr().contains(READY);
            exeat.alive_and(is_ready)
        })
    }

    /// Waits until something accepts at `address` and the process is still there.
    ///
    /// # Errors
    /// When the process ends instead, or nothing listens in time.
    pub fn wait_until_listening(&mut self, address: SocketAddr) -> Result<()> {
        self.until("it to listen", |exeat| exeat.alive_and(TcpStream::connect(address).is_ok()))
    }

    fn alive_and(&mut self, condition: bool) -> Result<Option<()>> {
        if let Some(status) = self.child.try_wait()? {
            bail!("exeat ended with {status}");
        }
        Ok(condition.then_some(()))
    }

    /// Waits until nothing accepts at `address` any more.
    ///
    /// # Errors
    /// When something still does after [`PATIENCE`].
    pub fn wait_until_closed(&mut self, address: SocketAddr) -> Result<()> {
        self.until("it to stop listening", |_| Ok(TcpStream::connect(address).is_err().then_some(())))
    }

    /// Waits until a line of the log has this: another thread writes it than the one that answers.
    ///
    /// # Errors
    /// When none has within [`PATIENCE`].
    pub fn until_logged(&mut self, text: &str) -> Result<()> {
        self.until(text, |exeat| Ok(exeat.stderr().contains(text).then_some(())))
    }

    /// Looks again and again until `done` gives a value.
    ///
    /// # Errors
    /// When it gives none within [`PATIENCE`], or an error; either shows what was printed.
    pub fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = done(self);
            match found {
                Ok(Some(value)) => return Ok(value),
                Ok(None) if Instant::now() < end => thread::sleep(LOOK_AGAIN),
                Ok(None) => bail!("waited in vain for {what}; exeat printed:\n{}", self.printed()),
                Err(error) => return Err(error.context(format!("exeat printed:\n{}", self.printed()))),
            }
        }
    }

    /// Everything it has written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.directory.join("stdout")).unwrap_or_default()
    }

    /// Everything it has written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.directory.join("stderr")).unwrap_or_default()
    }

    fn printed(&self) -> String {
        format!("{}{}", self.stdout(), self.stderr())
    }

    /// Waits until its output (both streams) contains `text`, and returns the output.
    ///
    /// # Errors
    /// When it never does.
    pub fn wait_for_output(&mut self, text: &str) -> Result<String> {
        self.until(&format!("the output {text:?}"), |exeat| {
            let printed = exeat.printed();
            Ok(printed.contains(text).then_some(printed))
        })
    }

    /// The audit records so far.
    ///
    /// # Errors
    /// When a complete line is not JSON.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.directory.join("audit.jsonl")).unwrap_or_default();
        // The last line may be half written.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).with_context(|| format!("audit line {line}"))).collect()
    }

    /// Waits until an audit record, with its place in the file, satisfies `wanted`, and returns both.
    ///
    /// # Errors
    /// When none does in time; the error shows those that are there.
    pub fn audit_record(
        &mut self,
        what: &str,
        wanted: impl Fn(&(usize, Value)) -> bool,
    ) -> Result<(usize, Value)> {
        self.until(&format!("an audit record of {what}"), |exeat| {
            Ok(exeat.audit()?.into_iter().enumerate().find(&wanted))
        })
        .with_context(|| format!("the audit file has {:#?}", self.audit()))
    }

    /// Waits until the audit records, all together, satisfy `wanted`, and returns them.
    ///
    /// # Errors
    /// When they never do; the error shows those that are there.
    pub fn audit_until(&mut self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        self.until(what, |exeat| Ok(Some(exeat.audit()?).filter(|records| wanted(records))))
            .with_context(|| format!("the audit file has {:#?}", self.audit()))
    }

    /// Stops it as SIGSTOP does, and waits until every thread has: the signal reaches them one after the other.
    ///
    /// # Errors
    /// When the process is gone, or a thread runs on.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.child.id());
        self.until("every thread to have stopped", |_| {
            for task in fs::read_dir(&tasks)? {
                let stat = fs::read_to_string(task?.path().join("stat"))?;
                // The state comes after the name, which is in parentheses and may hold some itself.
                if !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal).context("signal exeat")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.until("its end", |exeat| Ok(exeat.child.try_wait()?))
    }

    /// Asks it to end and checks that it does so cleanly and has not panicked.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait()?;
        let printed = self.printed();
        ensure!(status.success(), "exeat ended with {status} and printed:\n{printed}");
        ensure!(!printed.contains("panicked"), "exeat panicked:\n{printed}");
        Ok(())
    }
}

impl Drop for Exeat {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
