//! The results as Markdown: the bars first, then every section with its rounds.

mod bars;
mod sections;
mod series;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::record;

/// What to report.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Report {
    /// The folder of the records
    #[arg(long)]
    results: PathBuf,
    /// A file of facts about the machine and the programs, one a line: a name, a tab, the fact
    #[arg(long)]
    facts: PathBuf,
}

const HEAD: &str = "\
# Results

Written by `bench/run`; do not edit. What is measured and how to read it: [README.md](README.md).

The headline is CPU per unit of work, user and system time of the whole process tree, divided by that of the floor in
the same round. Load generator, origin and proxy share the machine, so that absolute figures say little about another
one. A figure is the median over the rounds, with the lowest and the highest in parentheses.
";

/// Prints the report.
///
/// # Errors
/// If the records cannot be read.
pub(crate) fn run(report: &Report) -> Result<()> {
    let records = record::read_all(&report.results)?;
    let facts =
        fs::read_to_string(&report.facts).with_context(|| format!("read {}", report.facts.display()))?;
    let mut text = HEAD.to_owned();
    text.push_str("\n| | |\n|---|---|\n");
    for (name, fact) in facts.lines().filter_map(|line| line.split_once('\t')) {
        writeln!(text, "| {name} | {fact} |")?;
    }
    text.push_str(&bars::table(&records));
    text.push_str(&sections::all(&records));
    crate::generate::line(text.trim_end())
}

/// A number with three significant digits.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    let digits = if size == 0.0 || size >= 100.0 {
        0
    } else if size >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, want) in
            [(0.0, "0"), (0.517, "0.52"), (1.249, "1.25"), (17.44, "17.4"), (119.6, "120"), (-3.0, "-3.00")]
        {
            assert_eq!(number(value), want);
        }
    }
}
