//! `check`: the same code that `serve` loads with, and nothing binds.

use exeat_policy::Revision;
use exeat_store::{Options, Severity};

use crate::args::{CheckArgs, Format};
use crate::output::{Exit, print_report, to_stderr, to_stdout};

/// Checks one configuration file.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let loaded = exeat_store::load(&args.config, &Options::new(Revision(1)));
    let (report, usable) = match &loaded {
        Ok(loaded) => (&loaded.warnings, !args.strict || loaded.warnings.is_empty()),
        Err(report) => (report, false),
    };
    match args.format {
        Format::Text => print_report(report),
        Format::Json => to_stdout(report.to_json_lines())?,
    }
    if !usable {
        return Ok(Exit::Config);
    }
    if args.format == Format::Text {
        let remark = match report.count(Severity::Warning) {
            0 => "",
            _ => ", with the warnings above",
        };
        to_stderr(&format!("{}: usable{remark}\n", args.config.display()));
    }
    Ok(Exit::Success)
}
