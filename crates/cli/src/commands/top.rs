//! `top`: who talks to what at present and what is refused, on a screen that goes on; or once, as text or JSON.

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::Context;
use crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    args::TopArgs,
    control::{Control, with_query},
    output::{Exit, to_stdout},
};

mod draw;
mod rates;
mod sample;
mod screen;
mod text;
mod view;

use rates::Board;
use sample::Sample;
use screen::Screen;
use view::{Action, Chosen, View};

/// Where the numbers come from, with as many rows as are to be had.
const TRAFFIC: &str = "/v1/traffic?limit=10000";

/// Shows what goes on.
pub(crate) fn run(args: &TopArgs) -> anyhow::Result<Exit> {
    let control = Control::new(args.output.socket.as_deref())?;
    if args.once || args.output.json || !io::stdout().is_terminal() {
        once(&control, args)
    } else {
        live(control, args.interval)
    }
}

/// Looks twice and prints what was seen.
fn once(control: &Control, args: &TopArgs) -> anyhow::Result<Exit> {
    let before = sample(&ask(control)?)?;
    thread::sleep(args.interval);
    let mut answer = ask(control)?;
    let board = Board::new(Some(&before), sample(&answer)?);
    if args.output.json {
        add_rates(&mut answer, &board);
        to_stdout(format_args!("{answer}\n"))?;
    } else {
        to_stdout(draw::plain(&board))?;
    }
    Ok(Exit::Success)
}

fn ask(control: &Control) -> anyhow::Result<Value> {
    control.get(Method::GET, TRAFFIC, None)
}

fn sample(answer: &Value) -> anyhow::Result<Sample> {
    Sample::deserialize(answer)
        .context("the proxy's answer is not as this program expects it: is it of another version?")
}

/// Adds a member `per_second` to the answer and to each of its rows.
fn add_rates(answer: &mut Value, board: &Board) {
    let decisions = json!({ "allowed": board.allowed, "failed": board.failed, "denied": board.denied, "bytes_up": board.up, "bytes_down": board.down });
    put(Some(answer), decisions);
    for (at, rates) in board.pairs.iter().enumerate() {
        let rates = json!({ "requests": rates.requests, "bytes_up": rates.up, "bytes_down": rates.down });
        put(answer.pointer_mut(&format!("/pairs/{at}")), rates);
    }
    for (at, rate) in board.refusals.iter().enumerate() {
        put(answer.pointer_mut(&format!("/refusals/{at}")), json!(rate));
    }
    for (at, rate) in board.reasons.iter().enumerate() {
        put(answer.pointer_mut(&format!("/decisions/reasons/{at}")), json!(rate));
    }
}

fn put(object: Option<&mut Value>, rates: Value) {
    if let Some(members) = object.and_then(Value::as_object_mut) {
        members.insert("per_second".to_owned(), rates);
    }
}

/// What the screen waits for.
enum Happening {
    Key(KeyEvent),
    Resized,
    Sampled(anyhow::Result<Sample>),
    /// What came of an order to end flows.
    Cut(anyhow::Result<usize>),
    /// A signal says that it is over.
    Ended,
}

/// Shows what goes on until somebody has seen enough. Each source of news is a thread that waits for it alone, so no
/// slow answer of the proxy makes a key wait.
fn live(control: Control, interval: Duration) -> anyhow::Result<Exit> {
    let (tell, happenings) = channel();
    let (order, orders) = channel();
    let board = Board::new(None, sample(&ask(&control)?)?);
    // Before the terminal is taken: whoever ends this then gets it back.
    let signals = Signals::catch().context("cannot listen for signals")?;
    // The terminal is taken when there is something to show, so that a proxy that is not there is an ordinary error.
    let screen = Screen::enter().context("cannot use this terminal; --once prints what is there")?;
    spawn("signals", tell.clone(), move |tell| signals.wait(tell))?;
    spawn("keys", tell.clone(), wait_for_keys)?;
    spawn("samples", tell, move |tell| take_samples(&control, interval, &orders, tell))?;
    watch(&screen, board, &happenings, &order)
}

fn spawn(
    name: &str,
    tell: Sender<Happening>,
    work: impl FnOnce(&Sender<Happening>) + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || work(&tell)).map(drop)
}

fn watch(
    screen: &Screen,
    mut board: Board,
    happenings: &Receiver<Happening>,
    order: &Sender<Chosen>,
) -> anyhow::Result<Exit> {
    let mut view = View::default();
    loop {
        let (width, height) = screen.size()?;
        screen.show(&draw::screen(&board, &view, width, height))?;
        // All threads gone would be a fault of this program; there is nothing more to wait for.
        let Ok(happening) = happenings.recv() else { return Ok(Exit::Failure) };
        match happening {
            Happening::Key(key) => match view.press(key, &board) {
                Action::Nothing => {}
                Action::Quit => return Ok(Exit::Success),
                Action::Cut(chosen) => order.send(chosen)?,
            },
            Happening::Resized => {}
            Happening::Sampled(sample) => {
                let sample = sample?;
                if !view.is_paused {
                    board = Board::new(Some(&board.now), sample);
                }
            }
            Happening::Cut(cut) => {
                view.message = Some(match cut {
                    Ok(1) => "1 flow ends".to_owned(),
                    Ok(cut) => format!("{cut} flows end"),
                    Err(error) => format!("not cut: {error}"),
                });
            }
            Happening::Ended => return Ok(Exit::Success),
        }
    }
}

/// Whoever is told of nothing any more has ended.
fn wait_for_keys(tell: &Sender<Happening>) {
    loop {
        let happening = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Happening::Key(key),
            Ok(Event::Resize(..)) => Happening::Resized,
            Ok(Event::Key(_) | Event::Mouse(_) | Event::FocusGained | Event::FocusLost) => continue,
            // The terminal has gone.
            Err(_) => Happening::Ended,
        };
        let is_last = matches!(happening, Happening::Ended);
        if tell.send(happening).is_err() || is_last {
            return;
        }
    }
}

/// The signals by which others end this; Ctrl-C is a key here.
struct Signals {
    runtime: Runtime,
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches them from now on.
    fn catch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let here = runtime.enter();
        let hangup = signal(SignalKind::hangup())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        drop(here);
        Ok(Self { runtime, hangup, interrupt, terminate })
    }

    /// Waits for the first of them.
    fn wait(mut self, tell: &Sender<Happening>) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.hangup.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        });
        // Nobody is left to be told if it has ended.
        let _ = tell.send(Happening::Ended);
    }
}

/// Asks for a sample after each interval, and carries out orders at once.
fn take_samples(control: &Control, interval: Duration, orders: &Receiver<Chosen>, tell: &Sender<Happening>) {
    loop {
        let happening = match orders.recv_timeout(interval) {
            Ok(chosen) => Happening::Cut(cut(control, &chosen)),
            Err(RecvTimeoutError::Timeout) => {
                Happening::Sampled(ask(control).and_then(|answer| sample(&answer)))
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if tell.send(happening).is_err() {
            return;
        }
    }
}

/// Ends the flows of one client to one target, port included. Returns how many that were.
fn cut(control: &Control, chosen: &Chosen) -> anyhow::Result<usize> {
    let (host, _port) = chosen.target.rsplit_once(':').context("a target without a port")?;
    let asked = [("client", Some(chosen.client.as_str())), ("target", Some(host)), ("limit", Some("10000"))];
    let answer = control.get(Method::GET, &with_query("/v1/flows", asked), None)?;
    let flows = answer.get("flows").and_then(Value::as_array).context("an answer without flows")?;
    let mut cut = 0;
    for flow in flows.iter().filter(|flow| flow.get("target").and_then(Value::as_str) == Some(&chosen.target))
    {
        let id = flow.get("id").and_then(Value::as_u64).context("a flow without a number")?;
        let answer = control.ask(Method::DELETE, &format!("/v1/flows/{id}"), None)?;
        // It may have ended by itself meanwhile.
        if answer.status != StatusCode::NOT_FOUND {
            answer.succeeded()?;
            cut += 1;
        }
    }
    Ok(cut)
}
