//! `suggest`: the smallest policy for what was seen, of audit logs and summaries of runs.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, bail};

use crate::args::SuggestArgs;
use crate::output::{Exit, to_stdout};

mod entries;
mod seen;

use seen::Seen;

/// Bytes of a line that are read: a record has some 500.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

pub(crate) fn run(args: &SuggestArgs) -> anyhow::Result<Exit> {
    let mut seen = Seen::default();
    for (run, path) in args.files.iter().enumerate() {
        if read(path, run, &mut seen).with_context(|| format!("cannot read `{}`", path.display()))? == 0 {
            bail!("`{}` has no record of an audit log and no summary of a run", path.display());
        }
    }
    to_stdout(entries::policy(&seen, args.files.len()))?;
    Ok(Exit::Success)
}

/// Adds what a file tells, and returns how many of its lines told something.
fn read(path: &Path, run: usize, seen: &mut Seen) -> anyhow::Result<usize> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut told = 0;
    loop {
        let mut line = Vec::new();
        let count = std::io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(told);
        }
        told += usize::from(seen.add(run, &line));
    }
}
