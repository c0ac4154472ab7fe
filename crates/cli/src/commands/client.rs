//! `client hash` and `client add`: passwords are read or made here and leave as hashes only.

use std::io::{self, Write};

use anyhow::Context;
use exeat_identity::{generate_password, hash_generated, hash_password};
use exeat_policy::Revision;
use exeat_store::{Existing, NewClient, Options};

use crate::args::{AddArgs, ClientCommand};
use crate::input::read_password;
use crate::output::{Exit, print_report, to_stderr, to_stdout};

/// Runs a command about clients.
pub(crate) fn run(command: ClientCommand) -> anyhow::Result<Exit> {
    match command {
        ClientCommand::Hash { generated } => {
            let (hash, password) = make_hash(generated)?;
            if let Some(password) = password {
                to_stderr(&format!("password: {password}\n"));
            }
            to_stdout(format_args!("{hash}\n"))?;
        }
        ClientCommand::Add(args) => return add(&args),
    }
    Ok(Exit::Success)
}

fn add(args: &AddArgs) -> anyhow::Result<Exit> {
    let path = &args.config;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let (hash, password) = make_hash(args.generated)?;
    let client = NewClient {
        name: &args.name,
        password_hash: &hash,
        policies: &args.policy,
        labels: &args.label.iter().cloned().collect(),
    };
    let existing = if args.rotate { Existing::AddPassword } else { Existing::Refuse };
    let changed = exeat_store::add_client(&text, &client, existing)?;
    // A running proxy would refuse it, and so would the next start.
    if let Err(report) = exeat_store::load_as(path, &changed, &Options::new(Revision(1))) {
        print_report(&report);
        to_stderr(&format!("nothing is written: {} would not be usable\n", path.display()));
        return Ok(Exit::Config);
    }
    // Once only its hash is left it cannot be shown any more.
    if let Some(password) = &password {
        to_stderr("password, shown this once: ");
        let mut stdout = io::stdout();
        let shown = writeln!(stdout, "{password}").and_then(|()| stdout.flush());
        shown.context("cannot show the password; nothing is written")?;
    }
    exeat_store::write_atomically(path, &changed).with_context(|| {
        let void = if password.is_some() { "; the password above does not count" } else { "" };
        format!("cannot write `{}`{void}", path.display())
    })?;
    to_stderr(&format!("client `{}` written to {}; reload with SIGHUP\n", args.name, path.display()));
    Ok(Exit::Success)
}

/// Returns a hash and, if the password was made here, the password.
fn make_hash(generated: bool) -> anyhow::Result<(String, Option<String>)> {
    if generated {
        let password = generate_password()?;
        return Ok((hash_generated(password.as_bytes()), Some(password)));
    }
    Ok((hash_password(read_password()?.as_bytes())?, None))
}
