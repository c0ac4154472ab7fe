//! Listeners that speak TLS, to real clients and to hostile ones.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::{Client, Outcome, tool};
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
        curl_http2_through_tls,
        node_http2_through_tls,
        chromium_through_tls,
        requests_and_tunnels_share_a_tls_connection,
        a_replaced_certificate_is_served_without_a_signal,
        a_bad_certificate_changes_nothing_and_says_so,
        a_signal_reads_the_certificate_again,
        whoever_does_not_speak_tls_is_turned_away,
        a_handshake_that_stops_is_given_up,
        what_the_listener_has_is_served_in_http2,
        a_certificate_that_has_ended_is_told_of,
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

/// What `curl -v --proxy-http2` does, in the libcurl that the Python package brings: Debian's curl is older than that.
/// Prints what it says about CONNECT, the header that gives a reason, and the page.
const CURL_HTTP2: &str = r#"
import io, pycurl, sys
proxy, credentials, ca, url = sys.argv[1:]
HTTPS2 = 3  # CURLPROXY_HTTPS2
page, told = io.BytesIO(), ''
def tell(kind, text):
    global told
    told += text.decode() if kind == pycurl.INFOTYPE_TEXT else ''
c = pycurl.Curl()
for option, value in [(c.URL, url), (c.PROXY, proxy), (c.PROXYTYPE, HTTPS2), (c.PROXYUSERPWD, credentials),
                      (c.HTTPPROXYTUNNEL, 1), (c.PROXY_CAINFO, ca), (c.CAINFO, ca),
                      (c.WRITEFUNCTION, page.write), (c.VERBOSE, 1), (c.DEBUGFUNCTION, tell)]:
    c.setopt(option, value)
try:
    c.perform()
except pycurl.error as error:
    print(*error.args)
lines = [line.strip() for line in told.splitlines()]
print(*(line for line in lines if line.startswith(('CONNECT', 'x-deny-reason'))), page.getvalue().decode(), sep='\n')
"#;

fn curl_http2_through_tls() -> Result<()> {
    let mut stage = Stage::start("")?;
    let python = tool("venv/bin/python")?;
    let (ca, credentials) = (stage.world.ca_file(), format!("{CLIENT}:{PASSWORD}"));
    let proxy = format!("https://{TLS_PROXY}");
    let fetch = |url: &str| {
        let client = Client::new(&python, stage.world.directory());
        client.args(["-c", CURL_HTTP2, &proxy, &credentials, &ca, url]).run()
    };
    for url in ["http://example.com/", "https://example.com/"] {
        let done = fetch(url)?;
        let spoke_http2 = done.out.starts_with("CONNECT: 'h2' negotiated\nCONNECT Response Status 200\n");
        ensure!(spoke_http2 && done.out.ends_with("\nhello from example.com\n\n"), "{done:?}");
    }
    let accepts = stage.world.accepts();
    let refused = [("http://evil.test/", "evil.test:80"), ("https://evil.test/", "evil.test:443")];
    for (url, _) in refused {
        let done = fetch(url)?;
        let told = "CONNECT: 'h2' negotiated\nCONNECT Response Status 403\nx-deny-reason: host_not_allowed\n";
        ensure!(done.out.contains(told) && !done.out.contains("hello"), "{done:?}");
    }
    for (_, target) in refused {
        stage.exeat.audit_record("the refusal", |(_, r)| {
            r["method"] == "CONNECT" && r["target"] == target && r["reason"] == "host_not_allowed"
        })?;
    }
    ensure!(stage.world.accepts() == accepts, "a refused host was reached");
    stage.exeat.stop()
}

/// An HTTP/2 client that is not written in Rust: a request, a refusal, and TLS in a tunnel, over one connection.
const NODE_HTTP2: &str = r#"
const http2 = require('http2'), tls = require('tls'), fs = require('fs');
const [proxy, caFile, credentials] = process.argv.slice(1);
const ca = fs.readFileSync(caFile);
const session = http2.connect(proxy, { ca });
const auth = { 'proxy-authorization': 'Basic ' + Buffer.from(credentials).toString('base64') };
const ask = (headers) => new Promise((resolve, reject) => {
  const stream = session.request({ ...auth, ...headers });
  stream.on('error', reject);
  stream.on('response', (response) => {
    if (headers[':method'] === 'CONNECT' && response[':status'] === 200) return resolve([response, stream]);
    let body = '';
    stream.setEncoding('utf8').on('data', (data) => (body += data)).on('end', () => resolve([response, body]));
  });
});
const get = (authority) => ask({ ':method': 'GET', ':scheme': 'http', ':path': '/', ':authority': authority });
const connect = (authority) => ask({ ':method': 'CONNECT', ':authority': authority });
(async () => {
  let [response, body] = await get('example.com');
  console.log('GET', session.alpnProtocol, response[':status'], body.trim());
  [response] = await get('evil.test');
  console.log('GET', response[':status'], response['x-deny-reason']);
  [response] = await connect('evil.test:443');
  console.log('CONNECT', response[':status'], response['x-deny-reason']);
  const [, stream] = await connect('example.com:443');
  const socket = tls.connect({ socket: stream, servername: 'example.com', ca }, () => {
    socket.end('GET / HTTP/1.0\r\nHost: example.com\r\n\r\n');
  });
  let text = '';
  socket.setEncoding('utf8').on('data', (data) => (text += data)).on('end', () => {
    console.log('TUNNEL', text.split('\r\n\r\n')[1].trim());
    session.close();
  });
})().catch((error) => { console.error(error); process.exit(1); });
"#;

fn node_http2_through_tls() -> Result<()> {
    let stage = Stage::start("")?;
    let (proxy, ca) = (format!("https://{TLS_PROXY}"), stage.world.ca_file());
    let credentials = format!("{CLIENT}:{PASSWORD}");
    let done = Client::new("node", stage.world.directory())
        .args(["-e", NODE_HTTP2, &proxy, &ca, &credentials])
        .run()?;
    let want = "GET h2 200 hello from example.com\nGET 403 host_not_allowed\nCONNECT 403 host_not_allowed\n\
                TUNNEL hello from example.com\n";
    ensure!(done.code == 0 && done.out == want, "{done:?}");
    stage.exeat.stop()
}

fn chromium_through_tls() -> Result<()> {
    let world = World::new()?;
    let directory = world.directory();
    world.authority.issue(TLS_HOST, &directory.join("proxy.pem"), &directory.join("proxy.key"))?;
    // A browser without anybody in front of it cannot be asked for a password.
    let config = config("").replace("[audit]", &format!("anonymous = \"{CLIENT}\"\n[audit]"));
    let mut exeat = Exeat::serve(directory, &config, TLS_PROXY)?;
    trust(&world)?;
    for (url, want) in [
        ("http://example.com/", "hello from example.com"),
        ("https://example.com/", "hello from example.com"),
        ("http://evil.test/", "egress denied: host_not_allowed evil.test:80"),
    ] {
        let mut done = chromium(&world, url)?;
        if done.out.contains("ERR_NETWORK_CHANGED") {
            // The kernel told it of the namespace's new addresses while it loaded: a user reloads.
            done = chromium(&world, url)?;
        }
        ensure!(done.code == 0 && done.out.contains(want), "{url}: {done:?}");
    }
    let spoke_http2 = |via: &str| via.starts_with("2 ");
    ensure!(world.http.requests().iter().all(|request| request.head.field("via").is_some_and(spoke_http2)));
    let accepts = world.accepts();
    let refused = chromium(&world, "https://evil.test/")?;
    ensure!(!refused.out.contains("hello") && world.accepts() == accepts, "{refused:?}");
    exeat.audit_record("the refusal", |(_, r)| {
        r["method"] == "CONNECT" && r["name"] == "evil.test" && r["reason"] == "host_not_allowed"
    })?;
    exeat.stop()
}

/// Makes Chromium trust the world's authority.
fn trust(world: &World) -> Result<()> {
    let database = world.directory().join(".pki/nssdb");
    fs::create_dir_all(&database)?;
    let database = format!("sql:{}", database.display());
    let ca = world.ca_file();
    let made = [
        &["-N", "--empty-password", "-d", &database][..],
        &["-A", "-d", &database, "-n", "test", "-t", "C,,", "-i", &ca],
    ];
    made.into_iter().try_for_each(|args| {
        let done = Client::new("certutil", world.directory()).args(args).run()?;
        ensure!(done.code == 0, "{done:?}");
        Ok(())
    })
}

fn chromium(world: &World, url: &str) -> Result<Outcome> {
    let profile = format!("--user-data-dir={}", world.directory().join("profile").display());
    let proxy = format!("--proxy-server=https://{TLS_PROXY}");
    let args = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        &profile,
        &proxy,
        "--dump-dom",
        url,
    ];
    Client::new("chromium", world.directory()).args(args).run()
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
    let stage = Stage::start("")?;
    let mut plain = Raw::connect(TLS_PROXY.parse()?)?;
    plain.send(request("GET http://example.com/"))?;
    let answer = plain.rest()?;
    ensure!(answer.first() == Some(&21), "an alert and nothing else: {answer:?}");
    // TLS where none is spoken is a malformed request.
    let mut tls = Raw::connect(PROXY.parse()?)?;
    tls.send([22, 3, 1, 0, 5, 1, 0, 0, 1, 3])?;
    ensure!(tls.rest()?.starts_with(b"HTTP/1.1 400 "));
    ensure!(stage.world.accepts() == 0);
    ensure!(stage.curl(&["http://example.com/"])?.code == 0, "the rest goes on");
    stage.exeat.stop()
}

/// A handshake that does not go on ends when a request head would.
fn a_handshake_that_stops_is_given_up() -> Result<()> {
    let stage = Stage::start("[limits]\nhead_timeout = \"200ms\"\n")?;
    for begun in [&[][..], &[22, 3, 1]] {
        let mut silent = Raw::connect(TLS_PROXY.parse()?)?;
        silent.send(begun)?;
        silent.closed()?;
    }
    ensure!(stage.world.accepts() == 0);
    stage.exeat.stop()
}

fn what_the_listener_has_is_served_in_http2() -> Result<()> {
    let stage = Stage::start("")?;
    let name = "proxy.example.com:3129";
    for (authority, path, host, want) in [
        (TLS_PROXY, "/healthz", TLS_PROXY, "ok".to_owned()),
        (TLS_PROXY, "/proxy.pac", TLS_PROXY, format!("return \"HTTPS {TLS_PROXY}\";")),
        (name, "/proxy.pac", name, format!("return \"HTTPS {name}\";")),
        // A request for somebody else, who is not the one that the certificate was asked for.
        (name, "/healthz", "other.example.com:3129", "auth_required".to_owned()),
    ] {
        let (connect_to, host) = (format!("::{TLS_PROXY}"), format!("Host: {host}"));
        let url = format!("https://{authority}{path}");
        // The certificate is that of the address, and the name is what this is about.
        let args = [
            "-sS",
            "-k",
            "--http2",
            "-w",
            "\n%{http_version}",
            "--connect-to",
            &connect_to,
            "-H",
            &host,
            &url,
        ];
        let outcome = Client::new("curl", stage.world.directory()).args(args).run()?;
        ensure!(outcome.code == 0 && outcome.out.contains(&want), "{url} {host}: {outcome:?}");
        ensure!(outcome.out.ends_with("\n2"), "{url}: {outcome:?}");
    }
    ensure!(stage.world.accepts() == 0, "{:?}", stage.world.reached());
    stage.exeat.stop()
}

fn a_certificate_that_has_ended_is_told_of() -> Result<()> {
    let world = World::new()?;
    let (cert, key) = (world.directory().join("proxy.pem"), world.directory().join("proxy.key"));
    world.authority.issue_until(TLS_HOST, 2020, &cert, &key)?;
    let api = "127.0.0.1:9128";
    let config = config(&format!("[api]\nlisten = \"{api}\"\n"));
    let mut exeat = Exeat::serve(world.directory(), &config, TLS_PROXY)?;
    exeat.wait_for_output("this certificate has ended")?;
    exeat.wait_until_ready()?;
    let ends = || -> Result<f64> {
        let reply = Raw::connect(api.parse()?)?.ask("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let text = String::from_utf8(reply.body)?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("exeat_tls_certificate_not_after_timestamp_seconds "));
        Ok(line.context("the metric")?.parse()?)
    };
    // The last day of 2020, when it begins.
    ensure!(ends()?.to_bits() == 1_609_372_800_f64.to_bits(), "{}", ends()?);
    world.authority.issue(TLS_HOST, &cert, &key)?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("certificate replaced")?;
    ensure!(ends()? > 32_000_000_000.0, "{}", ends()?);
    exeat.stop()
}
