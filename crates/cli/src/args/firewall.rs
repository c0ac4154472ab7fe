//! Arguments of `firewall`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::values::parse_address;

/// What to do with the firewall.
#[derive(Debug, Subcommand)]
pub enum FirewallCommand {
    /// Hold the clients of a bridge or a device, or processes of this host, to what names they may reach: sets all of it up and runs
    Attach(FirewallAttachArgs),
    /// List what names have opened, for whom, and for how long
    #[command(
        after_help = "A line is client, name, address, ports and what remains of it; below is what was let through and refused.\n\n\
                            Examples:\n  \
                            exeat firewall show\n  \
                            exeat firewall show --json | jq -r '.opened[].name' | sort | uniq -c"
    )]
    Show(FirewallShowArgs),
    /// Say which names have opened an address, or what is open for a client
    #[command(after_help = "Examples:\n  \
                            exeat firewall why 93.184.216.34   # by which names it was opened, and for whom\n  \
                            exeat firewall why 172.18.0.5      # what this client may reach now")]
    Why(FirewallWhyArgs),
    /// Check that the rules are in force, for both address families, with packets sent as clients send them
    Doctor(FirewallDoctorArgs),
    /// Take away every rule of the firewall, whether or not it runs
    #[command(
        after_help = "Clients are held to nothing then. One that runs puts its rules back: end it first.\n\nExample:\n  exeat firewall remove"
    )]
    Remove,
}

/// Arguments of `firewall attach`.
#[derive(Args, Clone, Debug)]
#[command(
    group(ArgGroup::new("clients").args(["bridges", "interfaces", "namespaces", "cgroups"]).required(true).multiple(true)),
    after_help = "Names are asked of this program, whichever server the clients have; an answer opens what it says, \
                        for the client that asked, before it is given. The rules stay when the program ends: nothing more \
                        is opened then. `exeat firewall remove` takes them away.\n\n\
                        Examples:\n  \
                        exeat firewall attach --bridge br-1c9e0c8ba3f2 example.com '*.example.org:443'\n  \
                        exeat firewall attach --interface veth0 'db.example.com:5432' 10.20.0.0/16:22\n  \
                        exeat firewall attach --netns shop example.com\n  \
                        exeat firewall attach --cgroup /system.slice/ci.service '*.example.org'"
)]
pub struct FirewallAttachArgs {
    /// A bridge whose members are the clients, such as that of a Docker network; repeatable
    #[arg(long = "bridge", value_name = "NAME")]
    pub bridges: Vec<String>,
    /// Another device that clients come by; repeatable
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// A network namespace that veth pairs join to this network: a name of `ip netns`, or a file such as /proc/PID/ns/net. It
    /// stands for this network's ends of those; repeatable
    #[arg(long = "netns", value_name = "NAME")]
    pub namespaces: Vec<String>,
    /// A control group (version 2) whose processes on this host are the clients: its path, or its folder; repeatable
    #[arg(long = "cgroup", value_name = "PATH")]
    pub cgroups: Vec<String>,
    /// What the clients may reach: a name, *.name or a network, each with :ports; a dot at the end is fine
    #[arg(value_name = "ENTRY", required = true)]
    pub allow: Vec<String>,
    /// What of that they may not; repeatable
    #[arg(long, value_name = "ENTRY")]
    pub deny: Vec<String>,
    /// Refuse nothing that is public, and record what would have been refused
    #[arg(long)]
    pub report: bool,
    /// The file for audit records [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// The socket of the admin API, for `show` and `why`
    /// [default: /run/exeat-firewall.sock, or in $XDG_RUNTIME_DIR where /run is somebody else's]
    #[arg(long, value_name = "PATH", verbatim_doc_comment)]
    pub socket: Option<PathBuf>,
}

/// Arguments of `firewall show`.
#[derive(Args, Debug)]
pub struct FirewallShowArgs {
    /// Where and how to print.
    #[command(flatten)]
    pub output: FirewallOutput,
}

/// Where the firewall is that runs, and how its answer is printed.
#[derive(Args, Debug)]
pub struct FirewallOutput {
    /// The socket of its admin API [default: /run/exeat-firewall.sock, or in $XDG_RUNTIME_DIR; else $EXEAT_SOCKET, or that of
    /// ./exeat.toml]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `firewall doctor`.
#[derive(Args, Debug)]
#[command(
    after_help = "Packets are sent to addresses that are nobody's (192.0.2.1, 2001:db8::1) from where the clients of each \
                        attachment are: from a port of the bridge that is there for some seconds, from the other end of a veth \
                        pair, from a process in the control group. They must be refused, and questions for names answered. It \
                        must be root, and needs the program `ip` for devices.\n\n\
                        Exit status: 0 nothing is wrong, 1 something is. A line that begins with ?? is what could not be proved.\n\n\
                        Examples:\n  \
                        exeat firewall doctor\n  \
                        exeat firewall doctor --socket /run/exeat/api.sock"
)]
pub struct FirewallDoctorArgs {
    /// The socket of the admin API of the firewall that runs, which says what is attached [default: as of `exeat firewall show`]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Arguments of `firewall why`.
#[derive(Args, Debug)]
pub struct FirewallWhyArgs {
    /// The address of a destination, or of a client
    #[arg(value_parser = parse_address)]
    pub address: IpAddr,
    /// Where and how to print.
    #[command(flatten)]
    pub output: FirewallOutput,
}
