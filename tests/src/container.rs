//! A container: a network namespace whose only device is the other end of a cable.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::client::{Client, Outcome};

/// A network namespace with a process in it that does nothing. It goes when this is dropped.
pub struct Container(Child);

impl Container {
    /// Starts one whose only device is `eth0`, with the addresses `theirs`, the other end of our `device`, which has the
    /// addresses `ours`. Each is written with the length of its network.
    ///
    /// # Errors
    /// When a tool is missing or fails.
    pub fn with_cable(device: &str, ours: &[&str], theirs: &[&str]) -> Result<Self> {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "sh", "-c", "echo ready; exec sleep 600"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("run `unshare` (package util-linux)")?;
        let mut ready = [0; 6];
        child.stdout.take().context("its output")?.read_exact(&mut ready)?;
        let container = Self(child);
        let pid = container.pid();
        run(&["ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        for address in ours {
            run(&[&["ip"], &with_address(address, device)[..]].concat())?;
        }
        run(&["ip", "link", "set", device, "up"])?;
        for address in theirs {
            container.ip(&with_address(address, "eth0"))?;
        }
        container.ip(&["link", "set", "lo", "up"])?;
        container.ip(&["link", "set", "eth0", "up"])?;
        Ok(container)
    }

    /// Sends everything that has no nearer route to `gateway`.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn route_by(&self, gateway: &str) -> Result<()> {
        let family = if gateway.contains(':') { "-6" } else { "-4" };
        self.ip(&[family, "route", "add", "default", "via", gateway])
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        let pid = self.pid();
        run(&[&["nsenter", "-t", &pid, "-n", "ip"], args].concat())
    }

    /// A program that is to run inside, with `home` as its folder.
    #[must_use]
    pub fn client(&self, program: &str, home: &Path) -> Client {
        Client::new("nsenter", home).args(["-t", &self.pid(), "-n", program])
    }

    /// A command that runs inside and is not waited for.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "-n", program]);
        command
    }

    /// Runs curl inside.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn curl(&self, home: &Path, args: &[&str]) -> Result<Outcome> {
        self.client("curl", home).args(["-sS", "--max-time", "10"]).args(args).run()
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `ip` is asked for. Addresses of IPv6 count at once.
fn with_address<'a>(address: &'a str, device: &'a str) -> Vec<&'a str> {
    let flags: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
    [&["address", "add", address, "dev", device], flags].concat()
}

fn run(words: &[&str]) -> Result<()> {
    let (program, args) = words.split_first().context("a program")?;
    let status = Command::new(program).args(args).status().with_context(|| format!("run {program}"))?;
    ensure!(status.success(), "{words:?}: {status}");
    Ok(())
}
