//! A real HAProxy, as a load balancer or a TLS front.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long it may take to start, and to write its log.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running HAProxy in TCP mode. Its log goes to standard output, a line for each connection when it ends.
pub struct Haproxy {
    child: Child,
    log: PathBuf,
}

impl Haproxy {
    /// Starts it with these sections, and waits until it listens at `address`.
    ///
    /// # Errors
    /// When it does not start; the error shows what it printed.
    pub fn start(directory: &Path, name: &str, sections: &str, address: &str) -> Result<Self> {
        let file = directory.join(format!("{name}.cfg"));
        let configuration = format!(
            "global
    log stdout format raw local0
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 30s
    timeout client 60s
    timeout server 60s
{sections}"
        );
        fs::write(&file, configuration)?;
        let log = directory.join(format!("{name}.log"));
        let child = Command::new("haproxy")
            // In the foreground.
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::create(directory.join(format!("{name}.err")))?)
            .spawn()
            .context("run `haproxy` (package haproxy)")?;
        let mut haproxy = Self { child, log };
        let printed = || fs::read_to_string(directory.join(format!("{name}.err"))).unwrap_or_default();
        let (address, began): (SocketAddr, Instant) = (address.parse()?, Instant::now());
        while TcpStream::connect(address).is_err() {
            if let Some(status) = haproxy.child.try_wait()? {
                bail!("haproxy ended with {status}: {}", printed());
            }
            ensure!(began.elapsed() < PATIENCE, "haproxy does not listen: {}", printed());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(haproxy)
    }

    /// Waits until `wanted` holds for a line of its log, and returns that.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn wait_for_line(&self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let began = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log)?;
            if let Some(line) = log.lines().find(|line| wanted(line)) {
                return Ok(line.to_owned());
            }
            ensure!(began.elapsed() < PATIENCE, "not in the log of haproxy:\n{log}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
