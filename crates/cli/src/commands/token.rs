//! `token` commands: those about single tokens work on files alone, those about revocation ask the running proxy.

use http::Method;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::args::{Output, RevocationsArgs, RevokeArgs, TokenCommand};
use crate::control::{Control, printable, with_query};
use crate::output::{Exit, to_stderr, to_stdout};

mod single;

/// Runs a command about tokens.
pub(crate) fn run(command: &TokenCommand) -> anyhow::Result<Exit> {
    let (output, answer, told) = match command {
        TokenCommand::Keygen(args) => return single::keygen(args),
        TokenCommand::Issue(args) => return single::issue(args),
        TokenCommand::Inspect => return single::inspect(),
        TokenCommand::Verify { config } => return single::verify(config),
        TokenCommand::Revoke(args) => revoke(args)?,
        TokenCommand::Revocations(args) => list(args)?,
    };
    if output.json {
        to_stdout(format_args!("{answer}\n"))?;
    } else {
        to_stdout(told)?;
    }
    Ok(Exit::Success)
}

fn revoke(args: &RevokeArgs) -> anyhow::Result<(&Output, Value, String)> {
    let control = Control::new(args.output.socket.as_deref())?;
    let (kind, value) = (args.tokens.kind.as_str(), args.tokens.value.as_str());
    if args.lift {
        let target = with_query("/v1/revocations", [(kind, Some(value))]);
        let answer = control.get(Method::DELETE, &target, None)?;
        return Ok((&args.output, answer, format!("{kind}={value} is lifted\n")));
    }
    let body: Map<String, Value> = [(kind.to_owned(), Value::from(value))].into_iter().collect();
    let answer = control.get(Method::POST, "/v1/revocations", Some(&Value::Object(body)))?;
    let is = |name: &str| answer.get(name).and_then(Value::as_bool).unwrap_or(true);
    if !is("kept") {
        to_stderr("warning: it is lost at a restart: set `directory` of [state] in the configuration\n");
    }
    if !is("known") {
        to_stderr("warning: no issuer has a key of this name now\n");
    }
    let told = match answer.get("cut").and_then(Value::as_u64) {
        Some(1) => format!("{kind}={value} is revoked; 1 flow ends\n"),
        cut => format!("{kind}={value} is revoked; {} flows end\n", cut.unwrap_or(0)),
    };
    Ok((&args.output, answer, told))
}

/// A time of a token's claims, RFC 3339.
fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}

fn list(args: &RevocationsArgs) -> anyhow::Result<(&Output, Value, String)> {
    let control = Control::new(args.output.socket.as_deref())?;
    let answer = control.get(Method::GET, "/v1/revocations", None)?;
    let all = answer.get("revocations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |revocation: &Value, name: &str| revocation.get(name).map(printable).unwrap_or_default();
    let line = |revocation: &Value| {
        let until = revocation.get("until").and_then(Value::as_u64);
        let until =
            until.map_or_else(|| "until it is lifted".to_owned(), |until| format!("until {}", date(until)));
        format!("{}={}\t{until}\n", text(revocation, "kind"), text(revocation, "value"))
    };
    let told = all.iter().map(line).collect();
    Ok((&args.output, answer, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, want) in [
            (1_795_460_253, "2026-11-23T18:57:33Z"),
            (0, "1970-01-01T00:00:00Z"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(date(seconds), want);
        }
    }
}
