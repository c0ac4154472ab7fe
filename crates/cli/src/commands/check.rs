//! `check`: the same code that `serve` loads with, and nothing binds.

use exeat_policy::Revision;
use exeat_store::{Code, Options, Purpose, Report, Severity};

use crate::args::{CheckArgs, Format};
use crate::output::{Exit, print_report, to_stderr, to_stdout};

/// Checks one configuration file.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let options = Options { purpose: Purpose::AsWritten, ..Options::new(Revision(1)) };
    let loaded = exeat_store::load(&args.config, &options);
    let (report, usable) = match &loaded {
        Ok(loaded) => (&loaded.warnings, !args.strict || is_spotless(&loaded.warnings)),
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

/// Whether nothing is told of the text itself. The mode of a file is that of this copy, as a checkout made it, and not of the one in use.
fn is_spotless(report: &Report) -> bool {
    report.problems().iter().all(|problem| problem.code() == Code::Permissions)
}
