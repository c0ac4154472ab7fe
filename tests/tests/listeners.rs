//! Listeners that speak TLS, to real clients and to hostile ones.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::{Client, Outcome};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{CLIENT, PASSWORD, configuration, request};
use exeat_tests::http::Reply;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::world::World;
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;

/// Where the listener with TLS is; the plain one stands beside it.
const TLS_PROXY: &str = "10.99.0.1:3129";
const TLS_HOST: &str = "10.99.0.1";

fn main() -> ExitCode {
    harness::main(scenarios![
        curl_through_tls,
        requests_and_tunnels_share_a_tls_connection,
        a_replaced_certificate_is_served_without_a_signal,
        a_bad_certificate_changes_nothing_and_says_so,
        a_signal_reads_the_certificate_again,
        whoever_does_not_speak_tls_is_turned_away,
    ])
}

struct Stage {
    world: World,
    exeat: Exeat,
}

impl Stage {
    fn start(extra: &str) -> Result<Self> {
        let world = World::new()?;
        let (cert, key) = (world.directory().join("proxy.pem"), world.directory().join("proxy.key"));
        world.authority.issue(TLS_HOST, &cert, &key)?;
        let exeat = Exeat::serve(world.directory(), &config(extra), TLS_PROXY)?;
        Ok(Self { world, exeat })
    }

    fn cert(&self) -> PathBuf {
        self.world.directory().join("proxy.pem")
    }

    fn key(&self) -> PathBuf {
        self.world.directory().join("proxy.key")
    }

    /// curl, told of the proxy with TLS.
    fn curl(&self, args: &[&str]) -> Result<Outcome> {
        let proxy = format!("https://{CLIENT}:{PASSWORD}@{TLS_PROXY}");
        let ca = self.world.ca_file();
        let fixed = ["-sS", "--proxy-cacert", &ca, "--cacert", &ca, "-x", &proxy];
        Client::new("curl", self.world.directory()).args(fixed.iter().chain(args)).run()
    }

    /// The certificate that a new handshake shows, in DER.
    fn shown(&self) -> Result<Vec<u8>> {
        let session = self.world.authority.connect(TLS_HOST, Raw::connect(TLS_PROXY.parse()?)?)?;
        let chain = session.conn.peer_certificates().context("a certificate")?;
        Ok(chain.first().context("a certificate")?.to_vec())
    }
}

fn config(extra: &str) -> String {
    let tls = format!(
        "listen = [\"{PROXY}\", {{ address = \"{TLS_PROXY}\", tls = {{ cert = \"proxy.pem\", key = \"proxy.key\" }} }}]"
    );
    configuration("allow = [\"example.com\"]", extra).replace(&format!("listen = [\"{PROXY}\"]"), &tls)
}

fn curl_through_tls() -> Result<()> {
    let mut stage = Stage::start("")?;
    for url in ["http://example.com/", "https://example.com/"] {
        let done = stage.curl(&[url])?;
        ensure!(done.code == 0 && done.out == "hello from example.com\n", "{done:?}");
    }
    let accepts = stage.world.accepts();
    let refused = stage.curl(&["https://evil.test/"])?;
    ensure!(refused.code == 56 && refused.err.contains("response 403"), "{refused:?}");
    let refused = stage.curl(&["-f", "http://evil.test/"])?;
    ensure!(refused.code == 22 && refused.err.contains("403"), "{refused:?}");
    ensure!(stage.world.accepts() == accepts, "a refused host was reached");
    // Without the authority curl does not even send its credentials.
    let proxy = format!("https://{CLIENT}:{PASSWORD}@{TLS_PROXY}");
    let done = Client::new("curl", stage.world.directory())
        .args(["-sS", "-x", &proxy, "http://example.com/"])
        .run()?;
    ensure!(done.code == 60, "{done:?}");
    stage.exeat.wait_for_output("10.99.0.1:3129 (TLS)")?;
    stage.exeat.stop()
}

fn requests_and_tunnels_share_a_tls_connection() -> Result<()> {
    let stage = Stage::start("")?;
    let raw = Raw::connect(TLS_PROXY.parse()?)?;
    let mut session = std::io::BufReader::new(stage.world.authority.connect(TLS_HOST, raw)?);
    let mut ask = |line: &str| -> Result<Reply> {
        use std::io::Write;
        session.get_mut().write_all(request(line).as_bytes())?;
        session.get_mut().flush()?;
        Ok(Reply::read(&mut session, line.split(' ').next().unwrap_or_default())?)
    };
    ensure!(ask("GET http://example.com/")?.status == 200);
    ensure!(ask("GET http://evil.test/")?.status == 403);
    ensure!(ask("GET http://example.com/again")?.status == 200);
    let reply = ask("CONNECT example.com:443")?;
    ensure!(reply.status == 200, "{reply:?}");
    // TLS in TLS, over the same connection.
    let mut inner = stage.world.authority.connect("example.com", session.into_inner())?;
    std::io::Write::write_all(
        &mut inner,
        b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n",
    )?;
    let reply = Reply::read(&mut std::io::BufReader::new(inner), "GET")?;
    ensure!(reply.status == 200 && reply.body == b"hello from example.com\n", "{reply:?}");
    stage.exeat.stop()
}

fn a_replaced_certificate_is_served_without_a_signal() -> Result<()> {
    let mut stage = Stage::start("")?;
    let before = stage.shown()?;
    stage.world.authority.issue(TLS_HOST, &stage.cert(), &stage.key())?;
    stage.exeat.wait_for_output("certificate replaced")?;
    ensure!(stage.shown()? != before);
    ensure!(stage.curl(&["http://example.com/"])?.code == 0);
    stage.exeat.stop()
}

fn a_bad_certificate_changes_nothing_and_says_so() -> Result<()> {
    let mut stage = Stage::start("")?;
    let before = stage.shown()?;
    fs::write(stage.cert(), "not a certificate")?;
    stage.exeat.wait_for_output("the new certificate cannot be used; the old one stays")?;
    ensure!(stage.shown()? == before);
    stage.exeat.signal(Signal::SIGHUP)?;
    stage.exeat.wait_for_output("reload refused")?;
    ensure!(stage.shown()? == before);
    ensure!(stage.curl(&["http://example.com/"])?.code == 0);
    stage.exeat.stop()
}

fn a_signal_reads_the_certificate_again() -> Result<()> {
    let mut stage = Stage::start("")?;
    let before = stage.shown()?;
    stage.world.authority.issue(TLS_HOST, &stage.cert(), &stage.key())?;
    stage.exeat.signal(Signal::SIGHUP)?;
    stage.exeat.wait_for_output("reloaded")?;
    ensure!(stage.shown()? != before);
    stage.exeat.stop()
}

fn whoever_does_not_speak_tls_is_turned_away() -> Result<()> {
    let stage = Stage::start("[limits]\nhead_timeout = \"200ms\"\n")?;
    let mut plain = Raw::connect(TLS_PROXY.parse()?)?;
    plain.send(request("GET http://example.com/"))?;
    let answer = plain.rest()?;
    ensure!(answer.first() == Some(&21), "an alert and nothing else: {answer:?}");
    // A handshake that does not go on ends when a request head would.
    let mut silent = Raw::connect(TLS_PROXY.parse()?)?;
    silent.send([22, 3, 1])?;
    silent.closed()?;
    // TLS where none is spoken is a malformed request.
    let mut tls = Raw::connect(PROXY.parse()?)?;
    tls.send([22, 3, 1, 0, 5, 1, 0, 0, 1, 3])?;
    ensure!(tls.rest()?.starts_with(b"HTTP/1.1 400 "));
    ensure!(stage.world.accepts() == 0);
    ensure!(stage.curl(&["http://example.com/"])?.code == 0, "the rest goes on");
    stage.exeat.stop()
}
