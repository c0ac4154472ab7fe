//! What `ARCHITECTURE.md` promises, checked against the source and the dependency tree.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use exeat_policy::Reason;
use exeat_tests::source::{Source, product, root};
use serde_json::Value;

/// The crates, lowest first: each may use only those before it.
const LAYERS: [&str; 12] = [
    "exeat-model",
    "exeat-policy",
    "exeat-identity",
    "exeat-audit",
    "exeat-dns",
    "exeat-firewall",
    "exeat-proxy",
    "exeat-sandbox",
    "exeat-store",
    "exeat-api",
    "exeat-cli",
    "exeat",
];

/// A test of one promise.
type Check = fn() -> Result<()>;

/// Each promise that begins with "Invariant:", word for word, and the test of it below.
const INVARIANTS: [(&str, Check); 9] = [
    (
        "a crate depends only on crates above it in the list, and on nothing from a crate below.",
        crates_are_layered,
    ),
    (
        "`model` and `policy` have no async runtime, no socket, no serde and no clock in their dependency tree.",
        the_core_is_pure,
    ),
    (
        "`model` and `policy` do not read the time; where it matters it is an argument.",
        the_core_reads_no_time,
    ),
    (
        "only `crates/policy/src/permit.rs` makes a `Permit`, a `HopPermit` or an `InfraPermit`.",
        permits_have_one_maker,
    ),
    (
        "`decide` is called in the proxy's `serve.rs` and `flows.rs` and in the policy's `explain.rs`, `reach.rs` and `diff/probe.rs` only.",
        decisions_have_few_callers,
    ),
    ("only `crates/proxy/src/respond.rs` writes a refusal.", refusals_have_one_writer),
    (
        "only `crates/proxy/src/dial.rs` connects to where a client leads, from a `Permit` or an `InfraPermit`; the resolver's `crates/dns/src/own.rs` connects to its servers, and `crates/firewall/src/doctor/probe.rs` to what it tests; nothing connects by name.",
        one_file_dials,
    ),
    (
        "only `crates/sandbox/src/selftest/raw.rs` and `crates/sandbox/src/bare.rs` contain `unsafe` code.",
        two_files_are_unsafe,
    ),
    ("the table in `docs/reasons.md` equals `Reason::ALL`.", reasons_are_documented),
];

macro_rules! each_is_a_test {
    ($($name:ident),+) => {
        mod holds {
            $(#[test] fn $name() -> anyhow::Result<()> { super::$name() })+
        }
    };
}

each_is_a_test!(
    crates_are_layered,
    the_core_is_pure,
    the_core_reads_no_time,
    permits_have_one_maker,
    decisions_have_few_callers,
    refusals_have_one_writer,
    one_file_dials,
    two_files_are_unsafe,
    reasons_are_documented
);

#[test]
fn every_invariant_of_the_page_is_tested() -> Result<()> {
    let page = page()?;
    let promised: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("Invariant: ")).collect();
    let tested: Vec<&str> = INVARIANTS.iter().map(|(text, _)| *text).collect();
    ensure!(promised == tested, "the page promises {promised:#?}, tested are {tested:#?}");
    Ok(())
}

#[test]
fn the_path_of_a_request_exists() -> Result<()> {
    let page = page()?;
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| ") && line.contains("`crates/")).collect();
    ensure!(rows.len() >= 10, "the table of the request path has {} rows", rows.len());
    for row in rows {
        let cell = row.split('|').nth(2).context("a cell")?;
        let quoted: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        let (files, functions): (Vec<&str>, Vec<&str>) = quoted.iter().partition(|word| word.contains('/'));
        ensure!(!files.is_empty(), "no file in {row}");
        let mut text = String::new();
        for file in files {
            text += &fs::read_to_string(root()?.join(file))
                .with_context(|| format!("{file}, named in: {row}"))?;
        }
        for function in functions {
            ensure!(
                text.contains(&format!("fn {function}(")) || text.contains(&format!("fn {function}<")),
                "{row}"
            );
        }
    }
    Ok(())
}

#[test]
fn every_file_that_the_pages_name_exists() -> Result<()> {
    for name in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"] {
        let page = fs::read_to_string(root()?.join(name))?;
        let words = page
            .split(['`', '(', ')', ' ', '\n'])
            .filter(|w| w.starts_with("crates/") || w.starts_with("docs/"));
        for word in words.filter(|w| !w.contains(['*', '<', '…'])) {
            let path = word.split('#').next().unwrap_or_default().trim_end_matches(['.', ',', ';']);
            ensure!(root()?.join(path).exists(), "{name} names {path}, which does not exist");
        }
    }
    Ok(())
}

#[test]
fn every_link_of_a_page_leads_to_a_file_and_decisions_are_called_by_their_number() -> Result<()> {
    let listed = Command::new("git").args(["ls-files", "*.md"]).current_dir(root()?).output();
    let listed = String::from_utf8(listed.context("run git")?.stdout)?;
    ensure!(listed.lines().count() > 20, "the pages are {listed:?}");
    let mut wrong = Vec::new();
    for name in listed.lines() {
        let path = root()?.join(name);
        let text = fs::read_to_string(&path)?;
        let folder = path.parent().context("a folder")?;
        for (label, target) in links(&text) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !folder.join(file).exists() {
                wrong.push(format!("{name}: [{label}]({target}) leads nowhere"));
            }
            let number = file.rsplit('/').next().unwrap_or_default().get(..4);
            let is_number = |text: &str| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
            if is_number(label) && number.is_some_and(is_number) && number != Some(label) {
                wrong.push(format!("{name}: [{label}]({target}) is another decision"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The links of a page to files, outside of blocks of code: what is shown, and where they lead.
fn links(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let prose = text.split("```").step_by(2);
    let parts = prose.flat_map(|prose| prose.split("](").zip(prose.split("](").skip(1)));
    let links = parts.filter_map(|(before, after)| {
        let label = before.rsplit('[').next()?;
        Some((label, after.split(')').next()?))
    });
    links.filter(|(_, target)| !target.contains("://") && !target.starts_with("mailto:"))
}

#[test]
fn links_are_found() {
    let text =
        "[a](b.md) and\n[0001](adr/0001-x.md#y), [`c`](https://example.com/)\n```\n[d](e)\n```\n[f\ng](h)";
    let found: Vec<_> = links(text).collect();
    assert_eq!(found, [("a", "b.md"), ("0001", "adr/0001-x.md#y"), ("f\ng", "h")]);
}

fn page() -> Result<String> {
    fs::read_to_string(root()?.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")
}

/// The standard output of a cargo command at the root, without network.
fn cargo(args: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()?).output().context("run cargo")?;
    ensure!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The places of a pattern in all files but some.
fn places_outside(pattern: &str, allowed: &[&str]) -> Result<Vec<String>> {
    let elsewhere = |source: &Source| !allowed.contains(&source.path.as_str());
    Ok(product()?
        .iter()
        .filter(|source| elsewhere(source))
        .flat_map(|source| source.places(pattern))
        .collect())
}

/// Neither of the patterns stands outside the allowed files.
fn only_in(allowed: &[&str], patterns: &[&str]) -> Result<()> {
    for pattern in patterns {
        let places = places_outside(pattern, allowed)?;
        ensure!(places.is_empty(), "`{pattern}` may stand in {allowed:?} only:\n{}", places.join("\n"));
    }
    Ok(())
}

fn crates_are_layered() -> Result<()> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"])?)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let ours = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let mut seen = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().context("a name")?;
        if name == "exeat-tests" || name == "exeat-bench" {
            continue;
        }
        let height = ours(name).with_context(|| format!("{name} has no place in the layers"))?;
        seen.insert(height);
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let below = dependency["name"].as_str().and_then(ours);
            ensure!(below.is_none_or(|below| below < height), "{name} depends on {}", dependency["name"]);
        }
    }
    ensure!(seen.len() == LAYERS.len(), "missing crates: {seen:?}");
    Ok(())
}

fn the_core_is_pure() -> Result<()> {
    const IMPURE: [&str; 12] = [
        "tokio",
        "async-std",
        "smol",
        "futures",
        "hyper",
        "serde",
        "serde_core",
        "mio",
        "socket2",
        "jiff",
        "time",
        "chrono",
    ];
    for name in ["exeat-model", "exeat-policy"] {
        let tree =
            cargo(&["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--package", name])?;
        let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        ensure!(names.contains(&"exeat-model"), "cargo tree printed {tree}");
        for impure in IMPURE {
            ensure!(!names.contains(&impure), "{name} depends on {impure}:\n{tree}");
        }
    }
    let core = |source: &Source| source.path.starts_with("model/") || source.path.starts_with("policy/");
    for source in product()?.iter().filter(|s| core(s)) {
        for pattern in ["std::net::TcpStream", "std::net::UdpSocket", "std::fs", "std::process", "async fn"] {
            ensure!(source.places(pattern).is_empty(), "{:?}", source.places(pattern));
        }
    }
    Ok(())
}

fn the_core_reads_no_time() -> Result<()> {
    let core = |source: &Source| source.path.starts_with("model/") || source.path.starts_with("policy/");
    for source in product()?.iter().filter(|s| core(s)) {
        for pattern in ["SystemTime", "Instant::now"] {
            ensure!(source.places(pattern).is_empty(), "{:?}", source.places(pattern));
        }
    }
    Ok(())
}

fn permits_have_one_maker() -> Result<()> {
    // The names of all three end alike.
    let built = places_outside("Permit {", &["policy/src/permit.rs"])?;
    // A function that returns one has the same characters before its body.
    let built: Vec<&String> = built.iter().filter(|place| !place.contains("-> Permit {")).collect();
    ensure!(built.is_empty(), "{built:?}");
    Ok(())
}

fn decisions_have_few_callers() -> Result<()> {
    let allowed = [
        "policy/src/decide.rs",
        "policy/src/diff/probe.rs",
        "policy/src/explain.rs",
        "policy/src/reach.rs",
        "proxy/src/flows.rs",
        "proxy/src/serve.rs",
    ];
    only_in(&allowed, &["decide("])
}

fn refusals_have_one_writer() -> Result<()> {
    // The deny headers also have to be known where they are taken out of what an upstream sends.
    only_in(&["proxy/src/respond.rs", "proxy/src/headers.rs"], &["\"x-deny-reason\"", "\"proxy-status\""])?;
    // What the admin API says to operators is no refusal of a client's request.
    let statuses = ["proxy/src/respond.rs", "api/src/error.rs"];
    only_in(&statuses, &["StatusCode::FORBIDDEN", "StatusCode::BAD_REQUEST"])?;
    only_in(&["proxy/src/respond.rs"], &["HTTP/1.1 4", "HTTP/1.1 5"])?;
    // The dialler knows more exactly than its reason what a SOCKS client should be told.
    let socks = ["policy/src/reason.rs", "proxy/src/dial.rs", "proxy/src/respond.rs", "proxy/src/route.rs"];
    only_in(&socks, &["socks_reply("])
}

fn one_file_dials() -> Result<()> {
    // The doctor tries what a client would be refused; the resolver's own connections to servers are marked.
    only_in(&["proxy/src/dial.rs", "firewall/src/doctor/probe.rs"], &["TcpStream::connect"])?;
    only_in(&["proxy/src/dial.rs", "dns/src/own.rs"], &["TcpSocket::new"])?;
    // The others make sockets that listen, and some that ask the kernel.
    let makers = [
        "proxy/src/dial.rs",
        "proxy/src/kernel_question.rs",
        "exeat/src/listening.rs",
        "firewall/src/conntrack.rs",
        "firewall/src/kernel.rs",
        "firewall/src/namespace.rs",
        "firewall/src/neighbours.rs",
        "firewall/src/refused.rs",
        "sandbox/src/network.rs",
        "sandbox/src/packets.rs",
    ];
    only_in(&makers, &["Socket::new("])?;
    only_in(&[], &["to_socket_addrs", "ToSocketAddrs", "lookup_host", "getaddrinfo"])
}

fn two_files_are_unsafe() -> Result<()> {
    let calls = ["sandbox/src/selftest/raw.rs", "sandbox/src/bare.rs"];
    only_in(&calls, &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"])?;
    only_in(&calls, &["allow(unsafe_code", "expect(unsafe_code"])
}

fn reasons_are_documented() -> Result<()> {
    let page = fs::read_to_string(root()?.join("docs/reasons.md"))?;
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').skip(1).take(3).map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    let want: Vec<Vec<String>> = Reason::ALL
        .iter()
        .map(|r| vec![r.token().to_owned(), r.http_status().to_string(), r.proxy_status_error().to_owned()])
        .collect();
    ensure!(rows == want, "docs/reasons.md has {rows:#?}, the table is {want:#?}");
    Ok(())
}
