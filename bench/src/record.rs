//! What was measured: one line of JSON for each round and target.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What one target did in one round.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Units of work that were counted.
    pub(crate) units: u64,
    /// Seconds that they took.
    pub(crate) seconds: f64,
    /// What went wrong, and how often.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Named figures, with the unit at the end of the name.
    pub(crate) values: BTreeMap<String, f64>,
}

impl Figures {
    /// Adds a figure, unless it is none.
    pub(crate) fn set(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.values.insert(name.to_owned(), value);
        }
    }

    /// Adds the median, the 99th of a hundred and the highest of `values`, with this unit.
    pub(crate) fn set_quantiles(&mut self, values: &mut [f64], unit: &str) {
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("slowest", 1.0)] {
            if let Some(&value) = values.get((share * last as f64).round() as usize) {
                self.set(&format!("{name}_{unit}"), value);
            }
        }
    }

    /// How many things went wrong.
    pub(crate) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// The figures and where they come from.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Record {
    /// What was measured: a section of the results.
    pub(crate) section: String,
    /// Which program.
    pub(crate) target: String,
    /// The round, from 1. Targets of one round ran one after the other.
    pub(crate) round: u32,
    /// The commit that was built.
    pub(crate) commit: String,
    /// When, in UTC.
    pub(crate) time: String,
    /// What came of it.
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// Where the records go, and what is the same in all of them.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Sheet {
    /// What the records are of
    #[arg(long)]
    section: String,
    /// The commit that is measured
    #[arg(long)]
    commit: String,
    /// The folder of the records
    #[arg(long)]
    results: PathBuf,
}

impl Sheet {
    /// Writes one record down, and says on standard error what is in it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn add(&self, target: &str, round: u32, figures: Figures) -> Result<()> {
        let shown: Vec<String> = figures
            .values
            .iter()
            .map(|(name, value)| format!("{name} {}", crate::report::number(*value)))
            .collect();
        eprintln!("   {} {round} {target}: {}", self.section, shown.join(", "));
        for (kind, count) in &figures.errors {
            eprintln!("   {} {round} {target}: ERROR {count} x {kind}", self.section);
        }
        let record = Record {
            section: self.section.clone(),
            target: target.to_owned(),
            round,
            commit: self.commit.clone(),
            time: now(),
            figures,
        };
        let path = self.results.join(format!("{}.jsonl", self.section));
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(file, "{}", serde_json::to_string(&record)?)
            .with_context(|| format!("write {}", path.display()))
    }
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Reads every record in the folder.
///
/// # Errors
/// If a file cannot be read or a line is no record.
pub(crate) fn read_all(folder: &Path) -> Result<Vec<Record>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let mut records = Vec::new();
    for path in files {
        for line in fs::read_to_string(&path)?.lines() {
            let record = serde_json::from_str(line).with_context(|| format!("read {}", path.display()))?;
            records.push(record);
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_written() {
        let mut figures = Figures { units: 7, seconds: 1.5, ..Figures::default() };
        figures.set("cpu_us", 12.25);
        figures.set("nothing", f64::NAN);
        figures.errors.insert("refused with 502".to_owned(), 3);
        let record = Record {
            section: "connect".to_owned(),
            target: "exeat".to_owned(),
            round: 1,
            commit: "abc".to_owned(),
            time: now(),
            figures,
        };
        let line = serde_json::to_string(&record).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        assert_eq!((record.figures.error_count(), record.figures.values.len()), (3, 1));
    }
}
