//! Checks passwords: remembers outcomes, and keeps the slow hashes off the I/O threads and within bounds.

use std::{
    fmt,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use hmac::{Hmac, KeyInit, Mac};
use moka::future::Cache;
use sha2::Sha256;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{
    basic::Credentials,
    clients::{Client, Clients, Password},
    password::{Match, SecretError},
    principal::Principal,
};

/// How long an outcome is remembered. A change of the configuration takes effect at once all the same; this
/// bounds how long the tag of a password stays in memory after its last use.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// How many right passwords are remembered, at about 100 bytes each: more than a proxy has clients.
const RIGHT_MAX: u64 = 10_000;

/// How many wrong passwords are remembered. They have a place of their own, so that guessing cannot push out
/// the right ones.
const WRONG_MAX: u64 = 10_000;

/// How many checks may wait for a worker. At 15 ms a check, the last one waits half a second on two cores.
const WAITING_MAX: usize = 64;

/// Checks passwords. One per process, shared by all connections and all revisions of the configuration.
pub struct Authenticator {
    /// Keys the tags under which outcomes are remembered; random, one block of SHA-256, and never leaves
    /// the process.
    key: Zeroizing<[u8; 64]>,
    /// By its position, which of the client's passwords it was.
    right: Cache<Tag, usize>,
    wrong: Cache<Tag, ()>,
    /// A place in the queue: taken while waiting and while being checked.
    queue: Arc<Semaphore>,
    /// A place at work.
    workers: Arc<Semaphore>,
    slow_checks: AtomicU64,
}

/// Stands for a user, a password and the hashes it was checked against, and reveals none of them.
type Tag = [u8; 32];

/// What came of checking credentials.
#[derive(Debug)]
pub(crate) enum Checked {
    Right(Arc<Principal>),
    Wrong,
    Busy,
}

/// Which of a client's passwords matched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    /// The one at this position.
    At(usize),
    No,
    /// There was no memory to tell.
    Unknown,
}

/// Why a check leaves nothing to remember as wrong.
#[derive(Clone, Copy, Debug)]
enum Unremembered {
    Right(usize),
    Busy,
}

/// Whether a client of the asked name exists, or another one stands in. Part of the tag: the stand-in's password
/// is wrong for every other name, and that must not be remembered of a client who gets this name later.
#[derive(Clone, Copy)]
enum User {
    Known = 1,
    Unknown = 2,
}

impl Authenticator {
    /// Returns one that remembers nothing yet and works on half of the machine's cores.
    ///
    /// # Errors
    ///
    /// If the operating system gives no random bytes.
    pub fn new() -> Result<Self, SecretError> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self::with_places((cores / 2).max(1), WAITING_MAX)
    }

    fn with_places(workers: usize, waiting: usize) -> Result<Self, SecretError> {
        let mut key = Zeroizing::new([0; 64]);
        getrandom::fill(&mut *key).map_err(SecretError::Random)?;
        Ok(Self {
            key,
            right: Cache::builder().max_capacity(RIGHT_MAX).time_to_live(REMEMBERED).build(),
            wrong: Cache::builder().max_capacity(WRONG_MAX).time_to_live(REMEMBERED).build(),
            queue: Arc::new(Semaphore::new(workers + waiting)),
            workers: Arc::new(Semaphore::new(workers)),
            slow_checks: AtomicU64::new(0),
        })
    }

    /// Returns how many passwords were hashed with argon2 since the start.
    pub fn slow_checks(&self) -> u64 {
        self.slow_checks.load(Ordering::Relaxed)
    }

    pub(crate) async fn check(&self, clients: &Clients, credentials: &Credentials) -> Checked {
        let name = credentials.user();
        let (client, user) = match clients.get(name) {
            Some(client) => (client, User::Known),
            None => match clients.stand_in(self.draw(name)) {
                Some(client) => (client, User::Unknown),
                // Without clients there is no name to keep secret.
                None => return Checked::Wrong,
            },
        };
        let found = if client.passwords.iter().any(Password::is_slow) {
            let tag = self.tag(client, user, credentials);
            match self.right.get(&tag).await {
                Some(position) => Found::At(position),
                // On the heap: it takes much room, and a password that is remembered does without.
                None => Box::pin(self.check_slow(client, tag, credentials)).await,
            }
        } else {
            find(client, credentials.password())
        };
        match (found, user) {
            (Found::At(position), User::Known) => client
                .passwords
                .get(position)
                .map_or(Checked::Wrong, |password| Checked::Right(Arc::clone(&password.principal))),
            (Found::At(_), User::Unknown) | (Found::No, User::Known | User::Unknown) => Checked::Wrong,
            (Found::Unknown, User::Known | User::Unknown) => Checked::Busy,
        }
    }

    /// Checks against hashes of which one is slow, once for all who ask the same at a time. What was right is remembered
    /// by its `tag`, and not asked here again.
    async fn check_slow(&self, client: &Arc<Client>, tag: Tag, credentials: &Credentials) -> Found {
        let check = async {
            match self.hash_in_queue(Arc::clone(client), credentials.password()).await {
                Found::No => Ok(()),
                Found::Unknown => Err(Unremembered::Busy),
                Found::At(position) => {
                    self.right.insert(tag, position).await;
                    Err(Unremembered::Right(position))
                }
            }
        };
        match self.wrong.try_get_with(tag, check).await {
            Ok(()) => Found::No,
            Err(outcome) => match *outcome {
                Unremembered::Right(position) => Found::At(position),
                Unremembered::Busy => Found::Unknown,
            },
        }
    }

    /// Waits for a worker, at most [`WAITING_MAX`] at a time, and runs every hash. The places go along to the thread, so
    /// that they stay taken until the work is done, whether anyone still waits for it or not.
    async fn hash_in_queue(&self, client: Arc<Client>, password: &[u8]) -> Found {
        let Ok(place) = Arc::clone(&self.queue).try_acquire_owned() else {
            return Found::Unknown;
        };
        let Ok(worker) = Arc::clone(&self.workers).acquire_owned().await else {
            return Found::Unknown;
        };
        let slow = client.passwords.iter().filter(|password| password.is_slow()).count();
        self.slow_checks.fetch_add(u64::try_from(slow).unwrap_or(u64::MAX), Ordering::Relaxed);
        let password = Zeroizing::new(password.to_vec());
        let work = tokio::task::spawn_blocking(move || {
            let found = find(&client, &password);
            drop((worker, place));
            found
        });
        work.await.unwrap_or(Found::Unknown)
    }

    fn tag(&self, client: &Client, user: User, credentials: &Credentials) -> Tag {
        self.mac(&[
            &[user as u8],
            &client.revision,
            credentials.user().as_bytes(),
            // Neither part has a control character, so that this separates them.
            &[0],
            credentials.password(),
        ])
    }

    /// Returns a number that is the same for the same name, and unpredictable from outside.
    fn draw(&self, name: &str) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.mac(&[&[0], name.as_bytes()]);
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new(&(*self.key).into());
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("slow_checks", &self.slow_checks()).finish_non_exhaustive()
    }
}

/// Compares with every hash, even after a match, so that the time does not tell which one it was.
fn find(client: &Client, password: &[u8]) -> Found {
    let mut found = Found::No;
    for (position, live) in client.passwords.iter().enumerate() {
        found = match (found, live.hash.verify(password)) {
            (Found::At(first), Match::Yes | Match::No | Match::Unknown) => Found::At(first),
            (Found::No | Found::Unknown, Match::Yes) => Found::At(position),
            (Found::Unknown, Match::No | Match::Unknown) | (Found::No, Match::Unknown) => Found::Unknown,
            (Found::No, Match::No) => Found::No,
        };
    }
    found
}

#[cfg(test)]
mod tests;
