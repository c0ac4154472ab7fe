//! `completions` and `man`: generated from the same definition as the help.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::output::{Exit, to_stdout};

/// Prints a completion script.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<Exit> {
    to_stdout(String::from_utf8_lossy(&script(shell)))?;
    Ok(Exit::Success)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "exeat", &mut script);
    script
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command with its path: `flows cut`.
    fn commands(command: &clap::Command, path: &str, all: &mut Vec<(String, Vec<String>)>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            let long = sub.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned);
            all.push((path.clone(), long.collect()));
            commands(sub, &path, all);
        }
    }

    #[test]
    fn every_command_and_option_is_completed_and_has_a_page() {
        let mut all = Vec::new();
        commands(&Cli::command(), "", &mut all);
        assert!(all.iter().any(|(path, _)| path == "flows cut"), "{all:?}");
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell)).unwrap();
            for (path, options) in &all {
                let name = path.rsplit(' ').next().unwrap();
                for word in options.iter().map(String::as_str).chain([name]) {
                    assert!(script.contains(word), "{shell}: {path}: {word}");
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        man(Some(folder.path())).unwrap();
        for (path, options) in &all {
            let page = folder.path().join(format!("exeat-{}.1", path.replace(' ', "-")));
            let page = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{path}: {error}"));
            for option in options {
                assert!(page.contains(&option.replace('-', "\\-")), "{path}: {option}");
            }
        }
    }
}
