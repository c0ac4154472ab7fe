//! `generate`: what leaves a workload no way out but the proxy.
//!
//! Each kind is a pure function from what the configuration needs ([`Surroundings`]) to text. Whatever the operator
//! wrote goes through a YAML writer or [`shell::word`], so that it stays one value.

mod compose;
mod docker;
mod kubernetes;
mod shell;
mod variables;
mod yaml;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use exeat_policy::Revision;
use exeat_store::{Options, Platform, Surroundings};

use crate::args::{GenerateArgs, GenerateCommand};
use crate::output::{Exit, print_report, to_stderr, to_stdout};

/// A file to write or print.
#[derive(Debug)]
struct Generated {
    name: &'static str,
    text: String,
    /// Whether whoever reads all of it on standard output must take this for a remark.
    is_remark: bool,
}

/// Prints or writes what was asked for.
pub(crate) fn run(command: &GenerateCommand) -> anyhow::Result<Exit> {
    let (args, platform) = match command {
        GenerateCommand::Docker(args) | GenerateCommand::Compose(args) => (args, Platform::Docker),
        GenerateCommand::Kubernetes(args) => (&args.common, Platform::Kubernetes),
    };
    let loaded = match exeat_store::load(&args.config, &Options::new(Revision(1))) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_report(&report);
            return Ok(Exit::Config);
        }
    };
    let needs = exeat_store::surroundings(&args.config, &loaded, platform, args.port)?;
    let files = match command {
        GenerateCommand::Docker(_) => docker::files(args, &needs)?,
        GenerateCommand::Compose(_) => compose::files(args, &needs)?,
        GenerateCommand::Kubernetes(args) => {
            kubernetes::remarks(args).iter().for_each(|remark| to_stderr(&format!("warning: {remark}\n")));
            kubernetes::files(args, &needs)?
        }
    };
    print_report(&needs.warnings);
    put(args, &files)?;
    Ok(Exit::Success)
}

fn put(args: &GenerateArgs, files: &[Generated]) -> anyhow::Result<()> {
    let Some(directory) = &args.output else {
        return to_stdout(files.iter().map(printed).collect::<String>());
    };
    fs::create_dir_all(directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
    for file in files {
        let path = directory.join(file.name);
        fs::write(&path, &file.text).with_context(|| format!("cannot write `{}`", path.display()))?;
        to_stderr(&format!("{}\n", path.display()));
    }
    Ok(())
}

fn printed(file: &Generated) -> String {
    if file.is_remark { format!("\n{}", comment(&file.text)) } else { file.text.clone() }
}

/// Each line of a text behind a `#`.
fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect()
}

/// The files of this machine with absolute paths, as text, and where each of them has to be.
///
/// # Errors
/// If a path is no text of one line, which nothing generated could hold.
fn mounts(needs: &Surroundings) -> anyhow::Result<Vec<(String, String)>> {
    let mount =
        |file: &exeat_store::Mount| Ok((line(&std::path::absolute(&file.source)?)?, line(&file.target)?));
    needs.files.iter().map(mount).collect()
}

/// The folders that are written to, as text.
fn folders(needs: &Surroundings) -> anyhow::Result<Vec<String>> {
    needs.folders.iter().map(|folder| line(folder)).collect()
}

/// The command that asks whether the proxy takes new work, if there is a socket to ask at.
fn health(needs: &Surroundings) -> anyhow::Result<Option<Vec<String>>> {
    let ask = |socket: &PathBuf| {
        Ok(["/usr/bin/exeat", "health", "--socket", &line(socket)?].map(str::to_owned).to_vec())
    };
    needs.socket.as_ref().map(ask).transpose()
}

fn line(path: &Path) -> anyhow::Result<String> {
    match path.to_str() {
        Some(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
        Some(_) | None => bail!("the path `{}` is not a line of text", path.display()),
    }
}

/// How long the proxy may take to stop, in seconds: its drain, and what it does before and after.
fn grace_seconds(needs: &Surroundings) -> u64 {
    needs.drain_timeout.as_secs().saturating_add(15)
}

/// What starts the proxy in the container.
const COMMAND: [&str; 3] = ["serve", "--config", "/etc/exeat/exeat.toml"];

#[cfg(test)]
mod tests;
