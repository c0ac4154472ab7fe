//! What holds for tokens, whatever the bytes are: their text, their header, their claims, and a set of keys.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use exeat_identity::{
    Claims, IssuerSpec, Issuers, KEY_SET_BYTES_MAX, KeySet, Lifetime, SignatureAlgorithm, SigningKey,
    TOKEN_BYTES_MAX, TokenText,
};
use exeat_model::{Authority, Transport};
use exeat_policy::{
    Builder, Defaults, EgressRequest, HOST_ITEMS_MAX, HostList, ListBuilder, Mode, Place, PolicySet,
    PolicySpec, Revision, Verdict, decide,
};
use serde_json::{Value, json};

/// As `claims.rs` bounds them.
const TEXT_BYTES_MAX: usize = 256;
const AUDIENCES_MAX: usize = 16;

/// The time of every check.
const NOW: u64 = 1_900_000_000;

/// Reads `bytes` as each of them.
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_text(text);
    }
    check_header(bytes);
    check_claims(bytes);
    if let Ok(claims) = serde_json::from_slice::<Value>(bytes) {
        check_signed(&claims);
    }
    if bytes.len() <= KEY_SET_BYTES_MAX {
        let read = || KeySet::parse(bytes).map(drop);
        assert_eq!(read(), read(), "the same bytes say the same");
    }
}

fn check_text(text: &str) {
    let Ok(token) = TokenText::parse(text) else { return };
    assert!(text.len() <= TOKEN_BYTES_MAX && text.matches('.').count() == 2, "{text:?}");
    assert!(
        token.kid.as_ref().is_none_or(|kid| (1..=TEXT_BYTES_MAX).contains(&kid.len())),
        "{:?}",
        token.kid
    );
    check_claims(&token.payload);
    let world = &*WORLD;
    assert!(world.issuers.verify(&world.policy, text, at(NOW)).is_err(), "nobody signed {text:?}");
}

/// What a header may never say is refused, wherever it stands.
fn check_header(bytes: &[u8]) {
    let token = format!("{}.e30.e30", URL_SAFE_NO_PAD.encode(bytes));
    if TokenText::parse(&token).is_err() {
        return;
    }
    let header: Value = serde_json::from_slice(bytes).expect("a header is JSON");
    let header = header.as_object().expect("a header is an object");
    for name in ["jwk", "jku", "x5u", "x5c", "crit", "cty", "zip", "b64"] {
        assert!(!header.contains_key(name), "{name}");
    }
    assert!(header.get("alg").is_some_and(Value::is_string));
}

fn check_claims(bytes: &[u8]) {
    let Ok(claims) = Claims::parse(bytes) else { return };
    let texts = [&claims.id, &claims.container, &claims.organization, &claims.subject];
    let texts = texts.into_iter().flatten().map(|text| &**text);
    for text in texts.chain([&*claims.issuer]).chain(claims.audience.iter().map(|text| &**text)) {
        assert!(
            (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control),
            "{text:?}"
        );
    }
    assert!((1..=AUDIENCES_MAX).contains(&claims.audience.len()));
    assert!(claims.hosts.is_some() || claims.policy.is_some(), "it says what it may reach");
    assert!(claims.container.is_some() || !claims.flags.enforce_container_binding);
    if let Some(hosts) = &claims.hosts {
        check_hosts(hosts);
    }
}

/// Items are names in canonical form: read again they say the same.
fn check_hosts(hosts: &HostList) {
    assert!(hosts.len() <= HOST_ITEMS_MAX);
    let items: Vec<String> = hosts.items().collect();
    assert_eq!(items.len(), hosts.len());
    for item in &items {
        assert!(!item.starts_with('@') && item != "*" && !item.contains('/'), "{item:?}");
    }
    let again = HostList::parse(items.iter().map(String::as_str)).expect("it was read before");
    assert_eq!(again.items().collect::<Vec<_>>(), items);
}

/// Whatever a token claims, it is within its issuer's ceiling, and counts for no longer than that lets it. Returns whether it
/// counts.
pub(crate) fn check_signed(claims: &Value) -> bool {
    let world = &*WORLD;
    let Ok(token) = world.key.sign(claims) else { return false };
    let Ok(principal) = world.issuers.verify(&world.policy, &token, at(NOW)) else { return false };
    assert!(principal.name.starts_with("sandboxes/"), "{}", principal.name);
    let facts = principal.token.as_ref().expect("a token proves it");
    let longest = at(NOW) + world.lifetime.longest + 2 * world.lifetime.leeway;
    assert!(facts.ends > at(NOW) && facts.ends <= longest, "{:?}", facts.ends);
    for outside in ["example.org:443", "a.example.com:443", "example.com:22", "93.184.216.34:443"] {
        let target = Authority::parse(outside, None).expect("an authority");
        let request = EgressRequest { bound: &principal.bound, target: &target, transport: Transport::Tcp };
        let verdict = decide(&world.policy, &request);
        assert!(matches!(verdict, Verdict::Deny(_)), "{outside} with {claims}");
    }
    true
}

struct World {
    key: SigningKey,
    issuers: Issuers,
    policy: PolicySet,
    lifetime: Lifetime,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let key = SigningKey::generate(SignatureAlgorithm::EdDsa, Some("k1")).expect("a key");
    let set = json!({ "keys": [key.to_jwk()] }).to_string();
    let lifetime = Lifetime { leeway: Duration::from_secs(10), longest: Duration::from_secs(24 * 3600) };
    let spec = IssuerSpec {
        name: "sandboxes".into(),
        issuer: "i".into(),
        audience: "a".into(),
        keys: std::sync::Arc::new(KeySet::parse(set.as_bytes()).expect("a set").into()),
        ceiling: "ceiling".to_owned(),
        policies: Vec::new(),
        lifetime,
        user_prefix: "container_".into(),
        password_prefix: "jwt_".into(),
        enforce_container_binding: false,
        signing: None,
    };
    World { key, issuers: Issuers::new(vec![spec]), policy: policy(), lifetime }
});

/// A ceiling of one name, and a policy that is wider than it.
fn policy() -> PolicySet {
    let list = |entries: &[&str]| {
        let mut list = ListBuilder::new("fuzz.toml", Defaults::default());
        entries.iter().for_each(|entry| list.push_text(entry, 1, 1).expect("an entry"));
        list.finish()
    };
    let mut builder = Builder::new();
    for (name, allow) in [("ceiling", "example.com"), ("wide", "@any-public")] {
        builder.policy(PolicySpec {
            name: name.to_owned(),
            place: Place { file: "fuzz.toml".into(), line: 1, column: 1 },
            allow: list(&[allow]),
            deny: list(&[]),
            defaults: Defaults::default(),
            mode: Mode::Enforce,
            bind: None,
            metadata: Vec::new(),
            next_hop: None,
        });
    }
    builder.finish(Revision(1)).expect("a policy")
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}
