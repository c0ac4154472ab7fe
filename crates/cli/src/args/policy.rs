//! The arguments of `policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;
use super::values::parse_revision;

/// Commands about what decides.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Print the document that decides, or that of an older revision, byte for byte
    #[command(after_help = "It holds the password hashes of clients.\n\n\
                            Examples:\n  \
                            exeat policy get > exeat.toml.new\n  \
                            exeat policy get 12 --socket /run/exeat/api.sock")]
    Get(GetArgs),
    /// Let a document take the place of the configuration file, and decide from now on
    #[command(
        after_help = "All of it takes effect or nothing. Open connections that it no longer allows end within a second.\n\
                      Exit status: 0 it decides, 78 it has errors and the old policy stays, 1 otherwise.\n\n\
                      Examples:\n  \
                      exeat policy put exeat.toml.new\n  \
                      exeat policy put exeat.toml.new --dry-run\n  \
                      exeat policy put - --if-revision 12 < exeat.toml.new"
    )]
    Put(PutArgs),
    /// Say what a document would allow differently, or what two revisions do, client by client
    #[command(after_help = "Exit status: 0 they allow the same, 1 they differ, 78 one is not usable.\n\n\
                            A line begins with + for what only the later one allows and - for what only the earlier \
                            one allows.\n\n\
                            Examples:\n  \
                            exeat policy diff exeat.toml.new\n  \
                            exeat policy diff --from 11\n  \
                            exeat policy diff --from 11 --to 12")]
    Diff(PolicyDiffArgs),
    /// List the revisions that are kept, the newest first
    #[command(
        after_help = "On a terminal a table; elsewhere a line for each, tab-separated: revision, time, origin, user id, \
                      bytes, SHA-256 of the document, what changed.\n\n\
                      Examples:\n  \
                      exeat policy revisions\n  \
                      exeat policy revisions --json"
    )]
    Revisions(RevisionsArgs),
    /// Let the document of an older revision decide again, as a new revision
    #[command(after_help = "Files that the document names are read as they are now.\n\
                      Exit status: 0 it decides, 78 it has errors by now and the policy in use stays, 1 otherwise.\n\n\
                      Examples:\n  \
                      exeat policy rollback 11\n  \
                      exeat policy rollback 11 --dry-run\n  \
                      exeat policy rollback 11 --if-revision 12")]
    Rollback(RollbackArgs),
}

/// Arguments of `policy get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// The number of the revision [default: the one that decides]
    #[arg(value_name = "REVISION", value_parser = parse_revision)]
    pub revision: Option<u64>,
    /// The socket of the running proxy's admin API [default: $EXEAT_SOCKET, or that of ./exeat.toml]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// How a document is put.
#[derive(Args, Debug)]
pub struct PutHow {
    /// Only if this revision still decides
    #[arg(long, value_name = "REVISION", value_parser = parse_revision)]
    pub if_revision: Option<u64>,
    /// Say what would come of it and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do it even if the configuration file was edited since it was loaded; the edits are lost
    #[arg(long)]
    pub overwrite: bool,
}

/// Arguments of `policy put`.
#[derive(Args, Debug)]
pub struct PutArgs {
    /// The document; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How
    #[command(flatten)]
    pub how: PutHow,
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `policy diff`.
#[derive(Args, Debug)]
pub struct PolicyDiffArgs {
    /// A document, to compare with what decides; - is standard input
    #[arg(value_name = "FILE", conflicts_with_all = ["from", "to"], required_unless_present = "from")]
    pub file: Option<PathBuf>,
    /// The number of the earlier revision
    #[arg(long, value_name = "REVISION", value_parser = parse_revision)]
    pub from: Option<u64>,
    /// The number of the later revision [default: the one that decides]
    #[arg(long, value_name = "REVISION", value_parser = parse_revision, requires = "from")]
    pub to: Option<u64>,
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `policy revisions`.
#[derive(Args, Debug)]
pub struct RevisionsArgs {
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `policy rollback`.
#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// The number of the revision whose document decides again
    #[arg(value_name = "REVISION", value_parser = parse_revision)]
    pub revision: u64,
    /// How
    #[command(flatten)]
    pub how: PutHow,
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}
