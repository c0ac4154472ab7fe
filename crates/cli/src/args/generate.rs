//! The arguments of `generate`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Longest name of a namespace and longest part of a label, in characters (RFC 1123 §2.1, Kubernetes).
const NAME_CHARS_MAX: usize = 63;

/// Longest prefix of a label's key, in characters.
const PREFIX_CHARS_MAX: usize = 253;

/// Commands that write what leaves a workload no way out but the proxy.
#[derive(Debug, Subcommand)]
pub enum GenerateCommand {
    /// Print a script that runs the proxy and a workload with Docker
    #[command(after_help = "Examples:\n  \
                            exeat generate docker > egress.sh\n  \
                            sh egress.sh up && sh egress.sh run WORKLOAD-IMAGE && sh egress.sh down")]
    Docker(GenerateArgs),
    /// Print a compose file with the proxy and a workload
    #[command(after_help = "Examples:\n  \
                            exeat generate compose > compose.yaml\n  \
                            WORKLOAD_IMAGE=example.com/batch:1 docker compose up --detach")]
    Compose(GenerateArgs),
    /// Print network policies, and what runs the proxy in Kubernetes
    #[command(after_help = "Pods cannot resolve names: they find the proxy by the address of its service.\n\
                      Pods of the host's network and clusters whose network knows no policies are not covered.\n\n\
                      Examples:\n  \
                      exeat generate kubernetes --namespace batch --service-ip 10.96.100.100 | kubectl apply -f -\n  \
                      exeat generate kubernetes --namespace batch --workload-label app=sandbox --output manifests")]
    Kubernetes(KubernetesArgs),
}

/// Arguments of every kind.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "exeat.toml")]
    pub config: PathBuf,
    /// The listener that workloads use, by its port [default: the first that others can reach]
    #[arg(long)]
    pub port: Option<u16>,
    /// The image of the proxy
    #[arg(long, default_value = concat!("exeat:", env!("CARGO_PKG_VERSION")), value_parser = parse_image)]
    pub image: String,
    /// Write files into this directory instead of printing them
    #[arg(long, value_name = "DIRECTORY")]
    pub output: Option<PathBuf>,
}

/// Arguments of `generate kubernetes`.
#[derive(Args, Debug)]
pub struct KubernetesArgs {
    /// What all kinds have
    #[command(flatten)]
    pub common: GenerateArgs,
    /// The namespace of the workloads
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = parse_namespace)]
    pub namespace: String,
    /// The namespace of the proxy
    #[arg(long, value_name = "NAME", default_value = "exeat", value_parser = parse_namespace)]
    pub proxy_namespace: String,
    /// The pods that may use the proxy; the others of their namespace reach nothing [default: all of them]
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub workload_label: Option<(String, String)>,
    /// An address of the cluster's service range for the proxy, by which pods find it
    #[arg(long, value_name = "ADDRESS", value_parser = super::values::parse_address)]
    pub service_ip: Option<IpAddr>,
}

fn parse_image(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fine) {
        return Ok(text.to_owned());
    }
    Err("write an image as registry.example.com/exeat:1.0".to_owned())
}

fn parse_namespace(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if is_name(text, fine) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "write up to {NAME_CHARS_MAX} small letters, digits and dashes, with none of these at an end"
    ))
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_prefix = |prefix: &str| {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        prefix.len() <= PREFIX_CHARS_MAX && prefix.split('.').all(|label| is_name(label, fine))
    };
    let Some((key, value)) = text.split_once('=') else {
        return Err("write KEY=VALUE".to_owned());
    };
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if prefix.is_none_or(is_prefix) && is_name(name, fine) && (value.is_empty() || is_name(value, fine)) {
        return Ok((key.to_owned(), value.to_owned()));
    }
    Err(format!(
        "write KEY=VALUE as Kubernetes takes them: up to {NAME_CHARS_MAX} letters, digits, `-`, `_` and `.`, which begin and end with a letter or digit"
    ))
}

/// Whether it has the length and the ends of a name, and no other characters.
fn is_name(text: &str, fine: impl Fn(char) -> bool) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    text.len() <= NAME_CHARS_MAX && text.starts_with(end) && text.ends_with(end) && text.chars().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        let long = "a".repeat(NAME_CHARS_MAX + 1);
        for text in ["a", "batch-1", "0", &long[1..]] {
            assert_eq!(parse_namespace(text).as_deref(), Ok(text));
        }
        for text in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "a\n", "é", &long] {
            assert!(parse_namespace(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn labels_are_those_that_kubernetes_takes() {
        let long = format!("a={}", "a".repeat(NAME_CHARS_MAX + 1));
        for (text, key, value) in [
            ("app=sandbox", "app", "sandbox"),
            ("app=", "app", ""),
            ("example.com/kind=A_b.c-1", "example.com/kind", "A_b.c-1"),
        ] {
            assert_eq!(parse_label(text), Ok((key.to_owned(), value.to_owned())));
        }
        for text in ["app", "=x", "/a=b", "a/b/c=d", "UP/a=b", "a=b=c", "a=-b", "a=b\n", "a =b", &long] {
            assert!(parse_label(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn images_cannot_be_mistaken_for_anything_else() {
        for text in ["exeat", "exeat:0.1.0", "registry.example.com:5000/a/b@sha256:00"] {
            assert_eq!(parse_image(text).as_deref(), Ok(text));
        }
        for text in ["", "-v", "--privileged", "a b", "a;b", "$(a)", "${A}", "a\n", "a'"] {
            assert!(parse_image(text).is_err(), "{text:?}");
        }
    }
}
