//! The arguments of `token`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Output;

/// `token` commands.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a key that signs tokens, and print the JWK set that its tokens are verified with
    #[command(after_help = "Examples:\n  \
                            exeat token keygen issuer.pem > jwks.json\n  \
                            exeat token keygen issuer.pem --eddsa --kid 2026-11 > jwks.json")]
    Keygen(KeygenArgs),
    /// Issue a token and print it
    #[command(
        after_help = "`iss` and `aud` are those of the [issuer] section that has the key's public half.\n\n\
                            Examples:\n  \
                            exeat token issue issuer.pem --issuer secure-egress-control --audience egress-proxy \\\n      \
                            --container sbx-1 --host api.example.com --host '*.example.org'\n  \
                            exeat token issue issuer.pem --issuer secure-egress-control --audience egress-proxy \\\n      \
                            --container sbx-1 --policy payments --ttl 30m --bind"
    )]
    Issue(IssueArgs),
    /// Print what a token says, without believing it
    #[command(
        after_help = "The token is read from standard input.\n\nExample:\n  exeat token inspect < token"
    )]
    Inspect,
    /// Say whether a configuration accepts a token now, and if not, every check that it fails
    #[command(
        after_help = "The token is read from standard input. Whether it was revoked, only the running \
                            proxy knows: exeat explain --token asks it, where one runs.\n\nExample:\n  exeat token verify --config exeat.toml < token"
    )]
    Verify {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = "exeat.toml")]
        config: PathBuf,
    },
    /// Let tokens count no longer, and end their flows within a second
    #[command(
        after_help = "It holds until every token has ended that was issued before; of a key, until it is lifted.\n\n\
                            Examples:\n  \
                            exeat token revoke jti=sNFTE3Gb1vFYWcnr6xhu2A\n  \
                            exeat token revoke container=sbx-1\n  \
                            exeat token revoke key=2026-11\n  \
                            exeat token revoke container=sbx-1 --lift"
    )]
    Revoke(RevokeArgs),
    /// List what is revoked
    #[command(after_help = "Example:\n  exeat token revocations --json")]
    Revocations(RevocationsArgs),
}

/// Arguments of `token keygen`.
#[derive(Args, Debug)]
pub struct KeygenArgs {
    /// The file to make for the private key; it must not exist
    #[arg(value_name = "KEY")]
    pub key: PathBuf,
    /// Ed25519 instead of P-256: shorter tokens
    #[arg(long)]
    pub eddsa: bool,
    /// The key's name; its thumbprint otherwise
    #[arg(long, value_name = "NAME")]
    pub kid: Option<String>,
}

/// Arguments of `token issue`.
#[derive(Args, Debug)]
pub struct IssueArgs {
    /// The file with the private key
    #[arg(value_name = "KEY")]
    pub key: PathBuf,
    /// The key's name, if it is not its thumbprint
    #[arg(long, value_name = "NAME")]
    pub kid: Option<String>,
    /// `iss`
    #[arg(long, value_name = "NAME")]
    pub issuer: String,
    /// `aud`
    #[arg(long, value_name = "NAME")]
    pub audience: String,
    /// `container_id`: whom the token is for
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
    /// `organization_uuid`
    #[arg(long, value_name = "ID")]
    pub organization: Option<String>,
    /// `sub`
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// A host that it may reach: a name, *.NAME, or either with :PORT; may be repeated
    #[arg(long = "host", value_name = "HOST", required_unless_present = "policy")]
    pub hosts: Vec<String>,
    /// The name of a policy instead of hosts
    #[arg(long, value_name = "NAME", conflicts_with = "hosts")]
    pub policy: Option<String>,
    /// How long it counts: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "4h", value_parser = parse_life)]
    pub ttl: Duration,
    /// `enforce_container_binding`: it counts from its container alone
    #[arg(long, requires = "container")]
    pub bind: bool,
    /// `use_egress_gateway`: only through a next hop
    #[arg(long)]
    pub gateway: bool,
    /// `enforce_centralized_egress`: on central nodes alone
    #[arg(long)]
    pub central: bool,
    /// `is_hipaa_regulated`: by rules for health data alone
    #[arg(long)]
    pub hipaa: bool,
}

fn parse_life(text: &str) -> Result<Duration, String> {
    let help = || format!("`{text}` is not a time; write a number and s, m, h or d, such as 4h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(help)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(help()),
    };
    let number: u64 = number.parse().ok().filter(|number| *number > 0).ok_or_else(help)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(help)
}

/// Arguments of `token revoke`.
#[derive(Args, Debug)]
pub struct RevokeArgs {
    /// jti=, container=, organization= or key=
    #[arg(value_name = "TOKENS", value_parser = parse_tokens)]
    pub tokens: Tokens,
    /// Let them count again
    #[arg(long)]
    pub lift: bool,
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `token revocations`.
#[derive(Args, Debug)]
pub struct RevocationsArgs {
    /// Where to ask
    #[command(flatten)]
    pub output: Output,
}

/// Which tokens are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tokens {
    /// `jti`, `container`, `organization` or `key`.
    pub kind: String,
    /// Its value.
    pub value: String,
}

fn parse_tokens(text: &str) -> Result<Tokens, String> {
    match text.split_once('=') {
        Some((kind @ ("jti" | "container" | "organization" | "key"), value)) if !value.is_empty() => {
            Ok(Tokens { kind: kind.to_owned(), value: value.to_owned() })
        }
        _ => Err("write jti=, container=, organization= or key=, and the value".to_owned()),
    }
}
