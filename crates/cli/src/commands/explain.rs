//! `explain`: the decision for one client and target, stage by stage.

use std::net::IpAddr;

use anyhow::{Context, bail};
use exeat_dns::Resolver;
use exeat_model::{Authority, Host, Port};
use exeat_policy::{EgressRequest, Revision, explain};
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
    let target = parse_target(&args.target)?;
    let principal = match loaded.clients.principal(&args.client) {
        Some(principal) => principal,
        None if args.client == "anonymous" => {
            loaded.anonymous.clone().context("the configuration admits no anonymous clients")?
        }
        None => bail!("there is no client `{}` in {}", args.client, args.config.display()),
    };
    let request = EgressRequest { bound: &principal.bound, target: &target };
    let addrs = addresses(args, &loaded, &request)?;
    let explanation = explain(&loaded.policy, &request, addrs.as_deref());
    to_stdout(&explanation)?;
    Ok(if explanation.refused.is_some() { Exit::Refused } else { Exit::Success })
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
    if !args.resolve || explain(&loaded.policy, request, None).refused.is_some() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        Resolver::new(loaded.settings.resolver.clone())?.resolve(name).await.map_err(anyhow::Error::from)
    });
    let answer = answer.with_context(|| format!("cannot resolve `{name}`"))?;
    Ok(Some(answer.addrs.to_vec()))
}

/// A URL gives scheme, host and port; anything else is `host:port`, or a host with port 443.
fn parse_target(text: &str) -> anyhow::Result<Authority> {
    let (rest, default) = match text.split_once("://") {
        Some(("http" | "ws", rest)) => (rest, Port::HTTP),
        Some(("https" | "wss", rest)) => (rest, Port::HTTPS),
        Some((scheme, _)) => bail!("the scheme `{scheme}` has no known port; write HOST:PORT"),
        None => (text, Port::HTTPS),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    Authority::parse(authority, Some(default))
        .with_context(|| format!("`{authority}` is not a host and port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_urls_or_authorities() {
        for (text, want) in [
            ("https://example.com/x?y#z", Some("example.com:443")),
            ("http://EXAMPLE.com", Some("example.com:80")),
            ("http://example.com:8080/", Some("example.com:8080")),
            ("example.com", Some("example.com:443")),
            ("db.example.com:5432", Some("db.example.com:5432")),
            ("[2606:2800:220::1]:22", Some("[2606:2800:220::1]:22")),
            ("ftp://example.com", None),
            ("https://user@example.com/", None),
            ("https:///", None),
        ] {
            assert_eq!(parse_target(text).ok().map(|t| t.to_string()).as_deref(), want, "{text}");
        }
    }
}
