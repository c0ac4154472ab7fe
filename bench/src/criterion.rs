//! Takes over what criterion has measured.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::record::{Figures, Sheet};

/// Where from, and where to.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Import {
    #[command(flatten)]
    sheet: Sheet,
    /// Criterion's folder
    #[arg(long)]
    folder: PathBuf,
}

/// Writes down the median time of every benchmark in the folder.
///
/// # Errors
/// If a file is not as criterion writes it.
pub(crate) fn run(import: &Import) -> Result<()> {
    let mut found = Vec::new();
    collect(&import.folder, &mut found)?;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, nanoseconds) in found {
        let mut figures = Figures::default();
        figures.set("ns", nanoseconds);
        import.sheet.add(&name, 1, figures)?;
    }
    Ok(())
}

/// Finds every `new/benchmark.json` below the folder, and the estimates beside it.
fn collect(folder: &Path, found: &mut Vec<(String, f64)>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if path.ends_with("new") {
            let read = |name: &str| -> Result<Value> {
                Ok(serde_json::from_str(&fs::read_to_string(path.join(name))?)?)
            };
            let name = read("benchmark.json")?.get("full_id").and_then(Value::as_str).map(str::to_owned);
            let median = read("estimates.json")?.pointer("/median/point_estimate").and_then(Value::as_f64);
            found.extend(name.zip(median));
        } else {
            collect(&path, found)?;
        }
    }
    Ok(())
}
