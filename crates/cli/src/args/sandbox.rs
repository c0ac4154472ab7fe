//! Arguments of `sandbox`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Arg, Args, Subcommand};

use super::limits::LimitArgs;
use super::values::parse_address_and_port;

/// What to do about sandboxes.
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Run commands, each confined, for whoever asks over HTTP and has the secret
    Serve(SandboxServeArgs),
}

/// Arguments of `sandbox serve`.
#[derive(Args, Debug)]
#[command(
    after_help = "Each command is confined as `exeat run` confines one, under the policy or token that comes with it, and is a principal of \
                        its own in the audit log. Callers need the secret: from --secret-file, which is made at the first start, or from \
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
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = parse_address_and_port)]
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
    /// As root: the user that commands run as, if not who called sudo, or nobody
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

/// How many commands there may be, and how much each may use.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits", mut_args(as_of_each))]
pub struct SandboxLimitArgs {
    /// Commands at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub runs: u16,
    /// Bytes of output that are sent at a time over a WebSocket, 1024 to 1048576; a caller who does not read stops the command
    /// when these are waiting for them
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = clap::value_parser!(u64).range(BUFFER))]
    pub websocket_buffer: u64,
    /// What each command gets that does not ask for less.
    #[command(flatten)]
    pub each: LimitArgs,
}

/// The same arguments as those of `run`, as they are called here.
fn as_of_each(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "memory" => arg.long("memory-limit-bytes"),
        "timeout" => arg.default_value("1h"),
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn serve(flags: &[&str]) -> Result<LimitArgs, clap::Error> {
        let words = ["exeat", "sandbox", "serve"].iter().chain(flags);
        let Command::Sandbox(SandboxCommand::Serve(args)) = Cli::try_parse_from(words)?.command else {
            panic!("it is another command")
        };
        Ok(args.limits.each)
    }

    #[test]
    fn limits_are_those_of_run_by_other_names() {
        let hour = Duration::from_secs(3600);
        for (name, flags, memory, time) in [
            ("nothing", &[][..], None, hour),
            ("memory", &["--memory-limit-bytes", "64M"], Some(64 << 20), hour),
            ("time", &["--timeout", "10m"], None, Duration::from_secs(600)),
        ] {
            let each = serve(flags).unwrap();
            assert_eq!((each.memory, each.timeout), (memory, Some(time)), "{name}");
        }
        assert!(serve(&["--memory", "64M"]).is_err(), "the name that `run` has for it");
        let run = |flags: [&str; 2]| Cli::try_parse_from(["exeat", "run", flags[0], flags[1], "true"]);
        assert!(run(["--memory", "64M"]).is_ok() && run(["--memory-limit-bytes", "64M"]).is_err());
        let Ok(Cli { command: Command::Run(args) }) = run(["--pids", "9"]) else { panic!("it is a run") };
        assert_eq!((args.limits.pids, args.limits.timeout), (Some(9), None));
    }
}
