//! `health`: whether the running proxy takes new work.

use http::Method;

use crate::args::{HealthArgs, Output};
use crate::control::Control;
use crate::output::{Exit, to_stdout};

/// Asks, and says so if it does; anything else is an error.
pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<Exit> {
    let Output { socket, json } = &args.output;
    let answer = Control::new(socket.as_deref())?.get(Method::GET, "/v1/health", None)?;
    if *json {
        to_stdout(format_args!("{answer}\n"))?;
    } else {
        to_stdout("ready\n")?;
    }
    Ok(Exit::Success)
}
