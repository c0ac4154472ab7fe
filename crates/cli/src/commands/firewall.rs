//! `firewall`: the kernel's part, from the command line.

use std::path::Path;

use http::Method;
use serde_json::Value;

use crate::args::{FirewallCommand, FirewallShowArgs, FirewallWhyArgs, Output};
use crate::control::{Control, printable, with_query};
use crate::output::{Exit, to_stderr, to_stdout};

/// Where `attach` has its admin API unless it is told otherwise, and the others look for it.
pub(crate) const SOCKET: &str = "/run/exeat-firewall.sock";

/// Runs every command but `attach`, which is handed back to the binary.
pub(crate) fn run(command: &FirewallCommand) -> anyhow::Result<Exit> {
    match command {
        // It serves: see `Source`.
        FirewallCommand::Attach(_) => Ok(Exit::Success),
        FirewallCommand::Show(FirewallShowArgs { output }) => show(output, None),
        FirewallCommand::Why(FirewallWhyArgs { address, output }) => show(output, Some(&address.to_string())),
        FirewallCommand::Doctor => doctor(),
        FirewallCommand::Remove => {
            exeat_firewall::remove()?;
            to_stderr("the firewall's rules are gone\n");
            Ok(Exit::Success)
        }
    }
}

fn show(Output { socket, json }: &Output, address: Option<&str>) -> anyhow::Result<Exit> {
    let fallback = Some(Path::new(SOCKET)).filter(|path| path.exists());
    let control = Control::new(socket.as_deref().or(fallback))?;
    let answer = control.get(Method::GET, &with_query("/v1/firewall", [("address", address)]), None)?;
    if *json {
        to_stdout(format_args!("{answer}\n"))?;
        return Ok(Exit::Success);
    }
    let text = |value: &Value, key: &str| value.get(key).map(printable).unwrap_or_default();
    let rows = answer.get("opened").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut told = String::new();
    if answer.get("is_in_force") == Some(&Value::Bool(false)) {
        told.push_str("the rules are NOT in force; the log says why\n");
    }
    match address {
        Some(address) if rows.is_empty() => {
            told.push_str(&format!("nobody has asked for a name that has opened {address}\n"));
        }
        Some(_) | None => {}
    }
    for row in rows {
        let list = |key| row.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let relayed = list("relayed");
        let way = |ports| if relayed.contains(ports) { " by proxy" } else { "" };
        let ports: Vec<String> =
            list("ports").iter().map(|ports| format!("{}{}", printable(ports), way(ports))).collect();
        let remaining = row.get("remaining_seconds").and_then(Value::as_u64).unwrap_or(0);
        let remaining = if remaining == 0 { "ended".to_owned() } else { format!("{remaining} s") };
        told.push_str(&format!(
            "{}  {}  {}  {}  {remaining}\n",
            text(row, "client"),
            text(row, "name"),
            text(row, "address"),
            ports.join(",")
        ));
    }
    to_stdout(told)?;
    Ok(Exit::Success)
}

fn doctor() -> anyhow::Result<Exit> {
    let findings = exeat_firewall::doctor();
    let mut told = String::new();
    for finding in &findings {
        let word = if finding.is_well { "ok " } else { "BAD" };
        told.push_str(&format!("{word}  {}\n", finding.text));
    }
    to_stdout(told)?;
    Ok(if findings.iter().all(|finding| finding.is_well) { Exit::Success } else { Exit::Failure })
}
