//! All runs: each has a thread that waits for its runner, and a place until everything of it is gone.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use exeat_sandbox::{Fault, Job, NotRun, Runner, Said, Signaller};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe::{Receiver, Sender},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use super::run::{End, Run, Signal};
use crate::error::Failure;

/// Runs that have ended and are told of still.
const ENDED_MAX: usize = 100;
/// Bytes of output that these may take together.
const ENDED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes that are read from a command at a time.
const READ_BYTES: usize = 16 * 1024;
/// How long output is waited for that comes after the end: a process outside may have been handed the stream.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(2);

/// The table of runs. Clones are the same.
#[derive(Clone)]
pub(crate) struct Runs(Arc<Inner>);

struct Inner {
    places: Arc<Semaphore>,
    most: usize,
    /// In the order in which they began.
    table: Mutex<VecDeque<Arc<Run>>>,
}

/// A command that has just been started.
pub(crate) struct Started {
    runs: Runs,
    run: Arc<Run>,
    stdin: Sender,
    stdout: Receiver,
    stderr: Receiver,
    ended: oneshot::Receiver<End>,
}

/// A command whose end is noted, and whose streams are somebody else's business.
pub(crate) struct Watched {
    pub(crate) run: Arc<Run>,
    pub(crate) stdin: Sender,
    pub(crate) stdout: Receiver,
    pub(crate) stderr: Receiver,
}

/// What is kept of a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Keep {
    /// What it writes, too.
    Output,
    /// How it ended.
    End,
}

impl Runs {
    pub(crate) fn new(most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most));
        Self(Arc::new(Inner { places, most, table: Mutex::default() }))
    }

    /// How many have a place: they run, or are being started or ended.
    pub(crate) fn running(&self) -> usize {
        self.0.most.saturating_sub(self.0.places.available_permits())
    }

    /// All that are known, the newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Run>> {
        self.table().iter().rev().cloned().collect()
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Run>> {
        self.table().iter().find(|run| &*run.id == id).cloned()
    }

    /// Takes a place for a command.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.0.places).try_acquire_owned().map_err(|_| self.full())
    }

    /// Starts a command; it runs when this returns.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) async fn start(
        &self,
        job: Job,
        place: OwnedSemaphorePermit,
        keep: Keep,
    ) -> Result<Started, Failure> {
        let (id, command) = (job.name.clone(), job.command.clone());
        let streams = Streams::new().map_err(|error| broken(&error))?;
        let Streams { inside, stdin, stdout, stderr } = streams;
        let (tell, started) = oneshot::channel();
        let (tell_end, ended) = oneshot::channel();
        // The kernel ends a runner with the thread that started it.
        let attend = move || attend(job, inside, tell, tell_end, place);
        thread::Builder::new().name("run".to_owned()).spawn(attend).map_err(|error| broken(&error))?;
        let started = started.await.unwrap_or_else(|_| Err(silent()));
        let signaller = started.map_err(|why| not_run(&why))?;
        let run = Arc::new(Run::new(&id, &command, signaller, keep));
        self.table().push_back(Arc::clone(&run));
        tracing::info!(run = id, "a command runs");
        Ok(Started { runs: self.clone(), run, stdin, stdout, stderr, ended })
    }

    /// Tells all to end, and waits for it.
    pub(crate) async fn end(&self) {
        self.0.places.close();
        let running: Vec<_> = self.all().into_iter().filter(|run| !run.has_ended()).collect();
        for run in &running {
            run.signal(Signal::Term).await;
        }
        for run in &running {
            run.ended().await;
        }
    }

    fn full(&self) -> Failure {
        if self.0.places.is_closed() {
            return Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the server is ending");
        }
        let error = format!("{} commands run, and no more may", self.0.most);
        Failure::new(StatusCode::TOO_MANY_REQUESTS, error).help("wait for one to end: GET /runs lists them")
    }

    fn table(&self) -> MutexGuard<'_, VecDeque<Arc<Run>>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a run ended, and forgets the oldest that have, as far as there are too many.
    fn finish(&self, run: &Run, end: End) {
        tracing::info!(run = &*run.id, "a command has ended");
        let mut table = self.table();
        run.finish(end);
        let mut forgotten =
            forgotten(table.iter().map(|run| (run.has_ended(), run.kept_bytes()))).into_iter();
        table.retain(|_| forgotten.next() != Some(true));
    }
}

/// Says of each run, the oldest first, whether it is forgotten: those that have ended are, as far as there are too many or they
/// have written too much. Each is whether it has ended, and how many bytes of it are kept.
fn forgotten(runs: impl Iterator<Item = (bool, usize)> + Clone) -> Vec<bool> {
    let ended = || runs.clone().filter(|(has_ended, _)| *has_ended);
    let (mut count, mut bytes) = (ended().count(), ended().map(|(_, bytes)| bytes).sum::<usize>());
    let forget = |(has_ended, own)| {
        let is_too_much = has_ended && (count > ENDED_MAX || bytes > ENDED_BYTES_MAX);
        if is_too_much {
            count -= 1;
            bytes = bytes.saturating_sub(own);
        }
        is_too_much
    };
    runs.clone().map(forget).collect()
}

impl Started {
    pub(crate) const fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// Returns what ends the command when it is dropped.
    pub(crate) fn end_with_caller(&self) -> EndsWithCaller {
        EndsWithCaller(Arc::clone(&self.run))
    }

    /// Notes how it ends.
    pub(crate) fn watch(self) -> Watched {
        let Self { runs, run, stdin, stdout, stderr, ended } = self;
        let watched = Arc::clone(&run);
        tokio::spawn(async move { runs.finish(&run, ended.await.unwrap_or_else(|_| End::unknown())) });
        Watched { run: watched, stdin, stdout, stderr }
    }

    /// Gives it its input, and keeps what it writes, until it has ended.
    pub(crate) fn capture(self, input: Vec<u8>) {
        let Self { runs, run, mut stdin, stdout, stderr, ended } = self;
        let feeding = tokio::spawn(async move {
            // It need not read it.
            let _ = stdin.write_all(&input).await;
        });
        tokio::spawn(async move {
            let mut ended = ended;
            let end = {
                let reading = async { tokio::join!(keep(&run, 0, stdout), keep(&run, 1, stderr)) };
                tokio::pin!(reading);
                tokio::select! {
                    biased;
                    _ = &mut reading => None,
                    end = &mut ended => {
                        let _ = timeout(LAST_WORDS, &mut reading).await;
                        Some(end)
                    }
                }
            };
            let end = match end {
                Some(end) => end,
                None => ended.await,
            };
            feeding.abort();
            runs.finish(&run, end.unwrap_or_else(|_| End::unknown()));
        });
    }
}

/// Ends a command when it is dropped before the command has ended.
pub(crate) struct EndsWithCaller(Arc<Run>);

impl Drop for EndsWithCaller {
    fn drop(&mut self) {
        if !self.0.has_ended() {
            let run = Arc::clone(&self.0);
            tokio::spawn(async move { run.signal(Signal::Kill).await });
        }
    }
}

async fn keep(run: &Run, which: usize, mut stream: Receiver) {
    let mut bytes = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        if let Some(mut output) = run.output_of(which) {
            output.add(bytes.get(..count).unwrap_or_default());
        }
    }
}

/// The ends of a command's streams.
struct Streams {
    inside: [OwnedFd; 3],
    stdin: Sender,
    stdout: Receiver,
    stderr: Receiver,
}

impl Streams {
    fn new() -> io::Result<Self> {
        let (stdin, input) = io::pipe()?;
        let (output, stdout) = io::pipe()?;
        let (errors, stderr) = io::pipe()?;
        Ok(Self {
            inside: [stdin.into(), stdout.into(), stderr.into()],
            stdin: Sender::from_owned_fd(input.into())?,
            stdout: Receiver::from_owned_fd(output.into())?,
            stderr: Receiver::from_owned_fd(errors.into())?,
        })
    }
}

/// Starts a runner and waits until it has ended, and everything inside with it.
fn attend(
    job: Job,
    streams: [OwnedFd; 3],
    started: oneshot::Sender<Result<Signaller, NotRun>>,
    ended: oneshot::Sender<End>,
    place: OwnedSemaphorePermit,
) {
    let answer = Runner::start(job, &streams);
    // Theirs alone, so that it shows when they are closed.
    drop(streams);
    let runner = match answer {
        Ok(runner) => runner,
        Err(error) => {
            let error = format!("cannot start a runner: {error}");
            let _ = started.send(Err(NotRun { error, help: None, fault: Fault::Host }));
            return;
        }
    };
    let refused = match runner.next() {
        Ok(Some(Said::Started)) => None,
        Ok(Some(Said::NotRun(why))) => Some(why),
        Ok(Some(Said::Ended { .. }) | None) | Err(_) => Some(silent()),
    };
    let answer = refused.map_or_else(|| Ok(runner.signaller()), Err);
    if answer.is_err() | started.send(answer).is_err() {
        return;
    }
    let end = match runner.next() {
        Ok(Some(Said::Ended { outcome, summary })) => End::new(outcome, summary),
        Ok(Some(Said::NotRun(why))) => {
            tracing::warn!(error = why.error, "a sandbox has failed");
            End::unknown()
        }
        Ok(Some(Said::Started) | None) | Err(_) => End::unknown(),
    };
    drop(runner);
    // Before the end is known: who waits for it may start the next one.
    drop(place);
    let _ = ended.send(end);
}

fn silent() -> NotRun {
    NotRun { error: "the runner ended without a word".to_owned(), help: None, fault: Fault::Host }
}

fn broken(error: &io::Error) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot run a command: {error}"))
}

fn not_run(why: &NotRun) -> Failure {
    let status = match why.fault {
        Fault::Order => StatusCode::UNPROCESSABLE_ENTITY,
        Fault::Host => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let failure = Failure::new(status, why.error.clone());
    match &why.help {
        Some(help) => failure.help(help.clone()),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_have_ended_are_forgotten() {
        const HALF: usize = ENDED_BYTES_MAX / 2;
        for (name, runs, want) in [
            ("few", vec![(true, 1); 3], vec![]),
            ("as many as are kept", vec![(true, 0); ENDED_MAX], vec![]),
            ("one more", vec![(true, 0); ENDED_MAX + 1], vec![0]),
            (
                "running ones do not count",
                [vec![(false, HALF); 9], vec![(true, 0); ENDED_MAX]].concat(),
                vec![],
            ),
            (
                "nor are they forgotten",
                [vec![(false, 0)], vec![(true, 0); ENDED_MAX + 2]].concat(),
                vec![1, 2],
            ),
            ("as much as is kept", vec![(true, HALF); 2], vec![]),
            ("more", vec![(true, HALF), (true, HALF), (true, 1)], vec![0]),
            ("the oldest is small", vec![(true, 0), (true, HALF), (true, HALF), (true, 1)], vec![0, 1]),
        ] {
            let told = forgotten(runs.iter().copied()).into_iter().enumerate();
            let got: Vec<usize> =
                told.filter(|(_, is_forgotten)| *is_forgotten).map(|(number, _)| number).collect();
            assert_eq!(got, want, "{name}");
        }
    }
}
