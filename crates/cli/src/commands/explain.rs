//! `explain`: the decision for one client and target, stage by stage.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use exeat_api::{Everyone, add_revocation, parse_target};
use exeat_dns::Resolver;
use exeat_identity::{Principal, TOKEN_BYTES_MAX};
use exeat_model::{Host, Transport};
use exeat_policy::{EgressRequest, Explanation, Reason, Revision, explain};
use exeat_store::{Loaded, Options};
use http::Method;
use serde_json::{Value, json};

use crate::args::ExplainArgs;
use crate::control::Control;
use crate::output::{Exit, Unknown, print_report, to_stderr, to_stdout};

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
    // With a token the URL is all that is named.
    let target = args.target.as_ref().unwrap_or(&args.client);
    let (principal, is_revoked) = match &args.token {
        Some(path) => {
            let token = read_token(path)?;
            let principal = of_token(&token, &loaded)?;
            (principal, is_revoked(args, &token, target)?)
        }
        None => (named(args, everyone)?, false),
    };
    let workload = args.workload.as_deref();
    if let Some(name) = workload.filter(|name| loaded.workloads.get(name).is_none()) {
        let names = loaded.workloads.principals().map(|workload| &*workload.name);
        let meant = exeat_store::closest(name, names);
        return Err(Unknown::new(
            format!("there is no workload `{name}` in {}", args.config.display()),
            meant,
        )
        .into());
    }
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
            if is_revoked {
                add_revocation(&mut explanation);
            }
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
        None => {
            let what = format!("there is no client `{name}` in {}", args.config.display());
            Err(Unknown::new(what, everyone.closest(name)).into())
        }
    }
}

/// Whom a token is for.
fn of_token(token: &str, loaded: &Loaded) -> anyhow::Result<Arc<Principal>> {
    crate::keys::fetch(loaded)?;
    let principal = loaded.issuers.verify(&loaded.policy, token, SystemTime::now());
    principal.context("the token is not accepted")
}

/// Asks the running proxy, which alone knows, whether a token was revoked. Where none can be asked, that is said, unless it was named.
fn is_revoked(args: &ExplainArgs, token: &str, target: &str) -> anyhow::Result<bool> {
    let asked = Control::of(args.socket.as_deref(), &args.config)?.map(|control| {
        let question = json!({ "token": token, "target": target });
        control.get(Method::POST, "/v1/explain", Some(&question))
    });
    let unknown = match asked {
        Some(Ok(answer)) => {
            let reason = answer.get("reason").and_then(Value::as_str);
            return Ok(reason == Some(Reason::TokenRevoked.token()));
        }
        Some(Err(error)) if args.socket.is_some() => return Err(error),
        Some(Err(error)) => format!("{error:#}"),
        None => "no running proxy was asked; name one with --socket".to_owned(),
    };
    to_stderr(&format!("whether the token was revoked is not known: {unknown}\n"));
    Ok(false)
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
