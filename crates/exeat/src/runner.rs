//! The runner: `exeat run` for somebody who asks for it over a channel instead of a command line.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use exeat_cli::{Exit, Run, report_text};
use exeat_policy::Revision;
use exeat_sandbox::{Failure, Job, NotRun, Said, Sandbox, Supervisor};
use exeat_store::Options;

use crate::run::{conduct, listeners};

/// Runs what the supervisor asks for, and says what came of it.
pub(crate) fn run(supervisor: io::Result<Supervisor>) -> ExitCode {
    let Ok(supervisor) = supervisor else { return Exit::NotRun.into() };
    // Who goes before there is anything to run needs no answer.
    let Ok((job, streams)) = supervisor.job() else { return Exit::NotRun.into() };
    let said = run_job(&supervisor, job, streams).unwrap_or_else(|error| Said::NotRun(not_run(&error)));
    match supervisor.say(&said) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => Exit::Failure.into(),
    }
}

fn run_job(supervisor: &Supervisor, job: Job, streams: [OwnedFd; 3]) -> anyhow::Result<Said> {
    let Job { name, flags, command, directory, variables, closed } = job;
    let words = flags.into_iter().chain(["--".to_owned()]).chain(command);
    let command = Run::from_words(words.map(OsString::from))?;
    // Where `exeat run` would have been started.
    env::set_current_dir(&directory)
        .with_context(|| format!("cannot enter the working directory `{}`", directory.display()))?;
    let listeners = listeners().into_iter().chain(closed).collect();
    let mut loaded = match command.load(&Options { listeners, ..Options::new(Revision(1)) })? {
        Ok(loaded) => loaded,
        Err(report) => bail!("{}", report_text(&report)),
    };
    loaded.name_one(&name);
    let mut plan = command.plan(&loaded)?;
    plan.variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    plan.streams = Some(Arc::new(streams));
    // If nobody hears it, there will be no signals either.
    let started = || drop(supervisor.say(&Said::Started));
    let made = Sandbox::prepare(&plan)?;
    // Streams of the command that are not ours: who reads them waits until nobody has them any more.
    drop(plan);
    let (summary, ended) = conduct(made, loaded, &mut &*supervisor, |_, _| Ok(None), started)?;
    let outcome = ended.or_else(|failure| failure.outcome().ok_or(failure))?;
    let summary = summary.with_outcome(&outcome).json();
    Ok(Said::Ended { outcome, summary })
}

fn not_run(error: &anyhow::Error) -> NotRun {
    match error.downcast_ref::<Failure>() {
        Some(failure) => {
            let whole = Failure { help: None, ..failure.clone() };
            NotRun { error: whole.to_string(), help: failure.help.clone(), status: failure.status }
        }
        None => NotRun { error: format!("{error:#}"), help: None, status: Exit::NotRun.status() },
    }
}
