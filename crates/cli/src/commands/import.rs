//! `import`: configurations made of what others use.

use crate::args::ImportCommand;
use crate::output::{Exit, print_report, to_stdout};

/// Prints what can be carried over, and tells what cannot.
pub(crate) fn run(command: &ImportCommand) -> anyhow::Result<Exit> {
    let imported = match command {
        ImportCommand::HostsYaml { file } => exeat_store::import_hosts_yaml(file),
    };
    if let Some(text) = &imported.text {
        to_stdout(text)?;
    }
    print_report(&imported.report);
    Ok(if imported.report.has_errors() { Exit::Failure } else { Exit::Success })
}
