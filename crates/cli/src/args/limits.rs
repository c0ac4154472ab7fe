//! Arguments of `run` and `sandbox serve` that limit what a command uses.

use std::time::Duration;

use clap::{Args, ValueEnum};
use exeat_sandbox::{LimitedBy, Limits};

/// How much a command may use.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Memory of a command and all that it starts: bytes, or with K, M, G; more ends them
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Processors that a command may use at a time, such as 0.5 or 2
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    pub cpus: Option<u64>,
    /// Weight of a command beside others where processors are short, 2 to 262144 [kernel's default: 1024]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    pub cpu_shares: Option<u64>,
    /// Processes and threads of a command at a time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub pids: Option<u64>,
    /// How long a command may run, such as 90s, 10m; then it is told to end, and five seconds later made to; status 124
    #[arg(long, value_name = "DURATION", value_parser = parse_time)]
    pub timeout: Option<Duration>,
    /// Who holds a command to its limits of memory, processors and processes
    #[arg(long, value_enum, default_value_t = By::Cgroup, value_name = "BY")]
    pub limits: By,
}

/// Who holds a command to its limits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum By {
    /// Control groups, which have to be delegated to whoever is not root
    #[default]
    Cgroup,
    /// Limits of processes: memory is each one's address space, and processors are not limited
    Rlimit,
}

impl LimitArgs {
    /// Returns what they say.
    ///
    /// # Errors
    /// If it cannot be had together.
    pub(crate) fn limits(&self) -> anyhow::Result<Limits> {
        let by = match self.limits {
            By::Cgroup => LimitedBy::ControlGroups,
            By::Rlimit if self.cpus.is_some() => {
                anyhow::bail!("--limits=rlimit cannot limit processors: leave --cpus out")
            }
            By::Rlimit if self.cpu_shares.is_some() => {
                anyhow::bail!("--limits=rlimit cannot share out processors: leave --cpu-shares out")
            }
            By::Rlimit => LimitedBy::ProcessLimits,
        };
        let (memory, cpu_thousandths, processes) = (self.memory, self.cpus, self.pids);
        Ok(Limits { memory, cpu_thousandths, cpu_shares: self.cpu_shares, processes, time: self.timeout, by })
    }
}

/// The least memory that a program gets anywhere with, ours that starts it included.
const MEMORY_MIN: u64 = 16 << 20;

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err("write a number of bytes, or one with K, M or G".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if bytes >= MEMORY_MIN => Ok(bytes),
        Some(_) => Err("it takes 16M at the least".to_owned()),
        None => Err("write a number of bytes, or one with K, M or G".to_owned()),
    }
}

/// Returns thousandths.
fn parse_cpus(text: &str) -> Result<u64, String> {
    let wrong = || "write a number such as 0.5 or 2, up to 4096".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.is_empty() || part.len() > 3 || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(wrong());
    }
    let (whole, part): (u64, u64) =
        (whole.parse().map_err(|_| wrong())?, format!("{part:0<3}").parse().map_err(|_| wrong())?);
    match whole.checked_mul(1000).map(|whole| whole + part) {
        // The kernel takes no share below a hundredth.
        Some(thousandths @ 10..=4_096_000) => Ok(thousandths),
        _ => Err(wrong()),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = exeat_model::parse_duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| "write a number and a unit, such as 90s, 10m, 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_their_unit() {
        for (text, want) in [
            ("16777216", Some(16 << 20)),
            ("64M", Some(64 << 20)),
            ("64MiB", Some(64 << 20)),
            ("2g", Some(2 << 30)),
            ("1M", None),
            ("0", None),
            ("", None),
            ("M", None),
            ("64T", None),
            ("-1", None),
            ("99999999999G", None),
        ] {
            assert_eq!(parse_size(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn processors_are_counted_in_thousandths() {
        for (text, want) in [
            ("2", Some(2000)),
            ("0.5", Some(500)),
            ("1.25", Some(1250)),
            ("0.01", Some(10)),
            ("0.001", None),
            ("0", None),
            ("1.", None),
            (".5", None),
            ("-1", None),
            ("1e3", None),
            ("99999", None),
        ] {
            assert_eq!(parse_cpus(text).ok(), want, "{text}");
        }
    }
}
