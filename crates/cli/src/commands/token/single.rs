//! Making keys and tokens, and looking at them: no proxy has to run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, bail};
use exeat_identity::{Claims, Flags, Order, SignatureAlgorithm, SigningKey, TokenFacts, TokenText};
use exeat_policy::Revision;
use exeat_store::Options;
use serde_json::{Value, json};

use crate::args::{IssueArgs, KeygenArgs};
use crate::input::read_token;
use crate::output::{Exit, print_report, to_stderr, to_stdout};

/// Makes a key. Its private half is in a file that only this user can read, before its public half is printed.
pub(super) fn keygen(args: &KeygenArgs) -> anyhow::Result<Exit> {
    let algorithm = if args.eddsa { SignatureAlgorithm::EdDsa } else { SignatureAlgorithm::Es256 };
    let key = SigningKey::generate(algorithm, args.kid.as_deref())?;
    let path = &args.key;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot make `{}`", path.display()))?;
    file.write_all(key.to_pem().as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    to_stderr(&format!("private key written to {}; its name is {}\n", path.display(), key.kid()));
    to_stdout(format_args!("{:#}\n", json!({ "keys": [key.to_jwk()] })))?;
    Ok(Exit::Success)
}

/// Issues a token. What no proxy would accept is not issued.
pub(super) fn issue(args: &IssueArgs) -> anyhow::Result<Exit> {
    let path = &args.key;
    let pem = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let key = SigningKey::parse(&pem, args.kid.as_deref()).with_context(|| path.display().to_string())?;
    let order = Order {
        issuer: args.issuer.clone(),
        audience: args.audience.clone(),
        container: args.container.clone(),
        organization: args.organization.clone(),
        subject: args.subject.clone(),
        hosts: args.policy.is_none().then(|| args.hosts.clone()),
        policy: args.policy.clone(),
        flags: Flags {
            enforce_container_binding: args.bind,
            use_egress_gateway: args.gateway,
            enforce_centralized_egress: args.central,
            is_hipaa_regulated: args.hipaa,
        },
        life: args.ttl,
    };
    let token = key.issue(&order, SystemTime::now())?;
    Claims::parse(&TokenText::parse(&token)?.payload).context("no proxy would accept this token")?;
    to_stdout(format_args!("{token}\n"))?;
    Ok(Exit::Success)
}

/// Prints what a token says.
pub(super) fn inspect() -> anyhow::Result<Exit> {
    let token = read_token()?;
    let text = TokenText::parse(&token)?;
    let claims: Value = serde_json::from_slice(&text.payload).context("the claims are not JSON")?;
    to_stderr("not verified\n");
    to_stdout(format_args!("{:#}\n", json!({ "alg": text.alg, "kid": text.kid, "claims": claims })))?;
    Ok(Exit::Success)
}

/// Says whether a configuration accepts a token.
pub(super) fn verify(config: &Path) -> anyhow::Result<Exit> {
    let token = read_token()?;
    let loaded = match exeat_store::load(config, &Options::new(Revision(1))) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_report(&report);
            return Ok(Exit::Config);
        }
    };
    crate::keys::fetch(&loaded)?;
    let now = SystemTime::now();
    let principal = match loaded.issuers.examine(&loaded.policy, &token, now) {
        Ok(principal) => principal,
        Err(failed) => {
            let lines: Vec<String> = failed.iter().map(ToString::to_string).collect();
            bail!("it is not accepted: {}", lines.join("; and "));
        }
    };
    let facts = principal.token.as_deref();
    let left = |facts: &TokenFacts| facts.ends.duration_since(now).unwrap_or_default().as_secs();
    let left = facts.map(left).unwrap_or_default();
    to_stdout(format_args!("accepted: {}, for another {left} s\n", principal.name))?;
    if let Some(container) = facts.filter(|facts| facts.is_bound()).map(|facts| facts.container.as_deref()) {
        let place = container.unwrap_or("none, since it names none");
        to_stdout(format_args!("  where it comes from a workload with the container id {place}\n"))?;
    }
    if facts.is_some_and(TokenFacts::is_for_central_nodes) {
        let here = if loaded.settings.central { "this is one" } else { "this is none" };
        to_stdout(format_args!("  on central nodes; {here}\n"))?;
    }
    Ok(Exit::Success)
}
