//! `quarantine`: a client, or all with a label, may reach nothing.

use http::Method;
use serde_json::{Value, json};

use crate::args::{Output, QuarantineArgs, Who};
use crate::control::{Control, printable, with_query};
use crate::output::{Exit, to_stderr, to_stdout};

/// Puts in quarantine, releases, or lists.
pub(crate) fn run(args: &QuarantineArgs) -> anyhow::Result<Exit> {
    let Output { socket, json } = &args.output;
    let control = Control::new(socket.as_deref())?;
    let (answer, told) = match &args.selector {
        None => list(&control)?,
        Some(who) if args.release => release(&control, who)?,
        Some(who) => add(&control, who)?,
    };
    if *json {
        to_stdout(format_args!("{answer}\n"))?
    } else {
        to_stdout(told)?
    }
    Ok(Exit::Success)
}

fn add(control: &Control, who: &Who) -> anyhow::Result<(Value, String)> {
    let body = match who {
        Who::Client(name) => json!({ "client": name }),
        Who::Workload(name) => json!({ "workload": name }),
        Who::Label(pair) => json!({ "label": pair }),
    };
    let answer = control.get(Method::POST, "/v1/quarantine", Some(&body))?;
    if answer.get("known").and_then(Value::as_bool) == Some(false) {
        let meant = answer.get("similar").map(|name| format!("; did you mean `{}`?", printable(name)));
        to_stderr(&format!(
            "warning: the configuration knows nobody who is {who}{}\n",
            meant.as_deref().unwrap_or(", and nobody who is has a flow")
        ));
    }
    let told = match answer.get("cut").and_then(Value::as_u64) {
        Some(1) => format!("{who} is in quarantine; 1 flow ends\n"),
        cut => format!("{who} is in quarantine; {} flows end\n", cut.unwrap_or(0)),
    };
    Ok((answer, told))
}

fn release(control: &Control, who: &Who) -> anyhow::Result<(Value, String)> {
    let who_is = [("client", who.client()), ("workload", who.workload()), ("label", who.label())];
    let target = with_query("/v1/quarantine", who_is);
    let answer = control.get(Method::DELETE, &target, None)?;
    Ok((answer, format!("{who} is released\n")))
}

fn list(control: &Control) -> anyhow::Result<(Value, String)> {
    let answer = control.get(Method::GET, "/v1/quarantine", None)?;
    let all = answer.get("quarantined").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let line = |who: &Value| match (who.get("client"), who.get("workload"), who.get("label")) {
        (Some(client), _, _) => format!("client={}\n", printable(client)),
        (None, Some(workload), _) => format!("workload={}\n", printable(workload)),
        (None, None, Some(label)) => format!("{}\n", printable(label)),
        (None, None, None) => String::new(),
    };
    let told = all.iter().map(line).collect();
    Ok((answer, told))
}
