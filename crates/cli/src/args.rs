//! The command line as typed. Help, completions and the man page all come from here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use exeat_policy::Label;

/// Controls what workloads may reach outside themselves.
#[derive(Debug, Parser)]
#[command(
    name = "exeat",
    version,
    about = "Controls what workloads may reach outside themselves",
    long_about = "Exeat is a forward proxy with one policy: a workload reaches the destinations that a \
                  rule allows, and everything else gets a refusal that says why.",
    after_help = "Examples:\n  \
                  exeat serve --allow example.com --allow '*.example.org'\n  \
                  exeat serve --config exeat.toml\n  \
                  exeat check exeat.toml\n  \
                  exeat explain payments https://api.example.com/",
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
    /// Check a configuration and print every problem with its place and its correction
    Check(CheckArgs),
    /// Say whether a client may reach a URL, which rule decides, and what would allow it
    Explain(ExplainArgs),
    /// Make credentials for clients
    #[command(subcommand)]
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
    /// The configuration file
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["allow", "deny", "listen", "report", "audit"])]
    pub config: Option<PathBuf>,
    /// Allow a destination without a configuration file: a name, *.name, network, each with :ports; repeatable
    #[arg(long, value_name = "ENTRY")]
    pub allow: Vec<String>,
    /// Deny a destination that --allow covers; repeatable
    #[arg(long, value_name = "ENTRY", requires = "allow")]
    pub deny: Vec<String>,
    /// The address to listen on [default: 127.0.0.1:3128]
    #[arg(long, value_name = "ADDRESS:PORT", requires = "allow")]
    pub listen: Option<SocketAddr>,
    /// Refuse nothing that is public, and record what would have been refused
    #[arg(long, requires = "allow")]
    pub report: bool,
    /// The file for audit records [default: standard output]
    #[arg(long, value_name = "FILE", requires = "allow")]
    pub audit: Option<PathBuf>,
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
    /// Let warnings count as errors
    #[arg(long)]
    pub strict: bool,
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
#[command(after_help = "Exit status: 0 allowed, 1 refused, 78 the configuration is not usable.\n\n\
                        Examples:\n  \
                        exeat explain payments https://api.example.com/v1/charges\n  \
                        exeat explain payments db.corp.example:5432 --address 10.20.1.7\n  \
                        exeat explain payments https://api.example.com/ --resolve")]
pub struct ExplainArgs {
    /// The client, by its name in the configuration; `anonymous` for one without credentials
    #[arg(value_name = "CLIENT")]
    pub client: String,
    /// A URL, or HOST:PORT
    #[arg(value_name = "URL")]
    pub target: String,
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "exeat.toml")]
    pub config: PathBuf,
    /// Judge these addresses as the answer for the name; repeatable
    #[arg(long, value_name = "ADDRESS")]
    pub address: Vec<IpAddr>,
    /// Resolve the name, if a rule allows it, and judge the answer
    #[arg(long, conflicts_with = "address")]
    pub resolve: bool,
}

/// Commands about clients.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Read a password on standard input and print its hash
    #[command(after_help = "Examples:\n  \
                            exeat client hash < password.txt\n  \
                            exeat client hash --generated   # makes one: the password goes to standard error")]
    Hash {
        /// Generate a random password (160 bits), print it on standard error and its hash on standard output
        #[arg(long)]
        generated: bool,
    },
    /// Add a client to the configuration file; comments and order are kept
    #[command(
        after_help = "The password is read from standard input; with --generated one is made and printed.\n\n\
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
    fn flags_of_the_quick_start_exclude_a_file() {
        for words in [
            &["exeat", "serve", "--config", "x", "--allow", "example.com"][..],
            &["exeat", "serve", "--deny", "example.com"],
            &["exeat", "serve", "--listen", "example.com:80", "--allow", "x.example"],
            &["exeat", "client", "add", "x", "--label", "space"],
            &["exeat"],
        ] {
            assert!(Cli::try_parse_from(words).is_err(), "{words:?}");
        }
    }
}
