//! `firewall`: the kernel's part, from the command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use exeat_firewall::{Attachment, Grade, NameServer, NameServers};
use http::Method;
use nix::unistd::{AccessFlags, access};
use serde_json::Value;

use crate::args::{FirewallCommand, FirewallDoctorArgs, FirewallOutput, FirewallShowArgs, FirewallWhyArgs};
use crate::control::{Control, printable, with_query};
use crate::output::{Exit, number_of, to_stderr, to_stdout};

/// Where `attach` has its admin API unless it is told otherwise, and the others look for it: the first of these that can be.
fn sockets() -> impl Iterator<Item = PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    [Some("/run".into()), own]
        .into_iter()
        .flatten()
        .map(|folder| Path::new(&folder).join("exeat-firewall.sock"))
}

/// Returns where `attach` may have its admin API.
///
/// # Errors
/// If it may have it in none of the usual places.
pub(crate) fn socket_for_attach() -> anyhow::Result<PathBuf> {
    let may_write = |path: &PathBuf| {
        path.parent().is_some_and(|folder| access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok())
    };
    sockets().find(may_write).context(
        "/run is not ours to write to, and there is no $XDG_RUNTIME_DIR: say with --socket PATH where the admin API, \
         which `show` and `why` ask, is to be",
    )
}

/// Runs every command but `attach`, which is handed back to the binary.
pub(crate) fn run(command: &FirewallCommand) -> anyhow::Result<Exit> {
    match command {
        // It serves: see `Source`.
        FirewallCommand::Attach(_) => Ok(Exit::Success),
        FirewallCommand::Show(FirewallShowArgs { output }) => show(output, None),
        FirewallCommand::Why(FirewallWhyArgs { address, output }) => show(output, Some(&address.to_string())),
        FirewallCommand::Doctor(FirewallDoctorArgs { socket }) => doctor(socket.as_deref()),
        FirewallCommand::Remove => {
            exeat_firewall::remove()?;
            to_stderr("the firewall's rules are gone\n");
            Ok(Exit::Success)
        }
    }
}

/// The admin API of the firewall that runs.
fn control(socket: Option<&Path>) -> anyhow::Result<Control> {
    let fallback = sockets().find(|path| path.exists());
    let socket = socket.or(fallback.as_deref());
    let control = Control::new(socket);
    if socket.is_none() && control.is_err() {
        bail!(
            "no firewall runs: `exeat firewall attach` starts one; \
             for a server with [firewall], name the socket of its [api] with --socket PATH"
        );
    }
    control
}

fn show(FirewallOutput { socket, json }: &FirewallOutput, address: Option<&str>) -> anyhow::Result<Exit> {
    let control = control(socket.as_deref())?;
    let answer = control.get(Method::GET, &with_query("/v1/firewall", [("address", address)]), None)?;
    if *json {
        to_stdout(format_args!("{answer}\n"))?;
        return Ok(Exit::Success);
    }
    let text = |value: &Value, key: &str| value.get(key).map(printable).unwrap_or_default();
    let rows = answer.get("opened").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // Of one address they say nothing.
    let counters = answer.get("counters").and_then(Value::as_array).filter(|_| address.is_none());
    let counters = counters.map(Vec::as_slice).unwrap_or_default();
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
        let number = |key: &str| row.get(key).and_then(Value::as_u64);
        let sent = match (number("packets"), number("bytes")) {
            (Some(packets), Some(bytes)) => format!("  {}  {bytes} bytes", number_of(packets, "packet")),
            (Some(_) | None, _) => String::new(),
        };
        told.push_str(&format!(
            "{}  {}  {}  {}  {remaining}{sent}\n",
            text(row, "client"),
            text(row, "name"),
            text(row, "address"),
            ports.join(",")
        ));
    }
    if let Some(more @ 1..) = answer.get("left_out").and_then(Value::as_u64) {
        told.push_str(&format!(
            "and {more} more, which are not listed: `exeat firewall why ADDRESS` has those of one client or destination\n"
        ));
    }
    for counter in counters {
        let number = |key: &str| counter.get(key).and_then(Value::as_u64).unwrap_or(0);
        let what = match counter.get("name").and_then(Value::as_str) {
            Some("allowed") => "flows let through, their first packets",
            Some("refused") => "refused",
            Some("spoofed") => "dropped for a source that is not the sender's own",
            Some(_) | None => continue,
        };
        told.push_str(&format!(
            "{what}: {}, {} bytes\n",
            number_of(number("packets"), "packet"),
            number("bytes")
        ));
    }
    to_stdout(told)?;
    Ok(Exit::Success)
}

fn doctor(socket: Option<&Path>) -> anyhow::Result<Exit> {
    let attached = attached(socket);
    let (attachments, names) =
        attached.as_ref().map_or((&[][..], NameServers::default()), |(found, names)| (found, *names));
    let findings = exeat_firewall::doctor(attachments, names);
    let mut told = String::new();
    for finding in &findings {
        let word = match finding.grade {
            Grade::Well => "ok ",
            Grade::Bad => "BAD",
            Grade::Unproven => "?? ",
        };
        told.push_str(&format!("{word}  {}\n", finding.text));
    }
    if let Err(error) = &attached {
        told.push_str(&format!("??   what is attached is not known, so that nothing was sent: {error:#}\n"));
    }
    to_stdout(told)?;
    let is_bad = findings.iter().any(|finding| finding.grade == Grade::Bad);
    Ok(if is_bad { Exit::Failure } else { Exit::Success })
}

/// What is attached, and what answers clients of devices, by the firewall that runs.
fn attached(socket: Option<&Path>) -> anyhow::Result<(Vec<Attachment>, NameServers)> {
    let answer = control(socket)?.get(Method::GET, "/v1/firewall", None)?;
    let names = |key: &str| -> Vec<String> {
        let listed = answer.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        listed.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let devices = names("devices").into_iter().map(Attachment::Device);
    let attached = devices.chain(names("groups").into_iter().map(Attachment::Group)).collect();
    let mut servers = NameServers::default();
    if answer.get("name_servers").is_none() {
        // An older one, which does not say.
        servers = NameServers { v4: NameServer::Ours, v6: NameServer::Ours };
    }
    for server in answer.get("name_servers").and_then(Value::as_array).into_iter().flatten() {
        let address = server.get("address").and_then(Value::as_str);
        let Some(address) = address.and_then(|text| text.parse::<SocketAddr>().ok()) else { continue };
        let family = if address.is_ipv4() { &mut servers.v4 } else { &mut servers.v6 };
        // As the rules do: the first of a family.
        if *family == NameServer::Nobody {
            let is_ours = server.get("is_ours") == Some(&Value::Bool(true));
            *family = if is_ours { NameServer::Ours } else { NameServer::Elsewhere };
        }
    }
    Ok((attached, servers))
}
