//! Every way out that is tried fails; beside each is what is allowed and works.

use std::path::Path;

use anyhow::{Result, ensure};
use exeat_tests::client::Outcome;
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = by_each_starter![
        names_are_reached_by_the_proxy_if_they_are_allowed,
        names_are_reached_without_a_proxy_if_they_are_allowed,
        questions_are_answered_for_names_that_are_allowed,
        addresses_are_reached_without_a_proxy_if_they_are_allowed,
        the_hosts_own_services_are_not_reached,
        packets_that_are_no_connection_reach_nobody,
        kernel_doors_are_shut,
    ];
    for starter in Starter::all().iter().copied().filter(|starter| *starter != Starter::Tester) {
        // The kernel lets nobody who is called root in a user namespace make another one within without privileges.
        let name = format!("namespaces_within_lead_nowhere_{}", starter.word());
        scenarios.push(Scenario::new(name, move || namespaces_within_lead_nowhere(starter)));
    }
    scenarios
}

/// The system's Python, whoever runs the tests.
const PYTHON: &str = "/usr/bin/python3";

/// What the scripts below have in common: `tried` prints how each attempt ended.
const TRIED: &str = "
import ctypes, errno, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def syscall(*args):
    result = libc.syscall(*args)
    if result < 0: raise OSError(ctypes.get_errno(), '')
    return result
def tried(name, what):
    try: print(name, 'did', what())
    except OSError as error: print(name, errno.errorcode.get(error.errno, type(error).__name__))
";

fn python(starter: Starter, home: &Path, flags: &[&str], script: &str) -> Result<Outcome> {
    let outcome = starter.run(home, flags, &[PYTHON, "-c", &format!("{TRIED}{script}")])?;
    ensure!(outcome.code == 0, "{outcome:?}");
    Ok(outcome)
}

/// Each line is a name and one of the ways in which its attempt may have ended.
fn ensure_ends(outcome: &Outcome, wanted: &[(&str, &[&str])]) -> Result<()> {
    let lines: Vec<(&str, &str)> =
        outcome.out.lines().map(|line| line.split_once(' ').unwrap_or((line, ""))).collect();
    ensure!(lines.len() == wanted.len(), "{outcome:?}");
    for ((name, end), (wanted, ends)) in lines.iter().zip(wanted) {
        ensure!(name == wanted && ends.contains(end), "{name} ended with {end}: {outcome:?}");
    }
    Ok(())
}

fn names_are_reached_by_the_proxy_if_they_are_allowed(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let flags = ["--allow", "example.com"];
    let allowed = starter.run(home, &flags, &["curl", "-sS", "http://example.com/"])?;
    ensure!(allowed.code == 0 && allowed.out == "hello from example.com\n", "{starter:?}: {allowed:?}");
    let secure =
        starter.run(home, &flags, &["curl", "-sS", "--cacert", &world.ca_file(), "https://example.com/"])?;
    ensure!(secure.code == 0, "{starter:?}: {secure:?}");
    ensure!(world.accepts() == 2, "{:?}", world.reached());
    let asked = world.dns.queries().len();
    let refused = starter.run(home, &flags, &["curl", "-sS", "-D", "-", "http://evil.test/"])?;
    ensure!(refused.out.contains("x-deny-reason: host_not_allowed"), "{starter:?}: {refused:?}");
    // Neither by the proxy nor by the command.
    let direct = starter.run(home, &flags, &["curl", "-sS", "--noproxy", "*", "http://evil.test/"])?;
    ensure!(direct.code == 6, "{starter:?}: {direct:?}");
    ensure!(world.dns.queries().len() == asked, "{:?}", world.dns.queries());
    ensure!(world.accepts() == 2, "{:?}", world.reached());
    Ok(())
}

fn names_are_reached_without_a_proxy_if_they_are_allowed(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let flags = ["--allow", "example.com:25,80,443", "--allow", "*.example.org"];
    let (ca, url) = (world.ca_file(), |name: &str| format!("http://{name}/"));
    let curl = |args: &[&str]| {
        let command = ["env", "-i", "curl", "-sSf", "--max-time", "10"];
        starter.run(home, &flags, &[&command, args].concat())
    };
    for (count, args) in [
        (1, &["http://example.com/"][..]),
        (2, &["-6", "http://example.com/"]),
        (3, &["--cacert", &ca, "https://example.com/"]),
        (4, &["http://deep.below.example.org/"]),
    ] {
        let allowed = curl(args)?;
        ensure!(allowed.code == 0 && allowed.out.starts_with("hello from"), "{starter:?}: {allowed:?}");
        ensure!(world.accepts() == count, "{:?}", world.reached());
    }
    let asked = world.dns.names();
    for name in ["evil.test", "example.org", "secret.of-mine.evil.test"] {
        let refused = curl(&[&url(name)])?;
        ensure!(refused.code == 6, "{starter:?}: {name}: {refused:?}");
    }
    ensure!(world.dns.names() == asked, "{asked:?}, and then {:?}", world.dns.names());
    let script = "
import urllib.request
def talk(target):
    with socket.create_connection(target, 10) as s: return s.recv(9)
def read(url, **headers):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, headers=headers), timeout=10).read()
address = socket.getaddrinfo('example.com', 80, socket.AF_INET)[0][4][0]
tried('virtual', lambda: address.startswith('198.18.'))
tried('urllib', lambda: read('http://example.com/'))
tried('greeting', lambda: talk(('example.com', 25)))
tried('port', lambda: talk(('example.com', 22)))
tried('other', lambda: talk((address[:-1] + '9', 25)))
tried('real', lambda: talk(('93.184.216.34', 25)))
";
    let told = python(starter, home, &flags, script)?;
    ensure_ends(
        &told,
        &[
            ("virtual", &["did True"]),
            ("urllib", &["did b'hello from example.com\\n'"]),
            ("greeting", &["did b'220 at yo'"]),
            ("port", &["ECONNRESET"]),
            ("other", &["ECONNRESET"]),
            ("real", &["ECONNRESET"]),
        ],
    )?;
    ensure!(world.accepts() == 6, "{:?}", world.reached());
    Ok(())
}

fn questions_are_answered_for_names_that_are_allowed(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let script = "
def question(name, kind):
    labels = b''.join(bytes([len(label)]) + label.encode() for label in name.split('.'))
    return bytes.fromhex('123401000001000000000000') + labels + struct.pack('>BHH', 0, kind, 1)
def udp(server, query):
    with socket.socket(socket.AF_INET6 if ':' in server else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.connect((server, 53))
        s.send(query)
        return s.recv(4096)
def tcp(server, query):
    with socket.create_connection((server, 53), 10) as s:
        s.sendall(struct.pack('>H', len(query)) + query)
        return s.recv(4096)[2:]
for server in '127.0.0.1', '::1':
    for ask in udp, tcp:
        for name, kind in ('example.com', 1), ('example.com', 28), ('example.com', 16), ('evil.test', 1):
            answer = ask(server, question(name, kind))
            print(ask.__name__, name, kind, 'code', answer[3] & 15, 'answers', answer[7])
";
    let told = python(starter, world.directory(), &["--allow", "example.com"], script)?;
    for ask in ["udp", "tcp"] {
        for (line, of_both) in [
            ("example.com 1 code 0 answers 1", 2),
            ("example.com 28 code 0 answers 1", 2),
            ("example.com 16 code 5 answers 0", 2),
            ("evil.test 1 code 3 answers 0", 2),
        ] {
            let line = format!("{ask} {line}");
            let count = told.out.lines().filter(|told| **told == line).count();
            ensure!(count == of_both, "{line}: {told:?}");
        }
    }
    ensure!(world.dns.names().iter().all(|name| name == "example.com"), "{:?}", world.dns.queries());
    Ok(())
}

fn addresses_are_reached_without_a_proxy_if_they_are_allowed(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let audit = home.join("audit.jsonl");
    let audit_flag = audit.to_string_lossy();
    let flags =
        ["--allow", "93.184.216.34:25,80", "--allow", "[2606:2800:220:1::34]:80", "--audit", &audit_flag];
    let curl = |target: &str| {
        let url = format!("http://{target}/");
        starter.run(home, &flags, &["env", "-i", "curl", "-sSf", "--max-time", "10", &url])
    };
    for (count, target) in [(1, "93.184.216.34"), (2, "[2606:2800:220:1::34]")] {
        let allowed = curl(target)?;
        ensure!(allowed.code == 0 && allowed.out.contains("hello from"), "{starter:?}: {allowed:?}");
        ensure!(world.accepts() == count, "{:?}", world.reached());
    }
    for target in [
        "93.184.216.35:80",
        "[2606:2800:220:1::35]:80",
        "169.254.169.254:80",
        "10.99.0.53:53",
        "127.0.0.1:3129",
    ] {
        // Told in an answer, or by a reset if the machine is too busy for its request to come with the connection.
        let refused = curl(target)?;
        ensure!(refused.code != 0, "{starter:?}, {target}: {refused:?}");
        let records = std::fs::read_to_string(&audit)?;
        let record = records.lines().find(|line| line.contains(&format!("\"target\":\"{target}\"")));
        ensure!(record.is_some_and(|record| record.contains("\"verdict\":\"deny\"")), "{target}: {records}");
    }
    let script = "
def talk(target):
    with socket.create_connection(target, 10) as s: return s.recv(9)
tried('allowed', lambda: talk(('93.184.216.34', 25)))
tried('port', lambda: talk(('93.184.216.34', 22)))
tried('address', lambda: talk(('93.184.216.35', 25)))
";
    let told = python(starter, home, &flags, script)?;
    ensure_ends(
        &told,
        &[("allowed", &["did b'220 at yo'"]), ("port", &["ECONNRESET"]), ("address", &["ECONNRESET"])],
    )?;
    ensure!(world.accepts() == 3, "{:?}", world.reached());
    ensure!(world.dns.queries().is_empty(), "{:?}", world.dns.queries());
    Ok(())
}

fn the_hosts_own_services_are_not_reached(starter: Starter) -> Result<()> {
    let world = World::new()?;
    // The origins listen at every address of the host, loopback included.
    let script = "
tried('loopback', lambda: socket.create_connection(('127.0.0.1', 80), 10))
tried('loopback6', lambda: socket.create_connection(('::1', 80), 10))
own = socket.create_server(('127.0.0.1', 8000))
tried('own', lambda: socket.create_connection(('127.0.0.1', 8000), 10) and 'reach')
";
    let told = python(starter, world.directory(), &["--allow", "@any-public"], script)?;
    ensure_ends(
        &told,
        &[("loopback", &["ECONNREFUSED"]), ("loopback6", &["ECONNREFUSED"]), ("own", &["did reach"])],
    )?;
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    Ok(())
}

fn packets_that_are_no_connection_reach_nobody(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let script = "
query = bytes.fromhex('123401000001000000000000') + b'\\x07example\\x03com\\0\\0\\1\\0\\1'
def send(family, target, data):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.connect(target)
        s.send(data)
        return s.recv(99)
tried('dns', lambda: send(socket.AF_INET, ('10.99.0.53', 53), query))
tried('udp', lambda: send(socket.AF_INET, ('93.184.216.34', 443), b'x'))
tried('udp6', lambda: send(socket.AF_INET6, ('2606:2800:220:1::34', 443), b'x'))
tried('icmp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
tried('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
tried('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
tried('vsock', lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(('127.0.0.1', 0))
here.connect(here.getsockname())
tried('own', lambda: here.send(b'x') and here.recv(9))
";
    // Even where everything may be reached by TCP.
    let told = python(starter, world.directory(), &["--allow", "@any-public", "--json"], script)?;
    let at_once: &[&str] = &["EPERM"];
    ensure_ends(
        &told,
        &[
            ("dns", at_once),
            ("udp", at_once),
            ("udp6", at_once),
            ("icmp", &["EACCES", "EPERM"]),
            ("raw", &["EPERM"]),
            ("packet", &["EPERM"]),
            ("vsock", &["EPERM"]),
            ("own", &["did b'x'"]),
        ],
    )?;
    ensure!(world.dns.queries().is_empty(), "{:?}", world.dns.queries());
    // What is refused by the kernel itself is counted, and what stays inside is not.
    ensure!(told.err.contains("\"packets\":{\"other\":0,\"udp\":3}"), "{starter:?}: {told:?}");
    let quic = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try: s.sendto(b'x', ('93.184.216.34', 443))
except PermissionError: print('refused')";
    let refused = starter
        .command(world.directory(), &["--allow", "@any-public", "--fail-on-deny"], &[PYTHON, "-c", quic])?
        .output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.status.code() == Some(1)
            && refused.stdout == b"refused\n"
            && said.contains("UDP  1 datagram"),
        "{starter:?}: {refused:?}"
    );
    Ok(())
}

fn kernel_doors_are_shut(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let outside = home.join("network");
    std::fs::write(&outside, "")?;
    // As `ip netns` keeps a network namespace: the command can open it, and that must be all.
    nix::mount::mount(
        Some("/proc/self/ns/net"),
        &outside,
        None::<&str>,
        nix::mount::MsFlags::MS_BIND,
        None::<&str>,
    )?;
    let script = format!(
        "
CLONE_NEWNET, PTRACE_ATTACH, MACHINE = 0x40000000, 16, os.uname().machine
other = {{'x86_64': (101, 250, 248, 321, 304), 'aarch64': (117, 219, 217, 280, 265)}}[MACHINE]
ptrace, keyctl, add_key, bpf, open_by_handle = other
network = os.open('network', os.O_RDONLY)
tried('enter', lambda: syscall(268 if MACHINE == 'aarch64' else 308, network, CLONE_NEWNET))
tried('init', lambda: syscall(ptrace, PTRACE_ATTACH, 1, 0, 0))
tried('outsider', lambda: syscall(ptrace, PTRACE_ATTACH, {pid}, 0, 0))
tried('io_uring', lambda: syscall(425, 8, ctypes.create_string_buffer(256)))
tried('bpf', lambda: syscall(bpf, 0, ctypes.create_string_buffer(256), 128))
tried('keyctl', lambda: syscall(keyctl, 0, -3, 0))
tried('add_key', lambda: syscall(add_key, b'user', b'x', b'y', 1, -3))
tried('handle', lambda: syscall(open_by_handle, 0, ctypes.create_string_buffer(256), 0))
import fcntl, termios
tried('words', lambda: fcntl.ioctl(os.openpty()[1], termios.TIOCSTI, b'x'))
tried('words64', lambda: syscall(29 if MACHINE == 'aarch64' else 16, 1, ctypes.c_ulong(1 << 32 | termios.TIOCSTI), b'x'))
tried('processes', lambda: max(int(name) for name in os.listdir('/proc') if name.isdigit()) < 9)
tried('root', lambda: os.listdir('/proc/1/root'))
",
        pid = std::process::id()
    );
    let told = python(starter, home, &[], &script)?;
    ensure_ends(
        &told,
        &[
            ("enter", &["EPERM"]),
            ("init", &["EPERM"]),
            ("outsider", &["ESRCH", "EPERM"]),
            ("io_uring", &["EPERM"]),
            ("bpf", &["EPERM"]),
            ("keyctl", &["EPERM"]),
            ("add_key", &["EPERM"]),
            ("handle", &["EPERM"]),
            ("words", &["EPERM"]),
            ("words64", &["EPERM"]),
            ("processes", &["did True"]),
            ("root", &["EACCES"]),
        ],
    )?;
    Ok(())
}

fn namespaces_within_lead_nowhere(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let within = |flags: &[&str], script: &str| {
        starter.run(
            home,
            &["--allow", "93.184.216.34"],
            &[&["unshare"], flags, &["sh", "-c", script]].concat(),
        )
    };
    // They can be made, as browsers do.
    let made = within(&["-Ur", "--mount"], "mount -t tmpfs none /mnt && id -u")?;
    ensure!(made.code == 0 && made.out == "0\n", "{starter:?}: {made:?}");
    for (flags, script) in [
        // Whoever is root there is not root of the network, nor of the mounts.
        (&["-Ur"][..], "nft flush ruleset"),
        (&["-Ur"], "ip link set lo down"),
        (&["-Ur"], "ip address add 10.0.0.1/8 dev lo"),
        (&["-Ur", "--mount"], "umount /run"),
        (&["-Ur", "--mount"], "umount /proc"),
        (&["-Ur", "--mount"], "mount --bind / /mnt"),
        // Control groups that begin with the one that this process is in, too: its user may own it.
        (&["-UrC", "--mount"], "true"),
        (&["-Ur", "--mount"], "unshare -C true"),
        // A network of its own has no way out at all.
        (&["-Urn"], "curl -sS --noproxy '*' --max-time 10 http://93.184.216.34/"),
    ] {
        let refused = within(flags, script)?;
        ensure!(refused.code != 0, "{starter:?}: {script}: {refused:?}");
    }
    ensure!(world.accepts() == 0, "{:?}", world.reached());
    let still = within(&["-Ur"], "curl -sS --noproxy '*' http://93.184.216.34/")?;
    ensure!(still.code == 0 && world.accepts() == 1, "{starter:?}: {still:?}");
    Ok(())
}
