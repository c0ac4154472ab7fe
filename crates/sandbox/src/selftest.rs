//! What a confined command is kept from, tried on this host: every way out in turn, by this program itself inside a sandbox,
//! against decoys that it has set up outside. Beside the ways out is what must work: where nothing does, nothing is proven.
//!
//! Inside, one process makes each attempt (`sandbox-attempt`), started by one that tells how it ended (`sandbox-attempts`), so
//! that an attempt which changes or ends its process leaves the others alone.

mod attempt;
mod decoys;
mod kernel;
mod network;
mod raw;
mod reach;
mod surroundings;

use serde::{Deserialize, Serialize};

pub(crate) use attempt::run_all;
pub(crate) use attempt::{ATTEMPT, run_one};
pub use attempt::{ATTEMPTS, read};
pub use decoys::{Decoys, Found};

use attempt::Tried;

/// Everything that is tried, in its order.
#[must_use]
pub fn catalogue() -> Vec<Attempt> {
    [&network::ATTEMPTS[..], &surroundings::ATTEMPTS, &kernel::ATTEMPTS].concat()
}

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Its name, which stays the same.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// How it must end.
    pub wants: Wants,
    run: fn(&Targets) -> Tried,
}

/// How an attempt must end.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wants {
    /// It is allowed: without it, the refusals beside it would prove nothing.
    Works,
    /// It is refused.
    Refused,
}

/// How an attempt ended, and what it saw.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It worked.
    Worked(String),
    /// It was refused.
    Refused(String),
    /// Neither: there was no answer, or its process was ended.
    Unclear(String),
    /// This host has nothing to try it on.
    NotHere(String),
}

impl Ended {
    /// Whether it is what an attempt must end with. What is unclear never is.
    #[must_use]
    pub const fn is_as(&self, wants: Wants) -> bool {
        match self {
            Self::Worked(_) => matches!(wants, Wants::Works),
            Self::Refused(_) => matches!(wants, Wants::Refused),
            Self::NotHere(_) => true,
            Self::Unclear(_) => false,
        }
    }
}

/// What the attempts are made on. It goes to the processes inside.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Targets {
    /// What every decoy says to whoever reaches it.
    token: String,
    /// The name that may be reached, on `open_port`.
    name: String,
    open_port: u16,
    /// Addresses of this host, loopback left out, that may be reached, and others that may not.
    open: Vec<std::net::SocketAddr>,
    shut: Vec<std::net::SocketAddr>,
    /// Services of this host that listen on loopback.
    loopback: Vec<std::net::SocketAddr>,
    /// Services by UDP.
    datagrams: Vec<std::net::SocketAddr>,
    /// Unix sockets: the decoy, one without a file, and those of daemons that this host has.
    socket: std::path::PathBuf,
    abstract_socket: String,
    daemons: Vec<std::path::PathBuf>,
    /// A process outside.
    outsider: i32,
    /// The file that says what may be reached.
    policy: std::path::PathBuf,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_attempt_has_a_name_of_its_own_and_both_ends_are_wanted() {
        let catalogue = catalogue();
        let names: BTreeSet<&str> = catalogue.iter().map(|attempt| attempt.name).collect();
        assert_eq!(names.len(), catalogue.len());
        for wants in [Wants::Works, Wants::Refused] {
            assert!(catalogue.iter().filter(|attempt| attempt.wants == wants).count() >= 5, "{wants:?}");
        }
    }

    /// An attempt that cannot get through anywhere would find no hole.
    #[test]
    fn outside_a_sandbox_attempts_get_through() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        let decoys = Decoys::set_up(folder.path(), &policy).unwrap();
        std::fs::write(&policy, decoys.policy(&folder.path().join("audit.jsonl"))).unwrap();
        let targets: Targets = serde_json::from_str(&decoys.targets()).unwrap();
        let names = [
            "own-loopback",
            "own-socket",
            "calls",
            "host-loopback",
            "unix-socket",
            "abstract-socket",
            "descriptors",
            "policy",
            "processes",
            "signals",
        ];
        for name in names {
            let attempt = catalogue().into_iter().find(|attempt| attempt.name == name).unwrap();
            let tried = (attempt.run)(&targets);
            assert!(tried.is_ok(), "{name}: {tried:?}");
        }
        // Who connects may be done before it is counted.
        let late = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while decoys.found().forbidden < 3 && std::time::Instant::now() < late {
            std::thread::yield_now();
        }
        let found = decoys.found();
        assert_eq!((found.allowed, found.forbidden, found.names), (0, 3, vec![]));
    }

    #[test]
    fn an_attempt_counts_by_how_it_must_end() {
        let text = String::new;
        for (ended, works, refused) in [
            (Ended::Worked(text()), true, false),
            (Ended::Refused(text()), false, true),
            (Ended::Unclear(text()), false, false),
            (Ended::NotHere(text()), true, true),
        ] {
            assert_eq!(ended.is_as(Wants::Works), works, "{ended:?}");
            assert_eq!(ended.is_as(Wants::Refused), refused, "{ended:?}");
        }
    }
}
