//! `explain`: the decision for one client and target, stage by stage.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use exeat_api::{Everyone, parse_target};
use exeat_dns::Resolver;
use exeat_identity::{Principal, TOKEN_BYTES_MAX};
use exeat_model::{Host, Transport};
use exeat_policy::{EgressRequest, Explanation, Revision, explain};
use exeat_store::{Loaded, Options};

use crate::args::ExplainArgs;
use crate::output::{Exit, print_report, to_stdout};

/// Explains one request.
pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let loaded = match exeat_store::load(&args.config, &Options::new(Revision(1))) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_report(&report);
            return Ok(Exit::Config);
        }
    };
    let everyone = Everyone {
        clients: &loaded.clients,
        workloads: &loaded.workloads,
        certificates: &loaded.certificates,
        anonymous: loaded.anonymous.as_ref(),
        is_central: loaded.settings.central,
    };
    let principal = match &args.token {
        Some(path) => of_token(path, &loaded)?,
        None => named(args, everyone)?,
    };
    let workload = args.workload.as_deref();
    if let Some(name) = workload.filter(|name| loaded.workloads.get(name).is_none()) {
        bail!("there is no workload `{name}` in {}", args.config.display());
    }
    // With a token the URL is all that is named.
    let target = args.target.as_ref().unwrap_or(&args.client);
    match parse_target(target) {
        Ok(asked) => {
            let request = EgressRequest {
                bound: &principal.bound,
                target: &asked.authority,
                transport: Transport::Tcp,
            };
            let addrs = addresses(args, &loaded, &request)?;
            let mut explanation = explain(&loaded.policy, &request, addrs.as_deref(), asked.opens);
            everyone.add_place(&mut explanation, &principal, workload);
            tell(&explanation)
        }
        Err(error) => tell(&error.explanation(&loaded.policy, &principal.bound, target)),
    }
}

fn tell(explanation: &Explanation) -> anyhow::Result<Exit> {
    to_stdout(explanation)?;
    Ok(if explanation.refused.is_some() { Exit::Refused } else { Exit::Success })
}

fn named(args: &ExplainArgs, everyone: Everyone<'_>) -> anyhow::Result<Arc<Principal>> {
    let name = &args.client;
    match everyone.get(name) {
        Some(principal) => Ok(principal),
        None if name == "anonymous" => bail!("the configuration admits no anonymous clients"),
        None => bail!("there is no client `{name}` in {}", args.config.display()),
    }
}

/// Whom a token is for. Whether it was revoked, only the running proxy knows.
fn of_token(path: &Path, loaded: &Loaded) -> anyhow::Result<Arc<Principal>> {
    let token = read_token(path)?;
    crate::keys::fetch(loaded)?;
    let principal = loaded.issuers.verify(&loaded.policy, &token, SystemTime::now());
    principal.context("the token is not accepted")
}

/// Reads the token of a file, or of standard input for `-`.
fn read_token(path: &Path) -> anyhow::Result<String> {
    let mut token = String::new();
    let most = TOKEN_BYTES_MAX as u64 + 1;
    let read = match path.as_os_str() == "-" {
        true => io::stdin().take(most).read_to_string(&mut token),
        false => File::open(path).and_then(|file| file.take(most).read_to_string(&mut token)),
    };
    read.with_context(|| format!("cannot read the token in `{}`", path.display()))?;
    match token.trim() {
        "" => bail!("no token in `{}`", path.display()),
        token => Ok(token.to_owned()),
    }
}

/// The addresses to judge: given, resolved if the name is allowed, or none.
fn addresses(
    args: &ExplainArgs,
    loaded: &Loaded,
    request: &EgressRequest<'_>,
) -> anyhow::Result<Option<Vec<IpAddr>>> {
    if !args.address.is_empty() {
        return Ok(Some(args.address.clone()));
    }
    let Host::Name(name) = &request.target.host else { return Ok(None) };
    if !args.resolve || !explain(&loaded.policy, request, None, None).lacks_addresses() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        Resolver::new(loaded.settings.resolver.clone())?.resolve(name).await.map_err(anyhow::Error::from)
    });
    let answer = answer.with_context(|| format!("cannot resolve `{name}`"))?;
    Ok(Some(answer.addrs.to_vec()))
}
