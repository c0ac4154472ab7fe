//! Servers that people run: OpenSSH and PostgreSQL as Debian has them, and one of mail.
//!
//! The first two do not run as root, and one of them refuses to, so each is in a user namespace of its own, where it is
//! [`USER`]. All of them are told the addresses and the port where they listen.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::tool;
use crate::namespace;
use crate::origin::PATIENCE;

/// Who the servers are, and who logs in.
pub const USER: &str = "guest";
/// The number of that user, which every distribution has for nobody.
const NUMBER: &str = "65534";
/// To listen at every address of both families.
pub const EVERYWHERE: &[&str] = &["0.0.0.0", "::"];
/// Ports from this one on are for everybody.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// A server that ends with this.
struct Server {
    process: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it, with its log in `home`, and waits until it listens at `port` of the first address.
    fn start(mut command: Command, home: &Path, addresses: &[&str], port: u16) -> Result<Self> {
        let log = home.join("log");
        let file = File::create(&log)?;
        command.current_dir(home).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let process = command.spawn().with_context(|| format!("run {command:?}"))?;
        let mut server = Self { process, log };
        let first = addresses.first().context("an address")?;
        let began = Instant::now();
        while TcpStream::connect((*first, port)).is_err() {
            let ended = server.process.try_wait()?;
            ensure!(ended.is_none(), "{command:?} has ended: {}", server.said()?);
            ensure!(began.elapsed() < PATIENCE * 3, "{command:?} does not listen: {}", server.said()?);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// All that it has printed.
    fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL ends its children before itself when it is asked to.
        let pid = i32::try_from(self.process.id()).map(Pid::from_raw);
        let _ = pid.map(|pid| kill(pid, Signal::SIGINT));
        drop(self.process.wait());
    }
}

/// A command that runs as [`USER`].
fn as_user(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user", NUMBER, "--map-group", NUMBER, "--"]).arg(program);
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// Makes [`USER`] known in this mount namespace.
fn make_user(home: &Path) -> Result<()> {
    let others = fs::read_to_string("/etc/passwd")?;
    let line = format!("{USER}:x:{NUMBER}:{NUMBER}::{}:/bin/sh\n", home.display());
    namespace::replace("/etc/passwd", &(line + &others))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}

/// An OpenSSH server.
pub struct Sshd {
    key: PathBuf,
    port: u16,
    server: Server,
}

impl Sshd {
    /// Starts it at `port` of these addresses, with its files in a new folder `ssh` below `directory`.
    ///
    /// # Errors
    /// When the package openssh-server is missing, or it does not start.
    pub fn start(directory: &Path, addresses: &[&str], port: u16) -> Result<Self> {
        let home = directory.join("ssh");
        fs::create_dir(&home)?;
        make_user(&home)?;
        for key in ["host", "key"] {
            let keygen = ["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", key];
            run(Command::new("ssh-keygen").args(keygen).current_dir(&home))?;
        }
        let at = |file: &str| home.join(file).display().to_string();
        let listen: String = addresses.iter().map(|address| format!("ListenAddress {address}\n")).collect();
        let config = format!(
            "Port {port}\n{listen}HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             LogLevel VERBOSE\n",
            at("host"),
            at("key.pub")
        );
        fs::write(home.join("config"), config)?;
        if port < FIRST_UNPRIVILEGED {
            fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", port.to_string())?;
        }
        // It wants to know its own path.
        let mut command = as_user(&find("sshd", &["/usr/sbin", "/usr/local/sbin"], "openssh-server")?);
        command.args(["-D", "-e", "-f", "config"]);
        let server = Server::start(command, &home, addresses, port)?;
        Ok(Self { key: home.join("key"), port, server })
    }

    /// How many connections it has heard of.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn accepts(&self) -> Result<usize> {
        Ok(self.server.said()?.matches("Connection from").count())
    }

    /// The options of `ssh` with which [`USER`] gets in without a question.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let options = format!(
            "-F none -i {} -p {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes",
            self.key.display(),
            self.port
        );
        options.split(' ').map(str::to_owned).collect()
    }
}

/// A PostgreSQL server, where [`USER`] may do everything.
pub struct Postgres {
    _server: Server,
}

impl Postgres {
    /// Starts it at `port` of these addresses, with its files in a new folder `postgres` below `directory`.
    ///
    /// # Errors
    /// When the package postgresql is missing, or it does not start.
    pub fn start(directory: &Path, addresses: &[&str], port: u16) -> Result<Self> {
        let home = directory.join("postgres");
        fs::create_dir(&home)?;
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
        let mut folders: Vec<PathBuf> =
            versions.filter_map(Result::ok).map(|version| version.path().join("bin")).collect();
        // The newest one first.
        folders.sort();
        folders.reverse();
        let folders: Vec<&str> = folders.iter().filter_map(|folder| folder.to_str()).collect();
        let program = |name| find(name, &folders, "postgresql");
        let options = ["-D", "data", "-U", USER, "--auth=trust", "--no-sync", "--no-instructions"];
        run(as_user(&program("initdb")?).args(options).current_dir(&home))?;
        fs::write(home.join("data/pg_hba.conf"), "host all all all trust\n")?;
        let mut command = as_user(&program("postgres")?);
        command.args(["-D", "data", "-h", &addresses.join(","), "-p", &port.to_string(), "-k", "", "-F"]);
        Ok(Self { _server: Server::start(command, &home, addresses, port)? })
    }
}

/// A server of mail, which prints what it is sent.
pub struct MailServer {
    server: Server,
}

impl MailServer {
    /// Starts it at `port` of this address, with its log in a new folder `mail` below `directory`.
    ///
    /// # Errors
    /// When the Python package aiosmtpd is missing, or it does not start.
    pub fn start(directory: &Path, address: &str, port: u16) -> Result<Self> {
        let home = directory.join("mail");
        fs::create_dir(&home)?;
        let mut command = Command::new(tool("venv/bin/python")?);
        command.args(["-m", "aiosmtpd", "-n", "-l", &format!("{address}:{port}")]);
        command.args(["-c", "aiosmtpd.handlers.Debugging", "stdout"]).env("PYTHONUNBUFFERED", "1");
        Ok(Self { server: Server::start(command, &home, &[address], port)? })
    }

    /// The mails that it has been sent.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn mails(&self) -> Result<String> {
        self.server.said()
    }
}

fn find(program: &str, folders: &[&str], package: &str) -> Result<PathBuf> {
    let paths = folders.iter().map(|folder| Path::new(folder).join(program));
    paths
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("{program} (package {package}) is missing"))
}
