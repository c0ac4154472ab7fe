//! The cases of packets: what a client sends past every proxy, to whomever, in whatever protocol.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::firewalled::{ONE, Stage, TWO, config};
use exeat_tests::traffic::Traffic;

/// A case, and why it differs from the list, if it does.
pub(crate) struct Case {
    pub(crate) id: &'static str,
    pub(crate) differs: Option<&'static str>,
    act: fn(Stage) -> Result<()>,
}

impl Case {
    pub(crate) fn run(&self) -> Result<()> {
        (self.act)(Stage::start(ONE, TWO)?)
    }

    const fn differs(mut self, why: &'static str) -> Self {
        self.differs = Some(why);
        self
    }
}

const fn case(id: &'static str, act: fn(Stage) -> Result<()>) -> Case {
    Case { id, differs: None, act }
}

const EVIL: &str = "93.184.216.66:443";
const MAIL: &str = "93.184.216.35:25";

pub(crate) const CASES: &[Case] = &[
    case("TLS-20-packets", spoofed_names_reach_no_address)
        .differs("the connection is refused before it can carry a name; the redirected kind is in redirected.rs"),
    case("TLS-26", quic_is_refused).differs("Alt-Svc is inside TLS, and stays: what it leads to is refused"),
    case("DNS-13", every_name_server_is_ours),
    case("DNS-14", encrypted_names_are_refused)
        .differs("names over HTTPS on an allowed host are inside TLS, which is not opened"),
    case("DNS-15", nothing_is_asked_of_the_neighbourhood),
    case("DNS-19", what_was_opened_ends_with_its_rule)
        .differs("a time to live ends nothing before the lifetime of ten minutes at least, which is no test's"),
    case("DNS-20", the_answer_comes_after_the_kernel),
    case("ENF-01", programs_that_know_of_no_proxy_are_refused),
    case("ENF-02", no_variable_matters),
    case("ENF-03", both_families_are_closed),
    case("ENF-04", datagrams_are_refused),
    case("ENF-05", other_protocols_are_refused),
    case("ENF-06", the_host_and_its_metadata_are_refused),
    case("ENF-08", connecting_in_other_ways_is_refused)
        .differs("which call sends a packet makes no difference outside of its network namespace; io_uring is one of them"),
    case("ENF-09", several_paths_are_refused).differs("SCTP is among the protocols of ENF-05"),
    case("ENF-11", rules_of_a_clients_own_change_nothing),
    case("ENF-15", nothing_slips_through_a_start)
        .differs("a network that is there already is open until the rules are; the sandbox has none before its own"),
    case("ENF-17", what_was_open_before_is_cut),
    case("ENF-20", the_admin_api_is_out_of_reach),
];

/// Runs a Python program as the first client; what it printed.
fn python(stage: &Stage, script: &str) -> Result<String> {
    let done = stage.client(1, "/usr/bin/python3")?.args(["-c", script]).run()?;
    ensure!(done.code == 0, "{done:?}");
    Ok(done.out.trim_end().to_owned())
}

/// What a datagram to `to` comes to: the name of the error that the kernel is told at once.
fn datagram(stage: &Stage, to: (&str, u16)) -> Result<String> {
    let (host, port) = to;
    let family = if host.contains(':') { "AF_INET6" } else { "AF_INET" };
    python(
        stage,
        &format!(
            "import socket, errno\ns = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.settimeout(20)\n\
             s.connect(('{host}', {port})); s.send(b'out')\n\
             try: print(s.recv(99))\nexcept OSError as error: print(errno.errorcode.get(error.errno, error))"
        ),
    )
}

fn refused(stage: &mut Stage, to: &str, reason: &str, names: &[&str]) -> Result<()> {
    ensure!(stage.connect(1, to)?.is_none(), "{to} is open");
    stage.packet(1, to, reason, names)
}

fn spoofed_names_reach_no_address(mut stage: Stage) -> Result<()> {
    ensure!(stage.told(1, "example.com", "A")? == ["93.184.216.34"]);
    let curl = |stage: &Stage, address: &str| {
        let resolve = format!("example.com:443:{address}");
        let args = ["-sS", "-k", "--max-time", "20", "--resolve", &resolve, "https://example.com/"];
        stage.client(1, "curl")?.args(args).run()
    };
    let done = curl(&stage, "93.184.216.34")?;
    ensure!(done.code == 0, "{done:?}");
    let done = curl(&stage, "93.184.216.66")?;
    ensure!(done.code == 7 && stage.world.accepts() == 1, "{done:?}");
    stage.packet(1, EVIL, "ip_literal_not_allowed", &[])?;
    stage.end(&[EVIL])
}

fn quic_is_refused(mut stage: Stage) -> Result<()> {
    ensure!(stage.told(1, "example.com", "A")? == ["93.184.216.34"]);
    ensure!(stage.told(1, "example.com", "AAAA")? == ["2606:2800:220:1::34"]);
    for (host, target) in
        [("93.184.216.34", "93.184.216.34:443"), ("2606:2800:220:1::34", "[2606:2800:220:1::34]:443")]
    {
        let end = datagram(&stage, (host, 443))?;
        ensure!(["EHOSTUNREACH", "EACCES"].contains(&end.as_str()), "{host}: {end}");
        stage.packet(1, target, "port_not_allowed", &["example.com"])?;
        ensure!(stage.connect(1, target)?.is_some(), "it cannot fall back to TCP");
    }
    stage.end(&["93.184.216.34:443", "[2606:2800:220:1::34]:443"])
}

fn every_name_server_is_ours(mut stage: Stage) -> Result<()> {
    for server in ["@8.8.8.8", "@169.254.20.10", "@2001:4860:4860::8888"] {
        for transport in ["+notcp", "+tcp"] {
            let ask = |name: &str| {
                stage.client(1, "dig")?.args([server, transport, "+tries=1", "+time=20", name]).run()
            };
            let done = ask("example.com")?;
            ensure!(done.out.contains("93.184.216.34"), "{done:?}");
            let done = ask("evil.test")?;
            ensure!(done.out.contains("NXDOMAIN") && done.out.contains("(host_not_allowed)"), "{done:?}");
        }
    }
    stage.name(1, "evil.test", "host_not_allowed")?;
    stage.end(&[])
}

fn encrypted_names_are_refused(mut stage: Stage) -> Result<()> {
    refused(&mut stage, "1.1.1.1:853", "ip_literal_not_allowed", &[])?;
    let end = datagram(&stage, ("1.0.0.1", 853))?;
    ensure!(end == "EHOSTUNREACH", "{end}");
    stage.packet(1, "1.0.0.1:853", "ip_literal_not_allowed", &[])?;
    for host in ["dns.google", "cloudflare-dns.com"] {
        let args = ["-sS", "-x", "http://10.88.1.1:3128"];
        let done = stage.client(1, "curl")?.args(args).args([&format!("https://{host}/dns-query")]).run()?;
        ensure!(done.code == 56 && done.err.contains("403"), "{done:?}");
        refused(&mut stage, "8.8.8.8:443", "ip_literal_not_allowed", &[])?;
    }
    stage.end(&["1.1.1.1:853", "1.0.0.1:853", "8.8.8.8:443"])
}

/// The router itself listens where such questions go.
fn nothing_is_asked_of_the_neighbourhood(stage: Stage) -> Result<()> {
    let listeners = stage.lan.router.run(|| {
        let listeners: Vec<UdpSocket> = [5353, 5355, 137]
            .into_iter()
            .map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
            .collect::<Result<_, _>>()?;
        for listener in &listeners {
            for group in [[224, 0, 0, 251], [224, 0, 0, 252]] {
                listener.join_multicast_v4(&group.into(), &Ipv4Addr::new(10, 88, 1, 1))?;
            }
            listener.set_nonblocking(true)?;
        }
        Ok(listeners)
    })?;
    let before = stage.refused()?;
    let script = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n\
                  for to in ('224.0.0.251', 5353), ('224.0.0.252', 5355), ('10.88.1.255', 137): s.sendto(b'who', to)";
    python(&stage, script)?;
    // They are counted as they are refused: by then they are not in the sockets.
    ensure!(stage.refused()? == before + 3, "{} of 3", stage.refused()? - before);
    for listener in listeners {
        ensure!(listener.recv(&mut [0; 9]).is_err(), "{:?} was told", listener.local_addr());
    }
    stage.exeat.stop()
}

fn what_was_opened_ends_with_its_rule(mut stage: Stage) -> Result<()> {
    let traffic = stage.traffic(1, "mail.example.org", MAIL)?;
    let without = config(r#"allow = ["example.com"]"#, TWO);
    Exeat::write_config(stage.world.directory(), &without)?;
    let done = stage.ours(&["reload"])?;
    ensure!(done.code == 0, "{done:?}");
    traffic.cut()?;
    refused(&mut stage, MAIL, "ip_literal_not_allowed", &[])?;
    ensure!(stage.opened()?.is_empty(), "{:?}", stage.opened()?);
    stage.end(&[MAIL])
}

fn the_answer_comes_after_the_kernel(stage: Stage) -> Result<()> {
    for number in 0..250 {
        let address = format!("93.184.218.{number}");
        stage.world.dns.set(&format!("n{number}.example.org"), Entry::addresses(&[&address]));
    }
    let client = stage.lan.clients.first().context("a client")?;
    client.run(|| {
        use std::io::{Read as _, Write as _};
        let asker = exeat_tests::asker::Asker::at("10.88.1.2")?.of("10.88.1.1:53")?;
        for number in 0..250 {
            let told = asker.ask(&format!("n{number}.example.org"), hickory_proto::rr::RecordType::A)?;
            let address = *told.addresses().first().with_context(|| format!("an address: {told:?}"))?;
            let mut stream = std::net::TcpStream::connect((address, 443)).context("the first packet")?;
            // The world's server ends what is no TLS.
            stream.write_all(b"no TLS\n")?;
            let _ = stream.read(&mut [0; 9]);
        }
        Ok(())
    })?;
    ensure!(stage.refused()? == 0, "{} packets were refused", stage.refused()?);
    stage.end(&[])
}

fn programs_that_know_of_no_proxy_are_refused(mut stage: Stage) -> Result<()> {
    refused(&mut stage, "93.184.216.34:443", "ip_literal_not_allowed", &[])?;
    ensure!(stage.told(1, "example.com", "A")? == ["93.184.216.34"]);
    ensure!(stage.connect(1, "93.184.216.34:443")?.is_some(), "a name that is allowed opens it");
    stage.end(&["93.184.216.34:443"])
}

fn no_variable_matters(mut stage: Stage) -> Result<()> {
    let variables =
        [("NO_PROXY", "*"), ("no_proxy", "example.com"), ("https_proxy", "http://93.184.216.66:443")];
    for (variable, value) in variables {
        let curl = stage.client(1, "curl")?.env(variable, value);
        let done = curl.args(["-sS", "-k", "--max-time", "20", "https://93.184.216.66/"]).run()?;
        ensure!(done.code == 7, "{variable}: {done:?}");
    }
    let curl =
        stage.client(1, "curl")?.args(["-sS", "-k", "--noproxy", "*", "https://93.184.216.66/"]).run()?;
    ensure!(curl.code == 7, "{curl:?}");
    stage.packet(1, EVIL, "ip_literal_not_allowed", &[])?;
    ensure!(stage.world.accepts() == 0, "{:?}", stage.world.reached());
    stage.end(&[EVIL])
}

fn both_families_are_closed(mut stage: Stage) -> Result<()> {
    let six = "[2606:2800:220::66]:443";
    refused(&mut stage, six, "ip_literal_not_allowed", &[])?;
    refused(&mut stage, EVIL, "ip_literal_not_allowed", &[])?;
    let done = stage.ours(&["firewall", "doctor"])?;
    ensure!(done.code == 0, "{done:?}");
    // The last two are what it tries itself.
    stage.end(&[six, EVIL, "192.0.2.1:9", "[2001:db8::1]:9"])
}

fn datagrams_are_refused(mut stage: Stage) -> Result<()> {
    for port in [443, 51820, 3478, 123] {
        for (host, target) in [
            ("93.184.216.66", format!("93.184.216.66:{port}")),
            ("2606:2800:220::66", format!("[2606:2800:220::66]:{port}")),
        ] {
            let end = datagram(&stage, (host, port))?;
            ensure!(["EHOSTUNREACH", "EACCES"].contains(&end.as_str()), "{target}: {end}");
            stage.packet(1, &target, "ip_literal_not_allowed", &[])?;
        }
    }
    stage.exeat.stop()
}

/// The world has a socket for each protocol, which hears what arrives there.
fn other_protocols_are_refused(stage: Stage) -> Result<()> {
    // IPIP, ESP, GRE, SCTP, and one for experiments; and pings.
    let raw = "import socket\nfor number in 4, 50, 47, 132, 253, 1:\n \
               s = socket.socket(socket.AF_INET, socket.SOCK_RAW, number)\n \
               s.sendto(b'\\x08\\x00\\xf7\\xff' + bytes(28), ('93.184.216.34', 0))";
    let listen = |number: i32| -> Result<socket2::Socket> {
        let protocol = Some(socket2::Protocol::from(number));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::from(3), protocol)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let listeners = [4, 50, 47, 132, 253].map(listen).into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(stage.told(1, "example.com", "A")? == ["93.184.216.34"]);
    let before = stage.refused()?;
    python(&stage, raw)?;
    ensure!(stage.refused()? == before + 6, "{} of 6", stage.refused()? - before);
    for listener in &listeners {
        let heard = listener.recv(&mut [std::mem::MaybeUninit::uninit(); 9]);
        ensure!(heard.is_err(), "it has arrived: {heard:?}");
    }
    // The same from the router, whose packets are its own, does arrive.
    let sent = stage.lan.router.command("/usr/bin/python3").args(["-c", raw]).status()?;
    ensure!(sent.success());
    let began = std::time::Instant::now();
    for listener in &listeners {
        while listener.recv(&mut [std::mem::MaybeUninit::uninit(); 9]).is_err() {
            ensure!(began.elapsed() < exeat_tests::origin::PATIENCE, "the router's own does not arrive");
        }
    }
    stage.exeat.stop()
}

fn the_host_and_its_metadata_are_refused(mut stage: Stage) -> Result<()> {
    let _service = stage.lan.router.run(|| Ok(TcpListener::bind("10.88.1.1:9999")?))?;
    for target in
        ["169.254.169.254:80", "[fd00:ec2::254]:80", "10.88.1.1:9999", "[fd88:1::1]:9999", "10.97.0.2:22"]
    {
        refused(&mut stage, target, "ip_literal_not_allowed", &[])?;
    }
    ensure!(stage.connect(1, "10.88.1.1:3128")?.is_some(), "the proxy decides for itself");
    stage.exeat.stop()
}

fn connecting_in_other_ways_is_refused(mut stage: Stage) -> Result<()> {
    let listener = UdpSocket::bind("93.184.216.66:4433")?;
    listener.set_nonblocking(true)?;
    let fast = "import socket, errno\ns = socket.socket()\n\
                try: print(s.sendto(b'hello', socket.MSG_FASTOPEN, ('93.184.216.66', 443)), s.recv(9))\n\
                except OSError as error: print(errno.errorcode.get(error.errno, error))";
    let end = python(&stage, fast)?;
    ensure!(end == "ECONNREFUSED", "{end}");
    stage.packet(1, EVIL, "ip_literal_not_allowed", &[])?;
    let before = stage.refused()?;
    python(
        &stage,
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.sendto(b'a', ('93.184.216.66', 4433)); s.sendmsg([b'b'], [], 0, ('93.184.216.66', 4433))",
    )?;
    ensure!(stage.refused()? == before + 2, "{} of 2", stage.refused()? - before);
    ensure!(listener.recv(&mut [0; 9]).is_err() && stage.world.accepts() == 0, "it has arrived");
    stage.exeat.stop()
}

fn several_paths_are_refused(mut stage: Stage) -> Result<()> {
    let mptcp = |stage: &Stage, to: &str| {
        python(
            stage,
            &format!(
                "import socket, errno\ns = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.settimeout(20)\n\
                 try: print(s.connect(('{to}', 443)))\nexcept OSError as error: print(errno.errorcode.get(error.errno, error))"
            ),
        )
    };
    ensure!(stage.told(1, "example.com", "A")? == ["93.184.216.34"]);
    let end = mptcp(&stage, "93.184.216.34")?;
    ensure!(end == "None", "what a name has opened: {end}");
    let end = mptcp(&stage, "93.184.216.66")?;
    ensure!(end == "ECONNREFUSED", "{end}");
    stage.packet(1, EVIL, "ip_literal_not_allowed", &[])?;
    stage.end(&[EVIL])
}

fn rules_of_a_clients_own_change_nothing(mut stage: Stage) -> Result<()> {
    for command in [
        &["nft", "flush", "ruleset"][..],
        &["nft", "add", "table", "inet", "exeat"],
        &["nft", "delete", "table", "inet", "exeat"],
        &["ip", "route", "add", "93.184.216.0/24", "via", "10.88.1.1", "dev", "eth0"],
    ] {
        let [program, args @ ..] = command else { bail!("a command") };
        let done = stage.client(1, program)?.args(args).run()?;
        ensure!(done.code == 0, "it is its own network: {done:?}");
        refused(&mut stage, EVIL, "ip_literal_not_allowed", &[])?;
    }
    let within = "connect() { exec 3<>/dev/tcp/93.184.216.66/443; }; connect";
    let unshared =
        stage.client(1, "unshare")?.args(["--user", "--map-root-user", "--net", "bash", "-c", within]);
    ensure!(unshared.run()?.code != 0, "a network within leads out");
    ensure!(stage.world.accepts() == 0, "{:?}", stage.world.reached());
    stage.end(&[EVIL])
}

fn nothing_slips_through_a_start(mut stage: Stage) -> Result<()> {
    stage.exeat.signal(nix::sys::signal::Signal::SIGKILL)?;
    stage.exeat.wait()?;
    let done = stage.ours(&["firewall", "remove"])?;
    ensure!(done.code == 0, "{done:?}");
    ensure!(stage.connect(1, EVIL)?.is_some(), "nothing is in force");
    let (stop, is_ready, after) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let Stage { world, lan, exeat, .. } = &mut stage;
    let client = lan.clients.first().context("a client")?;
    std::thread::scope(|scope| -> Result<()> {
        let trying = scope.spawn(|| {
            client.run(|| {
                while !stop.load(Ordering::Relaxed) {
                    let was_ready = is_ready.load(Ordering::SeqCst);
                    let is_open = std::net::TcpStream::connect("93.184.216.66:443").is_ok();
                    if was_ready {
                        ensure!(!is_open, "a packet has passed");
                        after.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            })
        });
        let started = exeat_tests::firewalled::spawn(world, lan).and_then(|started| {
            *exeat = started;
            is_ready.store(true, Ordering::SeqCst);
            exeat.until("a look at what is open", |_| {
                Ok((after.load(Ordering::Relaxed) >= 50 || trying.is_finished()).then_some(()))
            })
        });
        stop.store(true, Ordering::Relaxed);
        trying.join().ok().context("who tries")??;
        started
    })?;
    stage.exeat.stop()
}

fn what_was_open_before_is_cut(mut stage: Stage) -> Result<()> {
    stage.exeat.signal(nix::sys::signal::Signal::SIGKILL)?;
    stage.exeat.wait()?;
    let done = stage.ours(&["firewall", "remove"])?;
    ensure!(done.code == 0, "{done:?}");
    let early = Traffic::begin(stage.connect(1, MAIL)?.context("nothing is in force")?)?;
    stage.again()?;
    early.cut()?;
    // The same flow is begun again by name.
    stage.traffic(1, "mail.example.org", MAIL)?.end()?;
    stage.exeat.stop()
}

fn the_admin_api_is_out_of_reach(mut stage: Stage) -> Result<()> {
    let outside = config(ONE, TWO).replace("127.0.0.1:9128", "10.88.1.1:9128");
    Exeat::write_config(stage.world.directory(), &outside)?;
    let done = stage.ours(&["check", "exeat.toml"])?;
    ensure!(done.code == 78 && done.err.contains("is not a loopback address"), "{done:?}");
    refused(&mut stage, "10.88.1.1:9128", "ip_literal_not_allowed", &[])?;
    stage
        .lan
        .router
        .run(|| Ok(std::net::TcpStream::connect("127.0.0.1:9128")?))
        .context("it does not listen")?;
    stage.end(&["10.88.1.1:9128"])
}
