//! A client that does too much of everything, and counts what it is told.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::fixture::request_with;
use crate::namespace::PROXY;
use crate::raw::{Raw, authorization};

/// The client's name.
pub const NAME: &str = "noisy";
/// Its password.
pub const PASSWORD: &str = "a-generated-one-0123456789abcdef";
/// The client whose password it guesses.
pub const GUESSED: &str = "quiet0";
/// Where an upstream sends without end: [`firehose`].
pub const FIREHOSE: &str = "93.184.216.99:8000";
/// Connections that one thread keeps or uses at a time.
const KEPT: usize = 128;
/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

/// What there is too much of. Each comes from an address of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Noise {
    /// Connections that are kept and say nothing.
    Crowd,
    /// Connections that end as soon as they are there.
    Knocks,
    /// Requests for what is allowed.
    Requests,
    /// Requests for what is not.
    Denied,
    /// Passwords, a different wrong one each time.
    Guesses,
    /// Tunnels that carry as much as they can.
    Bulk,
}

impl Noise {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Crowd, Self::Knocks, Self::Requests, Self::Denied, Self::Guesses, Self::Bulk];

    /// A word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Crowd => "crowd",
            Self::Knocks => "knocks",
            Self::Requests => "requests",
            Self::Denied => "denied",
            Self::Guesses => "guesses",
            Self::Bulk => "bulk",
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|noise| noise.word() == word)
    }

    const fn source(self) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(93, 184, 216, 101 + self as u8)), 0)
    }

    /// Makes noise in so many threads until it is `over`.
    ///
    /// # Errors
    /// When a thread panics.
    pub fn make(self, threads: usize, over: &AtomicBool) -> Result<Told> {
        let mut told = Told::default();
        thread::scope(|scope| {
            let noisy: Vec<_> =
                (0..threads).map(|number| scope.spawn(move || self.run(number, over))).collect();
            for thread in noisy {
                told.add(thread.join().ok().context("a noisy thread panicked")?);
            }
            Ok(told)
        })
    }

    fn run(self, number: usize, over: &AtomicBool) -> Told {
        let mut told = Told::default();
        let mut kept = Vec::new();
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            count += 1;
            // A connection that breaks is what happens to the noisy.
            let said = match self {
                Self::Crowd => self.crowd(&mut kept),
                Self::Knocks => self.connect().map(|_| "knocked".to_owned()),
                Self::Requests => self.ask(&mut kept, "GET http://loud.example.org/", (NAME, PASSWORD)),
                Self::Denied => self.ask(&mut kept, "GET http://evil.test/", (NAME, PASSWORD)),
                Self::Guesses => {
                    let guess = format!("guess-{number}-{count}");
                    self.ask(&mut kept, "GET http://example.com/", (GUESSED, &guess))
                }
                Self::Bulk => self.bulk(over),
            };
            told.note(said.unwrap_or_else(|_| "broke".to_owned()));
        }
        told
    }

    fn connect(self) -> Result<Raw> {
        // Without a reset the search for a port that is free would be the noise.
        Raw::from(self.source(), PROXY.parse()?)?.ends_with_reset()
    }

    /// One connection more, or in place of those that the proxy did not keep. None is given up: the proxy, which may be
    /// slower, would find it gone before it could count it.
    fn crowd(self, kept: &mut Vec<Raw>) -> Result<String> {
        if kept.len() >= KEPT {
            kept.retain(Raw::is_silent);
        }
        if kept.len() < KEPT {
            kept.push(self.connect()?);
        } else {
            thread::sleep(Duration::from_millis(1));
        }
        Ok("held".to_owned())
    }

    /// A request on a connection that is kept for as long as the proxy keeps it.
    fn ask(self, kept: &mut Vec<Raw>, line: &str, (name, password): (&str, &str)) -> Result<String> {
        let mut client = match kept.pop() {
            Some(client) => client,
            None => self.connect()?,
        };
        let reply = client.ask(request_with(line, &authorization(name, password)))?;
        if reply.head.field("connection") != Some("close") {
            kept.push(client);
        }
        let reason = reply.head.field("x-deny-reason").unwrap_or_default();
        Ok(format!("{} {reason}", reply.status).trim_end().to_owned())
    }

    /// A tunnel until it is over.
    fn bulk(self, over: &AtomicBool) -> Result<String> {
        let mut client = self.connect()?;
        let reply =
            client.ask(request_with(&format!("CONNECT {FIREHOSE}"), &authorization(NAME, PASSWORD)))?;
        if reply.status != 200 {
            let reason = reply.head.field("x-deny-reason").unwrap_or_default();
            return Ok(format!("{} {reason}", reply.status));
        }
        let mut chunk = [0; CHUNK];
        while !over.load(Ordering::Relaxed) && client.read(&mut chunk)? > 0 {}
        Ok("200".to_owned())
    }
}

/// What the client was told, and how often: a status and its reason, `broke` for a connection that did.
#[derive(Clone, Debug, Default)]
pub struct Told(pub BTreeMap<String, usize>);

impl Told {
    fn note(&mut self, what: String) {
        *self.0.entry(what).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// How often this was said.
    #[must_use]
    pub fn count(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or_default()
    }
}

/// Starts the upstream at [`FIREHOSE`], which sends to everybody until they have had enough. Returns the bytes so far.
///
/// # Errors
/// When the address cannot be bound.
pub fn firehose() -> Result<&'static AtomicUsize> {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind(FIREHOSE)?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                while let Ok(sent) = stream.write(&[0; CHUNK]) {
                    SENT.fetch_add(sent, Ordering::Relaxed);
                }
            });
        }
    });
    Ok(&SENT)
}
