//! Arguments of `sandbox`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::limits::{By, parse_cpus, parse_size, parse_time};

/// What to do about sandboxes.
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Run commands, each confined, for whoever asks over HTTP and has the secret
    Serve(SandboxServeArgs),
}

/// Arguments of `sandbox serve`.
#[derive(Args, Debug)]
#[command(
    after_help = "Each command is confined as `exeat run` confines one, under the policy or token that comes with it, and\n\
                        is a principal of its own in the audit log. Callers need the secret: from --secret-file, which is made at the first start, or from\n\
                        the variable EXEAT_PROCESS_API_SECRET. Commands end when the server does.\n\n\
                        Signals:\n  \
                        SIGTERM  tell commands to end, and exit when they have, or after five seconds\n\n\
                        Examples:\n  \
                        exeat sandbox serve\n  \
                        exeat sandbox serve --memory-limit-bytes 4294967296 --cpu-shares 512 --runs 4 --audit audit.jsonl\n  \
                        exeat sandbox serve --config exeat.toml --audit audit.jsonl\n  \
                        exeat sandbox serve --addr 0.0.0.0:8443 --restrict-localhost --tls-cert api.pem --tls-key api.key\n  \
                        curl -H \"Authorization: Bearer $SECRET\" http://127.0.0.1:8080/execute -d '{\"command\":\"id\"}'\n\n\
                        docs/process-api.md describes what can be asked for."
)]
pub struct SandboxServeArgs {
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub addr: SocketAddr,
    /// Refuse every connection that comes from this host
    #[arg(long)]
    pub restrict_localhost: bool,
    /// The file with the secret of callers [default: process-api.secret in /var/lib/exeat, or in ~/.local/state/exeat]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// A certificate chain in PEM: callers then speak TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A name that it may be called by, beside `localhost` and any address; repeatable
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// An origin whose pages may call it, such as `https://console.example.com`; repeatable
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// As root: the user that commands run as
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The configuration whose issuers' tokens callers may have commands run under
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The file for audit records [default: that of --config, for commands under a token; none are kept of others]
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// Where commands run that do not say it [default: the working directory]
    #[arg(long, value_name = "PATH")]
    pub directory: Option<PathBuf>,
    /// A file or directory that commands may not write; repeatable
    #[arg(long = "ro", value_name = "PATH")]
    pub read_only: Vec<PathBuf>,
    /// A file or directory that they may write though one above it is --ro or --hide; repeatable
    #[arg(long = "rw", value_name = "PATH")]
    pub writable: Vec<PathBuf>,
    /// A file or directory that is empty for them; repeatable
    #[arg(long, value_name = "PATH")]
    pub hide: Vec<PathBuf>,
    /// What commands may use of the machine.
    #[command(flatten)]
    pub limits: SandboxLimitArgs,
}

/// Bytes of [`SandboxLimitArgs::websocket_buffer`].
const BUFFER: std::ops::RangeInclusive<u64> = 1024..=1024 * 1024;

/// How much commands may use. Each is what a command gets that does not ask for less.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub struct SandboxLimitArgs {
    /// Commands at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub runs: u16,
    /// Bytes of output that are sent at a time over a WebSocket, 1024 to 1048576; a caller who does not read stops the command
    /// when these are waiting for them
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = clap::value_parser!(u64).range(BUFFER))]
    pub websocket_buffer: u64,
    /// Memory of each, all that it starts included: bytes, or with K, M, G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory_limit_bytes: Option<u64>,
    /// Processors that each may use at a time, such as 0.5 or 2
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    pub cpus: Option<u64>,
    /// Weight of each beside others where processors are short, 2 to 262144 [kernel's default: 1024]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    pub cpu_shares: Option<u64>,
    /// Processes and threads of each at a time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub pids: Option<u64>,
    /// How long each may run; then it is told to end, and five seconds later made to
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_time)]
    pub timeout: Duration,
    /// Who holds commands to these
    #[arg(long, value_enum, default_value_t = By::Cgroup, value_name = "BY")]
    pub limits: By,
}
