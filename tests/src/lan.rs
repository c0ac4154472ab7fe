//! Clients behind a router: the namespace of the scenario is the internet, and between it and each client is a router,
//! where the product runs. Every link is of both address families.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

/// The router's address towards the internet.
pub const WAN: &str = "10.97.0.2";

/// A network namespace of its own, which ends with this.
pub struct Net {
    holder: Child,
}

impl Net {
    /// Makes a namespace without any device but an unused loopback.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> Result<Self> {
        // It writes once it is inside.
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo; exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("run `unshare` (package util-linux)")?;
        let mut byte = [0];
        let inside = holder.stdout.take().context("its output")?;
        std::io::Read::read_exact(&mut { inside }, &mut byte).context("a namespace")?;
        let net = Self { holder };
        // An address that is still being checked for others of its kind delays the first packets by a second.
        net.sysctl("ipv6/conf/default/accept_dad", "0")?;
        net.ip("link set lo up")?;
        Ok(net)
    }

    /// What `ip` takes as a namespace.
    fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// A command that will run inside.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    /// Runs lines of `ip` inside.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        batch(self.command("ip"), lines)
    }

    /// Does `work` inside, in a thread of its own; what it starts is inside, too.
    ///
    /// # Errors
    /// What `work` returns, or if the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let net = File::open(self.path()).context("open the namespace")?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(net, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread inside the namespace has panicked"))?
        })
    }

    /// Sets a value below `/proc/sys/net`.
    ///
    /// # Errors
    /// When there is none.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let script = format!("echo {value} > /proc/sys/net/{name}");
        let status = self.command("sh").args(["-c", &script]).status()?;
        ensure!(status.success(), "cannot set {name}");
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// A router, and two clients behind it.
pub struct Lan {
    /// Its devices are `wan`, `lan1` and `lan2`.
    pub router: Net,
    /// The first client: 10.88.1.2 and 2001:db8... see [`Lan::v4`] and [`Lan::v6`].
    pub clients: [Net; 2],
}

impl Lan {
    /// Builds it, in the network that the scenario is in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> Result<Self> {
        let lan = Self { router: Net::new()?, clients: [Net::new()?, Net::new()?] };
        let router = lan.router.pid();
        std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
        ip(&format!(
            "link add up0 type veth peer name wan netns {router}\n\
             link set up0 up\naddress add 10.97.0.1/30 dev up0\naddress add fd97::1/64 dev up0 nodad\n\
             route add 10.88.0.0/16 via {WAN}\nroute add fd88::/16 via fd97::2\n"
        ))?;
        lan.router.ip(&format!(
            "link set wan up\naddress add {WAN}/30 dev wan\naddress add fd97::2/64 dev wan nodad\n\
             route add default via 10.97.0.1\nroute add default via fd97::1\n"
        ))?;
        lan.router.sysctl("ipv4/ip_forward", "1")?;
        lan.router.sysctl("ipv6/conf/all/forwarding", "1")?;
        for (client, number) in lan.clients.iter().zip(1..) {
            lan.router.ip(&format!(
                "link add lan{number} type veth peer name eth0 netns {}\nlink set lan{number} up\n\
                 address add 10.88.{number}.1/24 dev lan{number}\naddress add fd88:{number}::1/64 dev lan{number} nodad\n",
                client.pid()
            ))?;
            client.ip(&format!(
                "link set eth0 up\naddress add 10.88.{number}.2/24 dev eth0\naddress add fd88:{number}::2/64 dev eth0 nodad\n\
                 route add default via 10.88.{number}.1\nroute add default via fd88:{number}::1\n"
            ))?;
        }
        Ok(lan)
    }

    /// The IPv4 address of the client of this number, 1 or 2.
    #[must_use]
    pub fn v4(number: u8) -> IpAddr {
        IpAddr::from([10, 88, number, 2])
    }

    /// The IPv6 address of the client of this number, 1 or 2.
    #[must_use]
    pub fn v6(number: u16) -> IpAddr {
        IpAddr::from([0xfd88, number, 0, 0, 0, 0, 0, 2])
    }
}

fn ip(lines: &str) -> Result<()> {
    batch(Command::new("ip"), lines)
}

fn batch(mut command: Command, lines: &str) -> Result<()> {
    // `ip` takes the family of a line from its addresses, but for these.
    let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("run `ip`")?;
    child.stdin.take().context("stdin of ip")?.write_all(lines.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "`ip` ended with {status} for:\n{lines}");
    Ok(())
}
