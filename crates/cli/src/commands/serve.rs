//! `serve`: where the configuration comes from, and what the start prints.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::bail;
use exeat_audit::Sink;
use exeat_firewall::Group;
use exeat_policy::Mode;
use exeat_store::{AttachFlags, FLAGS_CLIENT, Flags, Loaded, Options, Report};

use crate::args::{FirewallAttachArgs, ServeArgs};
use crate::commands::firewall::socket_for_attach;
use crate::output::to_stderr;

/// The file that `serve` looks for when it is told nothing.
const DEFAULT_CONFIG: &str = "exeat.toml";

/// Where a running proxy gets its configuration, at the start and on reload.
#[derive(Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The command line of `firewall attach`.
    Attached {
        /// The arguments as given.
        args: FirewallAttachArgs,
        /// The addresses of the devices.
        addresses: Vec<(IpAddr, String)>,
        /// The control groups.
        groups: Vec<Group>,
        /// The socket of the admin API.
        socket: PathBuf,
    },
    /// The command line, with the password made at the start.
    Flags {
        /// The flags as given.
        args: ServeArgs,
        /// The generated password, printed once.
        password: String,
    },
}

impl Source {
    /// Returns the source that the arguments name.
    ///
    /// # Errors
    /// If nothing is named and there is no `exeat.toml`, or no randomness is to be had.
    pub(crate) fn from_args(args: ServeArgs) -> anyhow::Result<Self> {
        if let Some(path) = args.config {
            return Ok(Self::File(path));
        }
        if args.allow.is_empty() {
            let path = PathBuf::from(DEFAULT_CONFIG);
            if !path.exists() {
                bail!(
                    "nothing to serve: there is no {DEFAULT_CONFIG} here; \
                     name one with --config FILE, or try `exeat serve --allow example.com`"
                );
            }
            return Ok(Self::File(path));
        }
        let password = exeat_identity::generate_password()?;
        Ok(Self::Flags { args, password })
    }

    /// Returns the source for the clients of devices and processes of groups.
    ///
    /// # Errors
    /// If there is no such device or group, or a device has no address.
    pub(crate) fn attaching(mut args: FirewallAttachArgs) -> anyhow::Result<Self> {
        exeat_firewall::check_permitted()?;
        for namespace in &args.namespaces {
            for device in exeat_firewall::devices_towards(namespace)? {
                if !args.interfaces.contains(&device) {
                    args.interfaces.push(device);
                }
            }
        }
        let addresses = exeat_firewall::addresses(&args.bridges, &args.interfaces)?;
        if addresses.is_empty() && args.cgroups.is_empty() {
            bail!(
                "{} has no address that clients could ask for names at",
                args.bridges.iter().chain(&args.interfaces).cloned().collect::<Vec<_>>().join(", ")
            );
        }
        let groups = args.cgroups.iter().map(|text| Group::find(text)).collect::<Result<Vec<_>, _>>()?;
        let socket = args.socket.clone().map_or_else(socket_for_attach, Ok)?;
        if UnixStream::connect(&socket).is_ok() {
            bail!(
                "a firewall runs already, and there is one: `exeat firewall show` tells of it (somebody answers at {}); \
                 end it first, or attach to everything at once",
                socket.display()
            );
        }
        Ok(Self::Attached { args, addresses, groups, socket })
    }

    /// Reads and compiles the configuration.
    ///
    /// # Errors
    /// Every problem found.
    pub fn load(&self, options: &Options) -> Result<Loaded, Report> {
        match self {
            Self::File(path) => exeat_store::load(path, options),
            Self::Attached { args, addresses, groups, socket } => {
                let flags = AttachFlags {
                    allow: &args.allow,
                    deny: &args.deny,
                    bridges: &args.bridges,
                    interfaces: &args.interfaces,
                    groups,
                    addresses,
                    socket,
                    mode: if args.report { Mode::Report } else { Mode::Enforce },
                };
                let mut loaded = exeat_store::from_attach_flags(&flags, options)?;
                if let Some(path) = &args.audit {
                    loaded.settings.audit.sink = Sink::File(path.clone());
                }
                Ok(loaded)
            }
            Self::Flags { args, password } => {
                let flags = Flags {
                    allow: &args.allow,
                    deny: &args.deny,
                    listen: args.listen.as_slice(),
                    password: Some(password),
                    mode: if args.report { Mode::Report } else { Mode::Enforce },
                };
                let mut loaded = exeat_store::from_flags(&flags, options)?;
                if let Some(path) = &args.audit {
                    loaded.settings.audit.sink = Sink::File(path.clone());
                }
                Ok(loaded)
            }
        }
    }

    /// Returns how the source is called in messages.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Attached { .. } | Self::Flags { .. } => "the command line".to_owned(),
        }
    }
}

/// What a policy of flags comes to.
fn allowed(allow: &[String], report: bool) -> String {
    let allow = allow.join(" ");
    if report {
        format!("  REPORT     all that is public passes; on record is what would not with {allow}\n")
    } else {
        format!("  allowed    {allow}\n")
    }
}

/// Prints what a starting proxy does: where it listens, where the audit goes and, for the quick
/// start, the line to paste.
pub fn announce(
    source: &Source,
    loaded: &Loaded,
    listening: &[SocketAddr],
    dns: &[SocketAddr],
    health: Option<SocketAddr>,
) {
    let mut text = format!("exeat {}, configuration from {}\n", env!("CARGO_PKG_VERSION"), source.describe());
    for (address, listener) in listening.iter().zip(&loaded.settings.listen) {
        let tls = if listener.tls.is_some() { " (TLS)" } else { "" };
        let by = listener.interface.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
        text.push_str(&format!("  listening  {address}{by}{tls}\n"));
    }
    for socket in &loaded.settings.sockets {
        text.push_str(&format!("  listening  unix:{}\n", socket.path.display()));
    }
    for (address, listener) in dns.iter().zip(&loaded.settings.dns.listen) {
        let by = listener.interface.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
        text.push_str(&format!("  names      {address}{by}, UDP and TCP\n"));
    }
    if let Some(tap) = &loaded.settings.dns.tap {
        text.push_str(&format!("  dnstap     from {}\n", tap.socket.display()));
    }
    if let Some(firewall) = &loaded.settings.firewall {
        let devices: Vec<&str> = firewall.devices.iter().map(|device| &**device.name()).collect();
        let groups = firewall.groups.iter().map(|group| format!("cgroup {}", group.path()));
        let held: Vec<String> = devices.into_iter().map(str::to_owned).chain(groups).collect();
        text.push_str(&format!("  firewall   {}\n", held.join(", ")));
    }
    if let Some(address) = health {
        text.push_str(&format!("  metrics    http://{address}/metrics\n"));
    }
    if let Some(path) = &loaded.settings.api.socket {
        text.push_str(&format!("  admin API  {}\n", path.display()));
    }
    let audit = match &loaded.settings.audit.sink {
        Sink::Stdout => "standard output, one JSON record a line".to_owned(),
        Sink::File(path) | Sink::Plain(path) => path.display().to_string(),
    };
    text.push_str(&format!("  audit      {audit}\n"));
    if let Source::Attached { args, .. } = source {
        text.push_str(&allowed(&args.allow, args.report));
    }
    if let (Source::Flags { args, password }, Some(address)) = (source, listening.first()) {
        text.push_str(&allowed(&args.allow, args.report));
        let example = args.allow.iter().find(|entry| !entry.contains(['*', '@', '/', ':']));
        let host = example.map_or("example.com", String::as_str);
        text.push_str(&format!("\n  curl -x http://{FLAGS_CLIENT}:{password}@{address} https://{host}/\n\n"));
    }
    to_stderr(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_mode_does_not_pass_for_a_list() {
        let allow = ["example.com".to_owned(), "*.example.org".to_owned()];
        assert_eq!(allowed(&allow, false), "  allowed    example.com *.example.org\n");
        assert!(allowed(&allow, true).starts_with("  REPORT     all that is public passes;"));
    }
}
