//! What is open, who uses it, and how to end it: `flows`, `top` and `quarantine`.

use std::time::Duration;

use clap::{Args, Subcommand};
use exeat_policy::Label;

use super::Output;

/// Arguments of `flows`.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "On a terminal a table; elsewhere a line for each flow, tab-separated: id, kind, client, target, \
                  address, age, bytes up, bytes down, place of the rule, next hop.\n\n\
                  Examples:\n  \
                  exeat flows\n  \
                  exeat flows --client payments --json\n  \
                  exeat flows --target api.example.com --follow\n  \
                  exeat flows cut 17\n  \
                  exeat flows cut --client payments"
)]
pub struct FlowsArgs {
    /// What to do instead of listing
    #[command(subcommand)]
    pub command: Option<FlowsCommand>,
    /// Which flows
    #[command(flatten)]
    pub which: Which,
    /// Go on, and print flows as they begin (+) and end (-)
    #[arg(long)]
    pub follow: bool,
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// Which flows are meant: those for which all that is given holds.
#[derive(Args, Debug)]
pub struct Which {
    /// Flows of this client; `anonymous` for those without credentials
    #[arg(long, value_name = "NAME")]
    pub client: Option<String>,
    /// Flows from this workload, whatever proved who asks
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// Flows of clients with this label
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Option<String>,
    /// Flows to this host, whatever the port
    #[arg(long, value_name = "HOST")]
    pub target: Option<String>,
    /// Flows from this address
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<String>,
}

/// `flows` commands.
#[derive(Debug, Subcommand)]
pub enum FlowsCommand {
    /// End flows, within a second
    #[command(after_help = "Clients may come back: `exeat quarantine` keeps them out.\n\n\
                            Examples:\n  \
                            exeat flows cut 17\n  \
                            exeat flows cut --client payments\n  \
                            exeat flows cut --target api.example.com")]
    Cut(CutArgs),
}

/// Arguments of `flows cut`.
#[derive(Args, Debug)]
pub struct CutArgs {
    /// The number of one flow
    #[arg(value_name = "ID", conflicts_with_all = ["client", "workload", "label", "target", "source", "all"])]
    pub id: Option<u64>,
    /// Which flows
    #[command(flatten)]
    pub which: Which,
    /// Every flow
    #[arg(long, conflicts_with_all = ["client", "workload", "label", "target", "source"])]
    pub all: bool,
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `top`.
#[derive(Args, Debug)]
#[command(
    after_help = "A row is one client and one target: bytes and requests for each second, open flows, the age \
                        of the oldest. Below are refusals by reason, and who was refused what. `?` shows the keys.\n\
                        Not on a terminal, it prints what is there once and ends.\n\n\
                        Examples:\n  \
                        exeat top\n  \
                        exeat top --interval 5\n  \
                        exeat top --once\n  \
                        exeat top --json | jq '.per_second'"
)]
pub struct TopArgs {
    /// Print what is there as text and end
    #[arg(long)]
    pub once: bool,
    /// How long to wait from one look to the next: 0.1 to 30
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_interval)]
    pub interval: Duration,
    /// Where to ask; JSON is printed once, too
    #[command(flatten)]
    pub output: Output,
}

/// Shorter is more than a person reads; longer, and the proxy may take it that nobody looks any more.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=30.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write a number of seconds from 0.1 to 30".to_owned())
}

/// Arguments of `quarantine`.
#[derive(Args, Debug)]
#[command(after_help = "Without a selector, prints who is in quarantine.\n\n\
                        Examples:\n  \
                        exeat quarantine client=payments\n  \
                        exeat quarantine space=payments-prod\n  \
                        exeat quarantine client=payments --release\n  \
                        exeat quarantine")]
pub struct QuarantineArgs {
    /// client=NAME, workload=NAME, or a label: organization=, space=, app=, instance=, class=, lifecycle=
    #[arg(value_name = "SELECTOR", value_parser = parse_who)]
    pub selector: Option<Who>,
    /// End the quarantine
    #[arg(long, requires = "selector")]
    pub release: bool,
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// Who is meant by a selector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Who {
    /// The client of this name.
    Client(String),
    /// Everyone who comes from the workload of this name.
    Workload(String),
    /// Everyone with this label, as `KEY=VALUE`.
    Label(String),
}

impl Who {
    pub(crate) fn client(&self) -> Option<&str> {
        match self {
            Self::Client(name) => Some(name),
            Self::Workload(_) | Self::Label(_) => None,
        }
    }

    pub(crate) fn label(&self) -> Option<&str> {
        match self {
            Self::Client(_) | Self::Workload(_) => None,
            Self::Label(pair) => Some(pair),
        }
    }

    pub(crate) fn workload(&self) -> Option<&str> {
        match self {
            Self::Workload(name) => Some(name),
            Self::Client(_) | Self::Label(_) => None,
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(name) => write!(f, "client={name}"),
            Self::Workload(name) => write!(f, "workload={name}"),
            Self::Label(pair) => f.write_str(pair),
        }
    }
}

fn parse_who(text: &str) -> Result<Who, String> {
    match text.split_once('=') {
        Some(("client", name)) if !name.is_empty() => Ok(Who::Client(name.to_owned())),
        Some(("workload", name)) if !name.is_empty() => Ok(Who::Workload(name.to_owned())),
        Some((key, value)) if Label::parse(key).is_some() && !value.is_empty() => {
            Ok(Who::Label(text.to_owned()))
        }
        _ => Err(format!(
            "write client=NAME, workload=NAME, or KEY=VALUE where KEY is one of {}",
            Label::ALL.map(Label::key).join(", ")
        )),
    }
}
