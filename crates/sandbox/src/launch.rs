//! The outer side: starts the processes inside one after the other, gets their sockets, and waits for the command.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::environment;
use crate::failure::{During, Failure, Step};
use crate::first::First;
use crate::forbidden::explained;
use crate::groups::Groups;
use crate::limits::{Exceeded, Limits};
use crate::names;
use crate::packets::Packets;
use crate::pause::Pauser;
use crate::plan::Plan;
use crate::run_as::RunAs;
use crate::signals::Signals;
use crate::streams;
use crate::wire::{Channel, Ended, Order, ToInside, ToLauncher};

/// The argument that makes this program the stage.
pub(crate) const STAGE: &str = "sandbox-stage";

/// The variable that keeps the allocator from starting threads: a process with two cannot make a user namespace.
pub(crate) const ALLOCATOR: (&str, &str) = ("_RJEM_MALLOC_CONF", "background_thread:false");

/// What is listened on inside.
#[derive(Debug)]
pub struct Sockets {
    /// For clients that know of the proxy.
    pub proxy: TcpListener,
    /// For all other connections, which the kernel redirects: one for each family that there is.
    pub redirected: Vec<TcpListener>,
    /// For questions for names, by UDP and by TCP, likewise.
    pub names: Vec<(UdpSocket, TcpListener)>,
}

impl Sockets {
    /// Takes them apart in the order in which they come.
    fn of(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut sockets = Self { proxy: descriptors.next()?.into(), redirected: vec![], names: vec![] };
        while let Some(redirected) = descriptors.next() {
            sockets.redirected.push(redirected.into());
            sockets.names.push((descriptors.next()?.into(), descriptors.next()?.into()));
        }
        Some(sockets)
    }
}

/// A sandbox whose network is being made.
#[derive(Debug)]
pub struct Beginning(Sandbox);

/// A sandbox, and the processes that keep it. All of them, the command's included, end when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    first: First,
    channel: Channel,
    time: Option<Duration>,
    /// Where to ask how many packets were refused.
    counters: Option<OwnedFd>,
    /// After the first process, whose end empties them.
    groups: Option<Groups>,
}

/// How a command ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Outcome {
    /// By what.
    pub ended: Ended,
    /// The limits that it has run into.
    pub exceeded: Vec<Exceeded>,
    /// How many packets the kernel has refused, if that is known.
    pub packets: Option<Packets>,
}

impl Outcome {
    /// The exit status that says so to a shell: as that of `timeout` if its time was over, else its own.
    #[must_use]
    pub fn status(&self) -> u8 {
        if self.exceeded.contains(&Exceeded::Time) { STATUS_TIME } else { self.ended.status() }
    }
}

/// What `timeout` ends with.
const STATUS_TIME: u8 = 124;

/// How long a command that was told to end may take to.
const END: Duration = Duration::from_secs(5);

impl Sandbox {
    /// Makes a sandbox with its network, and returns the sockets to serve. The rest is made meanwhile, and the command does not
    /// run yet.
    ///
    /// # Errors
    /// The step that failed.
    pub fn prepare(plan: &Plan) -> Result<(Self, Sockets), Failure> {
        Self::begin(&plan.command, &plan.user, &plan.limits)?.finish(plan)
    }

    /// Begins one for a plan with this command, user and limits; what else is in the plan is not needed yet.
    ///
    /// # Errors
    /// The step that failed.
    pub fn begin(command: &[OsString], user: &RunAs, limits: &Limits) -> Result<Beginning, Failure> {
        let (channel, theirs) = Channel::pair().during(Step::Start)?;
        let stage = Command::new("/proc/self/exe")
            .arg(STAGE)
            .args(command)
            .env(ALLOCATOR.0, ALLOCATOR.1)
            .stdin(Stdio::from(theirs))
            .spawn()
            .during(Step::Start)?;
        let first = First::Stage(stage);
        let mut sandbox = Self { first, channel, time: limits.time, counters: None, groups: None };
        if limits.needs_groups() {
            let groups = sandbox.groups.insert(Groups::make(limits)?);
            // It waits for a word of ours: whatever it starts is in them, too.
            groups.take_in(sandbox.first.id())?;
        }
        sandbox.say(&ToInside::Setup(user.setup.clone()))?;
        let mut init = 0;
        sandbox.expect(|said| {
            let ToLauncher::Unshared(number) = said else { return false };
            init = *number;
            true
        })?;
        sandbox.first.becomes(init)?;
        sandbox.map_user(user)?;
        sandbox.say(&ToInside::Mapped)?;
        Ok(Beginning(sandbox))
    }

    /// The number of its first process, which has the network of all in it, and is the first ancestor of theirs.
    #[must_use]
    pub fn first_process(&self) -> u32 {
        self.first.id()
    }

    /// Returns who has it paused.
    ///
    /// # Errors
    /// If there are too many descriptors.
    pub fn pauser(&self) -> io::Result<Pauser> {
        Ok(Pauser(self.channel.try_clone()?))
    }

    /// Runs the command, once the sandbox is complete.
    ///
    /// # Errors
    /// If it cannot be made, or the command cannot be run; the status tells whether it is there.
    pub fn start(&self) -> Result<(), Failure> {
        self.expect(|said| matches!(said, ToLauncher::Confined))?;
        self.say(&ToInside::Go)?;
        let started = self.expect(|said| matches!(said, ToLauncher::Started)).map(drop);
        // It may have been, or else the step would be told.
        started.map_err(|failure| if failure.step == Step::Talk { lost() } else { failure })
    }

    /// Waits for its end, passes on the signals that come meanwhile, and calls `look` at least this `often`. When its time is
    /// over, it is told to end, and then made to.
    ///
    /// # Errors
    /// If the sandbox ends without a word.
    pub fn wait(
        self,
        signals: &mut impl Signals,
        often: Duration,
        look: impl Fn(),
    ) -> Result<Outcome, Failure> {
        let mut deadline = Deadline::new(self.time);
        let ended = self.wait_until(&mut deadline, signals, often, look);
        let mut exceeded = self.groups.as_ref().map(Groups::exceeded).unwrap_or_default();
        let packets = self.counters.as_ref().and_then(|counters| Packets::read(counters).ok());
        if deadline.is_over {
            exceeded.push(Exceeded::Time);
        }
        match ended {
            // Whoever takes what there is may take init along.
            Err(_) if exceeded.contains(&Exceeded::Memory) => {
                Ok(Outcome { ended: KILLED, exceeded, packets })
            }
            ended => Ok(Outcome { ended: ended?, exceeded, packets }),
        }
    }

    fn wait_until(
        &self,
        deadline: &mut Deadline,
        signals: &mut impl Signals,
        often: Duration,
        look: impl Fn(),
    ) -> Result<Ended, Failure> {
        loop {
            match deadline.reached() {
                Some(true) => return Ok(KILLED),
                // It may have ended by now.
                Some(false) => drop(self.channel.send(&ToInside::Signal(libc::SIGTERM))),
                None => {}
            }
            let patience = deadline.left().map_or(often, |left| left.min(often));
            let patience = Timespec::try_from(patience).during(Step::Talk)?;
            let mut ready = [PollFd::new(&self.channel, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            match poll(&mut ready, Some(&patience)) {
                Ok(0) => look(),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::new(Step::Talk, error)),
            }
            let has_word = !ready[0].revents().is_empty();
            while let Some(signal) = signals.next_sent().during(Step::Talk)? {
                // It may have ended by now.
                let _ = self.channel.send(&ToInside::Signal(signal));
            }
            if !has_word {
                continue;
            }
            match self.channel.receive::<ToLauncher>().during(Step::Talk)? {
                Some((ToLauncher::Ended(ended), _)) => return Ok(ended),
                Some((_, _)) => return Err(Failure::new(Step::Talk, "it said what makes no sense")),
                None => return Err(lost()),
            }
        }
    }

    /// Init cannot do this itself where the user is not its own.
    fn map_user(&self, user: &RunAs) -> Result<(), Failure> {
        let setup = &user.setup;
        for (file, text) in [
            // Without it, the kernel lets nobody but root map a group.
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{0} {0} 1", setup.uid)),
            ("gid_map", format!("{0} {0} 1", setup.gid)),
        ] {
            fs::write(format!("/proc/{}/{file}", self.first.id()), text)
                .during_with(Step::Mapping, file)
                .map_err(explained)?;
        }
        Ok(())
    }

    fn order(&self, plan: &Plan) -> Result<(), Failure> {
        let mut environment = plan.user.environment();
        environment.extend(plan.variables.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
        environment.extend(environment::of_command(&plan.variables));
        let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let runtime_directory = runtime_directory.filter(|directory| directory.is_absolute());
        let mut read_only =
            names::protected(plan.user.home().as_deref(), &plan.directory).during(Step::ReadOnly)?;
        read_only.extend(plan.read_only.iter().cloned());
        let order = ToInside::Order(Box::new(Order {
            directory: plan.directory.clone(),
            home: plan.user.home(),
            environment,
            hidden: plan.hidden.clone(),
            limits: plan.limits.of_processes(),
            read_only,
            writable: plan.writable.clone(),
            locked: plan.locked.clone(),
            state: names::state_folder(),
            sockets: plan.sockets.clone(),
            runtime_directory,
        }));
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let streams = match plan.streams.as_deref() {
            Some([stdin, stdout, stderr]) => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            None => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        };
        streams::check(streams)?;
        let sockets = File::open("/proc/net/unix").during(Step::Hide)?;
        let [stdin, stdout, stderr] = streams;
        self.channel.send_with(&order, &[stdin, stdout, stderr, sockets.as_fd()]).during(Step::Talk)
    }

    fn say(&self, message: &ToInside) -> Result<(), Failure> {
        match self.channel.send(message) {
            Ok(()) => Ok(()),
            // Whatever made it end may be among what it said last.
            Err(_) => self.expect(|_| false).map(drop),
        }
    }

    /// Waits for one message, and returns what goes along with it.
    fn expect(&self, is_it: impl FnOnce(&ToLauncher) -> bool) -> Result<Vec<OwnedFd>, Failure> {
        match self.channel.receive::<ToLauncher>().during(Step::Talk)? {
            Some((ToLauncher::Failed(failure), _)) => Err(failure),
            Some((said, descriptors)) if is_it(&said) => Ok(descriptors),
            Some(_) => Err(Failure::new(Step::Talk, "it said what makes no sense")),
            None => Err(Failure::new(Step::Talk, "it ended without a word")),
        }
    }
}

impl Beginning {
    /// Goes on as the plan says that it was begun for, and returns the sockets to serve.
    ///
    /// # Errors
    /// The step that failed.
    pub fn finish(self, plan: &Plan) -> Result<(Sandbox, Sockets), Failure> {
        let Self(mut sandbox) = self;
        let mut descriptors = sandbox.expect(|said| matches!(said, ToLauncher::Listening))?;
        sandbox.counters = descriptors.pop();
        let sockets = Sockets::of(descriptors)
            .ok_or_else(|| Failure::new(Step::Listen, "there are too few sockets"))?;
        sandbox.order(plan)?;
        Ok((sandbox, sockets))
    }
}

/// How a command ended that was made to.
pub(crate) const KILLED: Ended = Ended::Killed(libc::SIGKILL.to_le_bytes()[0]);

/// The command has been run, and is no more.
fn lost() -> Failure {
    let failure = Failure::new(Step::End, "somebody has killed it, or there was no memory left");
    Failure { status: KILLED.status(), ..failure }
}

/// When a command is told to end, and then when it is made to.
struct Deadline {
    next: Option<Instant>,
    is_over: bool,
}

impl Deadline {
    fn new(time: Option<Duration>) -> Self {
        // More than the clock can count is no limit.
        Self { next: time.and_then(|time| Instant::now().checked_add(time)), is_over: false }
    }

    fn left(&self) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Says that it is reached, once for each: `Some(true)` if the command is to be made to end.
    fn reached(&mut self) -> Option<bool> {
        let now = Instant::now();
        if self.next.is_none_or(|next| now < next) {
            return None;
        }
        let was_over = std::mem::replace(&mut self.is_over, true);
        self.next = now.checked_add(END);
        Some(was_over)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.first.end();
    }
}
