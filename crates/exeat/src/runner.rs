//! The runner: `exeat run` for somebody who asks for it over a channel instead of a command line.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use exeat_cli::{Exit, Run, print_report};
use exeat_identity::TokenError;
use exeat_policy::Revision;
use exeat_sandbox::{Failure, Fault, Job, NotRun, Said, Sandbox, Supervisor};
use exeat_store::{Options, TokenRefused};

use crate::run::{conduct, listeners};

/// Bytes of what is told about the network. It is one message with how the command ended, which has to arrive whatever the
/// command did to make this long; and the supervisor keeps it.
const SUMMARY_BYTES_MAX: usize = 64 * 1024;

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
    let Job { name, flags, command, directory, variables, closed, token, locked } = job;
    let words = flags.into_iter().chain(["--".to_owned()]).chain(command);
    let command = Run::from_words(words.map(OsString::from))?.under(token);
    // Where `exeat run` would have been started.
    env::set_current_dir(&directory)
        .with_context(|| format!("cannot enter the working directory `{}`", directory.display()))?;
    let listeners = listeners().into_iter().chain(closed).collect();
    let mut loaded = match command.load(&Options { listeners, ..Options::new(Revision(1)) })? {
        Ok(loaded) => loaded,
        // Whoever asks has sent no file; where it is wrong is for whoever looks after the server.
        Err(report) => {
            print_report(&report);
            bail!("the configuration of the server has errors; its log says which")
        }
    };
    loaded.name_one(&name);
    let mut plan = command.plan(&loaded)?;
    plan.variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    plan.streams = Some(Arc::new(streams));
    plan.locked.extend(locked);
    // If nobody hears it, there will be no signals either.
    let started = || drop(supervisor.say(&Said::Started));
    let made = Sandbox::prepare(&plan)?;
    // Streams of the command that are not ours: who reads them waits until nobody has them any more.
    drop(plan);
    let (summary, ended) = conduct(made, loaded, &mut &*supervisor, |_, _| Ok(None), started)?;
    let outcome = ended.or_else(|failure| failure.outcome().ok_or(failure))?;
    let summary = summary.with_outcome(&outcome).json_within(SUMMARY_BYTES_MAX);
    Ok(Said::Ended { outcome, summary })
}

fn not_run(error: &anyhow::Error) -> NotRun {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        let whole = Failure { help: None, ..failure.clone() };
        let (error, fault) = (whole.to_string(), Fault::of_status(failure.status));
        return NotRun { error, help: failure.help.clone(), fault };
    }
    let (help, fault) = error.downcast_ref().map_or((None, Fault::Host), of_token);
    NotRun { error: format!("{error:#}"), help: help.map(str::to_owned), fault }
}

/// What to do about a token, and whose fault it is that it does not count.
fn of_token(refused: &TokenRefused) -> (Option<&'static str>, Fault) {
    match refused {
        TokenRefused::Invalid(TokenError::NoKeys) => {
            (Some("the log of the server says why its issuer's keys cannot be had"), Fault::Host)
        }
        TokenRefused::Invalid(TokenError::Expired) => (Some("have another one issued"), Fault::Order),
        TokenRefused::Invalid(_) => {
            let help = "`exeat token verify --config FILE`, with the configuration of the server, tells every check that it fails";
            (Some(help), Fault::Order)
        }
        TokenRefused::Elsewhere => (Some("have one issued that is not bound to a place"), Fault::Order),
    }
}
