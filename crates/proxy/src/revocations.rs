//! Tokens that count no longer, whatever they say themselves, kept over a restart.
//!
//! The file is text like that of the quarantine: a first line that says what it is, then one revocation a line, with the
//! second until which it holds.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::Path,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use exeat_identity::TokenFacts;

use crate::quarantine::{StateError, read_text, replace};

/// The file in the state directory.
const FILE: &str = "revocations";
/// The file's first line.
const HEADLINE: &str = "exeat revocations 1";
/// Revocations that hold at a time. Each write of the file takes milliseconds at that; whoever revokes more replaces the
/// issuer's key.
const REVOCATIONS_MAX: usize = 10_000;
/// How long the revocation of one token holds at least: as long as any configuration lets a token live, so that neither a
/// reload that lets them live longer nor one that is dated ahead outlasts it.
const TOKEN_HOLDS: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// Bytes of the file: as many, each of the longest.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The longest value, in bytes: as of the claims.
const VALUE_BYTES_MAX: usize = 256;
/// What a line says of one that holds until it is lifted.
const EVER: &str = "ever";

/// Which tokens are revoked.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Revoked {
    /// The one with this `jti`.
    Token(Arc<str>),
    /// Those of a container.
    Container(Arc<str>),
    /// Those of an organization.
    Organization(Arc<str>),
    /// Those that this key signed, whenever that was: who has it can sign more. It is meant by its name or by its
    /// thumbprint (RFC 7638), which an issuer cannot change.
    Key(Arc<str>),
}

/// Why a text names no tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RevokedError {
    /// It begins with none of the words.
    #[error("a revocation is of a jti, a container, an organization or a key")]
    Kind,
    /// The value is one that no claim has.
    #[error("the value has 1 to {VALUE_BYTES_MAX} bytes and no control characters")]
    Value,
}

impl Revoked {
    /// Reads one of `jti`, `container`, `organization` and `key`, and its value.
    ///
    /// # Errors
    /// For another word, or a value that no token can have.
    pub fn new(kind: &str, value: &str) -> Result<Self, RevokedError> {
        let of = match kind {
            "jti" => Self::Token,
            "container" => Self::Container,
            "organization" => Self::Organization,
            "key" => Self::Key,
            _ => return Err(RevokedError::Kind),
        };
        match (1..=VALUE_BYTES_MAX).contains(&value.len()) && !value.chars().any(char::is_control) {
            true => Ok(of(value.into())),
            false => Err(RevokedError::Value),
        }
    }

    /// The word for the kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Token(_) => "jti",
            Self::Container(_) => "container",
            Self::Organization(_) => "organization",
            Self::Key(_) => "key",
        }
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &str {
        match self {
            Self::Token(value) | Self::Container(value) | Self::Organization(value) | Self::Key(value) => {
                value
            }
        }
    }

    /// For how long it has to hold, where tokens live for `longest`: until each has ended that was issued before. A key
    /// is revoked until that is lifted.
    fn lasts(&self, longest: Duration) -> Option<Duration> {
        match self {
            Self::Token(_) => Some(longest.max(TOKEN_HOLDS)),
            Self::Container(_) | Self::Organization(_) => Some(longest),
            Self::Key(_) => None,
        }
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.value())
    }
}

impl FromStr for Revoked {
    type Err = RevokedError;

    fn from_str(text: &str) -> Result<Self, RevokedError> {
        let (kind, value) = text.split_once(' ').ok_or(RevokedError::Kind)?;
        Self::new(kind, value)
    }
}

/// What is revoked, each until a second since 1970, or for ever.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Revocations(BTreeMap<Revoked, Option<u64>>);

impl Revocations {
    /// Whether a token is revoked.
    pub(crate) fn covers(&self, token: &TokenFacts, now: SystemTime) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let now = seconds(now);
        let names = [
            token.id.clone().map(Revoked::Token),
            token.container.clone().map(Revoked::Container),
            token.organization.clone().map(Revoked::Organization),
            token.key.clone().map(Revoked::Key),
            Some(Revoked::Key(token.key_thumbprint().into())),
        ];
        names.into_iter().flatten().any(|name| self.0.get(&name).is_some_and(|until| holds(*until, now)))
    }

    /// Adds one for tokens that live for `longest` at most, and leaves out those that are over.
    ///
    /// # Errors
    /// If there are too many.
    pub(crate) fn with(
        &self,
        revoked: Revoked,
        longest: Duration,
        now: SystemTime,
    ) -> Result<Self, StateError> {
        let now = seconds(now);
        let until = revoked.lasts(longest).map(|lasts| now.saturating_add(lasts.as_secs()));
        let mut more = self.clone();
        more.0.retain(|_, until| holds(*until, now));
        more.0.insert(revoked, until);
        if more.0.len() > REVOCATIONS_MAX { Err(StateError::TooManyRevocations) } else { Ok(more) }
    }

    /// Lifts one; `None` if there is none.
    pub(crate) fn without(&self, revoked: &Revoked) -> Option<Self> {
        let mut fewer = self.clone();
        fewer.0.remove(revoked).map(|_| fewer)
    }

    /// Those that hold, in order, each with its end.
    pub(crate) fn holding(&self, now: SystemTime) -> Vec<(Revoked, Option<SystemTime>)> {
        let now = seconds(now);
        let holding = self.0.iter().filter(|(_, until)| holds(**until, now));
        let end =
            |until: Option<u64>| until.and_then(|until| UNIX_EPOCH.checked_add(Duration::from_secs(until)));
        holding.map(|(revoked, until)| (revoked.clone(), end(*until))).collect()
    }

    /// Reads what is kept in `directory`.
    ///
    /// # Errors
    /// If there is a file and it cannot be read or understood: no token may count again by a damaged disk.
    pub(crate) fn open(directory: &Path) -> Result<Self, StateError> {
        let path = directory.join(FILE);
        match read_text(&path, FILE_BYTES_MAX) {
            Ok(text) => {
                parse(&text).map_err(|line| StateError::Damaged { path, line, is_not: "a revocation" })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(StateError::Read { path, source }),
        }
    }

    /// Writes them down, to survive a loss of power from when this returns.
    ///
    /// # Errors
    /// If the disk does not take it. What was kept before is kept still.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), StateError> {
        let mut text = format!("{HEADLINE}\n");
        for (revoked, until) in &self.0 {
            let until = until.map_or(EVER.to_owned(), |until| until.to_string());
            text.push_str(&format!("{until} {revoked}\n"));
        }
        replace(directory, FILE, &text)
            .map_err(|source| StateError::Write { path: directory.join(FILE), source })
    }
}

fn holds(until: Option<u64>, now: u64) -> bool {
    until.is_none_or(|until| until > now)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads the file's text.
///
/// # Errors
/// The number of the first line that is not as this program writes it.
fn parse(text: &str) -> Result<Revocations, usize> {
    // A line without its end was cut off.
    let mut lines = (1..).zip(text.split_inclusive('\n').map(|line| line.strip_suffix('\n')));
    match lines.next() {
        Some((_, Some(HEADLINE))) => {}
        Some(_) | None => return Err(1),
    }
    let revocation = |(number, line): (usize, Option<&str>)| {
        let (until, revoked) = line.and_then(|line| line.split_once(' ')).ok_or(number)?;
        let until = match until {
            EVER => None,
            until => Some(until.parse().map_err(|_| number)?),
        };
        let revoked = revoked.parse().map_err(|_| number)?;
        if number > REVOCATIONS_MAX + 1 { Err(number) } else { Ok((revoked, until)) }
    };
    lines.map(revocation).collect::<Result<_, _>>().map(Revocations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_file_is_read_as_it_is_written_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, hour) = (folder.path(), Duration::from_secs(3600));
        assert_eq!(Revocations::open(directory).unwrap(), Revocations::default());
        let mut all = Revocations::default();
        for text in ["jti j1", "container sbx 1", "organization org-1", "key k1"] {
            all = all.with(text.parse().unwrap(), hour, at(1000)).unwrap();
        }
        all.write(directory).unwrap();
        assert_eq!(Revocations::open(directory).unwrap(), all);
        let ends: Vec<String> = all
            .holding(at(1000))
            .into_iter()
            .map(|(revoked, until)| format!("{revoked} {:?}", until.map(seconds)))
            .collect();
        let want = [
            "jti j1 Some(2679400)",
            "container sbx 1 Some(4600)",
            "organization org-1 Some(4600)",
            "key k1 None",
        ];
        assert_eq!(ends, want);
        for (case, text, line) in [
            ("empty", String::new(), 1),
            ("another file", "exeat quarantine 1\n".to_owned(), 1),
            ("cut off", format!("{HEADLINE}\n4600 jti j1\n4600 jti j2"), 3),
            ("another kind", format!("{HEADLINE}\n4600 user u\n"), 2),
            ("no end", format!("{HEADLINE}\njti j1\n"), 2),
            ("no value", format!("{HEADLINE}\n4600 jti \n"), 2),
            (
                "too many",
                format!("{HEADLINE}\n{}", "1 jti j\n".repeat(REVOCATIONS_MAX + 1)),
                REVOCATIONS_MAX + 2,
            ),
        ] {
            assert_eq!(parse(&text), Err(line), "{case}");
            std::fs::write(directory.join(FILE), &text).unwrap();
            let opened = Revocations::open(directory);
            assert!(matches!(opened, Err(StateError::Damaged { line: l, .. }) if l == line), "{case}");
        }
    }

    #[test]
    fn what_is_over_makes_room_and_a_key_is_never_over() {
        let hour = Duration::from_secs(3600);
        let name = |text: &str| text.parse::<Revoked>().unwrap();
        let one = Revocations::default().with(name("container c1"), hour, at(1000)).unwrap();
        let two = one.with(name("key k1"), hour, at(1000)).unwrap();
        assert_eq!(two.holding(at(4599)).len(), 2);
        assert_eq!(two.holding(at(4600)).len(), 1, "its tokens have ended");
        let three = two.with(name("jti j2"), hour, at(5000)).unwrap();
        assert_eq!(three.0.len(), 2, "nothing is kept of what is over");
        assert_eq!(
            three.holding(at(5000 + 30 * 86_400)).len(),
            2,
            "one token's holds as long as any may live"
        );
        assert!(three.without(&name("container c1")).is_none());
        assert_eq!(three.without(&name("key k1")).unwrap().0.len(), 1);
        let full = Revocations(
            (0..REVOCATIONS_MAX).map(|n| (Revoked::Token(n.to_string().into()), Some(9000))).collect(),
        );
        assert!(matches!(full.with(name("jti more"), hour, at(1000)), Err(StateError::TooManyRevocations)));
        assert!(full.with(name("jti 7"), hour, at(1000)).is_ok(), "one that is there");
        assert!(full.with(name("jti more"), hour, at(9000)).is_ok(), "all others are over");
        for (kind, value, want) in [
            ("jti", "", RevokedError::Value),
            ("jti", "a\nb", RevokedError::Value),
            ("user", "u", RevokedError::Kind),
        ] {
            assert_eq!(Revoked::new(kind, value), Err(want), "{kind} {value:?}");
        }
    }
}
