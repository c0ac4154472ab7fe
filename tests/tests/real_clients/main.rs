//! Unmodified clients through the real binary, each allowed once and refused once.
//!
//! Every host of these scenarios resolves and answers, the refused one too: a client that went round the proxy would succeed, and
//! the name server and the origins would have seen it.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

mod shells;
mod through;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use exeat_tests::client::tool;
use exeat_tests::content::{GIT_HOST, NODE_REGISTRY, PACKAGE, PYTHON_INDEX, REPOSITORY, REPOSITORY_TEXT};
use exeat_tests::{harness, scenarios};

use shells::{bash_completes, fish_completes, zsh_completes};
use through::{BY_ADDRESS, PLAIN, REFUSED, SOCKET, SOCKET_ADDRESS, SOCKET_PORT, Through};

fn main() -> ExitCode {
    harness::main(scenarios![
        curl_http,
        curl_https,
        curl_without_and_with_wrong_credentials,
        curl_socks5_hostname,
        curl_socks5,
        curl_socks5_without_and_with_wrong_credentials,
        git_clone_socks5,
        wget_http,
        wget_https,
        git_clone_https,
        git_clone_http,
        pip_download,
        npm_install,
        python_urllib,
        python_requests,
        node_connect,
        node_undici,
        node_websocket,
        a_pac_file_leads_to_the_proxy,
        bash_completes,
        fish_completes,
        zsh_completes,
    ])
}

fn curl_http() -> Result<()> {
    let mut t = Through::start()?;
    let done = t.client("curl").args(["-sS", &format!("http://{PLAIN}/")]).run()?;
    ensure!(done.code == 0 && done.out == format!("hello from {PLAIN}\n"), "{done:?}");
    t.passed(PLAIN, "request")?;
    let done = t.client("curl").args(["-sS", "-f", &format!("http://{REFUSED}/")]).run()?;
    ensure!(done.code == 22 && done.err.contains("The requested URL returned error: 403"), "{done:?}");
    t.refused(80)?;
    let done = t.client("curl").args(["-sS", "-i", &format!("http://{REFUSED}/")]).run()?;
    let status = format!("HTTP/1.1 403 egress denied: host_not_allowed {REFUSED}:80\r\n");
    ensure!(done.code == 0 && done.out.starts_with(&status), "{done:?}");
    // The body tells what to add, in the words of the configuration.
    ensure!(
        done.out.contains(&format!("\\\"{REFUSED}:80\\\"")) && done.out.contains("host_not_allowed"),
        "{done:?}"
    );
    t.end()
}

fn curl_https() -> Result<()> {
    let mut t = Through::start()?;
    let ca = t.world.ca_file();
    let done = t.client("curl").args(["-sS", "--cacert", &ca, &format!("https://{PLAIN}/")]).run()?;
    ensure!(done.code == 0 && done.out == format!("hello from {PLAIN}\n"), "{done:?}");
    t.passed(PLAIN, "decision")?;
    let done = t.client("curl").args(["-sS", "--cacert", &ca, &format!("https://{REFUSED}/")]).run()?;
    ensure!(done.code == 56 && done.err.contains("CONNECT tunnel failed, response 403"), "{done:?}");
    t.refused(443)?;
    t.end()
}

fn curl_without_and_with_wrong_credentials() -> Result<()> {
    let t = Through::start()?;
    let url = format!("http://{PLAIN}/");
    let none = format!("http://{}", exeat_tests::namespace::PROXY);
    let done = t.client("curl").args(["-sS", "-i", "-x", &none, &url]).run()?;
    ensure!(
        done.code == 0 && done.out.starts_with("HTTP/1.1 407 proxy authentication required: auth_required"),
        "{done:?}"
    );
    ensure!(done.out.to_ascii_lowercase().contains("proxy-authenticate: basic realm="), "{done:?}");
    let done = t.client("curl").args(["-sS", "-i", "-x", &none, "-U", "app:wrong", &url]).run()?;
    ensure!(
        done.code == 0 && done.out.starts_with("HTTP/1.1 407 proxy authentication required: auth_invalid"),
        "{done:?}"
    );
    ensure!(t.world.accepts() == 0 && t.world.dns.queries().is_empty());
    t.end()
}

/// What curl returns when a SOCKS proxy refuses (`CURLE_PROXY`).
const SOCKS_FAILED: i32 = 97;

/// The proxy gets the name and resolves it, or does not.
fn curl_socks5_hostname() -> Result<()> {
    let mut t = Through::start()?;
    let ca = t.world.ca_file();
    let proxy = exeat_tests::namespace::PROXY;
    let user = format!("{}:{}", exeat_tests::fixture::CLIENT, exeat_tests::fixture::PASSWORD);
    for (scheme, port) in [("http", 80), ("https", 443)] {
        let fetch = |t: &Through, host: &str| {
            let options = ["-sS", "--cacert", &ca, "-U", &user, "--socks5-hostname", proxy];
            t.client("curl").args(options).args([&format!("{scheme}://{host}/")]).run()
        };
        let done = fetch(&t, PLAIN)?;
        ensure!(done.code == 0 && done.out == format!("hello from {PLAIN}\n"), "{done:?}");
        t.passed(PLAIN, "decision")?;
        let done = fetch(&t, REFUSED)?;
        let said = format!("Can't complete SOCKS5 connection to {REFUSED}. (2)");
        ensure!(done.code == SOCKS_FAILED && done.err.contains(&said), "{done:?}");
        t.refused_over_socks("host_not_allowed", &format!("{REFUSED}:{port}"))?;
        ensure!(!t.world.dns.names().contains(&REFUSED.to_owned()), "{:?}", t.world.dns.names());
    }
    t.end()
}

/// The client resolves the name and asks for its address, which is refused unless it is listed as such.
fn curl_socks5() -> Result<()> {
    let mut t = Through::start()?;
    let proxy = exeat_tests::namespace::PROXY;
    let user = format!("{}:{}", exeat_tests::fixture::CLIENT, exeat_tests::fixture::PASSWORD);
    let fetch = |t: &Through, host: &str| {
        let options = ["-sS", "-4", "-U", &user, "--socks5", proxy];
        t.client("curl").args(options).args([&format!("http://{host}/")]).run()
    };
    let done = fetch(&t, BY_ADDRESS)?;
    ensure!(done.code == 0 && done.out == format!("hello from {BY_ADDRESS}\n"), "{done:?}");
    t.passed_by_address()?;
    let done = fetch(&t, PLAIN)?;
    ensure!(done.code == SOCKS_FAILED && done.err.contains("(2)"), "{done:?}");
    t.refused_over_socks("ip_literal_not_allowed", "93.184.216.34:80")?;
    t.end()
}

fn curl_socks5_without_and_with_wrong_credentials() -> Result<()> {
    let mut t = Through::start()?;
    let options = ["-sS", "--socks5-hostname", exeat_tests::namespace::PROXY];
    let url = format!("http://{PLAIN}/");
    let done = t.client("curl").args(options).args([&url]).run()?;
    ensure!(done.code == SOCKS_FAILED, "{done:?}");
    t.refused_over_socks("auth_required", "")?;
    let done = t.client("curl").args(options).args(["-U", "app:wrong", &url]).run()?;
    ensure!(done.code == SOCKS_FAILED, "{done:?}");
    t.refused_over_socks("auth_invalid", "")?;
    ensure!(t.world.accepts() == 0 && t.world.dns.queries().is_empty());
    t.end()
}

fn git_clone_socks5() -> Result<()> {
    let mut t = Through::start()?;
    let clone = |t: &Through, host: &str, into: &str| {
        t.socks_client("git", "socks5h")
            .env("GIT_SSL_CAINFO", t.world.ca_file())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .args(["clone", "--quiet", &format!("https://{host}{REPOSITORY}"), into])
            .run()
    };
    let done = clone(&t, GIT_HOST, "cloned")?;
    ensure!(done.code == 0, "{done:?}");
    t.passed(GIT_HOST, "decision")?;
    let done = clone(&t, REFUSED, "not-cloned")?;
    ensure!(done.code == 128 && !t.world.directory().join("not-cloned").exists(), "{done:?}");
    t.refused_over_socks("host_not_allowed", &format!("{REFUSED}:443"))?;
    t.end()
}

fn wget_http() -> Result<()> {
    let mut t = Through::start()?;
    let done = t.client("wget").args(["-nv", "-O", "-", &format!("http://{PLAIN}/")]).run()?;
    ensure!(done.code == 0 && done.out == format!("hello from {PLAIN}\n"), "{done:?}");
    t.passed(PLAIN, "request")?;
    let done = t.client("wget").args(["-nv", "-O", "-", &format!("http://{REFUSED}/")]).run()?;
    ensure!(
        done.code == 8 && done.err.contains(&format!("403: egress denied: host_not_allowed {REFUSED}:80")),
        "{done:?}"
    );
    t.refused(80)?;
    t.end()
}

fn wget_https() -> Result<()> {
    let mut t = Through::start()?;
    let ca = format!("--ca-certificate={}", t.world.ca_file());
    let done = t.client("wget").args(["-nv", &ca, "-O", "-", &format!("https://{PLAIN}/")]).run()?;
    ensure!(done.code == 0 && done.out == format!("hello from {PLAIN}\n"), "{done:?}");
    t.passed(PLAIN, "decision")?;
    let done =
        t.client("wget").args(["-nv", "-t", "1", &ca, "-O", "-", &format!("https://{REFUSED}/")]).run()?;
    let said = format!("Proxy tunneling failed: egress denied: host_not_allowed {REFUSED}:443");
    ensure!(done.code == 4 && done.err.contains(&said), "{done:?}");
    t.refused(443)?;
    t.end()
}

/// Clones the one repository and returns what git printed when it clones from the refused host.
fn clones(scheme: &str, t: &mut Through) -> Result<String> {
    let git = |t: &Through, host: &str, into: &str| {
        t.client("git")
            .env("GIT_SSL_CAINFO", t.world.ca_file())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .args(["clone", "--quiet", &format!("{scheme}://{host}{REPOSITORY}"), into])
            .run()
    };
    let done = git(t, GIT_HOST, "cloned")?;
    ensure!(done.code == 0, "{done:?}");
    let text = std::fs::read_to_string(t.world.directory().join("cloned/README"))?;
    ensure!(text == REPOSITORY_TEXT, "the clone has {text:?}");
    t.passed(GIT_HOST, if scheme == "http" { "request" } else { "decision" })?;
    let done = git(t, REFUSED, "not-cloned")?;
    ensure!(done.code == 128 && !t.world.directory().join("not-cloned").exists(), "{done:?}");
    Ok(done.err)
}

fn git_clone_https() -> Result<()> {
    let mut t = Through::start()?;
    let said = clones("https", &mut t)?;
    ensure!(said.contains("CONNECT tunnel failed, response 403"), "{said}");
    t.refused(443)?;
    t.end()
}

fn git_clone_http() -> Result<()> {
    let mut t = Through::start()?;
    let said = clones("http", &mut t)?;
    ensure!(said.contains("The requested URL returned error: 403"), "{said}");
    t.refused(80)?;
    t.end()
}

fn pip_download() -> Result<()> {
    let mut t = Through::start()?;
    let pip = tool("venv/bin/pip")?;
    let ca = t.world.ca_file();
    let index = |host: &str| format!("https://{host}/simple/");
    let download = |t: &Through, host: &str| {
        let options =
            ["download", "--no-cache-dir", "--disable-pip-version-check", "--retries", "1", "--cert", &ca];
        t.client(&pip)
            .env("PIP_CONFIG_FILE", "/dev/null")
            .args(options)
            .args(["--index-url", &index(host), PACKAGE])
            .run()
    };
    let done = download(&t, PYTHON_INDEX)?;
    ensure!(done.code == 0 && done.out.contains("Successfully downloaded tiny-package"), "{done:?}");
    ensure!(t.world.directory().join("tiny_package-1.0.0-py3-none-any.whl").exists());
    t.passed(PYTHON_INDEX, "decision")?;
    let done = download(&t, REFUSED)?;
    ensure!(
        done.code == 1 && done.err.contains("No matching distribution found for tiny-package"),
        "{done:?}"
    );
    let said = format!("Tunnel connection failed: 403 egress denied: host_not_allowed {REFUSED}:443");
    ensure!(done.err.contains(&said) || done.out.contains(&said), "{done:?}");
    t.refused(443)?;
    t.end()
}

fn npm_install() -> Result<()> {
    let mut t = Through::start()?;
    let ca = format!("--cafile={}", t.world.ca_file());
    let install = |t: &Through, host: &str, into: &str| {
        let options =
            ["--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=0", "--prefix", into, &ca];
        let registry = format!("--registry=https://{host}/");
        t.client("npm").args(["install", PACKAGE, &registry]).args(options).run()
    };
    let done = install(&t, NODE_REGISTRY, "installed")?;
    ensure!(done.code == 0, "{done:?}");
    ensure!(t.world.directory().join("installed/node_modules/tiny-package/index.js").exists());
    t.passed(NODE_REGISTRY, "decision")?;
    let done = install(&t, REFUSED, "not-installed")?;
    let said = format!("403 egress denied: host_not_allowed {REFUSED}:443");
    ensure!(done.code == 1 && done.err.contains(&said), "{done:?}");
    t.refused(443)?;
    t.end()
}

/// Runs a Python program that fetches the URL in its first argument.
fn python(t: &Through, program: &str, url: &str) -> Result<exeat_tests::client::Outcome> {
    t.client(tool("venv/bin/python")?)
        .env("SSL_CERT_FILE", t.world.ca_file())
        .env("REQUESTS_CA_BUNDLE", t.world.ca_file())
        .args(["-c", program, url])
        .run()
}

fn python_urllib() -> Result<()> {
    let mut t = Through::start()?;
    let program = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode(), end='')";
    for (scheme, port, event, said) in [
        ("http", 80, "request", "HTTP Error 403: egress denied: host_not_allowed"),
        ("https", 443, "decision", "Tunnel connection failed: 403 egress denied: host_not_allowed"),
    ] {
        let done = python(&t, program, &format!("{scheme}://{PLAIN}/"))?;
        ensure!(done.code == 0 && done.out == format!("hello from {PLAIN}\n"), "{done:?}");
        t.passed(PLAIN, event)?;
        let done = python(&t, program, &format!("{scheme}://{REFUSED}/"))?;
        ensure!(done.code == 1 && done.err.contains(&format!("{said} {REFUSED}:{port}")), "{done:?}");
        t.refused(port)?;
    }
    t.end()
}

fn python_requests() -> Result<()> {
    let mut t = Through::start()?;
    let program =
        "import sys, requests as r; a = r.get(sys.argv[1]); print(a.text, end=''); a.raise_for_status()";
    for (scheme, port, event, said) in [
        ("http", 80, "request", "403 Client Error: egress denied: host_not_allowed"),
        ("https", 443, "decision", "Tunnel connection failed: 403 egress denied: host_not_allowed"),
    ] {
        let done = python(&t, program, &format!("{scheme}://{PLAIN}/"))?;
        ensure!(done.code == 0 && done.out == format!("hello from {PLAIN}\n"), "{done:?}");
        t.passed(PLAIN, event)?;
        let done = python(&t, program, &format!("{scheme}://{REFUSED}/"))?;
        ensure!(done.code == 1 && done.err.contains(&format!("{said} {REFUSED}:{port}")), "{done:?}");
        t.refused(port)?;
    }
    t.end()
}

/// Node's own modules: CONNECT by hand, as its documentation shows, and TLS over the socket.
fn node_connect() -> Result<()> {
    let program = r"
        const http = require('http'), https = require('https');
        const proxy = new URL(process.env.https_proxy), host = process.argv[1];
        const credentials = Buffer.from(proxy.username + ':' + proxy.password).toString('base64');
        http.request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: host + ':443',
                       headers: { 'Proxy-Authorization': 'Basic ' + credentials } })
          .on('connect', (reply, socket) => {
            if (reply.statusCode !== 200) {
              console.error(reply.statusCode, reply.statusMessage); process.exit(1);
            }
            https.get({ host, socket, agent: false }, r => r.pipe(process.stdout));
          }).end();
    ";
    let mut t = Through::start()?;
    let fetch = |t: &Through, host: &str| {
        t.client("node").env("NODE_EXTRA_CA_CERTS", t.world.ca_file()).args(["-e", program, host]).run()
    };
    let done = fetch(&t, PLAIN)?;
    ensure!(done.code == 0 && done.out == format!("hello from {PLAIN}\n"), "{done:?}");
    t.passed(PLAIN, "decision")?;
    let done = fetch(&t, REFUSED)?;
    ensure!(
        done.code == 1 && done.err.contains(&format!("403 egress denied: host_not_allowed {REFUSED}:443")),
        "{done:?}"
    );
    t.refused(443)?;
    t.end()
}

/// `fetch` with undici's agent that reads the proxy variables.
fn node_undici() -> Result<()> {
    let program = r"
        const { fetch, EnvHttpProxyAgent } = require('undici');
        fetch(process.argv[1], { dispatcher: new EnvHttpProxyAgent() })
          .then(reply => reply.text()).then(text => process.stdout.write(text))
          .catch(error => { console.error(error.message, '|', error.cause && error.cause.message); process.exitCode = 1; });
    ";
    let mut t = Through::start()?;
    let modules = tool("node/node_modules")?;
    let fetch = |t: &Through, host: &str| {
        t.client("node")
            .env("NODE_PATH", &modules)
            .env("NODE_EXTRA_CA_CERTS", t.world.ca_file())
            .args(["-e", program, &format!("https://{host}/")])
            .run()
    };
    let done = fetch(&t, PLAIN)?;
    ensure!(done.code == 0 && done.out == format!("hello from {PLAIN}\n"), "{done:?}");
    t.passed(PLAIN, "decision")?;
    let done = fetch(&t, REFUSED)?;
    // It keeps the reason to itself, so the audit log is where to look.
    ensure!(done.code == 1 && done.err.contains("fetch failed"), "{done:?}");
    t.refused(443)?;
    t.end()
}

/// `ws` with `http-proxy-agent` asks in absolute-form, as no browser does.
fn node_websocket() -> Result<()> {
    let server = r"
        const { WebSocketServer } = require('ws');
        const server = new WebSocketServer({ host: process.argv[1], port: process.argv[2] }, () => console.log('ready'));
        server.on('connection', socket => {
          socket.send('welcome');
          socket.on('message', text => socket.send('you said ' + text));
        });
    ";
    let client = r"
        const WebSocket = require('ws');
        const { HttpProxyAgent } = require('http-proxy-agent');
        const socket = new WebSocket(process.argv[1], { agent: new HttpProxyAgent(process.env.http_proxy) });
        socket.on('open', () => socket.send('hello'));
        socket.on('message', text => { console.log(String(text)); if (text != 'welcome') socket.close(); });
        socket.on('error', error => { console.error(error.message); process.exitCode = 1; });
    ";
    let mut t = Through::start()?;
    let modules = tool("node/node_modules")?;
    let mut serving = Command::new("node")
        .env("NODE_PATH", &modules)
        .args(["-e", server, SOCKET_ADDRESS, &SOCKET_PORT.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(serving.stdout.take().context("the server's output")?).read_line(&mut line)?;
    ensure!(line == "ready\n", "{line}");
    let talk =
        |t: &Through, url: &str| t.client("node").env("NODE_PATH", &modules).args(["-e", client, url]).run();
    let done = talk(&t, &format!("ws://{SOCKET}:{SOCKET_PORT}/chat"));
    let refused = talk(&t, &format!("ws://{REFUSED}/chat"));
    serving.kill()?;
    serving.wait()?;
    let (done, refused) = (done?, refused?);
    ensure!(done.code == 0 && done.out == "welcome\nyou said hello\n", "{done:?}");
    t.passed_a_websocket()?;
    ensure!(refused.code == 1 && refused.err.contains("Unexpected server response: 403"), "{refused:?}");
    t.refused(80)?;
    t.end()
}

/// curl fetches the file without credentials, and Node runs it as a browser would.
fn a_pac_file_leads_to_the_proxy() -> Result<()> {
    let t = Through::start()?;
    let here = exeat_tests::namespace::PROXY;
    let file =
        t.client("curl").args(["-sS", "-f", "--noproxy", "*", &format!("http://{here}/proxy.pac")]).run()?;
    ensure!(file.code == 0, "{file:?}");
    let program =
        "console.log(eval(process.argv[1] + '; FindProxyForURL(\"https://example.com/\", \"example.com\")'))";
    let done = t.client("node").args(["-e", program, &file.out]).run()?;
    ensure!(done.code == 0 && done.out == format!("PROXY {here}\n"), "{done:?}");
    let other =
        t.client("curl").args(["-sS", "-f", "--noproxy", "*", &format!("http://{here}/other")]).run()?;
    ensure!(other.code == 22 && other.err.contains("400"), "{other:?}");
    t.end()
}
