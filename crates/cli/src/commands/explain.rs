//! `explain`: the decision for one client and target, stage by stage.

use std::net::IpAddr;

use anyhow::{Context, bail};
use exeat_api::{Everyone, parse_target};
use exeat_dns::Resolver;
use exeat_model::{Host, Transport};
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
    let everyone = Everyone {
        clients: &loaded.clients,
        workloads: &loaded.workloads,
        certificates: &loaded.certificates,
        anonymous: loaded.anonymous.as_ref(),
    };
    let Some(principal) = everyone.get(&args.client) else {
        if args.client == "anonymous" {
            bail!("the configuration admits no anonymous clients");
        }
        bail!("there is no client `{}` in {}", args.client, args.config.display());
    };
    let workload = args.workload.as_deref();
    if let Some(name) = workload.filter(|name| loaded.workloads.get(name).is_none()) {
        bail!("there is no workload `{name}` in {}", args.config.display());
    }
    let request = EgressRequest { bound: &principal.bound, target: &target, transport: Transport::Tcp };
    let addrs = addresses(args, &loaded, &request)?;
    let mut explanation = explain(&loaded.policy, &request, addrs.as_deref());
    everyone.add_place(&mut explanation, &principal, workload);
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
    if !args.resolve || !explain(&loaded.policy, request, None).lacks_addresses() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        Resolver::new(loaded.settings.resolver.clone())?.resolve(name).await.map_err(anyhow::Error::from)
    });
    let answer = answer.with_context(|| format!("cannot resolve `{name}`"))?;
    Ok(Some(answer.addrs.to_vec()))
}
