//! What holds for credentials, whatever the bytes are: `Basic` and `Bearer`, and a user and a password sent apart.

use std::sync::{Arc, LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use exeat_identity::{
    Accepted, Authenticator, AuthnError, Claimed, Clients, Issuers, PasswordHash, Peer, Principal, Proof,
    hash_generated,
};
use exeat_policy::{Bound, Builder, Labels, PolicySet, Revision};
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};

/// The one client.
const USER: &str = "app";
const PASSWORD: &str = "correct:horse-battery-staple-0123";
/// As `basic.rs` bounds them.
const ENCODED_BYTES_MAX: usize = 16 * 1024;

/// Reads `bytes` as the value of a field, and as what two halves of them are encoded to.
pub(crate) fn check(bytes: &[u8]) {
    check_value(bytes);
    check_value(format!("Basic {}", STANDARD.encode(bytes)).as_bytes());
    let (user, password) = bytes.split_at(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    let password = password.get(1..).unwrap_or_default();
    check_parts(user, password);
    assert_eq!(WORLD.accepted().offered(&[bytes, bytes]).claimed(), Claimed::Nobody, "two fields are none");
}

/// The name is what another decoder makes of it, and nobody but the client is let in.
fn check_value(value: &[u8]) {
    let decoded = decode(value);
    match (WORLD.accepted().offered(&[value]).claimed(), &decoded) {
        (Claimed::Name(name), Some((user, _))) => assert_eq!(&name, user),
        (Claimed::Token(_), None) => assert!(value[..7].eq_ignore_ascii_case(b"Bearer ")),
        (Claimed::Nobody, None) => {}
        (claimed, decoded) => panic!("{claimed:?} for {decoded:?}"),
    }
    let is_client = decoded.is_some_and(|(user, password)| user == USER && password == PASSWORD);
    let world = &*WORLD;
    let (accepted, peer) = (world.accepted(), Peer::default());
    let offered = accepted.offered(&[value]);
    let got = world.runtime.block_on(world.authenticator.authenticate(&accepted, &peer, &offered));
    check_answer(got, is_client, value);
}

fn check_parts(user: &[u8], password: &[u8]) {
    let world = &*WORLD;
    let (accepted, peer) = (world.accepted(), Peer::default());
    let offered = accepted.offered_apart(user, password);
    let asked = world.authenticator.authenticate(&accepted, &peer, &offered);
    let is_client = user == USER.as_bytes() && password == PASSWORD.as_bytes();
    check_answer(world.runtime.block_on(asked), is_client, user);
}

fn check_answer(got: Result<Arc<Principal>, AuthnError>, is_client: bool, shown: &[u8]) {
    match got {
        Ok(principal) => {
            assert!(is_client && &*principal.name == USER, "{:?}", String::from_utf8_lossy(shown))
        }
        Err(AuthnError::Invalid) => assert!(!is_client, "{:?}", String::from_utf8_lossy(shown)),
        Err(error) => panic!("{error:?} for {:?}", String::from_utf8_lossy(shown)),
    }
}

/// RFC 7617 §2, written down again.
fn decode(value: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let encoded = rest.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > ENCODED_BYTES_MAX {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    (!text.chars().any(char::is_control)).then(|| (user.to_owned(), password.to_owned()))
}

struct World {
    authenticator: Authenticator,
    clients: Clients,
    issuers: Issuers,
    policy: PolicySet,
    runtime: Runtime,
}

impl World {
    fn accepted(&self) -> Accepted<'_> {
        Accepted {
            policy: &self.policy,
            clients: &self.clients,
            issuers: &self.issuers,
            anonymous: None,
            is_central: false,
        }
    }
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let mut clients = Clients::new();
    let hash = PasswordHash::parse(&hash_generated(PASSWORD.as_bytes())).expect("a hash");
    let principal = Principal {
        name: USER.into(),
        proof: Proof::Password,
        labels: Labels::default(),
        bound: Bound::default(),
        token: None,
    };
    clients.insert(USER, Arc::new(principal), vec![hash]);
    World {
        authenticator: Authenticator::new().expect("random bytes"),
        clients,
        issuers: Issuers::default(),
        policy: Builder::new().finish(Revision(1)).expect("a policy"),
        runtime: RuntimeBuilder::new_current_thread().build().expect("a runtime"),
    }
});
