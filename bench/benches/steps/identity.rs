//! Who asks: a password that was right before, one whose hash is fast, and a token that was verified before or was not.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use exeat_identity::{
    Accepted, Authenticator, Clients, Flags, IssuerSpec, Issuers, KeySet, Lifetime, Order, PasswordHash,
    SignatureAlgorithm, SigningKey, generate_password, hash_generated,
};
use serde_json::json;

use crate::world::{PASSWORD, USER, World};

pub(crate) fn passwords(criterion: &mut crate::Criterion) {
    let world = World::of(1);
    let none = Issuers::default();
    let known = |clients| accepted(&world, clients, &none);
    remembered(criterion, "password/argon2, remembered", &known(&world.loaded.clients), USER, PASSWORD);

    let secret = generate_password().expect("a password");
    let mut clients = Clients::new();
    let hash = PasswordHash::parse(&hash_generated(secret.as_bytes())).expect("a hash");
    clients.insert(USER, world.principal.clone(), vec![hash]);
    remembered(criterion, "password/generated", &known(&clients), USER, &secret);
}

pub(crate) fn tokens(criterion: &mut crate::Criterion) {
    let world = World::of(1);
    let key = SigningKey::generate(SignatureAlgorithm::Es256, Some("k1")).expect("a key");
    let order = Order {
        issuer: "bench".to_owned(),
        audience: "egress-proxy".to_owned(),
        container: Some("sbx-1".to_owned()),
        organization: Some("org-1".to_owned()),
        subject: None,
        hosts: Some((0..10).map(|n| format!("host-{n}.example.com")).collect()),
        policy: None,
        flags: Flags::default(),
        life: Duration::from_secs(3600),
    };
    let token = key.issue(&order, SystemTime::now()).expect("a token");
    let (issuers, clients) = (issuers(&key), Clients::new());
    let password = format!("jwt_{token}");
    let known = accepted(&world, &clients, &issuers);
    remembered(criterion, "token/ES256, remembered", &known, "container_sbx-1", &password);
    criterion.bench_function("token/ES256, verified", |bencher| {
        bencher.iter_with_setup(
            || self::issuers(&key),
            |issuers| issuers.verify(&world.loaded.policy, black_box(&token), SystemTime::now()),
        );
    });
}

fn issuers(key: &SigningKey) -> Issuers {
    let set = json!({ "keys": [key.to_jwk()] }).to_string();
    let day = Duration::from_secs(24 * 3600);
    Issuers::new(vec![IssuerSpec {
        name: "bench".into(),
        issuer: "bench".into(),
        audience: "egress-proxy".into(),
        keys: std::sync::Arc::new(KeySet::parse(set.as_bytes()).expect("a set of keys").into()),
        ceiling: "bench".to_owned(),
        policies: Vec::new(),
        lifetime: Lifetime { leeway: Duration::ZERO, longest: day },
        user_prefix: "container_".into(),
        password_prefix: "jwt_".into(),
        enforce_container_binding: false,
        signing: None,
    }])
}

fn accepted<'a>(world: &'a World, clients: &'a Clients, issuers: &'a Issuers) -> Accepted<'a> {
    let policy = &world.loaded.policy;
    Accepted { policy, clients, issuers, anonymous: None, is_central: false }
}

fn remembered(
    criterion: &mut crate::Criterion,
    name: &str,
    accepted: &Accepted<'_>,
    user: &str,
    password: &str,
) {
    let authenticator = Authenticator::new().expect("random bytes");
    let field = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    criterion.bench_function(name, |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let fields = [black_box(field.as_bytes())];
            let peer = exeat_identity::Peer::default();
            authenticator
                .authenticate(accepted, &peer, &accepted.offered(&fields))
                .await
                .expect("a principal")
        });
    });
}
