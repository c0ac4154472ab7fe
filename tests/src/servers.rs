//! Servers that people run, of the programs that Debian has: OpenSSH and PostgreSQL.
//!
//! Neither runs as root, and one of them refuses to, so each is in a user namespace of its own, where it is [`USER`].

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace;
use crate::origin::PATIENCE;

/// Who the servers are, and who logs in.
pub const USER: &str = "guest";
/// The number of that user, which every distribution has for nobody.
const NUMBER: &str = "65534";
/// Where sshd listens: the port of its own has an origin at every address.
pub const SSH_PORT: u16 = 2222;
/// Where PostgreSQL listens, for the same reason.
pub const POSTGRES_PORT: u16 = 5433;

/// A server that ends with this.
struct Server(Child);

impl Server {
    /// Starts it and waits until it listens.
    fn start(directory: &Path, program: &Path, args: &[&str], port: u16) -> Result<Self> {
        let log = File::create(directory.join("log"))?;
        let mut command = as_user(program);
        command.args(args).current_dir(directory).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut server = Self(command.spawn().with_context(|| format!("run {}", program.display()))?);
        let began = Instant::now();
        while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
            let said = || fs::read_to_string(directory.join("log")).unwrap_or_default();
            ensure!(server.0.try_wait()?.is_none(), "{} has ended: {}", program.display(), said());
            ensure!(began.elapsed() < PATIENCE * 3, "{} does not listen: {}", program.display(), said());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL ends its children before itself when it is asked to.
        let pid = i32::try_from(self.0.id()).map(Pid::from_raw);
        let _ = pid.map(|pid| kill(pid, Signal::SIGINT));
        drop(self.0.wait());
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

/// An OpenSSH server at [`SSH_PORT`] of every address.
pub struct Sshd {
    key: PathBuf,
    _server: Server,
}

impl Sshd {
    /// Starts it, with its files in a new folder `ssh` below `directory`.
    ///
    /// # Errors
    /// When the package openssh-server is missing, or it does not start.
    pub fn start(directory: &Path) -> Result<Self> {
        let home = directory.join("ssh");
        fs::create_dir(&home)?;
        make_user(&home)?;
        for key in ["host", "key"] {
            let keygen = ["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", key];
            run(Command::new("ssh-keygen").args(keygen).current_dir(&home))?;
        }
        let at = |file: &str| home.join(file).display().to_string();
        let config = format!(
            "Port {SSH_PORT}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n",
            at("host"),
            at("key.pub")
        );
        fs::write(home.join("config"), config)?;
        // It wants to know its own path.
        let program = find("sshd", &["/usr/sbin", "/usr/local/sbin"], "openssh-server")?;
        let server = Server::start(&home, &program, &["-D", "-e", "-f", "config"], SSH_PORT)?;
        Ok(Self { key: home.join("key"), _server: server })
    }

    /// The options of `ssh` with which [`USER`] gets in without a question.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let options = format!(
            "-F none -i {} -p {SSH_PORT} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes",
            self.key.display()
        );
        options.split(' ').map(str::to_owned).collect()
    }
}

/// A PostgreSQL server at [`POSTGRES_PORT`] of every address, where [`USER`] may do everything.
pub struct Postgres {
    _server: Server,
}

impl Postgres {
    /// Starts it, with its files in a new folder `postgres` below `directory`.
    ///
    /// # Errors
    /// When the package postgresql is missing, or it does not start.
    pub fn start(directory: &Path) -> Result<Self> {
        let home = directory.join("postgres");
        fs::create_dir(&home)?;
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
        let folders: Vec<PathBuf> =
            versions.filter_map(Result::ok).map(|version| version.path().join("bin")).collect();
        let folders: Vec<&str> = folders.iter().filter_map(|folder| folder.to_str()).collect();
        let program = |name| find(name, &folders, "postgresql");
        let options = ["-D", "data", "-U", USER, "--auth=trust", "--no-sync", "--no-instructions"];
        run(as_user(&program("initdb")?).args(options).current_dir(&home))?;
        fs::write(home.join("data/pg_hba.conf"), "host all all all trust\n")?;
        let port = POSTGRES_PORT.to_string();
        let settings = ["-h", "*", "-p", &port, "-k", "", "-F"];
        let server = Server::start(
            &home,
            &program("postgres")?,
            &[&["-D", "data"], &settings[..]].concat(),
            POSTGRES_PORT,
        )?;
        Ok(Self { _server: server })
    }
}

fn find(program: &str, folders: &[&str], package: &str) -> Result<PathBuf> {
    let paths = folders.iter().map(|folder| Path::new(folder).join(program));
    paths
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("{program} (package {package}) is missing"))
}
