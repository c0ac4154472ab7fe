//! Collectors that are told by dnstap what is asked: those that read, and those that do not.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use exeat_audit::Record;
use exeat_dns::{
    Answer, Carrier, Collector, Deciding, Feed, Happening, Heard, Next, NoGate, Recorded, ResolveError,
    Resolver, ResolverConfig, Server, ServerConfig, Surroundings, TapOut, TapOutTask,
};
use exeat_policy::Entry;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

#[expect(dead_code, reason = "nothing is opened, and the policy does not change here")]
#[path = "../../../fuzz/checks/names_world.rs"]
mod names_world;

use names_world::{CLIENT, Snapshot, World};

const PATIENCE: Duration = Duration::from_secs(20);

/// The world of the other tests, with counters.
struct Counted {
    world: Arc<World>,
    told: AtomicU64,
    lost: AtomicU64,
}

impl Surroundings for Counted {
    fn now(&self) -> Arc<dyn Deciding> {
        self.world.now()
    }

    fn next_request_id(&self) -> Arc<str> {
        self.world.next_request_id()
    }

    fn note(&self, record: Record) {
        drop(record);
    }

    fn record(&self, record: Record) -> Recorded<'_> {
        self.world.record(record)
    }

    fn resolved(&self, result: &Result<Answer, ResolveError>, took: Duration) {
        self.world.resolved(result, took);
    }

    fn count(&self, happening: Happening) {
        if let Happening::TapOutTold(count) = happening {
            self.told.fetch_add(count, Relaxed);
        } else if let Happening::TapOutLost(count) = happening {
            self.lost.fetch_add(count, Relaxed);
        }
    }
}

struct Stage {
    around: Arc<Counted>,
    server: Server,
    task: TapOutTask,
}

impl Stage {
    fn new(socket: &Path, uid: u32) -> Self {
        let world = World::new(Snapshot::new(1, &[Entry::parse("*.example.com").unwrap()], &[]));
        let around = Arc::new(Counted { world, told: AtomicU64::new(0), lost: AtomicU64::new(0) });
        let collector = Collector {
            socket: socket.to_owned(),
            uid,
            identity: "here".to_owned(),
            version: "test 1".to_owned(),
        };
        let (tap_out, task) = TapOut::start(collector, Arc::clone(&around) as _);
        let config = ServerConfig { queries_per_second: 0, ..ServerConfig::default() };
        let resolver = Resolver::new(ResolverConfig::default()).unwrap();
        let server =
            Server::new(config, resolver, Arc::clone(&around) as _, Arc::new(NoGate), None, Some(tap_out));
        Self { around, server, task }
    }

    /// Asks for a name that the policy does not allow, which nobody is asked for.
    async fn ask(&self, name: &str) {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.queries.push(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        let answer = self.server.answer(&message.to_vec().unwrap(), CLIENT, Carrier::Udp).await;
        assert!(answer.is_some());
    }

    fn counts(&self) -> (u64, u64) {
        (self.around.told.load(Relaxed), self.around.lost.load(Relaxed))
    }
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap()
}

/// A collector with one stream that has begun.
struct Reader {
    stream: UnixStream,
    feed: Feed,
    buffer: BytesMut,
}

impl Reader {
    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = soon(listener.accept()).await.unwrap();
        Self { stream, feed: Feed::default(), buffer: BytesMut::new() }
    }

    /// The next message; `None` once the writer has said that there is no more, and was answered.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.feed.next(&mut self.buffer).unwrap() {
                Next::Wait => {
                    let length = soon(self.stream.read_buf(&mut self.buffer)).await.unwrap();
                    assert!(length > 0, "it has left without a word");
                }
                Next::Reply(reply) => self.stream.write_all(&reply).await.unwrap(),
                Next::Message(message) => return Some(message.to_vec()),
                Next::End(reply) => {
                    self.stream.write_all(&reply.unwrap()).await.unwrap();
                    return None;
                }
                Next::TooLong => panic!("too long"),
            }
        }
    }

    /// The names of the next answers, until one is for `last`.
    async fn names_until(&mut self, last: &str) -> Vec<String> {
        let mut names = Vec::new();
        while names.last().is_none_or(|name| name != last) {
            let message = self.next().await.unwrap();
            // Questions are passed over by whoever learns from answers.
            if let Ok(heard) = Heard::read(&message) {
                names.push(heard.name().unwrap().to_string());
            }
        }
        names
    }
}

#[tokio::test]
async fn a_collector_is_told_each_question_and_its_answer_to_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    // It is not there yet: what is asked meanwhile waits for it.
    let stage = Stage::new(&socket, me());
    stage.ask("a.test").await;
    tokio::task::yield_now().await;
    let listener = UnixListener::bind(&socket).unwrap();
    let mut reader = Reader::accept(&listener).await;
    let question = reader.next().await.unwrap();
    for text in [&b"here"[..], b"test 1"] {
        assert!(question.windows(text.len()).any(|part| part == text), "{question:?}");
    }
    assert!(Heard::read(&question).is_err(), "it is no answer");
    assert_eq!(reader.names_until("a.test").await, ["a.test"]);
    for name in ["b.test", "c.test"] {
        stage.ask(name).await;
    }
    // Both are told before the end.
    let Stage { around, server: _server, task } = stage;
    let finish = tokio::spawn(task.finish());
    assert_eq!(reader.names_until("c.test").await, ["b.test", "c.test"]);
    assert_eq!(reader.next().await, None);
    soon(finish).await.unwrap();
    assert_eq!((around.told.load(Relaxed), around.lost.load(Relaxed)), (6, 0));
}

#[tokio::test]
async fn a_collector_that_reads_nothing_delays_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let stage = Stage::new(&socket, me());
    stage.ask("first.test").await;
    let mut reader = Reader::accept(&listener).await;
    assert_eq!(reader.names_until("first.test").await, ["first.test"]);
    // It reads no more. Every question is answered, and when there is no room their messages are lost.
    let mut asked = 1;
    let end = Instant::now() + 10 * PATIENCE;
    while stage.counts().1 < 1000 {
        stage.ask("more.test").await;
        asked += 1;
        assert!(Instant::now() < end, "nothing is lost after {asked} questions");
    }
    // 8 MiB hold no more than this many of these, and not much fewer.
    assert!((5_000..60_000).contains(&asked), "{asked}");
    let Stage { task, server: _server, around } = stage;
    soon(task.finish()).await;
    assert!(around.told.load(Relaxed) + around.lost.load(Relaxed) < 2 * asked, "it says what is not so");
}

#[tokio::test]
async fn a_collector_that_leaves_is_looked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let stage = Stage::new(&socket, me());
    stage.ask("a.test").await;
    let mut reader = Reader::accept(&listener).await;
    assert_eq!(reader.names_until("a.test").await, ["a.test"]);
    drop(reader);
    // Nothing has to be asked for it to be noticed, so that nothing is lost.
    let mut reader = Reader::accept(&listener).await;
    stage.ask("b.test").await;
    assert_eq!(reader.names_until("b.test").await, ["b.test"]);
    drop((reader, listener));
    std::fs::remove_file(&socket).unwrap();
    stage.ask("c.test").await;
    let listener = UnixListener::bind(&socket).unwrap();
    let mut reader = Reader::accept(&listener).await;
    stage.ask("d.test").await;
    let names = reader.names_until("d.test").await;
    assert!(names == ["c.test", "d.test"] || names == ["d.test"], "{names:?}");
    let (told, lost) = stage.counts();
    assert_eq!(told + lost, 8, "{told} told");
}

#[tokio::test]
async fn a_collector_of_another_user_is_told_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let stage = Stage::new(&socket, me() + 1);
    stage.ask("a.test").await;
    for _ in 0..2 {
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        let mut said = Vec::new();
        assert_eq!(soon(stream.read_to_end(&mut said)).await.unwrap(), 0, "{said:?}");
    }
    soon(stage.task.finish()).await;
    assert_eq!(stage.around.lost.load(Relaxed), 2);
}

#[tokio::test]
async fn a_collector_that_does_not_read_dnstap_is_told_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let stage = Stage::new(&socket, me());
    stage.ask("a.test").await;
    let control = |kind: u8, rest: &[u8]| {
        let length = u8::try_from(4 + rest.len()).unwrap();
        [&[0, 0, 0, 0, 0, 0, 0, length, 0, 0, 0, kind], rest].concat()
    };
    let text = [&[0, 0, 0, 1, 0, 0, 0, 4][..], b"text"].concat();
    for (what, reply) in [
        ("another content", control(1, &text)),
        ("a start", control(2, &[])),
        ("the end", control(5, &[])),
        ("data", vec![0, 0, 0, 1, 0]),
        ("a long control frame", vec![0, 0, 0, 0, 0, 0, 9, 9]),
        ("a cut one", control(1, &[0, 0])),
    ] {
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        let mut ready = [0; 42];
        soon(stream.read_exact(&mut ready)).await.unwrap();
        stream.write_all(&reply).await.unwrap();
        let mut said = Vec::new();
        // What was not read of us makes this a reset.
        let end = soon(stream.read_to_end(&mut said)).await;
        assert!(said.is_empty() && end.is_ok_and(|length| length == 0), "{what}: {said:?}");
    }
    // One that takes what it is asked with a word that nobody knows yet before it.
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    stream.write_all(&[control(77, &[]), control(1, &[])].concat()).await.unwrap();
    let mut begun = [0; 84];
    soon(stream.read_exact(&mut begun)).await.unwrap();
    assert_eq!(begun[53], 2, "START: {begun:?}");
    drop(stage);
}
