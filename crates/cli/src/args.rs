//! The command line as typed. Help, completions and the man page all come from here.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use exeat_policy::Label;

mod firewall;
mod flows;
mod generate;
pub(crate) mod limits;
mod policy;
mod sandbox;
mod selftest;
mod suggest;
mod token;
mod values;

pub(crate) use firewall::FirewallAttachArgs;
pub(crate) use firewall::{
    FirewallCommand, FirewallDoctorArgs, FirewallOutput, FirewallShowArgs, FirewallWhyArgs,
};
pub(crate) use flows::{CutArgs, FlowsArgs, FlowsCommand, QuarantineArgs, TopArgs, Which, Who};
pub(crate) use generate::{GenerateArgs, GenerateCommand, KubernetesArgs};
pub(crate) use policy::{PolicyCommand, PolicyDiffArgs, PutArgs, PutHow, RevisionsArgs, RollbackArgs};
pub(crate) use sandbox::{SandboxCommand, SandboxServeArgs};
pub(crate) use selftest::SelftestArgs;
pub(crate) use suggest::SuggestArgs;
pub(crate) use token::{IssueArgs, KeygenArgs, RevocationsArgs, RevokeArgs, TokenCommand};

/// Controls what workloads may reach outside themselves.
#[derive(Debug, Parser)]
#[command(
    name = "exeat",
    version,
    max_term_width = 100,
    about = "Controls what workloads may reach outside themselves",
    long_about = "Exeat lets a workload reach the destinations that a rule allows, and answers everything else with a refusal \
                  that says why. One policy decides at a proxy, for names, in the kernel and around a single command.",
    after_help = "Examples:\n  \
                  exeat serve --allow example.com --allow '*.example.org'\n  \
                  exeat serve --config exeat.toml\n  \
                  exeat check exeat.toml\n  \
                  exeat explain payments https://api.example.com/\n  \
                  exeat diff exeat.toml exeat.toml.new",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy
    Serve(ServeArgs),
    /// Run a command whose only way out is the proxy
    Run(RunArgs),
    /// Run commands, each confined, for others
    #[command(subcommand, after_help = "Example:\n  exeat sandbox serve --runs 4 --audit audit.jsonl")]
    Sandbox(SandboxCommand),
    /// Try every way out of a sandbox on this host, and say what came of it
    Selftest(SelftestArgs),
    /// Print the smallest policy for what runs have reached
    Suggest(SuggestArgs),
    /// Check a configuration and print every problem with its place and its correction
    Check(CheckArgs),
    /// Say whether a client may reach a URL, which rule decides, and what would allow it
    Explain(ExplainArgs),
    /// Make the running proxy read its configuration again
    Reload(ReloadArgs),
    /// Say whether the running proxy takes new work
    Health(HealthArgs),
    /// List what is open through the running proxy, and end it
    Flows(FlowsArgs),
    /// Watch who talks to what through the running proxy, and what is refused
    Top(TopArgs),
    /// Refuse everything to a client, or to all with a label, and end their flows
    Quarantine(QuarantineArgs),
    /// Show, compare and replace what the running proxy decides by
    #[command(
        subcommand,
        after_help = "Examples:\n  \
                      exeat policy get > exeat.toml.new\n  \
                      exeat policy diff exeat.toml.new && exeat policy put exeat.toml.new\n  \
                      exeat policy revisions\n  \
                      exeat policy rollback 11"
    )]
    Policy(PolicyCommand),
    /// Say what two configurations allow differently, client by client
    Diff(DiffArgs),
    /// Write what leaves a workload no way out but the proxy: for Docker, compose or Kubernetes
    #[command(subcommand, after_help = "Example:\n  exeat generate compose > compose.yaml")]
    Generate(GenerateCommand),
    /// Make a configuration of the host lists of others
    #[command(subcommand, after_help = "Example:\n  exeat import hosts-yaml allowed-hosts.yaml > exeat.toml")]
    Import(ImportCommand),
    /// Hold the packets of clients to names, in the kernel
    #[command(
        subcommand,
        after_help = "Examples:\n  \
                      exeat firewall attach --bridge br-1c9e0c8ba3f2 example.com\n  \
                      exeat firewall doctor\n  \
                      exeat firewall show"
    )]
    Firewall(FirewallCommand),
    /// Make keys and tokens, look at them, and let them count no longer
    #[command(
        subcommand,
        after_help = "Examples:\n  \
                      exeat token keygen issuer.pem > jwks.json\n  \
                      exeat token verify --config exeat.toml < token\n  \
                      exeat token revoke container=sbx-1"
    )]
    Token(TokenCommand),
    /// Make credentials for clients
    #[command(subcommand, after_help = "Example:\n  exeat client add payments --policy payments --generated")]
    Client(ClientCommand),
    /// Print the completion script of a shell
    #[command(after_help = "Example:\n  exeat completions bash > /etc/bash_completion.d/exeat")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write one page for each command
    #[command(
        after_help = "Examples:\n  exeat man | man -l -\n  exeat man --directory /usr/local/share/man/man1"
    )]
    Man {
        /// Write every page into this directory instead
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
}

/// Arguments of `serve`.
#[derive(Args, Debug)]
#[command(after_help = "Without --config and --allow, ./exeat.toml is used.\n\n\
                        Signals:\n  \
                        SIGHUP   read the configuration again and reopen the audit file; a bad one changes nothing\n  \
                        SIGTERM  refuse new connections, let running ones finish, then exit; a second one exits at once\n\n\
                        Examples:\n  \
                        exeat serve --allow example.com\n  \
                        exeat serve --allow '*.example.org:443,8443' --listen 127.0.0.1:8080\n  \
                        exeat serve --config /etc/exeat/exeat.toml\n\n\
                        RUST_LOG sets the log level: RUST_LOG=exeat=debug exeat serve …")]
pub struct ServeArgs {
    /// The configuration file [default: ./exeat.toml]
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["allow", "deny", "listen", "report", "audit"])]
    pub config: Option<PathBuf>,
    /// Allow a destination without a configuration file: a name, *.name, network, each with :ports; repeatable
    #[arg(long, value_name = "ENTRY")]
    pub allow: Vec<String>,
    /// Deny a destination that --allow covers; repeatable
    #[arg(long, value_name = "ENTRY", requires = "allow")]
    pub deny: Vec<String>,
    /// The address to listen on [default: 127.0.0.1:3128]
    #[arg(long, value_name = "ADDRESS:PORT", requires = "allow", value_parser = values::parse_address_and_port)]
    pub listen: Option<SocketAddr>,
    /// Refuse nothing that is public, and record what would have been refused
    #[arg(long, requires = "allow")]
    pub report: bool,
    /// The file for audit records [default: standard output]
    #[arg(long, value_name = "FILE", requires = "allow")]
    pub audit: Option<PathBuf>,
}

/// Arguments of `run`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The command gets namespaces of its own: its network has nothing but loopback, every connection that it \
                        makes goes to the proxy, and sockets of the host are out of its sight. Nothing needs to be set up, and \
                        nobody needs to be root. For root it runs as whoever called sudo, or as nobody; --user names another.\n\n\
                        Exit status: the command's; 128 and the number of the signal that ended it; 127 there is no such \
                        command, 126 it cannot be run, 125 it was not run for another reason, 124 its --timeout was over.\n\n\
                        Examples:\n  \
                        exeat run --allow example.com -- curl https://example.com/\n  \
                        exeat run --allow '*.example.org' --audit audit.jsonl -- ./build.sh\n  \
                        exeat run --config exeat.toml --policy ci -- make test\n  \
                        sudo exeat run --user nobody --allow example.com -- ./untrusted"
)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["allow", "deny", "report"])]
    pub config: Option<PathBuf>,
    /// The policy of the configuration that the command is under [default: that of `anonymous`]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["allow", "deny", "report"])]
    pub policy: Option<String>,
    /// What a token allows that the configuration's issuers accept: a file, or env:NAME for a variable; the command sees neither
    #[arg(long, value_name = "FILE", conflicts_with_all = ["policy", "allow", "deny", "report"])]
    pub token: Option<PathBuf>,
    /// Let an exeat.toml found here or above count though nobody has looked at it
    #[arg(long, conflicts_with_all = ["config", "allow", "deny", "report"])]
    pub trust_config: bool,
    /// Allow a destination: a name, *.name, network, each with :ports; repeatable; without any flag, an exeat.toml here or above
    /// says what may be reached, and without one nothing is
    #[arg(long, value_name = "ENTRY")]
    pub allow: Vec<String>,
    /// Deny a destination that --allow covers; repeatable
    #[arg(long, value_name = "ENTRY", requires = "allow")]
    pub deny: Vec<String>,
    /// Refuse nothing that is public, and record what would have been refused
    #[arg(long)]
    pub report: bool,
    /// Ask on the terminal about connections to names that no rule covers: once, for this run, save, or deny
    #[arg(long, conflicts_with_all = ["report", "token"])]
    pub ask: bool,
    /// The file for audit records [default: that of the configuration; without one, none are kept]
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// Print no summary at the end
    #[arg(long, short, conflicts_with = "json")]
    pub quiet: bool,
    /// Print the summary as one line of JSON, on standard error too
    #[arg(long)]
    pub json: bool,
    /// End with status 1 if the command ends with 0 and the policy refused something
    #[arg(long)]
    pub fail_on_deny: bool,
    /// As root: the user that the command runs as, if not who called sudo, or nobody
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// A file or directory that the command may not write; repeatable
    #[arg(long = "ro", value_name = "PATH")]
    pub read_only: Vec<PathBuf>,
    /// A file or directory that it may write though one above it is --ro or --hide, or it is protected by itself; repeatable
    #[arg(long = "rw", value_name = "PATH")]
    pub writable: Vec<PathBuf>,
    /// A file or directory that is empty for the command; nothing is hidden where nothing is; repeatable
    #[arg(long, value_name = "PATH")]
    pub hide: Vec<PathBuf>,
    /// A unix socket of the host that the command may connect to; repeatable
    #[arg(long, value_name = "PATH")]
    pub socket: Vec<PathBuf>,
    /// What it may use of the machine.
    #[command(flatten)]
    pub limits: limits::LimitArgs,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// Arguments of `check`.
#[derive(Args, Debug)]
#[command(after_help = "Exit status: 0 usable (perhaps with warnings), 78 not usable.\n\n\
                        Examples:\n  exeat check\n  exeat check --format json /etc/exeat/exeat.toml")]
pub struct CheckArgs {
    /// The configuration file
    #[arg(value_name = "FILE", default_value = "exeat.toml")]
    pub config: PathBuf,
    /// How to print problems
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Let warnings count as errors, but for those of file modes
    #[arg(long)]
    pub strict: bool,
}

/// Where the running proxy is, and how its answer is printed.
#[derive(Args, Debug)]
pub struct Output {
    /// The socket of the running proxy's admin API [default: $EXEAT_SOCKET, or that of ./exeat.toml]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `reload`.
#[derive(Args, Debug)]
#[command(after_help = "All of the configuration takes effect or nothing.\n\
                        Exit status: 0 reloaded, 78 the configuration has errors and the old policy stays, 1 otherwise.\n\n\
                        Examples:\n  \
                        exeat reload\n  \
                        exeat reload --socket /run/exeat/api.sock")]
pub struct ReloadArgs {
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `health`.
#[derive(Args, Debug)]
#[command(after_help = "For health checks where there is no HTTP client, such as a container's.\n\
                        Exit status: 0 it does, 1 it drains, cannot write a required audit log, or does not answer.\n\n\
                        Examples:\n  \
                        exeat health\n  \
                        exeat health --socket /run/exeat/api.sock")]
pub struct HealthArgs {
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people: source lines, underlines, corrections.
    Text,
    /// For editors and CI: one JSON object a line.
    Json,
}

/// Arguments of `explain`.
#[derive(Args, Debug)]
#[command(
    override_usage = "exeat explain [OPTIONS] <CLIENT> <URL>\n       exeat explain [OPTIONS] --token <FILE> <URL>",
    after_help = "Exit status: 0 allowed, 1 refused, 2 there is no such client, 78 the configuration is not usable. What is no \
                        destination is refused with the reason that the proxy would give.\n\n\
                        Examples:\n  \
                        exeat explain payments https://api.example.com/v1/charges\n  \
                        exeat explain payments db.corp.example:5432 --address 10.20.1.7\n  \
                        exeat explain payments https://api.example.com/ --resolve\n  \
                        exeat explain --token token.jwt https://api.example.com/"
)]
pub struct ExplainArgs {
    /// The client or workload, by its name in the configuration; `anonymous` for one without credentials. None with --token
    #[arg(value_name = "CLIENT")]
    pub client: String,
    /// A URL, or HOST:PORT. The scheme of a URL says what opens the connection
    #[arg(value_name = "URL", required_unless_present = "token", conflicts_with = "token")]
    pub target: Option<String>,
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "exeat.toml")]
    pub config: PathBuf,
    /// Judge the request as one with the token in this file instead of a client's; - is standard input
    #[arg(long, value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// The socket of the running proxy that knows whether the token was revoked [default: $EXEAT_SOCKET, or that of the configuration]
    #[arg(long, value_name = "PATH", requires = "token")]
    pub socket: Option<PathBuf>,
    /// Judge the request as one from this workload
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// Judge these addresses as the answer for the name; repeatable
    #[arg(long, value_name = "ADDRESS", value_parser = values::parse_address)]
    pub address: Vec<IpAddr>,
    /// Resolve the name, if a rule allows it, and judge the answer
    #[arg(long, conflicts_with = "address")]
    pub resolve: bool,
}

/// Arguments of `diff`.
#[derive(Args, Debug)]
#[command(after_help = "Exit status: 0 they allow the same, 1 they differ, 78 one is not usable.\n\n\
                        A line begins with + for what only NEW allows and - for what only OLD allows. A pattern \
                        stands for the names below it that no narrower entry of either file is about.\n\n\
                        Examples:\n  \
                        exeat diff /etc/exeat/exeat.toml exeat.toml\n  \
                        exeat diff --format json old.toml new.toml")]
pub struct DiffArgs {
    /// The configuration that holds now
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The configuration that would replace it
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// How to print differences
    #[arg(long, value_enum, default_value_t)]
    pub format: DiffFormat,
}

/// How differences are printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum DiffFormat {
    /// For people: lines with + and -, by client, with the place of the rule.
    #[default]
    Text,
    /// For programs: one JSON object a line, with a request to see the difference with.
    Json,
}

/// Formats that configurations are made of.
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Print the configuration of a YAML file with a list of hosts for each group
    #[command(
        after_help = "`blocked` lists what is refused; its `*`, everything that no group has, holds anyway. Lists with other names \
                      that say so (`deny`, `blocklist`) are errors.\n\
                      What is not carried over is told with its place. If without it less would be refused, nothing is printed.\n\
                      Exit status: 0 all of it is carried over, 1 some or all is not.\n\n\
                      Example:\n  \
                      exeat import hosts-yaml allowed-hosts.yaml > exeat.toml && exeat check"
    )]
    HostsYaml {
        /// The YAML file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Commands about clients.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Ask for a password, or read one line of standard input, and print the hash
    #[command(after_help = "Examples:\n  \
                            exeat client hash\n  \
                            exeat client hash < password.txt\n  \
                            exeat client hash --generated   # makes one: the password goes to standard error")]
    Hash {
        /// Generate a random password (160 bits), print it on standard error and its hash on standard output
        #[arg(long)]
        generated: bool,
    },
    /// Add a client to the configuration file; comments and order are kept
    #[command(
        after_help = "The password is asked for, or is the one line of standard input; with --generated one is made and printed.\n\n\
                            Examples:\n  \
                            exeat client add payments --policy payments --generated\n  \
                            exeat client add payments --rotate --generated   # a second password beside the first"
    )]
    Add(AddArgs),
}

/// Arguments of `client add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// The client's name, which is the user name of its credentials
    #[arg(value_name = "NAME")]
    pub name: String,
    /// A policy that holds for the client; repeatable
    #[arg(long, value_name = "POLICY")]
    pub policy: Vec<String>,
    /// A label as KEY=VALUE (organization, space, app, instance, class, lifecycle); repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub label: Vec<(Label, String)>,
    /// Generate a random password (160 bits) and print it
    #[arg(long)]
    pub generated: bool,
    /// Add a second password to a client that exists; both are valid until you remove the old one
    #[arg(long, conflicts_with_all = ["policy", "label"])]
    pub rotate: bool,
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "exeat.toml")]
    pub config: PathBuf,
}

fn parse_label(text: &str) -> Result<(Label, String), String> {
    match text.split_once('=').map(|(key, value)| (Label::parse(key), value)) {
        Some((Some(label), value)) if !value.is_empty() => Ok((label, value.to_owned())),
        _ => Err(format!("write KEY=VALUE, where KEY is one of {}", Label::ALL.map(Label::key).join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_a_command_is_the_commands() {
        for words in [
            &["exeat", "run", "--allow", "example.com", "curl", "--allow", "-x"][..],
            &["exeat", "run", "--allow", "example.com", "--", "curl", "--allow", "-x"],
        ] {
            let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else { panic!("{words:?}") };
            assert_eq!((args.allow.len(), args.command.len()), (1, 3), "{words:?}");
        }
    }

    #[test]
    fn flags_of_the_quick_start_exclude_a_file() {
        for words in [
            &["exeat", "serve", "--config", "x", "--allow", "example.com"][..],
            &["exeat", "serve", "--deny", "example.com"],
            &["exeat", "serve", "--listen", "example.com:80", "--allow", "x.example"],
            &["exeat", "run", "--config", "x", "--allow", "example.com", "true"],
            &["exeat", "run", "--policy", "x", "--allow", "example.com", "true"],
            &["exeat", "run", "--policy", "x", "--token", "y", "true"],
            &["exeat", "run", "--trust-config", "--config", "x", "true"],
            &["exeat", "run", "--allow", "example.com"],
            &["exeat", "run", "--alow", "example.com", "true"],
            &["exeat", "client", "add", "x", "--label", "space"],
            &["exeat", "top", "--interval", "0"],
            &["exeat", "top", "--interval", "NaN"],
            &["exeat", "top", "--interval", "31"],
            &["exeat", "quarantine", "payments"],
            &["exeat", "quarantine", "client="],
            &["exeat", "quarantine", "spice=x"],
            &["exeat", "quarantine", "--release"],
            &["exeat", "flows", "cut", "x"],
            &["exeat", "policy"],
            &["exeat", "policy", "put"],
            &["exeat", "policy", "diff"],
            &["exeat", "policy", "diff", "x", "--from", "1"],
            &["exeat", "policy", "diff", "--to", "1"],
            &["exeat", "policy", "rollback", "x"],
            &["exeat", "policy", "put", "x", "--if-revision", "current"],
            &["exeat", "flows", "cut", "1", "--client", "x"],
            &["exeat", "flows", "cut", "--all", "--client", "x"],
            &["exeat"],
        ] {
            assert!(Cli::try_parse_from(words).is_err(), "{words:?}");
        }
    }
}
