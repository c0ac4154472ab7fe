//! `completions` and `man`: generated from the same definition as the help.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

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
    let Some(directory) = directory else {
        to_stdout(page(&Man::new(Cli::command()))?)?;
        return Ok(Exit::Success);
    };
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, directory)
        .with_context(|| format!("cannot write manual pages into `{}`", directory.display()))?;
    Ok(Exit::Success)
}

fn write_pages(command: &Command, directory: &Path) -> io::Result<()> {
    for sub in command.get_subcommands() {
        write_pages(sub, directory)?;
    }
    let man = Man::new(command.clone());
    fs::write(directory.join(man.get_filename()), page(&man)?)
}

/// Returns one page, with what follows the options under the titles of man-pages(7) instead of `EXTRA`.
fn page(man: &Man) -> io::Result<String> {
    let mut page = Vec::new();
    man.render(&mut page)?;
    let page = String::from_utf8_lossy(&page);
    let Some((before, rest)) = page.split_once("\n.SH EXTRA\n") else { return Ok(page.into_owned()) };
    let (extra, after) =
        rest.split_once("\n.SH ").map_or((rest, None), |(extra, after)| (extra, Some(after)));
    let mut text = format!("{before}\n");
    let mut title = "";
    let mut begin = |text: &mut String, new| {
        // One title each, whatever the order of what is under it.
        if title != new {
            text.push_str(&format!(".SH {new}\n"));
            title = new;
        }
    };
    let mut lines = extra.lines().peekable();
    while let Some(line) = lines.next() {
        match line {
            "Examples:" | "Example:" | "Signals:" => {
                begin(&mut text, if line == "Signals:" { "SIGNALS" } else { "EXAMPLES" });
                text.push_str(".nf\n");
                while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
                    text.push_str(line.strip_prefix("  ").unwrap_or(line));
                    text.push('\n');
                }
                text.push_str(".fi\n");
            }
            "" => text.push_str(".PP\n"),
            _ => {
                let status = line.strip_prefix("Exit status: ");
                begin(&mut text, if status.is_some() { "\"EXIT STATUS\"" } else { "NOTES" });
                text.push_str(status.unwrap_or(line));
                text.push('\n');
            }
        }
    }
    text.extend(after.map(|after| format!(".SH {after}")));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command with its path: `flows cut`.
    fn commands(command: &Command, path: &str, all: &mut Vec<(String, Vec<String>)>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            let long = sub.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned);
            all.push((path.clone(), long.collect()));
            commands(sub, &path, all);
        }
    }

    /// Every command and the text after its options.
    fn texts(command: &Command, all: &mut Vec<(String, String)>) {
        for sub in command.get_subcommands() {
            let text = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            all.push((sub.get_name().to_owned(), text));
            texts(sub, all);
        }
    }

    #[test]
    fn every_command_has_an_example_and_no_paragraph_breaks_its_own_lines() {
        let mut all = Vec::new();
        texts(&Cli::command(), &mut all);
        for (name, text) in all {
            assert!(text.contains("Example"), "{name}");
            for (line, next) in text.lines().zip(text.lines().skip(1)) {
                let is_cut =
                    |line: &str| !line.is_empty() && !line.starts_with(' ') && !line.ends_with(['.', ':']);
                assert!(!is_cut(line) || next.is_empty(), "{name}: {line}");
            }
        }
    }

    #[test]
    fn pages_have_the_usual_titles() {
        let folder = tempfile::tempdir().unwrap();
        man(Some(folder.path())).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let titles = |page: &str| -> Vec<String> {
            page.lines().filter_map(|line| line.strip_prefix(".SH ")).map(str::to_owned).collect()
        };
        for (name, want) in [
            ("exeat-run.1", &["NOTES", "\"EXIT STATUS\"", "EXAMPLES"][..]),
            ("exeat-serve.1", &["NOTES", "SIGNALS", "EXAMPLES", "NOTES"]),
            ("exeat-diff.1", &["\"EXIT STATUS\"", "NOTES", "EXAMPLES"]),
            ("exeat.1", &["EXAMPLES", "VERSION"]),
        ] {
            let page = read(name);
            assert!(
                titles(&page).ends_with(&want.iter().map(ToString::to_string).collect::<Vec<_>>()),
                "{page}"
            );
            assert!(!page.contains("EXTRA") && !page.contains("Examples:"), "{page}");
            assert_eq!(page.matches(".nf\n").count(), page.matches(".fi\n").count(), "{page}");
        }
        assert!(read("exeat-run.1").contains(".nf\nexeat run \\-\\-allow example.com"));
    }

    #[test]
    fn every_command_and_and_option_is_completed_and_has_a_page() {
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
            let page = fs::read_to_string(page).unwrap_or_else(|error| panic!("{path}: {error}"));
            for option in options {
                assert!(page.contains(&option.replace('-', "\\-")), "{path}: {option}");
            }
        }
    }
}
