//! The firewall on a bridge whose clients may send any frame, as Docker lets its containers; and who else is there.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::lan::{Lan, Net};
use exeat_tests::world::World;
use exeat_tests::{harness, scenarios};

fn main() -> ExitCode {
    harness::main(scenarios![
        nobody_begins_a_flow_to_himself_in_the_name_of_a_host_outside,
        clients_of_a_bridge_reach_each_other,
        a_network_has_one_firewall,
        names_are_told_to_clients_alone,
        clients_get_their_addresses,
        whoever_names_no_bridge_is_told_which_there_are,
        planted_programs_are_not_run,
    ])
}

/// The hardware address of the bridge.
const BRIDGE: &str = "02:00:00:00:00:01";

/// What no rule opens: a server that says back what it hears.
const OUTSIDE: [&str; 2] = ["93.184.216.34:5182", "[2606:2800:220:1::34]:5182"];

/// A router with a bridge, `br0`, and two clients on it: 10.88.1.2 and 10.88.1.3, with the same of IPv6.
struct Bridged {
    world: World,
    lan: Lan,
}

impl Bridged {
    fn new() -> Result<Self> {
        let lan = Lan::new()?;
        lan.router.ip(&format!(
            "address flush dev lan1\naddress flush dev lan2\n\
             link add br0 type bridge\nlink set br0 address {BRIDGE} up\n\
             link set lan1 master br0\nlink set lan2 master br0\n\
             address add 10.88.1.1/24 dev br0\naddress add fd88:1::1/64 dev br0 nodad\n"
        ))?;
        lan.clients[1].ip("address flush dev eth0\naddress add 10.88.1.3/24 dev eth0\n\
             address add fd88:1::3/64 dev eth0 nodad\n\
             route replace default via 10.88.1.1\nroute replace default via fd88:1::1\n")?;
        Ok(Self { world: World::new()?, lan })
    }

    /// Attaches the firewall; its admin API is at a socket of this name.
    fn attach(&self, socket: &str) -> Result<Exeat> {
        let inside = format!("--net={}", self.lan.router.path());
        let args = ["firewall", "attach", "--bridge", "br0", "--socket", socket, "example.com"];
        Exeat::spawn_as(self.world.directory(), &["nsenter", &inside, "--"], &args, |_| ())
    }

    fn attached(&self) -> Result<Exeat> {
        let mut exeat = self.attach("fw.sock")?;
        exeat.wait_until_ready()?;
        Ok(exeat)
    }

    /// What the rules have counted under this name, in packets.
    fn counter(&self, name: &str) -> Result<u64> {
        let args = ["list", "counter", "inet", "exeat", name];
        let output = self.lan.router.command("nft").args(args).output()?;
        let text = String::from_utf8(output.stdout)?;
        let packets = text.split_once("packets ").context("a counter")?.1;
        Ok(packets.split(' ').next().context("a number")?.parse()?)
    }
}

/// Runs Python in a client's network and returns what it prints.
fn python(net: &Net, script: &str, args: &[&str]) -> Result<String> {
    let output = net.command("python3").args(["-c", script]).args(args).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Sends a datagram from a port of its own to that of a host outside, and prints what comes back within some seconds; the kernel
/// may have told somebody else of a refusal just before, and tell nobody. Before, if it is told to, a
/// frame to the bridge's own hardware address with a datagram the other way: from that host to itself.
const TALK: &str = r#"
import ipaddress, re, socket, struct, subprocess, sys
host, bridge, forges = sys.argv[1], sys.argv[2], sys.argv[3] == "forge"
target = ipaddress.ip_address(host)
v6 = target.version == 6
own = ipaddress.ip_address("fd88:1::2" if v6 else "10.88.1.2")
port, own_port = 5182, 23456
mac = lambda text: bytes.fromhex(text.replace(":", ""))
def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
if forges:
    link = subprocess.run(["ip", "-o", "link", "show", "eth0"], capture_output=True, text=True).stdout
    mine = mac(re.search("link/ether ([0-9a-f:]+)", link).group(1))
    datagram = struct.pack("!HHHH", port, own_port, 12, 0) + b"seed"
    if v6:
        pseudo = target.packed + own.packed + struct.pack("!II", 12, 17)
        datagram = datagram[:6] + struct.pack("!H", checksum(pseudo + datagram)) + datagram[8:]
        packet = struct.pack("!IHBB", 6 << 28, 12, 17, 64) + target.packed + own.packed + datagram
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 32, 1, 0, 64, 17, 0) + target.packed + own.packed
        packet = head[:10] + struct.pack("!H", checksum(head)) + head[12:] + datagram
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind(("eth0", 0))
    raw.send(mac(bridge) + mine + (b"\x86\xdd" if v6 else b"\x08\x00") + packet)
talk = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
talk.bind((str(own), own_port))
talk.settimeout(float(sys.argv[4]))
talk.connect((host, port))
try:
    talk.send(b"out")
    print("heard", talk.recv(100))
except OSError as error:
    print("refused", type(error).__name__)
"#;

fn nobody_begins_a_flow_to_himself_in_the_name_of_a_host_outside() -> Result<()> {
    let bridged = Bridged::new()?;
    // Docker has packets between ports of a bridge go through the rules of IP, too.
    let handed_over = ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"];
    for is_handed_over in ["0", "1"] {
        let set = handed_over.map(|name| bridged.lan.router.sysctl(name, is_handed_over));
        if set.iter().any(Result::is_err) {
            eprintln!("not tried: the kernel hands no bridged packets over (br_netfilter)");
        }
        let exeat = bridged.attached()?;
        for outside in OUTSIDE {
            let server = UdpSocket::bind(outside)?;
            server.set_nonblocking(true)?;
            let host = server.local_addr()?.ip().to_string();
            for how in ["plainly", "forge", "plainly"] {
                let before = bridged.counter("spoofed")?;
                let told = python(&bridged.lan.clients[0], TALK, &[&host, BRIDGE, how, "1"])?;
                ensure!(told.starts_with("refused"), "{host} {how} {is_handed_over}: {told}");
                let heard = server.recv(&mut [0; 100]).map_err(|error| error.kind());
                ensure!(heard == Err(ErrorKind::WouldBlock), "{host} {how} {is_handed_over}: it got out");
                let spoofed = bridged.counter("spoofed")? - before;
                ensure!(
                    spoofed == u64::from(how == "forge"),
                    "{host} {how} {is_handed_over}: {spoofed} packets"
                );
            }
        }
        exeat.stop()?;
        bridged.lan.router.run(|| Ok(exeat_firewall::remove()?))?;
        // Without the firewall it gets out, so that the scenario shows something.
        let server = UdpSocket::bind(OUTSIDE[0])?;
        server.set_read_timeout(Some(Duration::from_secs(10)))?;
        let client = &bridged.lan.clients[0];
        let answering = std::thread::spawn(move || -> Result<()> {
            let (_, peer) = server.recv_from(&mut [0; 100])?;
            server.send_to(b"back", peer)?;
            Ok(())
        });
        let told = python(client, TALK, &["93.184.216.34", BRIDGE, "plainly", "10"])?;
        ensure!(told == "heard b'back'\n", "{told}");
        answering.join().map_err(|_| anyhow::anyhow!("the server has panicked"))??;
    }
    Ok(())
}

fn clients_of_a_bridge_reach_each_other() -> Result<()> {
    let bridged = Bridged::new()?;
    for is_handed_over in ["0", "1"] {
        for name in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
            // Where there is no such setting, they are not.
            let _ = bridged.lan.router.sysctl(name, is_handed_over);
        }
        let exeat = bridged.attached()?;
        let [one, two] = &bridged.lan.clients;
        for address in ["10.88.1.3:7000", "[fd88:1::3]:7000"] {
            let listener = two.run(|| Ok(std::net::TcpListener::bind(address)?))?;
            one.run(|| Ok(TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(10))?))?;
            listener.accept()?;
        }
        exeat.stop()?;
    }
    Ok(())
}

fn a_network_has_one_firewall() -> Result<()> {
    let bridged = Bridged::new()?;
    let first = bridged.attached()?;
    let before = bridged.lan.router.command("nft").args(["list", "ruleset"]).output()?.stdout;
    let folder = bridged.world.directory().join("second");
    fs::create_dir(&folder)?;
    let inside = format!("--net={}", bridged.lan.router.path());
    let args = ["firewall", "attach", "--interface", "wan", "--socket", "s", "example.com"];
    let mut second = Exeat::spawn_as(&folder, &["nsenter", &inside, "--"], &args, |_| ())?;
    let status = second.wait()?;
    let said = second.stderr();
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.contains("another process holds the firewall of this network"), "{said}");
    ensure!(said.contains("name all devices and control groups in one"), "{said}");
    let after = bridged.lan.router.command("nft").args(["list", "ruleset"]).output()?.stdout;
    ensure!(before == after, "{}", String::from_utf8_lossy(&after));
    first.stop()?;
    bridged.attached()?.stop()
}

fn whoever_names_no_bridge_is_told_which_there_are() -> Result<()> {
    let bridged = Bridged::new()?;
    bridged.lan.router.ip("link add br-0123456789ab type bridge\n")?;
    let inside = format!("--net={}", bridged.lan.router.path());
    let of_docker = "`docker network ls` shows which network has the ID that follows br-";
    for (flag, device, want) in [
        (
            "--bridge",
            "shop",
            &["the bridges here are ", "br0 (10.88.1.1, fd88:1::1)", "br-0123456789ab", of_docker][..],
        ),
        ("--interface", "lan9", &["the devices here are ", "br0 (10.88.1.1, fd88:1::1)", "lan1", "wan ("]),
    ] {
        let args = ["firewall", "attach", flag, device, "--socket", "s", "example.com"];
        let mut exeat =
            Exeat::spawn_as(bridged.world.directory(), &["nsenter", &inside, "--"], &args, |_| ())?;
        let (status, said) = (exeat.wait()?, exeat.stderr());
        ensure!(status.code() == Some(1), "{status}: {said}");
        ensure!(said.contains(&format!("there is no network device `{device}`")), "{said}");
        ensure!(want.iter().all(|want| said.contains(want)), "{flag} {device}: {said}");
        ensure!(!said.contains("lan1") || flag == "--interface", "no bridge: {said}");
    }
    Ok(())
}

/// Root's search path may lead through folders that others can write.
fn planted_programs_are_not_run() -> Result<()> {
    let bridged = Bridged::new()?;
    let home = bridged.world.directory();
    let bin = home.join("bin");
    fs::create_dir(&bin)?;
    for name in ["nft", "ip"] {
        let planted =
            format!("#!/bin/sh\necho {name} >> {}/planted\nexec /usr/sbin/{name} \"$@\"\n", home.display());
        fs::write(bin.join(name), planted)?;
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o777))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let inside = format!("--net={}", bridged.lan.router.path());
    let args = ["firewall", "attach", "--bridge", "br0", "--socket", "fw.sock", "example.com"];
    let mut exeat = Exeat::spawn_as(home, &["nsenter", &inside, "--"], &args, |command| {
        command.env("PATH", &path);
    })?;
    exeat.wait_until_ready()?;
    exeat.stop()?;
    let mut missing = Exeat::spawn_as(
        home,
        &["nsenter", &inside, "--"],
        &["firewall", "attach", "--bridge", "none", "a.example.com"],
        |command| {
            command.env("PATH", &path);
        },
    )?;
    missing.wait()?;
    // Both have been run by then.
    ensure!(missing.stderr().contains("the bridges here are br0"), "{}", missing.stderr());
    ensure!(!home.join("planted").exists(), "{:?} was run", fs::read_to_string(home.join("planted")));
    Ok(())
}

/// The host's address on the bridge answers no matter by which device it is asked: our listeners do not.
fn names_are_told_to_clients_alone() -> Result<()> {
    let bridged = Bridged::new()?;
    let exeat = bridged.attached()?;
    let (is_well, text) = {
        let ask = ["+tries=1", "+time=10", "+short", "@10.88.1.1", "example.com"];
        let output = bridged.lan.clients[0].command("dig").args(ask).output()?;
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    ensure!(is_well && text == "93.184.216.34\n", "a client: {text}");
    // From the internet, by the router's other device.
    for server in ["10.88.1.1:53", "[fd88:1::1]:53"] {
        let server: SocketAddr = server.parse()?;
        if server.is_ipv6() {
            std::process::Command::new("ip")
                .args(["route", "add", "fd88:1::/64", "via", "fd97::2"])
                .status()?;
        }
        let refused =
            TcpStream::connect_timeout(&server, Duration::from_secs(10)).map_err(|error| error.kind());
        ensure!(refused.err() == Some(ErrorKind::ConnectionRefused), "{server} by TCP");
        let asking = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        asking.set_read_timeout(Some(Duration::from_secs(10)))?;
        asking.connect(server)?;
        asking.send(b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01")?;
        let told = asking.recv(&mut [0; 512]).map_err(|error| error.kind());
        ensure!(told == Err(ErrorKind::ConnectionRefused), "{server} by UDP: {told:?}");
    }
    exeat.stop()
}

/// A DHCP server of the host hears its clients, who have no address to be known by.
fn clients_get_their_addresses() -> Result<()> {
    let bridged = Bridged::new()?;
    let exeat = bridged.attached()?;
    let server = bridged.lan.router.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67))?))?;
    server.set_read_timeout(Some(Duration::from_secs(10)))?;
    let send = |from: u16| {
        let script = format!(
            "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\ns.bind(('', {from}))\n\
             s.sendto(b'from {from}', ('255.255.255.255', 67))"
        );
        python(&bridged.lan.clients[0], &script, &[])
    };
    let refused = bridged.counter("refused")?;
    send(1068)?;
    ensure!(bridged.counter("refused")? == refused + 1, "what is not of DHCP");
    send(68)?;
    let mut heard = [0; 16];
    let (length, _) = server.recv_from(&mut heard)?;
    let heard = heard.get(..length).unwrap_or_default();
    ensure!(heard == b"from 68", "{heard:?}");
    exeat.stop()
}
