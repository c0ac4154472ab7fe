//! Round after round over all targets, every other one in reverse, so that what changes slowly on the machine
//! meets all alike.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::load::{self, Options, Target};
use crate::record::Sheet;

/// Between two targets: what the one has begun is over when the other starts.
const PAUSE: Duration = Duration::from_millis(150);

/// Which targets, and how often.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Comparison {
    #[command(flatten)]
    sheet: Sheet,
    #[command(flatten)]
    options: Options,
    /// A target: its name, the way to it (with `@` and a file, the credentials in that), its process or the file that has it (0 for none), and its rules
    #[arg(long = "target", num_args = 4, value_names = ["NAME", "WAY", "PID", "RULES"], required = true)]
    targets: Vec<String>,
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// The number of the first round
    #[arg(long, default_value_t = 1)]
    first_round: u32,
}

/// Runs the comparison and writes it down.
///
/// # Errors
/// If a target cannot be understood or the records not be written.
pub(crate) async fn run(comparison: &Comparison) -> Result<()> {
    let mut targets = comparison.targets.chunks(4).map(target).collect::<Result<Vec<_>>>()?;
    for round in 0..comparison.rounds {
        for target in &targets {
            let figures = load::run(target, &comparison.options).await?;
            comparison.sheet.add(&target.name, comparison.first_round + round, figures)?;
            tokio::time::sleep(PAUSE).await;
        }
        targets.reverse();
    }
    Ok(())
}

fn target(words: &[String]) -> Result<Target> {
    let [name, way, pid, rules] = words else { bail!("a target takes four words") };
    let (via, credentials) = match way.split_once('@') {
        Some((via, file)) => {
            (via, std::fs::read_to_string(file).with_context(|| file.to_owned())?.trim().to_owned())
        }
        None => (way.as_str(), load::basic_credentials()),
    };
    Ok(Target {
        name: name.clone(),
        via: via.parse().with_context(|| format!("the way to {name}"))?,
        pid: read_pid(pid).with_context(|| format!("the process of {name}"))?,
        rules: rules.parse().with_context(|| format!("the rules of {name}"))?,
        credentials,
    })
}

fn read_pid(text: &str) -> Result<u32> {
    let path = Path::new(text);
    if path.is_absolute() { Ok(std::fs::read_to_string(path)?.trim().parse()?) } else { Ok(text.parse()?) }
}
