//! A run over a WebSocket (RFC 6455): its caller sends it input and signals while it runs, and is sent what it writes, as fast as
//! they read it and no faster.
//!
//! Nothing is taken out of the command's streams before the caller's connection has taken what came before. So a caller who
//! does not read stops the command when its pipe is full, and holds no more memory than one buffer for each stream.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{
        State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    response::Response,
};
use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe::{Receiver, Sender},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};

use super::{
    ProcessApi,
    order::Order,
    run::{Run, RunView, Signal},
    runs::{Keep, LAST_WORDS, Started, Watched},
};
use crate::{
    error::{Failure, read},
    route::Served as _,
};

/// What the first byte of a binary message says that the others are.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// How long the first message is waited for, which says what to run.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller may take to read the last of a command that has ended, and to close.
const LINGER: Duration = Duration::from_secs(60);
/// What the protocol adds to a message of ours (RFC 6455 §5.2).
const FRAME_HEAD_BYTES: usize = 14;

/// What a caller says in text while the command runs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Control {
    /// A signal for the command.
    signal: Option<Signal>,
    /// Whether its standard input ends here.
    #[serde(default)]
    end_of_input: bool,
}

/// What a caller is told in text.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// It runs. This is the first message.
    Started(RunView),
    /// It has ended. This is the last message.
    Ended(RunView),
    /// It was not run. This is the only message.
    Refused(Failure),
}

/// `GET /execute`.
pub(crate) async fn attach(
    State(api): State<ProcessApi>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let upgrade = upgrade.map_err(|rejection| {
        Failure::new(rejection.status(), rejection.body_text()).help("ask for a WebSocket, or POST /execute")
    })?;
    // Who is let in may start something.
    let place = api.0.runs.place()?;
    let buffer = api.0.setup.websocket_buffer;
    Ok(upgrade
        .max_message_size(ProcessApi::BODY_BYTES_MAX)
        .max_frame_size(ProcessApi::BODY_BYTES_MAX)
        .read_buffer_size(buffer)
        // A message is written at once, and the next one waits until it is.
        .write_buffer_size(0)
        .max_write_buffer_size(ProcessApi::BODY_BYTES_MAX + buffer + FRAME_HEAD_BYTES)
        .on_upgrade(move |socket| serve(api, place, socket)))
}

async fn serve(api: ProcessApi, place: OwnedSemaphorePermit, mut socket: WebSocket) {
    let (started, first) = match start(&api, place, &mut socket).await {
        Ok(started) => started,
        Err(failure) => {
            let words = [text(&Said::Refused(failure)), closing(close_code::POLICY)];
            let _ = timeout(ORDER_TIMEOUT, async {
                for word in words.into_iter().flatten() {
                    socket.send(word).await?;
                }
                Ok::<_, axum::Error>(())
            })
            .await;
            return;
        }
    };
    // However this ends.
    let _caller = started.end_with_caller();
    let Watched { run, stdin, stdout, stderr } = started.watch();
    let (mut sink, stream) = socket.split();
    let buffer = api.0.setup.websocket_buffer;
    let told = async {
        sink.send(text(&Said::Started(run.view(true)))?).await.ok()?;
        forward(&mut sink, &run, stdout, stderr, buffer).await?;
        run.ended().await;
        sink.send(text(&Said::Ended(run.view(true)))?).await.ok()?;
        sink.send(closing(close_code::NORMAL)?).await.ok()
    };
    tokio::select! {
        _ = told => {}
        () = obey(stream, &run, stdin, first) => {}
        () = async { run.ended().await; sleep(LINGER).await } => {}
    }
}

/// Reads what is to be run, and starts it.
async fn start(
    api: &ProcessApi,
    place: OwnedSemaphorePermit,
    socket: &mut WebSocket,
) -> Result<(Started, Vec<u8>), Failure> {
    let first = async {
        loop {
            match socket.recv().await {
                // They may come at any time (RFC 6455 §5.5.2); a ping is answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                message => return message,
            }
        }
    };
    let Ok(Some(Ok(Message::Text(order)))) = timeout(ORDER_TIMEOUT, first).await else {
        return Err(Failure::request("the first message has to say what to run, in text"));
    };
    let checked = read::<ProcessApi, Order>(order.as_bytes())?.check(&api.0)?;
    if checked.is_detached {
        return Err(Failure::request("a run over a WebSocket cannot be detached").help("POST /execute"));
    }
    Ok((api.0.runs.start(checked.job, place, Keep::End).await?, checked.stdin))
}

/// Sends what the command writes, until it writes no more; `None` if the caller has gone.
async fn forward(
    sink: &mut SplitSink<WebSocket, Message>,
    run: &Run,
    mut stdout: Receiver,
    mut stderr: Receiver,
    buffer: usize,
) -> Option<()> {
    let (mut from_stdout, mut from_stderr) = (vec![STDOUT; buffer], vec![STDERR; buffer]);
    let (mut is_out, mut is_err) = (true, true);
    while is_out || is_err {
        // The first byte says which it is.
        let (bytes, read) = tokio::select! {
            read = stdout.read(from_stdout.get_mut(1..)?), if is_out => (&from_stdout, read),
            read = stderr.read(from_stderr.get_mut(1..)?), if is_err => (&from_stderr, read),
            // Somebody outside may have been handed a stream, and keep it.
            () = async { run.ended().await; sleep(LAST_WORDS).await } => return Some(()),
        };
        match read {
            Ok(count @ 1..) => {
                let message = Bytes::copy_from_slice(bytes.get(..=count)?);
                sink.send(Message::Binary(message)).await.ok()?;
            }
            Ok(0) | Err(_) if bytes.first() == Some(&STDOUT) => is_out = false,
            Ok(0) | Err(_) => is_err = false,
        }
    }
    Some(())
}

/// Gives the command what its caller sends, until they go. While it does not read its input, they are not read either.
async fn obey(mut stream: SplitStream<WebSocket>, run: &Arc<Run>, stdin: Sender, first: Vec<u8>) {
    let mut stdin = Some(stdin);
    feed(&mut stdin, &first).await;
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(bytes) => match bytes.split_first() {
                Some((&STDIN, input)) => feed(&mut stdin, input).await,
                Some(_) | None => return,
            },
            Message::Text(text) => {
                let Ok(Control { signal, end_of_input }) = read::<ProcessApi, Control>(text.as_bytes())
                else {
                    return;
                };
                if end_of_input {
                    stdin = None;
                }
                if let Some(signal) = signal {
                    run.signal(signal).await;
                }
            }
            // The library answers pings.
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return,
        }
    }
}

/// Writes input; a command that has closed it gets no more.
async fn feed(stdin: &mut Option<Sender>, input: &[u8]) {
    if let Some(pipe) = stdin
        && pipe.write_all(input).await.is_err()
    {
        *stdin = None;
    }
}

fn text(said: &Said) -> Option<Message> {
    serde_json::to_string(said).ok().map(|text| Message::Text(text.into()))
}

fn closing(code: u16) -> Option<Message> {
    Some(Message::Close(Some(CloseFrame { code, reason: "".into() })))
}
