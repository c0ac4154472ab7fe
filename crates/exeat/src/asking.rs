//! Questions of `exeat run --ask`: one at a time on the terminal, each asked once, while the connections that it is about wait.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::process::Child;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use exeat_cli::Run;
use exeat_policy::Revision;
use exeat_proxy::{Answer, Answering, Asks, Proxy, Snapshot, Unknown};
use exeat_store::Options;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::processes::{Inside, Paused};
use crate::question::{self, Choice};
use crate::reloader::snapshot;

/// Questions that wait to be asked, the one that is asked included: more than anybody wants to answer.
const OPEN_MAX: usize = 16;

/// How long a connection waits for the answer, and for those before it.
const WAIT_MAX: Duration = Duration::from_secs(180);

/// How long a question that is taken back may need to give back the terminal.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// How often it is looked whether there is an answer.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The questions of one run.
pub(crate) struct Questions {
    run: Run,
    options: Options,
    /// Until nobody is asked any more.
    proxy: Mutex<Option<Proxy>>,
    inside: Arc<Inside>,
    state: Mutex<State>,
    next: SyncSender<Option<Unknown>>,
}

#[derive(Debug, Default)]
struct State {
    /// What is asked or is to be, and who waits for it.
    open: HashMap<String, watch::Receiver<Option<Answer>>>,
    answers: HashMap<String, watch::Sender<Option<Answer>>>,
    /// What needs no more asking: it was denied, or allowed in vain since something else refuses it.
    settled: HashSet<String>,
    /// What this run alone is allowed beside its policy.
    entries: Vec<String>,
    /// Nobody is asked any more.
    is_over: bool,
}

/// The thread that asks.
pub(crate) struct Asker {
    questions: Arc<Questions>,
    thread: JoinHandle<()>,
}

impl Asker {
    /// Has what no rule covers asked about from now on.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(crate) fn start(
        run: &Run,
        options: &Options,
        proxy: &Proxy,
        inside: &Arc<Inside>,
    ) -> std::io::Result<Self> {
        let (next, questions_to_ask) = sync_channel(OPEN_MAX + 1);
        let questions = Arc::new(Questions {
            run: run.clone(),
            options: options.clone(),
            proxy: Mutex::new(Some(proxy.clone())),
            inside: Arc::clone(inside),
            state: Mutex::default(),
            next,
        });
        let asking = Arc::clone(&questions);
        let thread = thread::Builder::new()
            .name("asker".to_owned())
            .spawn(move || asking.ask_all(&questions_to_ask))?;
        proxy.ask_about_unknown(Arc::clone(&questions) as Arc<dyn Asks>);
        Ok(Self { questions, thread })
    }

    /// Takes back the question that is open, and asks no more.
    pub(crate) fn stop(self) {
        self.questions.state().is_over = true;
        // If there is no room for it, the thread will look before it asks the next.
        let _ = self.questions.next.try_send(None);
        if self.thread.join().is_err() {
            tracing::error!("the thread that asks panicked");
        }
        // It holds what is asked about.
        drop(self.questions.proxy.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl fmt::Debug for Questions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Questions").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Asks for Questions {
    fn ask(&self, unknown: Unknown) -> Answering<'_> {
        Box::pin(async move {
            let Some(mut answer) = self.enqueue(unknown) else { return Answer::Refuse };
            // Without an answer in time, or anybody who gives one, there is none.
            let _ =
                tokio::time::timeout(WAIT_MAX, async { drop(answer.wait_for(Option::is_some).await) }).await;
            let answer = answer.borrow_and_update().clone();
            answer.unwrap_or(Answer::Refuse)
        })
    }
}

impl Questions {
    fn proxy(&self) -> Option<Proxy> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it asked, unless it is; `None` if it is not to be.
    fn enqueue(&self, unknown: Unknown) -> Option<watch::Receiver<Option<Answer>>> {
        let key = unknown.target.to_string();
        let mut state = self.state();
        if state.is_over || state.settled.contains(&key) {
            return None;
        }
        if let Some(answer) = state.open.get(&key) {
            return Some(answer.clone());
        }
        if state.open.len() >= OPEN_MAX || self.next.try_send(Some(unknown)).is_err() {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        state.answers.insert(key.clone(), sender);
        state.open.insert(key, receiver.clone());
        Some(receiver)
    }

    fn ask_all(&self, questions: &Receiver<Option<Unknown>>) {
        while let Ok(Some(unknown)) = questions.recv() {
            if self.state().is_over {
                return;
            }
            let choice = self.ask_one(&unknown);
            let key = unknown.target.to_string();
            let answer = self.apply(choice, &unknown).unwrap_or_else(|error| {
                tracing::error!("`{}` is refused: {error:#}", unknown.target);
                Answer::Refuse
            });
            let mut state = self.state();
            if !matches!(answer, Answer::Once(_)) {
                state.settled.insert(key.clone());
            }
            state.open.remove(&key);
            if let Some(waiting) = state.answers.remove(&key) {
                waiting.send_replace(Some(answer));
            }
        }
    }

    fn ask_one(&self, unknown: &Unknown) -> Choice {
        let process = self.proxy().and_then(|proxy| proxy.process_of(unknown.client));
        let who = process.as_deref().unwrap_or("the command");
        let text = format!("{who} wants to reach {}", unknown.target);
        // Whoever reads the terminal now would otherwise get the answer.
        let paused = match self.inside.pause() {
            Ok(paused) => paused,
            Err(error) => {
                tracing::error!(
                    "nobody is asked about `{}`, which is refused: the command cannot be paused: {error}",
                    unknown.target
                );
                return Choice::Deny;
            }
        };
        match question::begin(&text, self.run.saves_to().is_some()) {
            Ok(asking) => self.wait(asking, &paused),
            Err(error) => {
                tracing::error!(%error, "cannot ask");
                Choice::Deny
            }
        }
    }

    /// Waits for the answer, for the end of the run, or for a signal to the command.
    fn wait(&self, mut asking: Child, paused: &Paused) -> Choice {
        loop {
            match asking.try_wait() {
                Ok(Some(status)) => return question::choice(status.code()),
                Ok(None) => {}
                Err(_) => return Choice::Deny,
            }
            if self.state().is_over || paused.is_to_end() {
                take_back(&mut asking);
                return Choice::Deny;
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Does what was answered.
    fn apply(&self, choice: Choice, unknown: &Unknown) -> anyhow::Result<Answer> {
        let mut entries = self.state().entries.clone();
        match choice {
            Choice::Deny => return Ok(Answer::Refuse),
            Choice::Once => {
                entries.push(unknown.entry.clone());
                return Ok(Answer::Once(Arc::new(self.load(&entries)?)));
            }
            Choice::Run => entries.push(unknown.entry.clone()),
            Choice::Save => {
                if let Err(error) = self.run.save(&self.options, &unknown.entry) {
                    tracing::error!("`{}` is allowed for this run and not saved: {error:#}", unknown.entry);
                    entries.push(unknown.entry.clone());
                }
            }
        }
        let now = self.load(&entries)?;
        self.state().entries = entries;
        if let Some(proxy) = self.proxy() {
            proxy.replace(now);
        }
        Ok(Answer::Changed)
    }

    /// Reads the policy with these entries beside it, as the next revision.
    fn load(&self, entries: &[String]) -> anyhow::Result<Snapshot> {
        let now = self.proxy().map_or(self.options.revision, |proxy| proxy.snapshot().policy.revision());
        let options = Options { revision: Revision(now.0.saturating_add(1)), ..self.options.clone() };
        Ok(snapshot(self.run.load_with(&options, entries)?))
    }
}

/// Ends a question. It gives the terminal back first, if it can.
fn take_back(asking: &mut Child) {
    if let Ok(pid) = i32::try_from(asking.id()) {
        let _may_have_ended = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let deadline = Instant::now() + GIVE_BACK;
    while matches!(asking.try_wait(), Ok(None)) && Instant::now() < deadline {
        thread::sleep(LOOK_AGAIN);
    }
    let _may_have_ended = asking.kill();
    let _status = asking.wait();
}
