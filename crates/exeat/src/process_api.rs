//! `exeat sandbox serve`: the process API, put together. What runs commands is in `runner.rs`, in processes of their own.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use exeat_api::ProcessApi;
use exeat_cli::{Exit, SandboxServe};
use exeat_proxy::Tls;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use crate::inherited::Inherited;
use crate::listening::{At, Listening, listen};
use crate::signals::Signals;

/// How long the last log lines may take to be read when the program ends.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves until told to stop.
pub(crate) fn serve(options: &SandboxServe) -> ExitCode {
    let log = match crate::start_log(crate::LOG_FILTER_DEFAULT) {
        Ok(log) => log,
        Err(error) => {
            exeat_cli::print_error(&error);
            return Exit::Failure.into();
        }
    };
    log.take_panics();
    let code = match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&exeat_cli::error_text(&error));
            Exit::Failure.into()
        }
    };
    log.finish(LOG_FLUSH_TIMEOUT);
    code
}

fn run(options: &SandboxServe) -> anyhow::Result<()> {
    // All that can be wrong with what was asked for, before the address is taken.
    let callers = options.callers()?;
    let issuers = options.issuers()?;
    let tls = options.tls()?.map(|files| Tls::new(files, false)).transpose().context("cannot set up TLS")?;
    let Listening { address, sockets } =
        listen(At::everywhere(options.address()), 1, &mut Inherited::default())?;
    let api = ProcessApi::new(options.setup(vec![address], issuers)?).context("cannot pin a hidden file")?;
    // One thread waits for signals, the other one answers meanwhile. Each command has one of its own.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        for socket in sockets {
            let listener = TcpListener::from_std(socket).context("cannot serve")?;
            tokio::spawn(api.clone().serve(listener, callers, tls.clone()));
        }
        if let Some(tls) = tls {
            tokio::spawn(tls.watch(|| ()));
        }
        tracing::info!(%address, "ready");
        // There is nothing to load again but the certificate, which is looked at anyway.
        signals.stop().await;
        tracing::info!("stopping: commands are told to end");
        api.stop().await;
        anyhow::Ok(())
    })?;
    runtime.shutdown_timeout(Duration::ZERO);
    Ok(())
}
