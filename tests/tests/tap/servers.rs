//! Name servers that tell of their answers, as processes on the router.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::namespace::NAME_SERVER;
use exeat_tests::origin::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stage::Stage;

/// How often it is looked whether a server is there.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Program {
    Unbound,
    Named,
}

/// A running one. It is killed when dropped.
pub(crate) struct NameServer {
    child: Child,
    log: PathBuf,
}

impl NameServer {
    /// Starts a resolver on the router that passes questions on to the name server of the scenario.
    pub(crate) fn start(program: Program, stage: &Stage) -> Result<Self> {
        let folder = stage.world.directory().join("server");
        fs::create_dir_all(&folder)?;
        let socket = stage.socket();
        let socket = socket.to_str().context("a path in UTF-8")?;
        let place = folder.to_str().context("a path in UTF-8")?;
        let upstream = NAME_SERVER.split(':').next().unwrap_or_default();
        let (path, text, args) = match program {
            Program::Unbound => {
                ("/usr/sbin/unbound", unbound(place, socket, upstream), ["-d", "-p", "-c"].as_slice())
            }
            Program::Named => ("/usr/sbin/named", named(place, socket, upstream), ["-g", "-c"].as_slice()),
        };
        let config = folder.join("server.conf");
        fs::write(&config, text)?;
        let log = folder.join("log");
        let file = File::create(&log)?;
        let mut command = stage.lan.router.command(path);
        command.args(args).arg(&config).stdin(Stdio::null());
        let child =
            command.stdout(file.try_clone()?).stderr(file).spawn().with_context(|| format!("run {path}"))?;
        let mut server = Self { child, log };
        server.until_it_answers(stage)?;
        Ok(server)
    }

    /// Waits until it answers a name that nobody may ask for, and its stream is read.
    fn until_it_answers(&mut self, stage: &Stage) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            ensure!(self.child.try_wait()?.is_none(), "it has ended: {}", self.printed());
            if stage.dig(1, &["+tries=1", "evil.test", "A"]).is_ok() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("it does not answer: {}", self.printed());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait()?;
        ensure!(status.success(), "it ended with {status}: {}", self.printed());
        Ok(())
    }

    /// Ends it without a word.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait().map(drop)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal).context("signal the server")
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(LOOK_AGAIN);
        }
        bail!("it does not end: {}", self.printed())
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn unbound(folder: &str, socket: &str, upstream: &str) -> String {
    format!(
        r#"
server:
  directory: "{folder}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  interface: 10.88.1.1
  interface: 10.88.2.1
  access-control: 10.88.0.0/16 allow
  module-config: "iterator"
  do-not-query-localhost: no
  num-threads: 1
  local-zone: "test." nodefault
dnstap:
  dnstap-enable: yes
  dnstap-socket-path: "{socket}"
  dnstap-log-client-response-messages: yes
  dnstap-log-resolver-response-messages: yes
  dnstap-log-forwarder-response-messages: yes
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: {upstream}
"#
    )
}

fn named(folder: &str, socket: &str, upstream: &str) -> String {
    format!(
        r#"
options {{
  directory "{folder}";
  pid-file none;
  session-keyfile "{folder}/session.key";
  managed-keys-directory "{folder}";
  lock-file none;
  listen-on {{ 10.88.1.1; 10.88.2.1; }};
  listen-on-v6 {{ none; }};
  recursion yes;
  allow-query {{ any; }};
  allow-recursion {{ any; }};
  forward only;
  forwarders {{ {upstream}; }};
  dnssec-validation no;
  qname-minimization off;
  empty-zones-enable no;
  dnstap {{ client response; resolver response; forwarder response; }};
  dnstap-output unix "{socket}";
  dnstap-identity "router";
}};
controls {{ }};
"#
    )
}
