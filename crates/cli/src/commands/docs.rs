//! `completions` and `man`: generated from the same definition as the help.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::output::{Exit, to_stdout};

/// Prints a completion script.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "exeat", &mut script);
    to_stdout(String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}

/// Prints the manual page, or writes one for each command.
pub(crate) fn man(directory: Option<&Path>) -> anyhow::Result<Exit> {
    if let Some(directory) = directory {
        clap_mangen::generate_to(Cli::command(), directory)
            .with_context(|| format!("cannot write manual pages into `{}`", directory.display()))?;
        return Ok(Exit::Success);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    to_stdout(String::from_utf8_lossy(&page))?;
    Ok(Exit::Success)
}
