//! One run: a command that was asked for, and what is known of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use exeat_sandbox::{Ended, Outcome, Signaller};
use jiff::Timestamp;
use nix::sys::signal::Signal as Number;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    output::{Output, OutputView},
    runs::Keep,
};

/// Characters of a command line that are shown.
const SHOWN_CHARS: usize = 1000;

/// A command that runs or has run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: Arc<str>,
    command: String,
    began: SystemTime,
    signaller: Signaller,
    keep: Keep,
    /// What it has written to standard output and standard error.
    pub(crate) output: [Mutex<Output>; 2],
    end: watch::Sender<Option<Arc<End>>>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct End {
    at: SystemTime,
    /// `None` if that is not known.
    outcome: Option<Outcome>,
    network: Map<String, Value>,
}

impl End {
    pub(crate) fn new(outcome: Outcome, summary: Value) -> Self {
        let mut network = match summary {
            Value::Object(members) => members,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Map::new()
            }
        };
        // They have a place of their own.
        network.remove("limits");
        Self { at: SystemTime::now(), outcome: Some(outcome), network }
    }

    /// Of a command whose runner ended without a word.
    pub(crate) fn unknown() -> Self {
        Self { at: SystemTime::now(), outcome: None, network: Map::new() }
    }
}

impl Run {
    pub(crate) fn new(id: &str, command: &[String], signaller: Signaller, keep: Keep) -> Self {
        let command = command.join(" ").chars().take(SHOWN_CHARS).collect();
        let (id, began, output, end) =
            (id.into(), SystemTime::now(), Default::default(), watch::Sender::new(None));
        Self { id, command, began, signaller, keep, output, end }
    }

    pub(crate) fn output_of(&self, which: usize) -> Option<MutexGuard<'_, Output>> {
        Some(self.output.get(which)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes of output that are kept.
    pub(crate) fn kept_bytes(&self) -> usize {
        (0..self.output.len()).filter_map(|which| self.output_of(which)).map(|output| output.len()).sum()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    pub(crate) fn finish(&self, end: End) {
        self.end.send_replace(Some(Arc::new(end)));
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        // The sender is part of this.
        let _ = self.end.subscribe().wait_for(Option::is_some).await;
    }

    /// Has it sent a signal. Returns whether it may have got it: not if it has ended.
    pub(crate) async fn signal(self: &Arc<Self>, signal: Signal) -> bool {
        let run = Arc::clone(self);
        !self.has_ended()
            && spawn_blocking(move || run.signaller.send(signal.number()))
                .await
                .is_ok_and(|sent| sent.is_ok())
    }

    pub(crate) fn view(&self, with_output: bool) -> RunView {
        let end = self.end.borrow().clone();
        let is_told = with_output && self.keep == Keep::Output;
        let output = |which| self.output_of(which).filter(|_| is_told).map(|output| output.view());
        RunView {
            id: Arc::clone(&self.id),
            command: self.command.clone(),
            state: if end.is_some() { State::Ended } else { State::Running },
            began: shown(self.began),
            end: end.as_deref().map(EndView::of),
            stdout: output(0),
            stderr: output(1),
        }
    }
}

fn shown(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|time| format!("{time:.3}")).unwrap_or_default()
}

/// A signal that a command can be sent.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Signal {
    Hup,
    Int,
    Quit,
    Kill,
    Usr1,
    Usr2,
    Term,
    Cont,
    Stop,
}

impl Signal {
    fn number(self) -> i32 {
        let signal = match self {
            Self::Hup => Number::SIGHUP,
            Self::Int => Number::SIGINT,
            Self::Quit => Number::SIGQUIT,
            Self::Kill => Number::SIGKILL,
            Self::Usr1 => Number::SIGUSR1,
            Self::Usr2 => Number::SIGUSR2,
            Self::Term => Number::SIGTERM,
            Self::Cont => Number::SIGCONT,
            Self::Stop => Number::SIGSTOP,
        };
        signal as i32
    }
}

/// Whether a command runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Running,
    Ended,
}

/// A command that runs or has run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Run")]
pub(crate) struct RunView {
    /// Its id, which is its name in audit records.
    #[schemars(example = "run-9f86d081884c7d65")]
    id: Arc<str>,
    /// The command and its arguments, up to 1000 characters.
    command: String,
    /// Whether it runs.
    state: State,
    /// When it began.
    #[schemars(example = "2026-01-31T12:00:00.000Z")]
    began: String,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<EndView>,
    /// Its standard output, as far as it is kept. A list has none, and a run over a WebSocket keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<OutputView>,
    /// Its standard error, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<OutputView>,
}

/// How a command ended.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "End")]
pub(crate) struct EndView {
    /// When.
    #[schemars(example = "2026-01-31T12:00:01.500Z")]
    at: String,
    /// The exit status that `exeat run` would have had: the command's, 128 and the number of its signal, or 124 if its time was
    /// over. It is missing if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
    /// The command's own exit status, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    /// The number of the signal that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    /// The limits that it ran into.
    #[schemars(example = ["memory", "timeout"])]
    limits: Vec<&'static str>,
    /// What it has reached (`allowed`) and what it was refused (`refused`), as `exeat run --json` tells it.
    network: Map<String, Value>,
}

impl EndView {
    fn of(end: &End) -> Self {
        let outcome = end.outcome.as_ref();
        let (exit_code, signal) = match outcome.map(|outcome| outcome.ended) {
            Some(Ended::Exited(status)) => (Some(status), None),
            Some(Ended::Killed(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        let exceeded = outcome.map(|outcome| outcome.exceeded.as_slice()).unwrap_or_default();
        Self {
            at: shown(end.at),
            status: outcome.map(Outcome::status),
            exit_code,
            signal,
            limits: exceeded.iter().map(|limit| limit.word()).collect(),
            network: end.network.clone(),
        }
    }
}
